"""Each part of `benchmarks/speed.py` runs, and what it returns makes a table and pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import scale  # noqa: E402
import speed  # noqa: E402
import speed_tables  # noqa: E402
from speed_parts.timing import alternate, in_child, peak_bytes, row  # noqa: E402

LONG = {"processes"}
"""Parts that take a minute even so: they start several processes of training."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", [pytest.param(p, marks=[pytest.mark.bench] * (p in LONG)) for p in speed.PARTS]
)
def test_parts_run(part: str) -> None:
    found = json.loads(json.dumps(speed.run(part, quick=True)))
    assert found["rows"]
    for one in found["rows"]:
        assert one["ours"] > 0 or "difference" in one["what"]
        assert (one["theirs"] is None) == (one["ratio"] is None)
    lines = speed_tables.table({part: found}).splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 3 + len(found["rows"])
    if found["curves"]:
        figure = speed_tables.draw(found["curves"])
        assert [axes.get_title(loc="left") for axes in figure.axes] == [
            one["title"] for one in found["curves"]
        ]
        figure.savefig(Path("/dev/null"), format="png")


def test_every_part_has_a_name_and_a_result() -> None:
    assert set(speed_tables.NAMES) == set(speed.PARTS)
    drawn = {part for parts in speed_tables.PICTURES.values() for part in parts}
    assert drawn <= set(speed.PARTS)
    page = (ROOT / speed_tables.PAGE[0]).read_text()
    assert "<!-- speed -->" in page
    assert all(f"images/{name}.png" in page for name in speed_tables.PICTURES)
    assert all(f"**{name}.**" in page for name in speed_tables.NAMES.values())


def test_rows_hold_medians_and_quartiles_of_ratios() -> None:
    found = row("a", "ms", [1.0, 2.0, 9.0], "b", [1.0, 1.0, 3.0], scale=1e3, aim=1.1)
    assert (found["ours"], found["theirs"]) == (2000, 1000)
    assert found["ratio"] == [1.5, 2.0, 2.5]
    table = speed_tables.table({"loss": part([found])})
    assert "| a | 2,000 ms | 1,000 ms, b | **2.00** | 1.50 to 2.50 | ≤ 1.1 |" in table
    assert row("a", "s", [1.0])["ratio"] is None


def part(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"command": "c", "machine": "m", "rows": rows, "curves": []}


def test_sides_alternate_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    times = iter(range(100))
    sides = {name: lambda name=name: calls.append(name) for name in "ab"}
    found = alternate(sides, rounds=2, repeats=2, clock=lambda: next(times))
    assert "".join(calls) == "bbaa" + "aabb" + "bbaa"
    assert found == {"a": [0.5, 0.5], "b": [0.5, 0.5]}


def test_children_return_what_a_function_does() -> None:
    assert in_child(peak_bytes) > 2**20


def test_unit_costs_are_taken_from_the_results() -> None:
    costs = scale.unit_costs()
    assert costs[scale.READING] > 0 and costs[scale.MEMORY] > 0
