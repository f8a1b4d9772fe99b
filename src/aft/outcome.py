"""What a finished run leaves: scores, predictions, and which of two students was kept."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from numpy.typing import NDArray

from aft.checkpoints import Progress
from aft.config import TrainConfig
from aft.data import DataSet, Samples
from aft.devices import choose_num_workers
from aft.errors import AftError
from aft.evaluate import MAIN_METRIC, compute_metrics
from aft.extract import StoredFeatures
from aft.inference import compute_logits
from aft.labels import Task
from aft.model import SavedStudent, Student, TransferModel
from aft.predict import prediction_columns
from aft.report import write_run_report
from aft.runs import write_json

NOT_WORSE = 2.0
"""By how many standard errors the student may be behind the one that learned from the labels
alone, on validation rows, before that one is kept."""


@dataclass(frozen=True)
class Verdict:
    """Two students on the same held-out rows: with transfer, and from the labels alone.

    Attributes:
        difference: Mean over rows of the score with transfer less that without.
        standard_error: Of this mean.
        fell_back: Whether the student that learned from the labels alone was kept.
    """

    difference: float
    standard_error: float
    fell_back: bool


def judge(
    logits: NDArray[np.float32],
    alone: NDArray[np.float32],
    labels: NDArray[Any],
    task: Task,
) -> Verdict:
    """Whether the transfer did harm.

    Rows are scored by themselves: right or wrong; for several labels the share that is right; for
    regression minus the squared error, in units of the targets' variance. The standard error of
    the mean difference is taken with two made-up rows beside the real ones, one for either student
    and as large as the others' differences are: else four rows of which all speak for one student
    would look certain (Agresti and Min, 2005, for paired proportions).

    Args:
        logits: Outputs of the student with transfer, ``(n, num_outputs)``.
        alone: Those of the student that learned from the labels alone.
        labels: As in :class:`aft.data.Samples`.
        task: What the outputs mean.
    """
    difference = _row_scores(logits, labels, task) - _row_scores(alone, labels, task)
    apart = difference[difference != 0]
    size = math.sqrt(float((apart**2).mean())) if len(apart) else 0.0
    rows = np.append(difference, [size, -size])
    mean, error = float(difference.mean()), float(rows.std(ddof=1) / math.sqrt(len(rows)))
    return Verdict(mean, error, mean < -NOT_WORSE * error)


def _row_scores(
    logits: NDArray[np.float32], labels: NDArray[Any], task: Task
) -> NDArray[np.float64]:
    if task.kind == "classification":
        return np.asarray(logits.argmax(1) == labels, dtype=np.float64)
    if task.kind == "multilabel":
        return np.asarray(((logits > 0) == (labels > 0.5)).mean(1), dtype=np.float64)
    variance = np.maximum(labels.var(0, dtype=np.float64), 1e-12)
    return np.asarray(-((logits - labels) ** 2 / variance).mean(1), dtype=np.float64)


def choose_student(
    config: TrainConfig,
    model: TransferModel,
    data: DataSet,
    saved: SavedStudent,
    progress: Progress,
    device: torch.device,
) -> tuple[SavedStudent, dict[str, Any]]:
    """The student to keep, and what the run's summary says of the choice.

    Without a student beside it the one with transfer is kept, and nothing is said.

    Args:
        config: Options of the run.
        model: Both students, with their best weights.
        data: The data set; its validation rows decide.
        saved: The student with transfer.
        progress: Which steps' weights those are.
        device: Where they are.
    """
    if not isinstance(model.alone, Student):
        return saved, {}
    alone = SavedStudent(model.alone, data.task, saved.columns, saved.backbone)
    score = Scorer(config, data, device)
    validation = score(saved, "validation"), score(alone, "validation")
    labels = np.asarray(data.splits["validation"].labels)
    verdict = judge(*validation, labels, data.task)
    split = final_split(data)
    main = MAIN_METRIC[data.task.kind]
    with_transfer, without = (
        {
            "best_step": best.step,
            "validation": compute_metrics(outputs, labels, data.task)[main],
            "final": compute_metrics(
                outputs if split == "validation" else score(student, split),
                np.asarray(data.splits[split].labels),
                data.task,
            )[main],
        }
        for outputs, student, best in zip(
            validation, (saved, alone), (progress.best, progress.alone), strict=True
        )
    )
    found: dict[str, Any] = {
        "metric": main,
        "with_transfer": with_transfer,
        "alone": without,
        "difference": verdict.difference,
        "standard_error": verdict.standard_error,
        "fell_back": verdict.fell_back,
    }
    found["sentence"] = describe_choice(found, len(labels))
    kept, best_step = (
        (alone, without["best_step"]) if verdict.fell_back else (saved, with_transfer["best_step"])
    )
    return kept, {"best_step": best_step, "safety_net": found}


def describe_choice(found: Mapping[str, Any], rows: int) -> str:
    """A sentence on what the safety net saw.

    Args:
        found: ``safety_net`` of a run's summary.
        rows: Number of validation rows.
    """
    scores = [found[name]["validation"] for name in ("with_transfer", "alone")]
    seen = (
        f"on {rows} validation rows {found['metric']} is {scores[0]:.3f} with the teachers and "
        f"{scores[1]:.3f} from the labels alone"
    )
    if found["fell_back"]:
        return (
            f"the safety net stepped in: {seen}, so the student that learned from the labels alone "
            "was kept"
        )
    behind = found["difference"] < 0
    why = ", which is within two standard errors" if behind else ""
    return f"the student with the teachers was kept: {seen}{why}"


def final_split(data: DataSet) -> str:
    """The split of the final score."""
    return "test" if "test" in data.splits else "validation"


class Scorer:
    """Outputs of students for the splits of a data set.

    Args:
        config: Options of the run.
        data: The data set.
        device: Where the students are.
    """

    def __init__(self, config: TrainConfig, data: DataSet, device: torch.device) -> None:
        self.config = config
        self.data = data
        self.device = device

    def __call__(
        self,
        saved: SavedStudent,
        split: str,
        model: TransferModel | None = None,
        teachers: Sequence[StoredFeatures] = (),
    ) -> NDArray[np.float32]:
        """Outputs ``(n, num_outputs)``; with `model` and `teachers` of one that keeps these."""
        return compute_logits(
            model or saved.module,
            saved.transform,
            self.data.splits[split].only(*(column.name for column in saved.columns)),
            teachers=teachers,
            batch_size=self.config.batch_size,
            num_workers=choose_num_workers(self.config.num_workers, self.device),
            device=self.device,
            progress=self.config.progress,
        )


def finish(
    out: Path,
    config: TrainConfig,
    data: DataSet,
    saved: SavedStudent,
    summary: dict[str, Any],
    device: torch.device,
    model: TransferModel,
    kept: Mapping[str, Sequence[StoredFeatures]],
) -> None:
    """Score the best checkpoint, then write ``result.json``, which makes the run finished.

    Args:
        out: The run's folder.
        config: Its options.
        data: Its data.
        saved: The student.
        summary: What ``result.json`` is to hold; scores are added.
        device: Where the student is.
        model: The student in its model, which is scored if it keeps its teachers.
        kept: Teachers' features of the splits, where the model keeps its teachers.
    """
    split, score = final_split(data), Scorer(config, data, device)
    for name in dict.fromkeys((split, "validation")):
        samples = data.splits[name]
        logits = score(saved, name, model if kept else None, kept.get(name, ()))
        metrics = compute_metrics(logits, np.asarray(samples.labels), data.task)
        summary["validation" if name == "validation" else "metrics"] = metrics
        if name == split:
            summary |= {"split": split, "metrics": metrics}
            pyarrow.parquet.write_table(
                pyarrow.table(_compare_with_labels(logits, samples, data.task)),
                out / "evaluation.parquet",
            )
    write_json(out / "result.json", summary)
    try:
        write_run_report(out, data.splits[split].input)
    except AftError as error:
        print(f"no report: {error}", file=sys.stderr)


def _compare_with_labels(
    logits: NDArray[np.float32], samples: Samples, task: Task
) -> dict[str, list[Any]]:
    """Columns ``file``, ``label``, ``predicted``, ``probability``; for regression each target."""
    labels = np.asarray(samples.labels)
    columns: dict[str, list[Any]] = {"file": list(samples.files)}
    predicted = prediction_columns(logits, task, all_probabilities=task.kind == "multilabel")
    if task.kind == "regression":
        columns |= {name: labels[:, i].tolist() for i, name in enumerate(task.names)}
        return columns | {f"predicted_{name}": values for name, values in predicted.items()}
    if task.kind == "classification":
        columns["label"] = [task.names[i] for i in labels]
    else:
        columns["label"] = ["|".join(np.asarray(task.names)[row > 0]) for row in labels]
    return columns | {"predicted": predicted.pop("label"), **predicted}
