"""On paper: 100 million texts and three teachers of a billion parameters. What would it take?

Unit costs are measured here, on tables of growing size, and taken from results/speed_store.json;
throughput and price of a GPU are assumptions, which are options. Nothing of that size is run.

    python benchmarks/scale.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import aft
import tables

RESULTS = Path(__file__).parent / "results"
ROWS = (100_000, 600_000)
LOAD = """
import json, resource, sys, time
from aft.data.loading import load_data
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
data = load_data(sys.argv[1], validation_fraction=0.0, progress=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": time.process_time() - started, "bytes": 1024 * (peak - before)}))
"""


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
    costs = {**measure_reading(), **store_costs()}
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


def measure_reading() -> dict[str, float]:
    """CPU microseconds and bytes of memory for each more row of a table of short texts."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in ROWS:
            file = Path(folder) / f"{rows}.jsonl"
            with file.open("w") as stream:
                for i in range(rows):
                    text = f"row {i} of a table with a text of about twenty words " + "word " * 10
                    stream.write(json.dumps({"text": text, "label": "ab"[i % 2]}) + "\n")
            command = [sys.executable, "-c", LOAD, str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout))
    few, many = found
    more = ROWS[1] - ROWS[0]
    return {
        "reading, microseconds a row": round(1e6 * (many["seconds"] - few["seconds"]) / more, 2),
        "reading, bytes of memory a row": round((many["bytes"] - few["bytes"]) / more),
    }


def store_costs() -> dict[str, float]:
    """Microseconds a row, of the largest store that speed_store.py measured."""
    largest = json.loads((RESULTS / "speed_store.json").read_text())["growth"][-1]
    units = largest["microseconds per row"]
    names = ("opening", "looking up every sample", "statistics")
    return {f"{name}, microseconds a row": units[name] for name in names}


def estimate(costs: dict[str, float], options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Rows of the table: what, how much, and how it was computed."""
    rows, teachers = options.rows, options.teachers
    stored = rows * teachers * (2 * options.dim + 16)
    operations = 2 * options.parameters * options.tokens * rows * teachers
    hours = operations / (options.teraflops * 1e12) / 3600
    once = {key: value * rows / 1e6 / 3600 for key, value in costs.items() if "microsec" in key}
    memory = costs["reading, bytes of memory a row"] * rows
    ids = rows * 16 * (1 + teachers)
    lookups = sum(once[f"{name}, microseconds a row"] for name in ("opening", "statistics"))
    lookups += once["looking up every sample, microseconds a row"]
    return [
        ("features on disk", f"{stored / 1e12:.1f} TB", "fp16 features and 16-byte ids"),
        (
            "teachers' forward passes",
            f"{hours:,.0f} GPU hours, {hours * options.price:,.0f} dollars",
            "2 operations a parameter and token",
        ),
        (
            "reading and checking the table, once",
            f"{once['reading, microseconds a row']:.1f} hours on one core",
            f"{costs['reading, microseconds a row']:g} microseconds a row",
        ),
        (
            "memory of the rows, in every process",
            f"{memory / 1e9:.0f} GB",
            f"{costs['reading, bytes of memory a row']:g} bytes a row",
        ),
        ("memory of ids", f"{ids / 1e9:.1f} GB", "16 bytes for each row and each stored feature"),
        (
            "opening, looking up and statistics of the stores",
            f"{lookups * teachers:.1f} hours on one core",
            "per teacher, once a run",
        ),
    ]


def as_markdown(found: dict[str, Any]) -> str:
    lines = ["| what | how much | from |", "|---|---|---|"]
    lines += [f"| {what} | {much} | {how} |" for what, much, how in found["estimate"]]
    return "\n".join(lines) + f"\n\nMade by `{found['command']}` ({found['machine']}).\n"


if __name__ == "__main__":
    main()
