"""Cost of the teachers relative to the student's training, in floating-point operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNKNOWN = "unknown"
COST_HEADINGS = ("computation", "per row", "total")


def cost_rows(document: Mapping[str, Any]) -> list[tuple[str, str, str, float | None]]:
    """Name, operations per row, total operations and share of the largest total."""
    costs = document.get("costs") or {}
    student = costs.get("student") or {}
    found = [
        ("one training run of the student", student.get("flops"), student.get("training_flops"))
    ]
    for teacher in costs.get("teachers") or ():
        rows = f", one pass over {teacher['rows']:,} rows" if teacher.get("rows") else ""
        found.append((f"{teacher['spec']}{rows}", teacher.get("flops"), teacher.get("total_flops")))
    if len(found) == 1 and found[0][1:] == (None, None):
        return []
    most = max((total for *_, total in found if total), default=None)
    return [
        (name, operations(one), operations(total), total / most if total and most else None)
        for name, one, total in found
    ]


def cost_sentence(document: Mapping[str, Any]) -> str:
    """Cost of one pass of the teachers, relative to one training run of the student."""
    costs = document.get("costs") or {}
    training = (costs.get("student") or {}).get("training_flops")
    teachers = costs.get("teachers") or ()
    counts = [(teacher.get("flops"), teacher.get("total_flops")) for teacher in teachers]
    if not training or not counts or not all(one and total for one, total in counts):
        return f"The cost of the teachers relative to a training run is {UNKNOWN}."
    once = sum(total for _, total in counts)
    every = sum(one for one, _ in counts) * costs["student"]["rows_seen"]
    return (
        f"One pass of the teacher{'' if len(teachers) == 1 else 's'} over the training rows of "
        f"seed 0 costs {ratio(once / training)} times as much as one training run of the student. "
        "All methods share this pass; other seeds only add rows that are not yet computed. Without "
        f"stored features, each run would cost {ratio(every / once)} times as much as this pass."
    )


def operations(number: float | None) -> str:
    """Format a number of operations: ``1.2 G`` for 1.2e9, ``unknown`` for None."""
    if not number:
        return UNKNOWN
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"


def ratio(number: float) -> str:
    """Format a ratio with two digits: ``0.4``, ``12``, ``1,200``."""
    if number >= 100:
        return f"{float(f'{number:.2g}'):,.0f}"
    return f"{number:.2g}" if number >= 0.001 else "less than 0.001"
