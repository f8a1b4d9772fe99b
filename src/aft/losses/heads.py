"""Linear heads on stored features: predict a task's labels from the teachers' features.

Each fit is a convex problem solved to its optimum, so the same arguments give the same head. With
many classes and rows, logistic regression is fitted as in :mod:`aft.losses.many_classes`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from aft import functional as AF
from aft.errors import InputError
from aft.losses.checks import check_choice, describe
from aft.losses.folds import assign_folds
from aft.losses.logme import log_me
from aft.losses.many_classes import fit_many
from aft.tasks import TaskKind

# From strong to weak; each fit is warm-started from the previous one.
_STRENGTHS = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
_STRENGTH_UNCHOSEN = 0.1
_FOLDS, _FEW_FOLDS = 5, 3
_MANY_ROWS = 5_000
MOST_WORK = 500_000_000
"""Largest product of rows, classes and features for the exact optimum; more rows or classes are
for :mod:`aft.losses.many_classes`, which takes a time linear in this product."""
MANY_CLASSES = 50
"""Fewest classes for that: with few, its likelihood is lower than that of the optimum."""
_ABSENT = -1e4  # logit of a class without samples: probability 0, but finite


class LinearHead(NamedTuple):
    """A linear model of a task, ``outputs = features @ weight.T + bias``.

    Attributes:
        weight: ``(C, D)``, for features that are not standardized; C classes, labels or targets.
        bias: ``(C,)``
        l2: Strength of the regularization, for standardized features; for :func:`fit_ridge` the
            mean over targets.
    """

    weight: Tensor
    bias: Tensor
    l2: float


def fit_task_head(
    features: Tensor,
    labels: Tensor,
    kind: TaskKind,
    num_outputs: int,
    seed: int = 0,
    *,
    progress: bool = False,
) -> LinearHead:
    """Fit the linear head for a kind of task.

    Args:
        features: ``(n, D)``.
        labels: As in :class:`aft.data.Samples`: class indices ``(n,)``, or ``(n, num_outputs)``.
        kind: ``classification`` (:func:`fit_head`), ``multilabel`` (:func:`fit_label_heads`) or
            ``regression`` (:func:`fit_ridge`).
        num_outputs: C, the number of classes, labels or targets.
        seed: Seed of the cross-validation folds that choose the regularization.
        progress: Whether to show a progress bar if it takes more than two seconds.

    Raises:
        InputError: If ``kind`` is none of these, or features or labels are invalid.
    """
    check_choice("kind", kind, TaskKind)
    if kind == "classification":
        return fit_head(features, labels, num_classes=num_outputs, seed=seed, progress=progress)
    if kind == "regression" and labels.ndim == 1:
        labels = labels[:, None]
    if labels.shape != (len(features), num_outputs):
        raise InputError(
            f"Expected `labels` for {kind} to have shape ({len(features)}, {num_outputs}), but got "
            f"{describe(labels)}."
        )
    if kind == "multilabel":
        return fit_label_heads(features, labels, seed=seed, progress=progress)
    return fit_ridge(features, labels)


def fit_head(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int | None = None,
    l2: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> LinearHead:
    """Fit multinomial logistic regression on stored features: a linear probe.

    Minimizes ``mean(cross entropy) + l2 / 2 * sum(weight²)`` with L-BFGS, starting from zero. Every
    dimension is standardized and the bias is not regularized. The same arguments give the same
    head. Beyond :data:`MOST_WORK`, with many classes, it is fitted by
    :func:`aft.losses.many_classes.fit_many`.

    Args:
        features: ``(n, D)``; float64 is computed in float64, all other types in float32.
        labels: ``(n,)``, class indices from 0.
        num_classes: C; needed if the last classes may be missing from ``labels``. A class without
            samples gets probability 0.
        l2: Strength of the regularization. By default 10, 1, … 1e-5 are tried until the cross
            entropy on held-out rows increases, with stratified 5-fold cross-validation (3 folds
            for more than 5,000 rows). Classes with one row are never held out; if all classes have
            one row, the strength is 0.1. The head is then fitted on all rows.
        seed: Seed of the folds.
        progress: As in :func:`fit_task_head`.

    Raises:
        InputError: If shapes or types do not match, features are NaN or infinite, ``l2`` is not
            above 0, or there is only one class.
    """
    x = _check_features(features)
    classes, present = _check_classes(labels, x, num_classes)
    weight, bias, l2 = _fit_logistic(x, classes, classes, l2, seed, progress)
    total = num_classes or int(present.max()) + 1
    head_weight = weight.new_zeros((total, x.shape[1])).index_copy(0, present, weight)
    head_bias = bias.new_full((total,), _ABSENT).index_copy(0, present, bias)
    return LinearHead(head_weight.to(x.dtype), head_bias.to(x.dtype), l2)


def fit_label_heads(
    features: Tensor,
    labels: Tensor,
    *,
    l2: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> LinearHead:
    """Fit one logistic regression per label of a multi-label task, all with the same strength.

    Each minimizes ``mean(binary cross entropy) + l2 / 2 * sum(weight²)``; otherwise as
    :func:`fit_head`.

    Args:
        features: ``(n, D)``; float64 is computed in float64, all other types in float32.
        labels: ``(n, C)``, 0 or 1. A label that is 0 in all rows gets probability 0, a label that
            is 1 in all rows gets probability 1.
        l2: As in :func:`fit_head`, chosen by the binary cross entropy of all labels. A label that
            is constant in the training rows of a fold is ignored in this fold.
        seed: Seed of the folds; rows with a rare label are distributed evenly over the folds.
        progress: As in :func:`fit_task_head`.

    Raises:
        InputError: If shapes do not match, labels are not 0 or 1, features are NaN or infinite,
            ``l2`` is not above 0, or every label is constant.
    """
    x = _check_features(features)
    if labels.ndim != 2 or len(labels) != len(x) or not ((labels == 0) | (labels == 1)).all():
        raise InputError(
            f"Expected `labels` to be 0 or 1, of shape ({len(x)}, labels), but got "
            f"{describe(labels)}{_range(labels)}."
        )
    y = labels.to(x)
    share = y.mean(dim=0)
    learnable = ((share > 0) & (share < 1)).nonzero()[:, 0]
    if not len(learnable):
        raise InputError(
            "Expected at least one column of `labels` to contain both 0 and 1, but every column "
            f"is constant over all {len(x)} rows."
        )
    y = y[:, learnable]
    rarest = torch.where(y > 0, share[learnable], 2.0).argmin(dim=1)
    groups = torch.where(y.any(dim=1), rarest, len(learnable))
    weight, bias, l2 = _fit_logistic(x, y, groups, l2, seed, progress)
    head_weight = weight.new_zeros((len(share), x.shape[1])).index_copy(0, learnable, weight)
    always = torch.where(share > 0, -_ABSENT, _ABSENT).double()
    head_bias = always.index_copy(0, learnable, bias)
    return LinearHead(head_weight.to(x.dtype), head_bias.to(x.dtype), l2)


def fit_ridge(features: Tensor, targets: Tensor) -> LinearHead:
    """Fit linear regression with the regularization that maximizes the evidence.

    Every dimension is standardized and the bias is not regularized. Each target has its own
    strength, computed by :func:`aft.losses.logme.log_me`. The computation and the head are in
    float64.

    Args:
        features: ``(n, D)``.
        targets: ``(n,)`` or ``(n, C)``, in any units.

    Raises:
        InputError: If shapes do not match, values are NaN or infinite, or features or targets are
            constant.
    """
    x = _check_features(features).double()
    if targets.ndim not in (1, 2) or len(targets) != len(x) or 0 in targets.shape:
        raise InputError(
            f"Expected `targets` to have shape ({len(x)},) or ({len(x)}, targets), but got "
            f"{describe(targets)}."
        )
    y = targets.to(x)
    y = y[:, None] if y.ndim == 1 else y
    if bad := int((~y.isfinite()).any(dim=1).sum()):
        raise InputError(
            f"Expected finite `targets`, but {bad} of {len(y)} rows contain NaN or infinity. "
            "Remove these samples."
        )
    mean, scale = _units(x)
    middle, spread = _units(y)
    if not spread.any():
        raise InputError(f"Expected `targets` to vary, but they are the same in all {len(y)} rows.")
    found = log_me((x - mean) * scale, (y - middle) * (spread > 0))
    weight = found.mean_weights * scale
    strength = (found.alpha / found.beta)[spread > 0].mean() / len(x)
    return LinearHead(weight, middle - weight @ mean, float(strength))


def _fit_logistic(
    x: Tensor, targets: Tensor, groups: Tensor, l2: float | None, seed: int, progress: bool
) -> tuple[Tensor, Tensor, float]:
    """Weights and biases for features that are not standardized, in float64, and the strength.

    Args:
        x: ``(n, D)``.
        targets: Consecutive class indices ``(n,)``, or ``(n, C)`` of 0 and 1.
        groups: ``(n,)``, strata of the folds.
        l2: The strength; None chooses it by cross-validation.
        seed: Seed of the folds.
        progress: Whether to show a progress bar.
    """
    if l2 is not None and not l2 > 0:
        raise InputError(f"Expected `l2` to be above 0, but got {l2!r}.")
    mean, scale = _units(x)
    rows = (x - mean) * scale
    basis = None
    if rows.shape[1] > len(rows):
        # The optimum lies in the span of the rows and the problem is invariant to rotation, so
        # n coordinates are enough.
        basis, corner = torch.linalg.qr(rows.T)
        rows = corner.T.contiguous()
    start = _zeros(rows, targets)
    words = "fitting a linear model to the teachers' features"
    words += f": {len(start):,} classes, {len(rows):,} rows"
    with tqdm(desc=words, unit="fit", leave=False, delay=2, disable=not progress) as bar:
        if len(start) >= MANY_CLASSES and rows.numel() * len(start) > MOST_WORK:
            found, l2 = fit_many(rows, targets, groups, l2, seed, bar)
        else:
            if l2 is None:
                l2 = _choose_strength(rows, targets, groups, seed, bar)
            found = _minimize(rows, targets, start, l2)
    # Back to the features' own scale, in float64: the shift may be much larger than the result.
    weight = found[:, :-1].double()
    if basis is not None:
        weight = weight @ basis.T.double()
    weight = weight * scale.double()
    return weight, found[:, -1].double() - weight @ mean.double(), l2


def _units(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal standard deviation of each column; 0 if a column is constant."""
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    varies = std > 1e-6 * mean.abs() + 1e-12  # otherwise rounding error, see AF.standardize
    return mean, varies / torch.where(varies, std, 1.0)


