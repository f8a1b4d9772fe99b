"""The safety net: keep the student trained with transfer, or the one from the labels alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from aft.data.loading import DataSet
from aft.metrics import compute_metrics, metric_words
from aft.students.saved import SavedStudent
from aft.students.student import Student
from aft.tasks import Task
from aft.training.checkpoints import Progress
from aft.training.finish import Scorer, final_split
from aft.training.transfer_model import TransferModel

NOT_WORSE, NOT_LESS_LIKELY = 2.0, 1.0
"""The student from the labels alone is kept if the student with transfer is worse on validation
rows by more than the first number of standard errors; or if it is not better and gives their labels
a lower likelihood by more than the second number of standard errors."""
FEWEST_ROWS = 10
"""Fewer validation rows say nothing by their likelihood."""


@dataclass(frozen=True)
class Choice:
    """Comparison of two students, with transfer and from the labels alone, on held-out rows.

    Attributes:
        difference: Mean over rows of the score with transfer minus the score without.
        standard_error: Standard error of this mean.
        log_likelihood: The same difference for the log likelihood of the labels.
        log_likelihood_error: Standard error of this mean.
        fell_back: Whether the student from the labels alone was kept.
    """

    difference: float
    standard_error: float
    log_likelihood: float
    log_likelihood_error: float
    fell_back: bool


def judge(
    logits: NDArray[np.float32],
    alone: NDArray[np.float32],
    labels: NDArray[Any],
    task: Task,
    metric: str,
) -> Choice:
    """Decide whether the transfer harmed the student.

    Each row has a score: 1 if the prediction is correct, else 0; for multilabel tasks the share of
    correct labels; for regression minus the squared error, in units of the targets' variance. It
    also has the log likelihood of its label, for regression the score again. Few rows show a
    difference in likelihood sooner than one in right answers. The standard error of a mean
    difference is computed with two pseudo-rows added, one in favour of each student, whose size is
    the root mean square of the non-zero differences. Without them, a few rows that all favour one
    student would give a standard error near zero (Agresti and Min, 2005, for paired proportions).

    Args:
        logits: Outputs of the student with transfer, ``(n, num_outputs)``.
        alone: Outputs of the student from the labels alone, ``(n, num_outputs)``.
        labels: As in :class:`aft.data.Samples`.
        task: The task.
        metric: The metric of the run.
    """
    weights: Any = 1.0
    if task.kind == "classification" and metric != "accuracy":
        weights = _class_weights(labels)
    scores = _mean_with_error(
        weights * (_row_scores(logits, labels, task) - _row_scores(alone, labels, task))
    )
    likelihoods = _mean_with_error(
        weights * (_row_likelihoods(logits, labels, task) - _row_likelihoods(alone, labels, task))
    )
    harmed = scores[0] < -NOT_WORSE * scores[1]
    unlikely = scores[0] <= 0 and likelihoods[0] < -NOT_LESS_LIKELY * likelihoods[1]
    unlikely = unlikely and len(labels) >= FEWEST_ROWS
    return Choice(*scores, *likelihoods, harmed or unlikely)


def _mean_with_error(difference: NDArray[np.float64]) -> tuple[float, float]:
    """Mean over rows, and its standard error with two pseudo-rows."""
    nonzero = difference[difference != 0]
    size = math.sqrt(float((nonzero**2).mean())) if len(nonzero) else 0.0
    rows = np.append(difference, [size, -size])
    return float(difference.mean()), float(rows.std(ddof=1) / math.sqrt(len(rows)))


def _row_scores(
    logits: NDArray[np.float32], labels: NDArray[Any], task: Task
) -> NDArray[np.float64]:
    if task.kind == "classification":
        return np.asarray(logits.argmax(1) == labels, dtype=np.float64)
    if task.kind == "multilabel":
        return np.asarray(((logits > 0) == (labels > 0.5)).mean(1), dtype=np.float64)
    variance = np.maximum(labels.var(0, dtype=np.float64), 1e-12)
    return np.asarray(-((logits - labels) ** 2 / variance).mean(1), dtype=np.float64)


def _row_likelihoods(
    logits: NDArray[np.float32], labels: NDArray[Any], task: Task
) -> NDArray[np.float64]:
    outputs = np.asarray(logits, np.float64)
    if task.kind == "classification":
        return np.asarray(log_softmax(outputs, axis=1)[np.arange(len(labels)), labels])
    if task.kind == "multilabel":
        return np.asarray(-np.logaddexp(0, np.where(labels > 0.5, -outputs, outputs)).mean(1))
    return _row_scores(logits, labels, task)


def _class_weights(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Row weights with mean 1 that give every class the same total weight."""
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
    """Choose the student to keep; returns it with values for the run's summary.

    Without a second student, the student with transfer is kept and the values are empty.

    Args:
        model: Both students, with their best weights.
        data: The data set; the choice is made on its validation rows.
        saved: The student with transfer.
        progress: Holds the steps of the best weights.
        metric: The metric of the run.
        score: Computes the students' outputs.
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
    safety_net: dict[str, Any] = {
        "metric": metric,
        "with_transfer": with_transfer,
        "alone": without,
        **asdict(choice),
    }
    safety_net["sentence"] = describe_choice(safety_net, len(labels), split)
    kept = alone if choice.fell_back else saved
    best_step = scored[choice.fell_back]["best_step"]
    return kept, {"best_step": best_step, "safety_net": safety_net}


def describe_choice(found: Mapping[str, Any], rows: int, split: str = "validation") -> str:
    """A sentence about the decision of the safety net.

    Args:
        found: ``safety_net`` of a run's summary.
        rows: Number of validation rows.
        split: The final split.
    """
    scores = [found[name]["validation"] for name in ("with_transfer", "alone")]
    scores_text = (
        f"on {rows} validation rows, {metric_words(found['metric'])} is {scores[0]:.3f} with the "
        f"teachers and {scores[1]:.3f} from the labels alone"
    )
    if found["fell_back"]:
        harmed = found["difference"] < -NOT_WORSE * found["standard_error"]
        why = (
            "a difference of more than two standard errors"
            if harmed
            else "and the labels of these rows have a lower likelihood with the teachers, by more "
            "than one standard error"
        )
        return f"the safety net kept the student from the labels alone: {scores_text}, {why}"
    behind = found["difference"] < 0
    why = ", a difference that may be chance" if behind else ""
    final = [found[name]["final"] for name in ("with_transfer", "alone")]
    then = "" if split == "validation" else f"; on {split} {final[0]:.3f} and {final[1]:.3f}"
    return f"the student with the teachers was kept: {scores_text}{why}{then}"
