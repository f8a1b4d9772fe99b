"""Transferability: how well a teacher's features suit a task, from the stored features alone."""

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
from aft.losses.heads import fit_head, fit_ridge
from aft.losses.logme import LogME, log_me
from aft.metrics import MAIN_METRIC, compute_metrics
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
    "label_alignment",
    "linear_probe",
    "log_me",
    "nearest_neighbours",
    "tmi",
]

_GROUPS = 50
_BLOCK = 512


def linear_probe(features: Tensor, labels: Tensor, new: Tensor, task: Task) -> Tensor:
    """What a linear model on features says of other rows: how much the features know of the task.

    For classification it is logistic regression (:func:`aft.losses.heads.fit_head`); for
    targets and for several labels a sample, linear regression with the regularization that makes
    the targets most probable (:func:`aft.losses.heads.fit_ridge`). Every dimension is standardized.

    Args:
        features: ``(n, D)``, to learn from.
        labels: Their labels, as in :class:`aft.data.Samples`.
        new: ``(m, D)``, to be told.
        task: What the labels mean.

    Returns:
        ``(m, num_outputs)``, float32: logits, or targets in their own units. For several labels a
        sample their order alone means anything.

    Raises:
        InputError: If features or labels are not usable, for example all of one class.
    """
    return _probe(features, labels, new, task, None)[0]


def _probe(
    features: Tensor, labels: Tensor, new: Tensor, task: Task, l2: float | None
) -> tuple[Tensor, float | None]:
    """What :func:`linear_probe` returns, and the regularization; ``l2`` is that of a classifier."""
    if task.kind == "classification":
        head = fit_head(features, labels, num_classes=task.num_outputs, l2=l2)
    else:
        head = fit_ridge(features, labels)
    return (new.to(head.weight) @ head.weight.T + head.bias).float(), head.l2


class Probe(NamedTuple):
    """What :func:`cross_validate_probe` finds.

    Attributes:
        score: The main metric (:data:`aft.metrics.MAIN_METRIC`) over all rows, each told by a
            model that has not seen it.
        se: Its standard error over rows.
        without: ``(G,)``, the metric with each of G groups of rows left out, from which ``se``
            comes. They tell what part of two probes' errors is of the same rows.
    """

    score: float
    se: float
    without: Tensor


def cross_validate_probe(
    features: Tensor, labels: Tensor, task: Task, *, folds: int = 5, seed: int = 0
) -> Probe:
    """How much of the task a linear model reads off features: out-of-fold score of a linear probe.

    The rows are dealt into folds, class by class; those of each fold are told by a
    :func:`linear_probe` fitted on the others. The regularization of a classifier is chosen once,
    by cross-validation within the rows of the first fit. The standard error is that of the
    jackknife over 50 random groups of rows; that the fits would differ with other rows is not in
    it.

    Args:
        features: ``(n, D)``.
        labels: As in :class:`aft.data.Samples`.
        task: What the labels mean.
        folds: How many; n where there are fewer rows.
        seed: Deals the rows.

    Raises:
        InputError: If features or labels are not usable, or there are fewer than 2 rows.
    """
    if len(features) < 2:
        raise InputError(f"Expected at least 2 rows to cross-validate, but got {len(features)}.")
    number = _deal(labels, task, min(folds, len(features)), seed)
    outputs = torch.zeros((len(features), task.num_outputs))
    strength: float | None = None
    for fold in range(int(number.max()) + 1):
        held = number == fold
        outputs[held], strength = _probe(
            features[~held], labels[~held], features[held], task, strength
        )
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randperm(len(features), generator=generator) % min(_GROUPS, len(features))
    without = torch.tensor(
        [
            _score(outputs[groups != group], labels[groups != group], task)
            for group in range(int(groups.max()) + 1)
        ],
        dtype=torch.float64,
    )
    return Probe(_score(outputs, labels, task), _jackknife(without), without)


def compare_probes(better: Probe, other: Probe) -> tuple[float, float]:
    """How much more the first of two probes of the same rows knows, with its standard error.

    Rows that are hard for both count once: the error is that of the difference.
    """
    return better.score - other.score, _jackknife(better.without - other.without)


def _jackknife(without: Tensor) -> float:
    groups = len(without)
    return float(((groups - 1) / groups * (without - without.mean()).square().sum()).sqrt())