def _choose_strength(
    x: Tensor, targets: Tensor, groups: Tensor, seed: int, bar: tqdm[Any]
) -> float:
    """The strength with the lowest held-out loss, from strong to weak until the loss increases."""
    number = assign_folds(groups.cpu(), _FEW_FOLDS if len(x) > _MANY_ROWS else _FOLDS, seed)
    folds = range(int(number.max()) + 1)
    if not folds:
        return _STRENGTH_UNCHOSEN
    number = number.to(x.device)
    found = [_zeros(x, targets) for _ in folds]
    best, chosen = float("inf"), _STRENGTHS[0]
    for strength in _STRENGTHS:
        loss = 0.0
        for fold in folds:
            kept, held = number != fold, number == fold
            found[fold] = _minimize(x[kept], targets[kept], found[fold], strength)
            bar.update()
            loss += float(_sum_loss(x[held], targets[held], found[fold], known=targets[kept]))
            if loss >= best:
                return chosen
        best, chosen = loss, strength
    return chosen


def _zeros(x: Tensor, targets: Tensor) -> Tensor:
    outputs = int(targets.max()) + 1 if targets.ndim == 1 else targets.shape[1]
    return x.new_zeros((outputs, x.shape[1] + 1))


def _minimize(x: Tensor, targets: Tensor, start: Tensor, l2: float) -> Tensor:
    """Weights and, in the last column, biases ``(C, D + 1)`` at the minimum."""
    found = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [found],
        max_iter=200,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = _sum_loss(x, targets, found) / len(x) + l2 / 2 * found[:, :-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)
    return found.detach()


