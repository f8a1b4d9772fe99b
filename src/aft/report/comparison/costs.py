"""What the teachers cost beside the training of the student: counted operations, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNKNOWN = "not known"
COST_HEADINGS = ("what", "one row", "in total")


def cost_rows(document: Mapping[str, Any]) -> list[tuple[str, str, str, float | None]]:
    """What was counted: name, operations for one row and in total, and share of the largest."""
    costs = document.get("costs") or {}
    student = costs.get("student") or {}
    found = [("a training run of the student", student.get("flops"), student.get("training_flops"))]
    for teacher in costs.get("teachers") or ():
        rows = f", once over {teacher['rows']:,} rows" if teacher.get("rows") else ""
        found.append((f"{teacher['spec']}{rows}", teacher.get("flops"), teacher.get("total_flops")))
    if len(found) == 1 and found[0][1:] == (None, None):
        return []
    most = max((total for *_, total in found if total), default=None)
    return [
        (name, operations(one), operations(total), total / most if total and most else None)
        for name, one, total in found
    ]


def cost_sentence(document: Mapping[str, Any]) -> str:
    """The teachers' one pass, and one at every step, beside one training run of the student."""
    costs = document.get("costs") or {}
    training = (costs.get("student") or {}).get("training_flops")
    teachers = costs.get("teachers") or ()
    counts = [(teacher.get("flops"), teacher.get("total_flops")) for teacher in teachers]
    if not training or not counts or not all(one and total for one, total in counts):
        return f"What the teachers cost beside a training run is {UNKNOWN}."
    once = sum(total for _, total in counts)
    every = sum(one for one, _ in counts) * costs["student"]["rows_seen"]
    them = "it" if len(teachers) == 1 else "them"
    return (
        f"One pass of the teacher{'' if len(teachers) == 1 else 's'} over the training rows of "
        f"seed 0 costs {ratio(once / training)} times as much as one training run of the student. "
        "All methods share that pass; other seeds add the rows that they alone draw. To run "
        f"{them} again in every step of one run would cost "
        f"{ratio(every / once)} times as much as the pass."
    )


def operations(number: float | None) -> str:
    """``1.2 G`` for 1.2e9, ``not known`` where nothing was counted."""
    if not number:
        return UNKNOWN
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"


def ratio(number: float) -> str:
    """Two figures: ``0.4``, ``12``, ``1,200``."""
    if number >= 100:
        return f"{float(f'{number:.2g}'):,.0f}"
    return f"{number:.2g}" if number >= 0.001 else "less than 0.001"
