"""The safety net: which of two students is kept, with transfer or from the labels alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aft.data.loading import DataSet
from aft.metrics import compute_metrics
from aft.students.saved import SavedStudent
from aft.students.student import Student
from aft.tasks import Task
from aft.training.checkpoints import Progress
from aft.training.finish import Scorer, final_split
from aft.training.transfer_model import TransferModel

NOT_WORSE = 2.0
"""By how many standard errors the student may be behind the one that learned from the labels
alone, on validation rows, before that one is kept."""


@dataclass(frozen=True)
class Choice:
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
    metric: str,
) -> Choice:
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
        metric: The metric of the run.
    """
    difference = _row_scores(logits, labels, task) - _row_scores(alone, labels, task)
    if task.kind == "classification" and metric != "accuracy":
        difference = difference * _class_weights(labels)
    apart = difference[difference != 0]
    size = math.sqrt(float((apart**2).mean())) if len(apart) else 0.0
    rows = np.append(difference, [size, -size])
    mean, error = float(difference.mean()), float(rows.std(ddof=1) / math.sqrt(len(rows)))
    return Choice(mean, error, mean < -NOT_WORSE * error)


def _row_scores(
    logits: NDArray[np.float32], labels: NDArray[Any], task: Task
) -> NDArray[np.float64]:
    if task.kind == "classification":
        return np.asarray(logits.argmax(1) == labels, dtype=np.float64)
    if task.kind == "multilabel":
        return np.asarray(((logits > 0) == (labels > 0.5)).mean(1), dtype=np.float64)
    variance = np.maximum(labels.var(0, dtype=np.float64), 1e-12)
    return np.asarray(-((logits - labels) ** 2 / variance).mean(1), dtype=np.float64)


def _class_weights(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Weights of the rows, of mean 1, with which every class counts the same."""
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return np.asarray(len(labels) / (len(classes) * counts[index]), dtype=np.float64)


def choose_student(
    model: TransferModel,
    data: DataSet,
    saved: SavedStudent,
    progress: Progress,
    metric: str,
    score: Scorer,
) -> tuple[SavedStudent, dict[str, Any]]:
    """The student to keep, and what the run's summary says of the choice.

    Without a student beside it the one with transfer is kept, and nothing is said.

    Args:
        model: Both students, with their best weights.
        data: The data set; its validation rows decide.
        saved: The student with transfer.
        progress: Which steps' weights those are.
        metric: The metric of the run.
        score: Gives the students' outputs.
    """
    if not isinstance(model.alone, Student):
        return saved, {}
    alone = SavedStudent(model.alone, data.task, saved.columns, saved.backbone)
    outputs = [score(student, "validation") for student in (saved, alone)]
    labels = np.asarray(data.splits["validation"].labels)
    choice = judge(outputs[0], outputs[1], labels, data.task, metric)
    split = final_split(data)
    scored = []
    for student, own, best in zip(
        (saved, alone), outputs, (progress.best, progress.alone), strict=True
    ):
        final = own if split == "validation" else score(student, split)
        final_labels = np.asarray(data.splits[split].labels)
        scored.append(
            {
                "best_step": best.step,
                "validation": compute_metrics(own, labels, data.task)[metric],
                "final": compute_metrics(final, final_labels, data.task)[metric],
            }
        )
    with_transfer, without = scored
    found: dict[str, Any] = {
        "metric": metric,
        "with_transfer": with_transfer,
        "alone": without,
        **asdict(choice),
    }
    found["sentence"] = describe_choice(found, len(labels))
    kept = alone if choice.fell_back else saved
    best_step = scored[choice.fell_back]["best_step"]
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
