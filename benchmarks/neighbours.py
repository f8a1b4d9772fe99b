"""Methods and starts of related papers beside the default of `aft train`, on texts.

    python benchmarks/neighbours.py                 # both parts
    python benchmarks/neighbours.py --part methods
    python benchmarks/neighbours.py --tasks trec --seeds 2

Methods: DistillNearest, DistillWeighted and row-wise trust against `aft-soft`, at equal steps, with
a student of words and word pairs and three teachers: all-MiniLM-L6, its first layer, and one layer
with random weights, which knows little. Starts: the first three of the six layers of all-MiniLM-L6
or three evenly spaced ones, trained on the labels alone.

Results are written to benchmarks/results/neighbours.json after every seed, runs to
runs/neighbours. Run the same command again to resume. Takes about 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from safetensors.torch import load_file

import aft
import suite
import tables
from aft.demo_data.models import fetch_minilm
from aft.ids import default_cache_dir
from data_sets import DATA_SETS

RESULT = Path(__file__).parent / "results" / "neighbours.json"
RUNS = Path("runs") / "neighbours"
METHODS = ("aft-soft", "distill-nearest", "distill-weighted", "row-trust")
TEACHERS = ("all-MiniLM-L6", "its 1st layer", "1 layer, random weights")
STARTS = ("first", "spaced")
LAYERS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("methods", "starts"), help="default: both")
    parser.add_argument("--tasks", nargs="+", default=["trec", "reuters"], choices=suite.TASKS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="steps of the methods (default: the suite's)")
    options = parser.parse_args()
    if options.part != "starts":
        for name in options.tasks:
            for seeds in range(2, options.seeds + 1):  # whole after every seed
                keep("methods", name, compare(name, seeds, options.steps))
    if options.part != "methods":
        for seeds in range(1, options.seeds + 1):
            keep("starts", "trec", compare_starts("trec", seeds))


def compare(name: str, seeds: int, steps: int | None) -> dict[str, Any]:
    """The methods on a task of the suite."""
    task, cache = suite.TASKS[name], default_cache_dir() / "demo"
    choice = {key: value for key, value in task.options.items() if key != "leave_out"}
    choice |= {} if steps is None else {"steps": steps}
    folder = fetch_minilm(cache, False)
    found = aft.compare(
        data=str(DATA_SETS[task.data](cache, False).folder),
        student=task.student(cache),
        teachers=(
            suite.minilm(cache, 64),
            f"hf:{folder}?layer=1&max_tokens=64",
            f"hf:{folder}?weights=random&layers=1&max_tokens=64",
        ),
        methods=METHODS,
        seeds=seeds,
        betas=(1.0,),
        probes=False,
        out=RUNS / name,
        num_workers=0,
        progress=False,
        **choice,
    )
    (setting,) = found["settings"]
    scores = {
        method: [run["score"] for run in values["runs"]]
        for method, values in setting["methods"].items()
    }
    weights = {
        method: mean_shares(
            [RUNS / name / run["folder"] for run in setting["methods"][method]["runs"]]
        )
        for method in ("distill-nearest", "distill-weighted")
    }
    return {
        "metric": found["metric"],
        "rows": {**setting["rows"], "unlabelled": setting["unlabelled"]},
        "steps": {method: values["steps"] for method, values in setting["methods"].items()},
        "scores": scores,
        "against aft-soft": {
            method: difference(values, scores["aft-soft"]) for method, values in scores.items()
        },
        "teachers": TEACHERS,
        "weights of the teachers": weights,
    }


def mean_shares(runs: Sequence[Path]) -> list[float]:
    """Mean weight of each teacher over the runs, from their checkpoints."""
    known = [load_file(run / "checkpoints" / "best.safetensors") for run in runs]
    shares = [one["transfer_loss.shares"].tolist() for one in known]
    return [round(fmean(one), 3) for one in zip(*shares, strict=True)]


def compare_starts(name: str, seeds: int) -> dict[str, Any]:
    """Students that start from the first or from evenly spaced layers, on the labels alone."""
    task, cache = suite.TASKS[name], default_cache_dir() / "demo"
    scores: dict[str, list[float]] = {start: [] for start in STARTS}
    for seed in range(seeds):
        for start in STARTS:
            run = aft.train(
                data=str(DATA_SETS[task.data](cache, False).folder),
                student=f"hf:{fetch_minilm(cache, False)}?max_tokens=32",
                student_layers=LAYERS,
                from_=start,
                train_fraction=0.12,
                validation_fraction=0.25,
                seed=seed,
                steps=60,
                batch_size=32,
                eval_every=30,
                baselines=False,
                out=RUNS / "starts" / f"{name}-{start}-seed{seed}",
                resume=True,
                num_workers=0,
                progress=False,
            )
            scores[start].append(run.metrics[run.summary["metric"]])
    return {
        "metric": run.summary["metric"],
        "student": f"{LAYERS} of 6 layers of all-MiniLM-L6",
        "steps": 60,
        "scores": scores,
        "against first": {
            start: difference(values, scores["first"]) for start, values in scores.items()
        },
    }


def difference(values: Sequence[float], others: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard error of the differences, paired by seed."""
    each = [a - b for a, b in zip(values, others, strict=True)]
    error = round(stdev(each) / len(each) ** 0.5, 4) if len(each) > 1 else None
    return {"mean": round(fmean(each), 4), "standard error": error}


def keep(part: str, name: str, result: dict[str, Any]) -> None:
    """Add a result to the file."""
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    command = " ".join(["python benchmarks/neighbours.py", *sys.argv[1:]])
    origin = {"command": command, "machine": tables.machine()}
    found.setdefault(part, {})[name] = {**origin, **result}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({part: {name: result}}, indent=1), flush=True)


if __name__ == "__main__":
    main()
