"""Transferability scores: how well a teacher's stored features suit a task."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aft import functional as AF
from aft.errors import InputError
from aft.losses.heads import fit_head, fit_label_heads, fit_ridge
from aft.losses.logme import LogME, log_me
from aft.metrics import MAIN_METRIC, compute_metrics
from aft.scoring.kernel_ridge import fit_kernel_ridge, fit_logits
from aft.tasks import Task

__all__ = [
    "CALIBRATION",
    "TMI",
    "Calibration",
    "LogME",
    "Probe",
    "chance_level",
    "compare_probes",
    "cross_validate_probe",
    "debiased_cka",
    "expect_gain",
    "join_features",
    "judge_predictions",
    "kernel_ridge",
    "kernel_ridge_score",
    "label_alignment",
    "linear_probe",
    "log_me",
    "nearest_neighbours",
    "predict_out_of_fold",
    "tmi",
]

_GROUPS = 50
_BLOCK = 512


def linear_probe(features: Tensor, labels: Tensor, new: Tensor, task: Task) -> Tensor:
    """Fit a linear model on features and predict the labels of other rows.

    Classification uses logistic regression (:func:`aft.losses.heads.fit_head`). Regression and
    multi-label tasks use linear regression with the regularization that maximizes the evidence
    (:func:`aft.losses.heads.fit_ridge`). Every dimension is standardized.

    Args:
        features: ``(n, D)``, training features.
        labels: Training labels, as in :class:`aft.data.Samples`.
        new: ``(m, D)``, features of the rows to predict.
        task: The task of the labels.

    Returns:
        ``(m, num_outputs)``, float32: logits, or targets in their own units. For multi-label tasks
        only the order of the values is meaningful.

    Raises:
        InputError: If features or labels are invalid, for example all of one class.
    """
    return _probe(features, labels, new, task, None)[0]


def _probe(
    features: Tensor,
    labels: Tensor,
    new: Tensor,
    task: Task,
    l2: float | None,
    logits: bool = False,
) -> tuple[Tensor, float | None]:
    """Predictions of :func:`linear_probe`, and the regularization; ``l2`` is for classifiers."""
    if task.kind == "classification":
        head = fit_head(features, labels, num_classes=task.num_outputs, l2=l2)
    elif logits and task.kind == "multilabel":
        head = fit_label_heads(features, labels, l2=l2)
    else:
        head = fit_ridge(features, labels)
    return (new.to(head.weight) @ head.weight.T + head.bias).float(), head.l2


class Probe(NamedTuple):
    """Result of :func:`cross_validate_probe`.

    Attributes:
        score: The main metric (:data:`aft.metrics.MAIN_METRIC`) of the out-of-fold predictions of
            all rows.
        se: Its standard error over rows.
        without: ``(G,)``, the metric without each of G groups of rows, from which the jackknife
            computes ``se``. Two probes of the same rows can be compared with them.
    """

    score: float
    se: float
    without: Tensor


def cross_validate_probe(
    features: Tensor,
    labels: Tensor,
    task: Task,
    *,
    folds: int = 5,
    seed: int = 0,
    balanced: bool = False,
) -> Probe:
    """Cross-validated score of a linear probe.

    The predictions are those of :func:`predict_out_of_fold`. The standard error is a jackknife
    estimate over 50 random groups of rows; it does not include the variance of the fitted models.

    Args:
        features: ``(n, D)``.
        labels: As in :class:`aft.data.Samples`.
        task: The task of the labels.
        folds: Number of folds, at most n.
        seed: Seed of the folds and groups.
        balanced: For classes, whether the score is balanced accuracy, of logits for equally
            frequent classes.

    Raises:
        InputError: If features or labels are invalid, or there are fewer than 2 rows.
    """
    outputs = predict_out_of_fold(features, labels, task, folds=folds, seed=seed)
    return judge_predictions(outputs, labels, task, seed=seed, balanced=balanced)


def judge_predictions(
    outputs: Tensor, labels: Tensor, task: Task, *, seed: int = 0, balanced: bool = False
) -> Probe:
    """Score of out-of-fold predictions, with the standard error of :func:`cross_validate_probe`.

    Args:
        outputs: ``(n, num_outputs)``, the prediction of each row by a model fitted without it.
        labels: As in :class:`aft.data.Samples`.
        task: The task of the labels.
        seed: Seed of the groups.
        balanced: As in :func:`cross_validate_probe`.
    """
    if balanced:
        outputs = outputs - _log_shares(labels, task)
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randperm(len(outputs), generator=generator) % min(_GROUPS, len(outputs))
    without = torch.tensor(
        [
            _score(outputs[groups != group], labels[groups != group], task, balanced)
            for group in range(int(groups.max()) + 1)
        ],
        dtype=torch.float64,
    )
    return Probe(_score(outputs, labels, task, balanced), _jackknife(without), without)


def predict_out_of_fold(
    features: Tensor,
    labels: Tensor,
    task: Task,
    *,
    folds: int = 5,
    seed: int = 0,
    logits: bool = False,
) -> Tensor:
    """Predict each row with a linear model that was fitted without it.

    The rows are split into folds, stratified by class. A :func:`linear_probe` fitted on the other
    folds predicts each fold. The regularization of a classifier is chosen once, by
    cross-validation within the training rows of the first fold.

    Args:
        features: ``(n, D)``.
        labels: As in :class:`aft.data.Samples`.
        task: The task of the labels.
        folds: Number of folds, at most n.
        seed: Seed of the folds.
        logits: For multi-label tasks, fit logistic regressions
            (:func:`aft.losses.heads.fit_label_heads`), whose outputs are logits.

    Returns:
        ``(n, num_outputs)``, float32, as :func:`linear_probe`.

    Raises:
        InputError: If features or labels are invalid, or there are fewer than 2 rows.
    """
    if len(features) < 2:
        raise InputError(f"Expected at least 2 rows to cross-validate, but got {len(features)}.")
    number = assign_task_folds(labels, task, min(folds, len(features)), seed)
    outputs = torch.zeros((len(features), task.num_outputs))
    strength: float | None = None
    for fold in range(int(number.max()) + 1):
        held = number == fold
        outputs[held], strength = _probe(
            features[~held], labels[~held], features[held], task, strength, logits
        )
    return outputs


def compare_probes(better: Probe, other: Probe) -> tuple[float, float]:
    """Score difference of two probes on the same rows, and its standard error.

    The standard error is that of the paired difference, so rows that are difficult for both probes
    do not inflate it.
    """
    return better.score - other.score, _jackknife(better.without - other.without)


def _jackknife(without: Tensor) -> float:
    groups = len(without)
    return float(((groups - 1) / groups * (without - without.mean()).square().sum()).sqrt())


def assign_task_folds(labels: Tensor, task: Task, folds: int, seed: int) -> Tensor:
    """Fold of every row: random, stratified by class."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    if task.kind == "classification":
        order = order[labels[order].argsort(stable=True)]
    number = torch.empty(len(labels), dtype=torch.long)
    number[order] = torch.arange(len(labels)) % folds
    return number


