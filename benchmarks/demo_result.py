"""Run the demo and keep its numbers; the table of docs/demo.md is made from them.

python benchmarks/demo_result.py --data clipart reuters clipart-titles --seeds 5

Five seeds of one data set take about ten minutes on two cores; what was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

import aft
import tables
from aft.commands.demo import DEMONSTRATIONS

RESULTS = Path(__file__).parent / "results"
NAMES = tuple(DEMONSTRATIONS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", nargs="+", default=["clipart", "reuters", "clipart-titles"], choices=NAMES
    )
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for name in options.data:
        result = aft.demo(data=name, seeds=options.seeds, progress=False)
        found = {
            "command": f"python benchmarks/demo_result.py --data {name} --seeds {options.seeds}",
            "version": aft.__version__,
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
            **{key: value for key, value in result.items() if key not in ("lines", "report")},
            "verdict": result["lines"][-2],
        }
        (RESULTS / f"demo-{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    write_tables()


def write_tables() -> None:
    """Put the table into its page."""
    files = [RESULTS / f"demo-{name}.json" for name in NAMES]
    rows = [json.loads(file.read_text()) for file in files if file.exists()]
    tables.put("demo results", table(rows), ["docs/demo.md"])


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| data | student alone | with teachers | difference, 95 % interval | outcome |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        name = row["command"].split("--data ")[1].split()[0]
        cells = [
            f"{statistics.mean(row[m]):.3f} ± {statistics.stdev(row[m]):.3f}"
            for m in ("alone", "aft")
        ]
        interval = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        lines.append(f"| {name} | {' | '.join(cells)} | {interval} | {row['outcome']} |")
    seeds = "/".join(map(str, sorted({len(row["aft"]) for row in rows})))
    commands = "; ".join(f"`{row['command']}`" for row in rows)
    return (
        "\n".join(lines)
        + f"\n\nTest accuracy, mean ± standard deviation over {seeds} seeds; the same budget and "
        "settings for both.\n"
        f"Made by {commands} ({rows[0]['machine']}).\n"
    )


if __name__ == "__main__":
    main()