def _deal(labels: Tensor, task: Task, folds: int, seed: int) -> Tensor:
    """The fold of every row: random, of each class about as many in every fold."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    if task.kind == "classification":
        order = order[labels[order].argsort(stable=True)]
    number = torch.empty(len(labels), dtype=torch.long)
    number[order] = torch.arange(len(labels)) % folds
    return number


def _score(outputs: Tensor, labels: Tensor, task: Task) -> float:
    """The task's main metric, without what else :func:`aft.metrics.compute_metrics` computes."""
    if task.kind == "classification":
        return float((outputs.argmax(1) == labels).double().mean())
    if task.kind == "regression":
        true, told = labels.double(), outputs.double()
        spread = (true - true.mean(0)).square().sum(0)
        return float((1 - (true - told).square().sum(0) / spread).mean())
    found = compute_metrics(outputs.numpy(), labels.numpy(), task)
    return found[MAIN_METRIC[task.kind]]


def chance_level(labels: Tensor, task: Task) -> float:
    """What the main metric is for a model that knows no input: the largest class, the mean."""
    if task.kind == "classification":
        return float(labels.bincount().max()) / len(labels)
    shares = labels.mean(0)
    return 0.0 if task.kind == "regression" else float(shares[shares > 0].mean())


def nearest_neighbours(features: Tensor, labels: Tensor, task: Task, k: int = 10) -> float:
    """The main metric where each row is told by the labels of those most alike (cosine).

    The k nearest other rows vote with equal weights; for targets and several labels their mean is
    taken. It costs ``n²`` products, in blocks: draw rows where there are many.

    Args:
        features: ``(n, D)``.
        labels: As in :class:`aft.data.Samples`.
        task: What the labels mean.
        k: How many neighbours; n - 1 where there are fewer rows.
    """
    rows = AF.normalize_rows(features)
    values = _as_targets(labels, task).float()
    told = []
    for start in range(0, len(rows), _BLOCK):
        alike = rows[start : start + _BLOCK] @ rows.T
        own = torch.arange(len(alike))
        alike[own, start + own] = -math.inf
        near, places = alike.topk(min(k, len(rows) - 1), dim=1)
        # What breaks a tie between classes is who is nearer.
        weights = 1 + 1e-4 * near if task.kind == "classification" else torch.ones_like(near)
        told.append((weights[:, :, None] * values[places]).sum(1) / weights.sum(1, keepdim=True))
    return _score(torch.cat(told), labels, task)


def label_alignment(features: Tensor, labels: Tensor, task: Task) -> float:
    """How far rows are alike where their labels are: debiased CKA of features and labels.

    Labels are compared as classes (1 where two are the same), as standardized targets, or by the
    labels that two rows share. It costs ``n²`` products.
    """
    values = _as_targets(labels, task).double()
    if task.kind == "regression":
        values = AF.standardize(values)
    return debiased_cka(features, values)


def _as_targets(labels: Tensor, task: Task) -> Tensor:
    return F.one_hot(labels, task.num_outputs) if task.kind == "classification" else labels


def debiased_cka(features_a: Tensor, features_b: Tensor) -> float:
    """Linear CKA from unbiased estimates: about 0 for unrelated features, however wide they are.

    :func:`aft.functional.cka` of unrelated features grows with their width beside the number of
    rows. Here each inner product of kernels is the unbiased one of Song et al., "Feature Selection
    via Dependence Maximization", JMLR 2012, as in Nguyen et al. 2021, arXiv 2010.15327. Estimates
    may lie a little below 0 or above 1.

    Args:
        features_a: ``(N, D_a)``, N at least 4.
        features_b: ``(N, D_b)``, the same rows.

    Returns:
        1 for equal up to rotation and scale; 0 if either is constant.

    Raises:
        InputError: If there are fewer than 4 rows.
    """
    if len(features_a) < 4:
        raise InputError(f"Expected at least 4 rows for an alignment, but got {len(features_a)}.")
    a, b = _debiased_gram(features_a), _debiased_gram(features_b)
    if a is None or b is None:
        return 0.0
    shared, own, other = ((x * y).sum() for x, y in ((a, b), (a, a), (b, b)))
    return float(shared / (own * other).sqrt()) if own > 0 and other > 0 else 0.0


def _debiased_gram(features: Tensor) -> Tensor | None:
    """Gram matrix with a diagonal of 0 whose rows sum to 0 (Székely & Rizzo 2014); or None."""
    centred = AF.centre(features.double())
    if centred.abs().max() <= 1e-6 * features.abs().max():  # constant but for rounding
        return None
    gram = AF.gram(centred / centred.abs().max()).fill_diagonal_(0)
    n = len(gram)
    means = gram.sum(0) / (n - 2)
    means -= means.sum() / (2 * (n - 1))
    return (gram - means[:, None] - means).fill_diagonal_(0)