def _log_shares(labels: Tensor, task: Task) -> Tensor:
    """Log frequency of each class, ``(C,)``; 0 for a class without rows."""
    counts = labels.bincount(minlength=task.num_outputs)
    return torch.where(counts > 0, counts / len(labels), 1.0).log()


def _score(outputs: Tensor, labels: Tensor, task: Task, balanced: bool = False) -> float:
    """The task's main metric, without the other metrics of :func:`aft.metrics.compute_metrics`."""
    if task.kind == "classification":
        right = (outputs.argmax(1) == labels).double()
        if not balanced:
            return float(right.mean())
        counts = labels.bincount(minlength=task.num_outputs)
        hits = labels.bincount(right, task.num_outputs)
        return float((hits / counts)[counts > 0].mean())
    if task.kind == "regression":
        true, predicted = labels.double(), outputs.double()
        spread = (true - true.mean(0)).square().sum(0)
        return float((1 - (true - predicted).square().sum(0) / spread).mean())
    found = compute_metrics(outputs.numpy(), labels.numpy(), task)
    return found[MAIN_METRIC[task.kind]]


def chance_level(labels: Tensor, task: Task, balanced: bool = False) -> float:
    """Score of a constant predictor: the largest class, or the mean."""
    if task.kind == "classification":
        counts = labels.bincount()
        return 1 / int((counts > 0).sum()) if balanced else float(counts.max()) / len(labels)
    shares = labels.mean(0)
    return 0.0 if task.kind == "regression" else float(shares[shares > 0].mean())


def nearest_neighbours(
    features: Tensor, labels: Tensor, task: Task, k: int = 10, balanced: bool = False
) -> float:
    """k-nearest-neighbour score, leave-one-out, with cosine similarity.

    The k nearest other rows vote with equal weights; for regression and multi-label tasks their
    labels are averaged. The cost is ``n²`` inner products, computed in blocks; use a sample if
    there are many rows.

    Args:
        features: ``(n, D)``.
        labels: As in :class:`aft.data.Samples`.
        task: The task of the labels.
        k: Number of neighbours, at most n - 1.
        balanced: As in :func:`cross_validate_probe`; votes are divided by the size of the class.
    """
    rows = AF.normalize_rows(features)
    values = _as_targets(labels, task).float()
    predictions = []
    for start in range(0, len(rows), _BLOCK):
        similarity = rows[start : start + _BLOCK] @ rows.T
        own = torch.arange(len(similarity))
        similarity[own, start + own] = -math.inf
        near, neighbours = similarity.topk(min(k, len(rows) - 1), dim=1)
        # Ties between classes are broken by similarity.
        weights = 1 + 1e-4 * near if task.kind == "classification" else torch.ones_like(near)
        summed = (weights[:, :, None] * values[neighbours]).sum(1)
        predictions.append(summed / weights.sum(1, keepdim=True))
    votes = torch.cat(predictions)
    if balanced:
        votes = votes / _log_shares(labels, task).exp()
    return _score(votes, labels, task, balanced)


