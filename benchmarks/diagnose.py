"""Does the similarity to the teachers that a student learns generalize to test rows?

For the runs of the suite with seed 0, this script measures the similarity of the student's and the
teachers' features, on training rows and on equally many test rows. The measure is debiased CKA
(Song et al. 2012, JMLR; Nguyen et al. 2021, arXiv 2010.15327): 0 for unrelated features, 1 for
features that are equal up to rotation and scale. If a method raises the similarity on training rows
only, the student overfits the teachers' features. Needs the runs of `python benchmarks/suite.py`;
takes about five minutes.

    python benchmarks/diagnose.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import aft
import suite
import tables
from aft.comparison.runs import method_of
from aft.config.commands import TrainConfig, read_config_file
from aft.data.options import load_training_data
from aft.data.samples import Samples, match_columns
from aft.features.stored import extract_teachers
from aft.metrics import MAIN_METRIC, compute_metrics
from aft.students.run_student import run_student

MOST_ROWS = 1000
METHODS = ("alone", "kd", "rkd", "cka", "aft")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=suite.SHORT, choices=suite.TASKS)
    parser.add_argument("--runs", type=Path, default=Path("runs/suite"))
    options = parser.parse_args()
    rows = [row for task in options.tasks for row in diagnose(options.runs / task, task)]
    found = {
        "command": f"python benchmarks/diagnose.py --tasks {' '.join(options.tasks)}",
        "version": aft.__version__,
        "machine": tables.machine(),
        "rows": rows,
    }
    (suite.RESULTS / "diagnosis.json").write_text(json.dumps(found, indent=1) + "\n")
    tables.put("diagnosis", as_markdown(found), ["benchmarks/FINDINGS.md"])


def as_markdown(found: dict[str, Any]) -> str:
    """One row per task and method, one column per weight."""
    rows: list[dict[str, Any]] = found["rows"]
    betas = sorted({row["beta"] for row in rows} - {0.0})
    alone = {row["task"]: row for row in rows if row["method"] == "alone"}
    cells: dict[tuple[str, str], dict[float, str]] = {}
    for row in rows:
        if row["method"] != "alone":
            cells.setdefault((row["task"], row["method"]), {0.0: show(alone[row["task"]])})
            cells[row["task"], row["method"]][row["beta"]] = show(row)
    head = " | ".join(f"weight {beta:g}" for beta in betas)
    lines = [f"| task | method | alone | {head} |", "|---" * (3 + len(betas)) + "|"]
    for (task, method), known in cells.items():
        each = " | ".join(known.get(beta, "") for beta in (0.0, *betas))
        lines.append(f"| {task} | {method} | {each} |")
    return (
        "\n".join(lines)
        + "\n\nEach cell gives the similarity (debiased CKA) of student and teacher features "
        "on training rows / on equally many test rows: score on these test rows. One seed.\n"
        f"Made by `{found['command']}` ({found['machine']}).\n"
    )


def show(row: dict[str, Any]) -> str:
    return f"{row['cka_train']:.2f} / {row['cka_test']:.2f}: {row['score_test']:.3f}"


def diagnose(folder: Path, task: str) -> list[dict[str, Any]]:
    """Similarity and score on training and test rows, for each method at every weight."""
    runs = sorted(path.parent for path in folder.rglob("result.json"))
    seed0 = [run for run in runs if run.name.endswith("-seed0")]
    rows = []
    for method in METHODS:
        for run in seed0:
            if method_of(run.name) == method:
                row = {"task": task, "method": method, **measure(run, folder)}
                print(row, flush=True)
                rows.append(row)
    return rows


def measure(folder: Path, comparison: Path) -> dict[str, Any]:
    """Similarity and score of one run on training and test rows."""
    run = aft.TrainResult.load(folder)
    config = TrainConfig(**read_config_file(folder / "config.yaml", TrainConfig))
    teachers = json.loads((comparison / "compare.json").read_text())["teachers"]
    config = config.model_copy(update={"teachers": tuple(teachers)})
    data = load_training_data(config)
    student = run.student()
    found: dict[str, Any] = {"beta": run.summary["beta"]}
    count = min(MOST_ROWS, len(data.splits["train"]), len(data.splits["test"]))
    for split in ("train", "test"):
        samples = some(data.splits[split], count)
        inputs = match_columns(samples, student.columns)
        parts = list(run_student(student.module, student.inputs(inputs)))
        logits, features = (torch.cat(one).float() for one in zip(*parts, strict=True))
        known = torch.cat([known_features(one) for one in known_teachers(config, samples)], dim=1)
        metrics = compute_metrics(logits.numpy(), np.asarray(samples.labels), data.task)
        found[f"cka_{split}"] = unbiased_cka(features, known)
        found[f"score_{split}"] = metrics[MAIN_METRIC[data.task.kind]]
    return found


def some(samples: Samples, count: int) -> Samples:
    drawn = np.random.default_rng(0).permutation(len(samples))[:count]
    return samples.subset(np.sort(drawn))


def unbiased_cka(a: Tensor, b: Tensor) -> float:
    """Debiased CKA of features ``(n, D_a)`` and ``(n, D_b)``."""
    kernels = [(one.double() @ one.double().T).fill_diagonal_(0) for one in (a, b)]

    def hsic(k: Tensor, m: Tensor) -> float:
        n = len(k)
        product = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2))
        return float((product - 2 / (n - 2) * (k.sum(0) @ m.sum(0))) / (n * (n - 3)))

    both, first, second = hsic(*kernels), hsic(kernels[0], kernels[0]), hsic(kernels[1], kernels[1])
    return both / (first * second) ** 0.5


def known_teachers(config: TrainConfig, samples: Samples) -> Any:
    return extract_teachers(config, [samples], torch.device("cpu"))[0]


def known_features(one: Any) -> Tensor:
    """Features of a teacher, standardized as for the losses."""
    features = one.gather(np.arange(len(one.samples)))
    std = features.std(0)
    standardized: Tensor = (features - features.mean(0)) / torch.where(std > 1e-6, std, 1.0)
    return standardized


if __name__ == "__main__":
    main()