def _sum_loss(x: Tensor, targets: Tensor, found: Tensor, known: Tensor | None = None) -> Tensor:
    """Cross entropy summed over rows and, for several labels, those that vary in ``known``."""
    logits = AF.matmul(x, found[:, :-1].T) + found[:, -1]
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets, reduction="sum")
    if known is not None:
        varies = (known != known[0]).any(dim=0)
        logits, targets = logits[:, varies], targets[:, varies]
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")


def _check_features(features: Tensor) -> Tensor:
    """Return the features in full precision."""
    if features.ndim != 2 or not features.is_floating_point() or 0 in features.shape:
        raise InputError(
            "Expected `features` to be a non-empty floating-point tensor of shape (samples, dim), "
            f"but got {describe(features)}."
        )
    x = AF.full_precision(features.detach())
    if bad := int((~x.isfinite()).any(dim=1).sum()):
        raise InputError(
            f"Expected finite `features`, but {bad} of {len(x)} rows contain NaN or infinity. "
            "Remove these samples or extract their features again."
        )
    return x


def _check_classes(labels: Tensor, x: Tensor, num_classes: int | None) -> tuple[Tensor, Tensor]:
    """Labels as indices into the classes that have samples, and these classes."""
    integer = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != (len(x),) or not integer:
        raise InputError(
            f"Expected `labels` to be class indices, integers of shape ({len(x)},), but got "
            f"{describe(labels)}. For regression or multi-label tasks, use another loss."
        )
    present, classes = labels.to(x.device).long().unique(return_inverse=True)
    lowest, highest = int(present[0]), int(present[-1])
    if lowest < 0 or (num_classes is not None and highest >= num_classes):
        allowed = "up" if num_classes is None else f"to {num_classes - 1}"
        raise InputError(
            f"Expected `labels` to be class indices from 0 {allowed}, but got {lowest} to "
            f"{highest}."
        )
    if len(present) < 2:
        raise InputError(
            f"Expected `labels` of at least 2 classes, but all {len(labels)} rows are class "
            f"{highest}."
        )
    return classes, present


def _range(values: Tensor) -> str:
    if not values.numel() or values.is_complex():
        return ""
    return f" with values from {values.min().item():.4g} to {values.max().item():.4g}"