def kernel_ridge_score(
    parts: Sequence[Tensor], labels: Tensor, task: Task, balanced: bool = False
) -> float:
    """Score of a kernel ridge regression, leave-one-out.

    It reads more from few labels than a linear model, see
    :func:`aft.scoring.kernel_ridge.fit_kernel_ridge`.

    Args:
        parts: ``(n, D_t)`` for each teacher, n at most :data:`aft.scoring.kernel_ridge.MOST_ROWS`.
        labels: As in :class:`aft.data.Samples`.
        task: The task of the labels.
        balanced: As in :func:`cross_validate_probe`.
    """
    left_out = fit_kernel_ridge(parts, _as_targets(labels, task)).left_out
    if balanced:
        scale, bias = fit_logits(left_out, labels)
        left_out = scale * left_out + bias - _log_shares(labels, task)
    return _score(left_out, labels, task, balanced)


def kernel_ridge(
    parts: Sequence[Tensor], labels: Tensor, new: Sequence[Tensor], task: Task
) -> Tensor:
    """Like :func:`linear_probe`, by a kernel ridge regression on the features of each teacher.

    Returns:
        ``(m, num_outputs)``, float32: logits of classes, or targets in their own units. For
        multi-label tasks only the order of the values is meaningful.
    """
    model = fit_kernel_ridge(parts, _as_targets(labels, task))
    outputs = model.predict(new)
    if task.kind != "classification":
        return outputs
    scale, bias = fit_logits(model.left_out, labels)
    return scale * outputs + bias


def label_alignment(features: Tensor, labels: Tensor, task: Task) -> float:
    """Debiased CKA of features and labels.

    Labels are compared as one-hot classes, standardized targets, or multi-label vectors. The cost
    is ``n²`` inner products.
    """
    values = _as_targets(labels, task).double()
    if task.kind == "regression":
        values = AF.standardize(values)
    return debiased_cka(features, values)


def _as_targets(labels: Tensor, task: Task) -> Tensor:
    return F.one_hot(labels, task.num_outputs) if task.kind == "classification" else labels


def debiased_cka(features_a: Tensor, features_b: Tensor) -> float:
    """Debiased linear CKA: about 0 for unrelated features of any width.

    :func:`aft.functional.cka` of unrelated features increases with the ratio of their width to the
    number of rows. Here each inner product of kernels is replaced by the unbiased estimate of Song
    et al., "Feature Selection via Dependence Maximization", JMLR 2012, as in Nguyen et al. 2021,
    arXiv 2010.15327. Estimates may be slightly below 0 or above 1.

    Args:
        features_a: ``(N, D_a)``, N at least 4.
        features_b: ``(N, D_b)``, the same rows.

    Returns:
        1 for features equal up to rotation and scale; 0 if either is constant.

    Raises:
        InputError: If there are fewer than 4 rows.
    """
    if len(features_a) < 4:
        raise InputError(f"Expected at least 4 rows for debiased CKA, but got {len(features_a)}.")
    a, b = _debiased_gram(features_a), _debiased_gram(features_b)
    if a is None or b is None:
        return 0.0
    shared, own, other = ((x * y).sum() for x, y in ((a, b), (a, a), (b, b)))
    return float(shared / (own * other).sqrt()) if own > 0 and other > 0 else 0.0


def _debiased_gram(features: Tensor) -> Tensor | None:
    """U-centred Gram matrix: zero diagonal, row sums 0 (Székely & Rizzo 2014); None if constant."""
    centred = AF.centre(features.double())
    if centred.abs().max() <= 1e-6 * features.abs().max():  # constant up to rounding
        return None
    gram = AF.gram(centred / centred.abs().max()).fill_diagonal_(0)
    n = len(gram)
    means = gram.sum(0) / (n - 2)
    means -= means.sum() / (2 * (n - 1))
    return (gram - means[:, None] - means).fill_diagonal_(0)


class TMI(NamedTuple):
    """Result of :func:`tmi`.

    Attributes:
        score: Conditional entropy in nats; higher is better.
        floored: Fraction of rows whose distance was raised to ``min_distance``. If it is large, the
            score only reflects the scale of the features.
    """

    score: float
    floored: float


