"""Run the demos, save their scores, and write the table of docs/demo.md.

    python benchmarks/demo_result.py --data reviews reuters --seeds 5

Takes two to three minutes on two cores for `reviews`, more for `reuters`. Run the same command
again to resume an interrupted run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import aft
import tables
from aft.commands.demo import DEMONSTRATIONS
from aft.metrics import metric_words

RESULTS = Path(__file__).parent / "results"
NAMES = tuple(DEMONSTRATIONS)
METHODS = ("alone", "alone-equal-steps", "aft-soft")
BASELINES = ("tf-idf", "taught-tf-idf")
COSTS = ("steps", "inputs_seen", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["reviews"], choices=NAMES)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for name in options.data:
        started = time.perf_counter()
        document = aft.demo(data=name, seeds=options.seeds, progress=False)
        (setting,) = document["settings"]
        found = {
            "command": f"python benchmarks/demo_result.py --data {name} --seeds {options.seeds}",
            "version": aft.__version__,
            "machine": tables.machine(),
            "seconds": round(time.perf_counter() - started),
            "metric": document["metric"],
            "seeds": document["seeds"],
            "rows": setting["rows"],
            "unlabelled": setting["unlabelled"],
            "sentence": setting["best"]["sentence"],
            "metrics": {method: setting["methods"][method]["metrics"] for method in METHODS},
            "baselines": {one["name"]: one["metrics"] for one in setting["baselines"]},
            "costs": {
                method: {name: setting["methods"][method][name] for name in COSTS}
                for method in METHODS
            },
        }
        (RESULTS / f"demo-{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    write_tables()


def write_tables() -> None:
    """Write the table into docs/demo.md."""
    files = [RESULTS / f"demo-{name}.json" for name in NAMES]
    rows = [json.loads(file.read_text()) for file in files if file.exists()]
    tables.put("demo results", table(rows), ["docs/demo.md"])


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| data, labelled + unlabelled rows | metric | TF-IDF with a linear model | the same, "
        "taught by the soft labels | labels alone | labels alone, equal steps | aft-soft | "
        "difference to labels alone (95 % interval) | outcome |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = row["command"].split("--data ")[1].split()[0]
        data = f"{name}, {row['rows']['train']:,} + {row['unlabelled']:,}"
        alone, equal, ours = (row["metrics"][method] for method in METHODS)
        for metric, values in ours.items():
            instead = (row["baselines"][one][metric]["mean"] for one in BASELINES)
            lines.append(
                f"| {data} | {metric_words(metric)} | "
                f"{' | '.join(f'{mean:.3f}' for mean in instead)} | {alone[metric]['mean']:.3f} | "
                f"{equal[metric]['mean']:.3f} | {values['mean']:.3f} | "
                f"{values['difference']:+.3f} ({values['low']:+.3f} to "
                f"{values['high']:+.3f}) | {values['outcome']} |"
            )
    steps = "; ".join(
        ", ".join(f"{row['costs'][method]['steps']:,}" for method in METHODS) for row in rows
    )
    seeds = "/".join(map(str, sorted({row["seeds"] for row in rows})))
    commands = "; ".join(f"`{row['command']}`" for row in rows)
    return (
        "\n".join(lines)
        + f"\n\nMean over {seeds} seeds on the test split. Lower is better for log loss, RMSE and "
        f"MAE.\nSteps of the last three, in the order of the columns: {steps}.\n"
        f"Made by {commands} ({rows[0]['machine']}).\n"
    )


if __name__ == "__main__":
    main()