class TMI(NamedTuple):
    """What :func:`tmi` finds.

    Attributes:
        score: Conditional entropy in nats; higher is better.
        floored: Share of the rows whose distance was below the floor. Where it is large, the score
            tells the features' scale and no more.
    """

    score: float
    floored: float


def tmi(features: Tensor, labels: Tensor, *, k: int = 3, min_distance: float = 1.0) -> TMI:
    """Entropy of a teacher's features within the classes, H(features | class): more is better.

    The thought is that features which still vary within a class have kept what a new task may
    need. The entropy of a class is estimated by Kozachenko and Leonenko from the distance ``e`` of
    each row to its k-th neighbour of the same class, in the maximum norm:
    ``digamma(n) - digamma(k) + D * mean(log(2 e))``. Classes are weighted by their rows; those of
    k rows or fewer are left out.

    It grows with the width and the scale of features, so only teachers of a kind can be compared
    by it, and a recommendation is not made from it.

    References:
        Xu & Kang, "Fast and Accurate Transferability Measurement by Evaluating Intra-class Feature
        Variance", ICCV 2023, arXiv 2308.05986. Estimator, norm, ``k`` and ``min_distance`` are
        those of the authors' code; their score is this one divided by the number of classes.

    Args:
        features: ``(n, D)``. Distances cost ``n_c² D`` for a class of ``n_c`` rows.
        labels: ``(n,)``, class numbers.
        k: Which neighbour.
        min_distance: Distances below it are raised to it.

    Raises:
        InputError: If labels are no classes, or no class has more than k rows.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise InputError("Expected `labels` of TMI to be class numbers: it looks within classes.")
    features = AF.full_precision(features)
    score, raised, counted = 0.0, 0, 0
    for number in labels.unique():
        rows = features[labels == number]
        n, dim = rows.shape
        if n <= k:
            continue
        distances = torch.cat(
            [
                torch.cdist(part, rows, p=math.inf).kthvalue(k + 1, dim=1)[0]  # the first is itself
                for part in rows.split(_BLOCK)
            ]
        ).double()
        raised, counted = raised + int((distances < min_distance).sum()), counted + n
        spread = (2 * distances.clamp_min(min_distance)).log().mean()
        entropy = torch.digamma(torch.tensor(float(n))) - torch.digamma(torch.tensor(float(k)))
        score += n / len(features) * float(entropy + dim * spread)
    if not counted:
        raise InputError(f"Expected a class of more than {k} rows.")
    return TMI(score, raised / counted)


def join_features(parts: Sequence[Tensor]) -> Tensor:
    """Several teachers' features side by side, ``(n, sum of D)``, each as long as the others.

    Each is divided by the root mean square length of its centred rows, so that none rules by the
    size of its numbers.
    """
    return torch.cat(
        [part / AF.centre(part).square().sum(1).mean().sqrt().clamp_min(1e-12) for part in parts],
        dim=1,
    )


class Calibration(NamedTuple):
    """What transfer brought in benchmarks, as a share of what the teachers know more.

    Attributes:
        share: Mean share of the gap between teachers and student that the student made up, beyond
            what it learns from the labels alone.
        share_sd: Deviation of that share between tasks.
        spread: Deviation of the gain between tasks where there is no gap.
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
"""By ``(pretrained, unlabelled)``: whether the student starts from pre-trained weights, and
whether rows without labels join the transfer. ``calibration.json`` also names the tasks that each
is from; benchmarks/advice.py writes it."""


def expect_gain(
    gap: float,
    gap_se: float,
    pretrained: bool,
    unlabelled: bool,
    calibration: Mapping[tuple[bool, bool], Calibration] = CALIBRATION,
) -> tuple[float, float, float]:
    """What transfer may bring over training on the labels alone, from what earlier tasks showed.

    The expected gain is a share of the gap, 0 where there is none; :data:`CALIBRATION` holds the
    shares. The interval counts the gap's standard error and how much tasks differ.

    Args:
        gap: Cross-validated probe on the teachers less that on the student's starting features.
        gap_se: Its standard error.
        pretrained: Whether the student starts from pre-trained weights.
        unlabelled: Whether rows without labels join the transfer.
        calibration: What earlier tasks showed.

    Returns:
        Mean, and the ends of an interval of about 95 %, in units of the metric.
    """
    found = calibration[bool(pretrained), bool(unlabelled)]
    room = max(gap, 0.0)
    mean = found.share * room
    deviation = math.hypot(found.share * gap_se, found.share_sd * room, found.spread)
    return mean, mean - 1.96 * deviation, mean + 1.96 * deviation