def tmi(features: Tensor, labels: Tensor, *, k: int = 3, min_distance: float = 1.0) -> TMI:
    """Entropy of a teacher's features within classes, H(features | class); higher is better.

    The idea is that features which still vary within a class retain information that a new task
    may need. The entropy of a class is the Kozachenko-Leonenko estimate from the distance ``e`` of
    each row to its k-th neighbour in the same class, in the maximum norm:
    ``digamma(n) - digamma(k) + D * mean(log(2 e))``. Classes are weighted by their number of rows;
    classes with at most k rows are ignored.

    The score increases with the width and the scale of the features. It can only be compared
    between teachers of the same kind, so recommendations do not use it.

    References:
        Xu & Kang, "Fast and Accurate Transferability Measurement by Evaluating Intra-class Feature
        Variance", ICCV 2023, arXiv 2308.05986. The estimator, norm, ``k`` and ``min_distance`` are
        those of the authors' code; their score is this one divided by the number of classes.

    Args:
        features: ``(n, D)``. Distances cost ``n_c² D`` for a class with ``n_c`` rows.
        labels: ``(n,)``, class indices.
        k: Rank of the neighbour.
        min_distance: Smaller distances are raised to this value.

    Raises:
        InputError: If labels are not class indices, or no class has more than k rows.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise InputError("Expected `labels` to be class indices: TMI is for classification only.")
    features = AF.full_precision(features)
    score, raised, counted = 0.0, 0, 0
    for number in labels.unique():
        rows = features[labels == number]
        n, dim = rows.shape
        if n <= k:
            continue
        distances = torch.cat(
            [
                torch.cdist(part, rows, p=math.inf).kthvalue(k + 1, dim=1)[
                    0
                ]  # the first is the row itself
                for part in rows.split(_BLOCK)
            ]
        ).double()
        raised, counted = raised + int((distances < min_distance).sum()), counted + n
        spread = (2 * distances.clamp_min(min_distance)).log().mean()
        entropy = torch.digamma(torch.tensor(float(n))) - torch.digamma(torch.tensor(float(k)))
        score += n / len(features) * float(entropy + dim * spread)
    if not counted:
        raise InputError(f"Expected at least one class with more than {k} rows.")
    return TMI(score, raised / counted)


def join_features(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate the features of several teachers, scaled equally: ``(n, sum of D)``.

    The features of each teacher are divided by the root mean square norm of their centred rows, so
    that teachers with large values do not dominate.
    """
    return torch.cat(
        [part / AF.centre(part).square().sum(1).mean().sqrt().clamp_min(1e-12) for part in parts],
        dim=1,
    )


class Calibration(NamedTuple):
    """Gain of transfer in benchmarks, as a share of the gap between teachers and student.

    Attributes:
        share: Mean share of the gap that transfer closed, beyond training on the labels alone.
        share_sd: Standard deviation of this share over tasks.
        spread: Standard deviation of the gain over tasks if there is no gap.
    """

    share: float
    share_sd: float
    spread: float


def _read_calibration() -> dict[tuple[bool, bool], Calibration]:
    document = json.loads(Path(__file__).with_name("calibration.json").read_text())
    return {
        (group["pretrained"], group["unlabelled"]): Calibration(
            *(group[name] for name in Calibration._fields)
        )
        for group in document["groups"]
    }


CALIBRATION: dict[tuple[bool, bool], Calibration] = _read_calibration()
"""By ``(pretrained, unlabelled)``: whether the student has pre-trained weights, and whether
unlabelled rows are used for transfer. ``calibration.json`` also lists the tasks of each entry;
benchmarks/advice.py writes it."""


def expect_gain(
    gap: float,
    gap_se: float,
    pretrained: bool,
    unlabelled: bool,
    calibration: Mapping[tuple[bool, bool], Calibration] = CALIBRATION,
) -> tuple[float, float, float]:
    """Expected gain of transfer over training on the labels alone, estimated from earlier tasks.

    The expected gain is a share of the gap, or 0 without a gap; :data:`CALIBRATION` contains the
    shares. The interval combines the standard error of the gap and the variation between tasks.

    Args:
        gap: Score of the cross-validated probe on the teachers minus that on the student's
            features before training.
        gap_se: Its standard error.
        pretrained: Whether the student has pre-trained weights.
        unlabelled: Whether unlabelled rows are used for transfer.
        calibration: Results of earlier tasks.

    Returns:
        Mean and bounds of an interval of about 95 %, in units of the metric.
    """
    found = calibration[bool(pretrained), bool(unlabelled)]
    room = max(gap, 0.0)
    mean = found.share * room
    deviation = math.hypot(found.share * gap_se, found.share_sd * room, found.spread)
    return mean, mean - 1.96 * deviation, mean + 1.96 * deviation
