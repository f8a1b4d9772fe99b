"""Finished run folders with synthetic contents, as written by `aft train`."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import yaml
from safetensors.numpy import save_file


def make_run(
    folder: Path,
    *,
    kind: str = "classification",
    names: Sequence[str] = ("apple", "banana", "cherry"),
    teachers: Sequence[tuple[str, int]] = (("timm:vit_small_patch14_dinov2.lvd142m", 384),),
    split: str = "test",
    rows: int = 120,
    looks: int = 10,
    skill: float = 0.8,
    seed: int = 0,
    bad_inputs: int = 0,
    notes: Sequence[str] = (),
    columns: Sequence[tuple[str, str]] = (("image", "image"),),
    student: str = "timm:mobilenetv4_conv_small.e2400_r224_in1k",
    fell_back: bool | None = None,
) -> Path:
    """Write a run in which a share ``skill`` of the final split is predicted correctly.

    Args:
        folder: The run folder to fill.
        kind: Kind of the task.
        names: Classes, labels or targets of the task.
        teachers: Spec and width of each; empty for a run on the labels alone.
        split: The split of the final score.
        rows: Size of that split.
        looks: Number of evaluations on the validation split.
        skill: Approximate final score.
        seed: Seed of the run; labels and files of the final split are the same for all seeds.
        bad_inputs: Number of unreadable inputs.
        notes: Notes on the data.
        columns: Name and modality of each input column.
        student: The student's specification.
        fell_back: Whether the safety net kept the labels alone; None for a run without it.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    table, metrics = _EVALUATIONS[kind](list(names), rows, skill, generator)
    metric = next(iter(metrics))
    best_step = _write_log(folder, looks, skill, bool(teachers), metric, generator)
    task = {"kind": kind, "names": list(names)}
    steps = looks * 100
    counts = {"train": 10 * rows, "validation": rows, split: rows}
    result: dict[str, Any] = {
        "version": "0.1.0",
        "student": student,
        "columns": [{"name": name, "modality": modality} for name, modality in columns],
        "student_weights": "pretrained",
        "num_parameters": 2_500_000,
        "task": task,
        "teachers": [{"spec": spec, "dim": dim} for spec, dim in teachers],
        "loss": "aft" if teachers else None,
        "beta": 3.0 if teachers else 0.0,
        "seed": seed,
        "steps": steps,
        "best_step": best_step,
        "seconds": 754.2,
        "split": split,
        "rows": counts,
        "metrics": metrics,
        "intervals": {name: [value - 0.05, value + 0.05] for name, value in metrics.items()},
        "validation": metrics,
        "notes": list(notes),
    }
    if fell_back is not None:
        result |= _safety_net(folder, metric, skill, fell_back)
        result["notes"].append(result["safety_net"]["sentence"])
    if teachers:
        gates = {
            str(i): generator.beta(0.9, 0.7 + i, dim).astype(np.float32)
            for i, (_, dim) in enumerate(teachers)
        }
        save_file(gates, folder / "feature_weights.safetensors")
        result["teacher_shares"] = generator.dirichlet(np.ones(len(teachers))).tolist()
    (folder / "result.json").write_text(json.dumps(result))
    data = {
        "source": "/data/fruit",
        "task": task,
        "rows": counts,
        "held_out_of_train": ["validation"],
        "rows_per_class": {"train": dict.fromkeys(names, 10) if kind != "regression" else {}},
    }
    (folder / "data.json").write_text(json.dumps(data))
    config = {"data": "/data/fruit", "teachers": [spec for spec, _ in teachers], "lr": None}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "batch_size": 64, "seed": seed}))
    pyarrow.parquet.write_table(pyarrow.table(table), folder / "evaluation.parquet")
    if bad_inputs:
        faults = [(f"train/bad{i}.jpg", "cut off after 12 bytes") for i in range(bad_inputs)]
        with (folder / "bad_inputs.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("file", "fault"), *faults])
    return folder


def _write_log(
    folder: Path,
    looks: int,
    skill: float,
    taught: bool,
    metric: str,
    generator: np.random.Generator,
) -> int:
    """Write the metrics and return the best step."""
    lines: list[dict[str, Any]] = [{"step": 0, "split": "validation", metric: 0.4 * skill}]
    scores = []
    for step in range(10, looks * 100 + 1, 10):
        task_loss = 2.2 * np.exp(-step / 300) + 0.2 + 0.1 * generator.normal()
        values = {"task_loss": task_loss, "loss": task_loss, "lr": 1e-3}
        if taught:
            values["transfer_loss"] = 0.5 * np.exp(-step / 200) + 0.1 + 0.02 * generator.normal()
        lines.append({"step": step, "split": "train", **values})
        if step % 100 == 0:
            score = skill * (1 - 0.5 * np.exp(-step / 300)) + 0.01 * generator.normal()
            scores.append(score)
            lines.append({"step": step, "split": "validation", metric: score})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return 100 * (1 + int(np.argmax(scores)))


def _safety_net(folder: Path, metric: str, skill: float, fell_back: bool) -> dict[str, Any]:
    """Log a second student, trained on the labels alone; return the entries of the result."""
    factor = 1.1 if fell_back else 0.9
    path = folder / "metrics.jsonl"
    looks = [line for line in map(json.loads, path.read_text().splitlines()) if metric in line]
    alone = [{**line, "split": "validation_alone", metric: line[metric] * factor} for line in looks]
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in alone)
    students = [
        {"best_step": looks[-1]["step"], "validation": score, "final": score - 0.01}
        for score in (skill, skill * factor)
    ]
    sentence = f"the safety net {'stepped in' if fell_back else 'saw no harm'}: {metric} is so & so"
    found: dict[str, Any] = {"metric": metric, "with_transfer": students[0], "alone": students[1]}
    found |= {"difference": 0.0, "standard_error": 0.01, "fell_back": fell_back}
    return {"best_step": looks[-1]["step"], "safety_net": {**found, "sentence": sentence}}


