"""On paper: 100 million texts and three teachers of a billion parameters. What would it take?

Unit costs are those that `speed.py` measured on a million rows; throughput and price of a GPU are
assumptions, which are options. Nothing of that size is run.

    python benchmarks/scale.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import aft
import tables

RESULTS = Path(__file__).parent / "results"
READING, MEMORY = "reading the table", "memory per sample"
ONCE_A_RUN = ("opening the store", "looking samples up", "statistics")
"""Beginnings of rows of `speed.py`: microseconds per sample, and bytes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e8)
    parser.add_argument("--teachers", type=int, default=3)
    parser.add_argument("--parameters", type=float, default=1e9, help="of each teacher")
    parser.add_argument("--dim", type=int, default=2048, help="features of each teacher")
    parser.add_argument("--tokens", type=int, default=128, help="of an input")
    parser.add_argument("--teraflops", type=float, default=400.0, help="that a GPU reaches, bf16")
    parser.add_argument("--price", type=float, default=3.0, help="of a GPU, dollars an hour")
    options = parser.parse_args()
    costs = unit_costs()
    lines = estimate(costs, options)
    found = {
        "command": "python benchmarks/scale.py",
        "version": aft.__version__,
        "machine": tables.machine(),
        "assumed": vars(options),
        "unit_costs": costs,
        "estimate": lines,
    }
    (RESULTS / "scale.json").write_text(json.dumps(found, indent=1) + "\n")
    tables.put("scale", as_markdown(found), ["docs/scale.md"])


def unit_costs() -> dict[str, float]:
    """Microseconds and bytes per row, of the largest table that `speed.py` has measured."""
    part = json.loads((RESULTS / "speed.json").read_text())["samples"]
    found = {one["what"]: one["ours"] for one in part["rows"]}
    return {
        name: next(value for what, value in found.items() if what.startswith(name))
        for name in (*ONCE_A_RUN, READING, MEMORY)
    }


def estimate(costs: dict[str, float], options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Rows of the table: what, how much, and how it was computed."""
    rows, teachers = options.rows, options.teachers
    stored = rows * teachers * (2 * options.dim + 16)
    operations = 2 * options.parameters * options.tokens * rows * teachers
    hours = operations / (options.teraflops * 1e12) / 3600
    hours_once = rows / 1e6 / 3600
    ids = rows * 16 * (1 + teachers)
    opening = sum(costs[name] for name in ONCE_A_RUN)
    return [
        ("features on disk", f"{stored / 1e12:.1f} TB", "fp16 features and 16-byte ids"),
        (
            "teachers' forward passes",
            f"{hours:,.0f} GPU hours, {hours * options.price:,.0f} dollars",
            "2 operations a parameter and token",
        ),
        (
            "reading and checking the table, once",
            f"{costs[READING] * hours_once:.1f} hours on one core",
            f"{costs[READING]:g} microseconds a row",
        ),
        (
            "memory of the rows, in every process",
            f"{costs[MEMORY] * rows / 1e9:.0f} GB",
            f"{costs[MEMORY]:g} bytes a row",
        ),
        ("memory of ids", f"{ids / 1e9:.1f} GB", "16 bytes for each row and each stored feature"),
        (
            "opening, looking up and statistics of the stores",
            f"{opening * hours_once * teachers:.1f} hours on one core",
            f"{opening:.1f} microseconds a row and teacher",
        ),
    ]


def as_markdown(found: dict[str, Any]) -> str:
    lines = ["| what | how much | from |", "|---|---|---|"]
    lines += [f"| {what} | {much} | {how} |" for what, much, how in found["estimate"]]
    return "\n".join(lines) + f"\n\nMade by `{found['command']}` ({found['machine']}).\n"


if __name__ == "__main__":
    main()
