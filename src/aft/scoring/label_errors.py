"""Rows whose label is probably wrong, from out-of-fold predictions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from aft.tasks import Task

OUTLIER = 3.5
"""Smallest size of a standardized residual that counts as an outlier (Iglewicz & Hoaglin, 1993)."""
_MAD = 1.4826  # standard deviation of a normal distribution, in median absolute deviations


class LabelError(NamedTuple):
    """A label that is probably wrong.

    Attributes:
        row: Index of the row.
        output: Index of the label or target; None for classification.
        given: The given class index, 0 or 1 for multi-label, or the given target.
        predicted: The predicted one.
        probability_given: Predicted probability of the given label; NaN for regression.
        probability_predicted: Predicted probability of the predicted label; NaN for regression.
        score: Predicted probability that the given label is wrong; for regression the size of the
            standardized residual. Higher is more certain.
    """

    row: int
    output: int | None
    given: float
    predicted: float
    probability_given: float
    probability_predicted: float
    score: float


def find_label_errors(outputs: Tensor, labels: Tensor, task: Task) -> list[LabelError]:
    """Find labels that are probably wrong, the most certain ones first.

    For classification, confident learning says how many labels are wrong. The threshold of a class
    is the mean predicted probability of this class over the rows that are labelled with it, so that
    it adapts to classes of which the model is less certain. A row is confidently of the class with
    the highest probability among those that reach their thresholds. Rows that are confidently of
    another class than the given one, and of which the given class is not the most probable one,
    are counted (the confident joint outside its diagonal). As many rows are returned, those with
    the lowest probability of the given class: they held more wrong labels than the counted rows
    themselves when labels were flipped at random (benchmarks/label_errors.py). The only row of a
    class is never returned.

    For multi-label tasks the same is done for every label, with the classes 0 and 1. For
    regression, labels are reported whose residual is at least :data:`OUTLIER` standard deviations
    from the median; the standard deviation is estimated from the median absolute deviation.

    References:
        Northcutt, Jiang & Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
        JAIR 2021, arXiv 1911.00068.

    Args:
        outputs: ``(n, num_outputs)``, out-of-fold predictions: logits, or targets in their units
            (:func:`aft.scoring.measures.predict_out_of_fold` with ``logits=True``).
        labels: As in :class:`aft.data.Samples`.
        task: The task of the labels.
    """
    found: list[LabelError] = []
    if task.kind == "classification":
        found = _judge_classes(outputs.double().softmax(1), labels, None)
    for output in range(task.num_outputs) if task.kind != "classification" else ():
        given, values = labels[:, output], outputs[:, output].double()
        if task.kind == "regression":
            found += _judge_numbers(values, given.double(), output)
        else:
            chances = torch.stack([(-values).sigmoid(), values.sigmoid()], dim=1)
            found += _judge_classes(chances, given.long(), output)
    return sorted(found, key=lambda one: (-one.score, one.row))


def _judge_classes(chances: Tensor, given: Tensor, output: int | None) -> list[LabelError]:
    """Errors among class labels ``(n,)``, from probabilities ``(n, C)``."""
    own = chances.gather(1, given[:, None])[:, 0]
    counts = given.bincount(minlength=chances.shape[1])
    highest, predicted = chances.max(dim=1)
    possible = (predicted != given) & (counts[given] > 1)
    thresholds = torch.zeros_like(chances[0]).index_add(0, given, own) / counts  # NaN without rows
    sure, confident = chances.where(chances >= thresholds, -1.0).max(dim=1)
    number = int((possible & (sure >= 0) & (confident != given)).sum())
    lowest = own.where(possible, torch.inf).argsort(stable=True)[:number]
    return [
        LabelError(row, output, int(given[row]), int(predicted[row]), low, high, 1 - low)
        for row in lowest.tolist()
        for low, high in [(float(own[row]), float(highest[row]))]
    ]


def _judge_numbers(predicted: Tensor, given: Tensor, output: int) -> list[LabelError]:
    """Errors among the values of a target, ``(n,)``."""
    residuals = given - predicted
    residuals = residuals - residuals.median()
    spread = _MAD * residuals.abs().median()
    sizes = residuals.abs() / (spread if spread > 0 else residuals.std().clamp_min(1e-12))
    return [
        LabelError(
            int(row),
            output,
            float(given[row]),
            float(predicted[row]),
            math.nan,
            math.nan,
            float(sizes[row]),
        )
        for row in (sizes >= OUTLIER).nonzero()[:, 0]
    ]
