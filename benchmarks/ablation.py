"""Ablation: the default of `aft train` with one change at a time.

    python benchmarks/ablation.py                  # three tasks, three seeds
    python benchmarks/ablation.py --tasks snippets --seeds 5

Tasks and budgets are those of suite.py. The safety net is off, so the score is always that of the
student with transfer. Runs are kept in runs/ablation, scores in benchmarks/results/ablation.json;
run the same command again to resume. Takes about an hour and a half on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import aft
import suite
import tables
from aft.ids import default_cache_dir
from aft.metrics import MAIN_METRIC
from data_sets import DATA_SETS

FILE = Path(__file__).parent / "results" / "ablation.json"
TASKS = ("snippets", "stamps", "reuters")
DEFAULT = "the default (aft-soft)"
CHANGES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "labels alone": {"teachers": ()},
    "labels alone, 3 times the steps": {"teachers": (), "steps": 3},
    "no rows without labels, no views": {"unlabelled": "none", "views": "clean"},
    "views (4) of all rows": {"views": 4},
    "2 views": {"views": 2},
    "8 views": {"views": 8},
    "no unlabelled rows, but their place taken by 4 views": {"unlabelled": "none", "views": 4},
    "soft labels only": {"loss": "soft-labels"},
    "AFT only, the same rows": {"loss": "aft"},
    "KD, the same rows": {"loss": "kd"},
    "logit KD, the same rows": {"loss": "logit-kd"},
    "half as many rows without labels a step": {"unlabelled_batch_size": 1},
    "features not standardized": {"normalize": "none"},
    "beta 0.3": {"beta": 0.3},
    "beta 1": {"beta": 1.0},
    "beta 10": {"beta": 10.0},
    "beta 30": {"beta": 30.0},
}
"""Options that differ from the default. ``steps`` is a multiple of the steps of the task,
``unlabelled_batch_size`` of its batch size."""
FOR = {
    "views (4) of all rows": "unlabelled",
    "no unlabelled rows, but their place taken by 4 views": "unlabelled",
    "2 views": "views",
    "8 views": "views",
    "logit KD, the same rows": "classes",
}
"""Changes that apply only to some tasks: those with unlabelled rows, those without (where stored
views take their place), or those with classes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=suite.TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES))
    parser.add_argument(
        "--out", type=Path, default=Path("runs/ablation"), help="folder for the runs"
    )
    parser.add_argument(
        "--tables", action="store_true", help="only write the table, without training"
    )
    options = parser.parse_args()
    before = json.loads(FILE.read_text())["scores"] if FILE.exists() else {}
    if not options.tables:
        for seed in range(options.seeds):
            for change in options.changes:
                for task in options.tasks:
                    if not applies(change, task):
                        continue
                    scores = before.setdefault(task, {}).setdefault(change, {})
                    scores[str(seed)] = round(train(task, change, seed, options.out), 4)
                    print(f"{task}, {change}, seed {seed}: {scores[str(seed)]:.3f}", flush=True)
                    write(before)
    tables.put("ablation", tables.ablation_table(before, DEFAULT, list(CHANGES)), PAGES)


PAGES = ["docs/benchmarks.md"]


def applies(change: str, task: str) -> bool:
    """Whether a change applies to a task."""
    options = suite.TASKS[task].options
    there = {
        "unlabelled": "unlabelled" in options,
        "views": "unlabelled" not in options,
        "classes": "label_column" not in options,
    }
    return change not in FOR or there[FOR[change]]


def train(name: str, change: str, seed: int, out: Path) -> float:
    """Test score of the student trained with a change."""
    task, cache = suite.TASKS[name], default_cache_dir() / "demo"
    options = {k: v for k, v in task.options.items() if k not in ("betas", "seeds", "leave_out")}
    options["train_fraction"] = options.pop("train_fractions", (1.0,))[0]
    options |= {"teachers": task.teachers(cache), "safety_net": False, **CHANGES[change]}
    if "steps" in CHANGES[change]:
        options["steps"] = task.options["steps"] * CHANGES[change]["steps"]
    if "unlabelled_batch_size" in CHANGES[change]:
        options["unlabelled_batch_size"] = task.options["batch_size"]
    if not options["teachers"]:
        options["unlabelled"] = "none"
    result = aft.train(
        data=str(DATA_SETS[task.data](cache, False).folder),
        student=task.student(cache),
        out=out / name / f"{'-'.join(change.split())}-seed{seed}".replace(",", ""),
        seed=seed,
        num_workers=0,
        progress=False,
        resume=True,
        **options,
    )
    return result.metrics[MAIN_METRIC[result.summary["task"]["kind"]]]


def write(scores: dict[str, Any]) -> None:
    """Write all scores to the results file."""
    result = {
        "command": "python benchmarks/ablation.py",
        "version": aft.__version__,
        "machine": tables.machine(),
        "scores": scores,
    }
    FILE.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