def _files(rows: int) -> list[str]:
    return [f"test/{i:04d}.jpg" for i in range(rows)]


def _classification(
    names: list[str], rows: int, skill: float, generator: np.random.Generator
) -> tuple[dict[str, Any], dict[str, float]]:
    true = np.arange(rows) % len(names)
    wrong = generator.random(rows) > skill
    predicted = np.where(wrong, (true + 1 + generator.integers(0, 2, rows)) % len(names), true)
    table = {
        "file": _files(rows),
        "label": [names[i] for i in true],
        "predicted": [names[i] for i in predicted],
        "probability": generator.uniform(0.4, 1, rows).tolist(),
    }
    accuracy = float((true == predicted).mean())
    return table, {
        "accuracy": accuracy,
        "balanced_accuracy": accuracy - 0.01,
        "macro_f1": accuracy - 0.02,
        "nll": 0.2 + 1.5 * (1 - accuracy),
    }


def _multilabel(
    names: list[str], rows: int, skill: float, generator: np.random.Generator
) -> tuple[dict[str, Any], dict[str, float]]:
    true = np.random.default_rng(1234).random((rows, len(names))) < 0.4
    predicted = true ^ (generator.random(true.shape) > skill)

    def join(table: Any) -> list[str]:
        return ["|".join(n for n, on in zip(names, row, strict=True) if on) for row in table]

    table = {"file": _files(rows), "label": join(true), "predicted": join(predicted)}
    table["probability"] = [""] * rows
    for name, column in zip(names, true.T, strict=True):
        table[f"probability_{name}"] = (0.3 + 0.4 * column).tolist()
    return table, {"mean_average_precision": skill, "micro_f1": skill - 0.05, "bce": 0.4}


def _regression(
    names: list[str], rows: int, skill: float, generator: np.random.Generator
) -> tuple[dict[str, Any], dict[str, float]]:
    true = np.random.default_rng(1234).normal(20, 5, (rows, len(names)))
    predicted = true + generator.normal(0, 5 * np.sqrt(1 - skill), true.shape)
    table: dict[str, Any] = {"file": _files(rows)}
    for i, name in enumerate(names):
        table |= {name: true[:, i].tolist(), f"predicted_{name}": predicted[:, i].tolist()}
    return table, {"r2": skill, "rmse": 2.2, "mae": 1.7}


_EVALUATIONS = {
    "classification": _classification,
    "multilabel": _multilabel,
    "regression": _regression,
}
