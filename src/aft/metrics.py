"""Metrics of each kind of task, and the choice of the main metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aft.errors import ConfigError
from aft.tasks import Task

CHOICES = {
    "classification": ("accuracy", "balanced_accuracy", "macro_f1"),
    "multilabel": ("mean_average_precision", "micro_f1"),
    "regression": ("r2",),
}
"""Main metrics to choose from, per kind of task; the first is the default. Higher is better."""
MAIN_METRIC = {kind: names[0] for kind, names in CHOICES.items()}
LOWER_IS_BETTER = frozenset({"nll", "bce", "rmse", "mae", "divergence"})
AGREEMENT = "agreement"
"""The main metric of rows without labels: it is no accuracy."""
BALANCED = 0.75
"""Classes are balanced if their effective number is at least this share of their number."""


NAMES = {
    "mean_average_precision": "mean average precision",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "agreement": "agreement with the soft labels",
    "divergence": "divergence from the soft labels",
    "nll": "log loss",
    "bce": "log loss",
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "MAE",
}


def metric_words(name: str) -> str:
    """A metric's name in words, e.g. ``log loss`` for ``nll``."""
    return NAMES.get(name, name.replace("_", " "))


def choose_metric(asked: str, task: Task, labels: NDArray[Any]) -> str:
    """The metric that chooses checkpoints and determines verdicts.

    ``auto`` is the first of :data:`CHOICES`, except for imbalanced classes: there it is
    ``balanced_accuracy``, since accuracy may improve on the largest class alone. Classes are
    imbalanced if their effective number, the exponential of the entropy of the class frequencies,
    is below three quarters of the number of classes.

    Args:
        asked: ``auto``, or the name of a metric.
        task: The task.
        labels: Labels of the training rows, as in :class:`aft.data.Samples`.

    Raises:
        ConfigError: If the metric does not apply to the task.
    """
    if asked != "auto":
        if asked not in CHOICES[task.kind]:
            raise ConfigError(
                f"got --metric {asked} for {task.kind}: expected {', '.join(CHOICES[task.kind])}"
            )
        return asked
    if task.kind != "classification":
        return MAIN_METRIC[task.kind]
    shares = np.bincount(labels, minlength=task.num_outputs) / max(1, len(labels))
    shares = shares[shares > 0]
    effective = float(np.exp(-(shares * np.log(shares)).sum()))
    return "balanced_accuracy" if effective < BALANCED * task.num_outputs else "accuracy"


def compute_metrics(logits: NDArray[Any], labels: NDArray[Any], task: Task) -> dict[str, float]:
    """Compute the metrics of outputs against labels, in float64.

    Args:
        logits: ``(n, num_outputs)``; for regression the predictions in the targets' units.
        labels: As in :class:`aft.data.Samples`; or, for rows without labels, the probabilities
            ``(n, num_outputs)`` of soft labels.
        task: The task.

    Returns:
        soft labels: ``agreement`` (share of rows whose most probable class is the same) and
        ``divergence`` (Kullback-Leibler, nats). classification: ``accuracy``,
        ``balanced_accuracy`` and ``macro_f1`` (both means over the classes present), ``nll`` (log
        loss, nats). multilabel: ``mean_average_precision`` (over the labels present), ``micro_f1``
        (at probability 0.5), ``bce``. regression: ``r2`` (mean over targets), ``rmse``, ``mae`` (in
        the targets' units).
    """
    outputs = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(outputs).all():  # of a diverged student, all are NaN
        return dict.fromkeys(compute_metrics(np.zeros_like(outputs), labels, task), math.nan)
    if task.kind == "classification" and labels.ndim == 2:
        return _compare_with_soft(outputs, np.asarray(labels, np.float64))
    if task.kind == "classification":
        return _class_metrics(outputs, labels, task.num_outputs)
    from sklearn import metrics

    if task.kind == "multilabel":
        wanted = np.asarray(labels) > 0.5
        present = [i for i in range(task.num_outputs) if wanted[:, i].any()]
        precisions = [metrics.average_precision_score(wanted[:, i], outputs[:, i]) for i in present]
        values = {
            "mean_average_precision": np.mean(precisions) if precisions else math.nan,
            "micro_f1": metrics.f1_score(wanted, outputs > 0, average="micro", zero_division=0.0),
            "bce": (np.logaddexp(0, outputs) - np.asarray(labels, np.float64) * outputs).mean(),
        }
    else:
        true = np.asarray(labels, dtype=np.float64)
        defined = len(true) > 1 and bool((np.ptp(true, axis=0) > 0).all())
        error = outputs - true
        values = {
            "r2": metrics.r2_score(true, outputs) if defined else math.nan,
            "rmse": math.sqrt(np.square(error).mean()),
            "mae": np.abs(error).mean(),
        }
    return {name: float(value) for name, value in values.items()}


