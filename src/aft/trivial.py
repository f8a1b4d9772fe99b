"""The trivial prediction: the score of a constant predictor, which no student should stay below."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aft.metrics import choose_metric, compute_metrics, metric_words
from aft.tasks import Task

PREDICTIONS = {
    "classification": "the largest class",
    "multilabel": "the share of each label",
    "regression": "the mean",
}
"""What a constant predictor predicts for every row, from the labels of the training rows."""
IMBALANCED = "; since the classes are imbalanced, also --class-weights or another --metric"
MARGIN = 1e-3
"""A student has to be better by more than this: scores are shown with three decimals."""


def trivial_score(train: NDArray[Any], labels: NDArray[Any], task: Task, metric: str) -> float:
    """Score of the constant predictor of :data:`PREDICTIONS`.

    Args:
        train: Labels of the training rows, as in :class:`aft.data.Samples`.
        labels: Labels of the rows to score.
        task: The task.
        metric: One of :data:`aft.metrics.CHOICES`.

    Returns:
        The metric; NaN where it is undefined for these labels. R² is at most 0, because the mean is
        that of the training rows. Balanced accuracy is one over the number of classes, mean average
        precision the mean share of the labels.
    """
    if task.kind == "classification":
        outputs = np.eye(task.num_outputs)[np.bincount(train, minlength=task.num_outputs).argmax()]
    else:
        outputs = np.mean(train, axis=0, dtype=np.float64)
    if task.kind == "multilabel":
        outputs = outputs - 0.5  # positive where a row has the label more often than not
    return compute_metrics(np.tile(outputs, (len(labels), 1)), labels, task)[metric]


def is_no_better(score: float, trivial: float) -> bool:
    """Whether a score is at or below that of the constant predictor; a score of NaN is.

    Nothing is at or below an undefined score, and a perfect score never is.
    """
    return not (score > trivial + MARGIN or score >= 1 or math.isnan(trivial))


def compare_with_trivial(
    train: NDArray[Any], labels: NDArray[Any], task: Task, summary: Mapping[str, Any]
) -> dict[str, Any]:
    """The entry ``trivial`` of ``result.json``: ``metric``, ``score`` and perhaps ``sentence``.

    The sentence is a warning, with what to try, if the student is no better.

    Args:
        train: Labels of the training rows.
        labels: Labels of the final split.
        task: The task.
        summary: The other entries of ``result.json``.
    """
    metric, score = summary["metric"], summary["metrics"][summary["metric"]]
    found = {"metric": metric, "score": trivial_score(train, labels, task, metric)}
    if not is_no_better(score, found["score"]):
        return found
    imbalanced = choose_metric("auto", task, train) == "balanced_accuracy"
    sentence = (
        f"the student is no better than a constant predictor ({PREDICTIONS[task.kind]} of the "
        f"training rows): {metric_words(metric)} on {summary['split']} is {score:.3f}, that of the "
        f"constant predictor {found['score']:.3f}. Try more labels, a higher or lower --lr (now "
        f"{summary['lr']:g}), more --steps (now {summary['steps']}) or another --student"
        f"{IMBALANCED if imbalanced else ''}. `aft score` tells which teachers know the task"
    )
    return {**found, "sentence": sentence}