def explain_undefined(
    metrics: Mapping[str, float], labels: NDArray[Any], task: Task, split: str
) -> list[str]:
    """A sentence that says why metrics are undefined (NaN); no sentence if all are defined.

    Args:
        metrics: The result of :func:`compute_metrics`.
        labels: The labels of the split.
        task: The task.
        split: The name of the split.
    """
    undefined = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not undefined:
        return []
    if len(undefined) == len(metrics):
        reason = "the outputs are not finite: training diverged, so lower --lr"
    elif task.kind == "multilabel":
        reason = "no row has a label"
    elif len(labels) < 2:
        reason = "there is a single row"
    else:
        flat = np.flatnonzero(np.ptp(labels, axis=0) == 0)
        reason = f"all rows have the same value of {', '.join(task.names[i] for i in flat)}"
    return [f"undefined on {split}: {', '.join(map(metric_words, undefined))}, because {reason}"]


def standard_error(metric: str, logits: NDArray[Any], labels: NDArray[Any], task: Task) -> float:
    """Standard error of a classification metric over the rows; 0 for other tasks.

    It is infinite for soft labels: agreement with them does not choose a checkpoint. For
    ``macro_f1`` it is the standard error of the balanced accuracy, as an approximation.

    Args:
        metric: One of :data:`CHOICES`.
        logits: ``(n, num_outputs)``.
        labels: As in :class:`aft.data.Samples`.
        task: The task.
    """
    if task.kind != "classification":
        return 0.0
    if labels.ndim == 2:
        return math.inf
    right = logits.argmax(1) == labels
    if metric == "accuracy":
        score = float(right.mean())
        return math.sqrt(max(0.0, score * (1 - score)) / len(labels))
    # Balanced accuracy is the mean of the class recalls, which are independent proportions.
    groups = [right[labels == label] for label in np.unique(labels)]
    variances = [part.mean() * (1 - part.mean()) / len(part) for part in groups]
    return math.sqrt(float(np.sum(variances))) / len(groups)


def bootstrap_intervals(
    logits: NDArray[Any], labels: NDArray[Any], task: Task, resamples: int = 200, seed: int = 0
) -> dict[str, list[float]]:
    """95 % percentile bootstrap intervals of every metric over the rows (Efron, 1979).

    Args:
        logits: As in :func:`compute_metrics`.
        labels: As in :func:`compute_metrics`.
        task: As in :func:`compute_metrics`.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        Lower and upper end per metric; metrics that are undefined in a resample are omitted.
    """
    generator = np.random.default_rng(seed)
    draws = (generator.integers(len(labels), size=len(labels)) for _ in range(resamples))
    scores = [compute_metrics(logits[rows], labels[rows], task) for rows in draws]
    values = {name: [one[name] for one in scores] for name in scores[0]}
    ends = {name: np.percentile(one, [2.5, 97.5]).tolist() for name, one in values.items()}
    return {name: pair for name, pair in ends.items() if np.isfinite(pair).all()}


def _compare_with_soft(outputs: NDArray[np.float64], soft: NDArray[np.float64]) -> dict[str, float]:
    logs = _log_softmax(outputs)
    known = np.log(np.maximum(soft, np.finfo(np.float32).tiny))
    return {
        AGREEMENT: float((outputs.argmax(1) == soft.argmax(1)).mean()),
        "divergence": float((soft * (known - logs)).sum(1).mean()),
    }


def _log_softmax(outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = outputs - outputs.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def _class_metrics(
    outputs: NDArray[np.float64], labels: NDArray[Any], classes: int
) -> dict[str, float]:
    """Classification metrics, computed from counts per class."""
    predicted = outputs.argmax(1)
    log_probability = _log_softmax(outputs)
    support = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    present = support > 0
    either = (support + np.bincount(predicted, minlength=classes))[present]
    return {
        "accuracy": float(right.sum() / len(labels)),
        "balanced_accuracy": float((right[present] / support[present]).mean()),
        "macro_f1": float((2 * right[present] / either).mean()),
        "nll": float(-log_probability[np.arange(len(labels)), labels].mean()),
    }
