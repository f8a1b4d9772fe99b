"""Linear heads on stored features: what teachers, who have no labels, say of the labels of a task.

Each is convex and fitted to its optimum, so the same arguments give the same head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aft import functional as AF
from aft.errors import InputError
from aft.losses.checks import check_choice, describe
from aft.losses.logme import log_me
from aft.tasks import TaskKind

# From strong to weak; each fit starts where the one before ended.
_STRENGTHS = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
_STRENGTH_UNCHOSEN = 0.1
_FOLDS, _FEW_FOLDS = 5, 3
_MANY_ROWS = 5_000
_ABSENT = -1e4  # the logit of what has no samples: probability 0, but no infinity


class LinearHead(NamedTuple):
    """A linear model of a task, ``outputs = features @ weight.T + bias``.

    Attributes:
        weight: ``(C, D)``, for features in their own units; C classes, labels or targets.
        bias: ``(C,)``
        l2: The regularization it was fitted with, for standardized features; of
            :func:`fit_ridge` the mean over targets.
    """

    weight: Tensor
    bias: Tensor
    l2: float


def fit_task_head(
    features: Tensor, labels: Tensor, kind: TaskKind, num_outputs: int, seed: int = 0
) -> LinearHead:
    """The head that suits a task: what a linear model reads off the features.

    Args:
        features: ``(n, D)``.
        labels: As in :class:`aft.data.Samples`: class numbers ``(n,)``, or ``(n, num_outputs)``.
        kind: ``classification`` (:func:`fit_head`), ``multilabel`` (:func:`fit_label_heads`) or
            ``regression`` (:func:`fit_ridge`).
        num_outputs: C, the number of classes, labels or targets.
        seed: Deals the rows that choose the regularization.

    Raises:
        InputError: If ``kind`` is none of these, or features or labels are not usable.
    """
    check_choice("kind", kind, TaskKind)
    if kind == "classification":
        return fit_head(features, labels, num_classes=num_outputs, seed=seed)
    if kind == "regression" and labels.ndim == 1:
        labels = labels[:, None]
    if labels.shape != (len(features), num_outputs):
        raise InputError(
            f"Expected `labels` for {kind} to have shape ({len(features)}, {num_outputs}), but got "
            f"{describe(labels)}."
        )
    if kind == "multilabel":
        return fit_label_heads(features, labels, seed=seed)
    return fit_ridge(features, labels)


def fit_head(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int | None = None,
    l2: float | None = None,
    seed: int = 0,
) -> LinearHead:
    """Multinomial logistic regression on stored features: a linear probe.

    Minimises ``mean(cross entropy) + l2 / 2 * sum(weight²)`` by L-BFGS from zero, with every
    dimension standardized and the bias free. The same arguments give the same head.

    Args:
        features: ``(n, D)``; float64 is computed in float64, all else in float32.
        labels: ``(n,)``, class numbers from 0.
        num_classes: C, where ``labels`` may lack the last ones. A class without samples gets
            probability 0.
        l2: Strength of the regularization. Without it, 10, 1, … 1e-5 are tried until the cross
            entropy of held-out rows gets worse: 5-fold cross-validation, class by class (3 folds
            for more than 5,000 rows). A class of one row is never held out; where all are, it is
            0.1. The head is then fitted on all rows.
        seed: Deals the rows into folds.

    Raises:
        InputError: If shapes or types do not fit, features are NaN or infinite, ``l2`` is not
            above 0, or there is but one class.
    """
    x = _check_features(features)
    classes, present = _check_classes(labels, x, num_classes)
    weight, bias, l2 = _fit_logistic(x, classes, classes, l2, seed)
    total = num_classes or int(present.max()) + 1
    head_weight = weight.new_zeros((total, x.shape[1])).index_copy(0, present, weight)
    head_bias = bias.new_full((total,), _ABSENT).index_copy(0, present, bias)
    return LinearHead(head_weight.to(x.dtype), head_bias.to(x.dtype), l2)


def fit_label_heads(
    features: Tensor, labels: Tensor, *, l2: float | None = None, seed: int = 0
) -> LinearHead:
    """A logistic regression for each label of a multi-label task, all with the same strength.

    Each minimises ``mean(binary cross entropy) + l2 / 2 * sum(weight²)``; otherwise as
    :func:`fit_head`.

    Args:
        features: ``(n, D)``; float64 is computed in float64, all else in float32.
        labels: ``(n, C)``, 0 or 1. A label that no row has gets probability 0, one that every row
            has 1.
        l2: As in :func:`fit_head`, by the binary cross entropy of all labels. A fold without
            examples for and against a label does not count for that label.
        seed: Deals the rows into folds; those of a rare label are spread over them.

    Raises:
        InputError: If shapes do not fit, labels are not 0 or 1, features are NaN or infinite,
            ``l2`` is not above 0, or no label tells rows apart.
    """
    x = _check_features(features)
    if labels.ndim != 2 or len(labels) != len(x) or not ((labels == 0) | (labels == 1)).all():
        raise InputError(
            f"Expected `labels` to be 0 or 1, of shape ({len(x)}, labels), but got "
            f"{describe(labels)}{_range(labels)}."
        )
    y = labels.to(x)
    share = y.mean(dim=0)
    told = ((share > 0) & (share < 1)).nonzero()[:, 0]
    if not len(told):
        raise InputError(
            f"Expected a label that some of the {len(x)} rows have and others lack, but there is "
            "none: there is nothing to tell apart."
        )
    y = y[:, told]
    rarest = torch.where(y > 0, share[told], 2.0).argmin(dim=1)
    groups = torch.where(y.any(dim=1), rarest, len(told))
    weight, bias, l2 = _fit_logistic(x, y, groups, l2, seed)
    head_weight = weight.new_zeros((len(share), x.shape[1])).index_copy(0, told, weight)
    always = torch.where(share > 0, -_ABSENT, _ABSENT).double()
    head_bias = always.index_copy(0, told, bias)
    return LinearHead(head_weight.to(x.dtype), head_bias.to(x.dtype), l2)


def fit_ridge(features: Tensor, targets: Tensor) -> LinearHead:
    """Linear regression with the regularization that makes the targets most probable.

    Every dimension is standardized and the bias free; each target has a strength of its own, found
    by :func:`aft.losses.logme.log_me`. All is computed in float64, and so is the head.

    Args:
        features: ``(n, D)``.
        targets: ``(n,)`` or ``(n, C)``, in any units.

    Raises:
        InputError: If shapes do not fit, values are NaN or infinite, or features or targets do not
            differ between rows.
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
            f"Expected finite `targets`, but {bad} of {len(y)} rows hold NaN or infinity. Leave "
            "those samples out."
        )
    mean, scale = _units(x)
    middle, spread = _units(y)
    if not spread.any():
        raise InputError(
            f"Expected `targets` that differ, but all {len(y)} rows have the same: there is "
            "nothing to explain."
        )
    found = log_me((x - mean) * scale, (y - middle) * (spread > 0))
    weight = found.mean_weights * scale
    strength = (found.alpha / found.beta)[spread > 0].mean() / len(x)
    return LinearHead(weight, middle - weight @ mean, float(strength))


def _fit_logistic(
    x: Tensor, targets: Tensor, groups: Tensor, l2: float | None, seed: int
) -> tuple[Tensor, Tensor, float]:
    """Weights and biases for features in their own units, float64, and the strength.

    Args:
        x: ``(n, D)``.
        targets: Class numbers ``(n,)`` without gaps, or ``(n, C)`` of 0 and 1.
        groups: ``(n,)``, what each fold shall hold an equal part of.
        l2: The strength; None chooses it.
        seed: Deals the folds.
    """
    if l2 is not None and not l2 > 0:
        raise InputError(f"Expected `l2` to be above 0, but got {l2!r}.")
    mean, scale = _units(x)
    rows = (x - mean) * scale
    basis = None
    if rows.shape[1] > len(rows):
        # The optimum lies in the span of the rows, and rotations change nothing: so few
        # coordinates tell all.
        basis, corner = torch.linalg.qr(rows.T)
        rows = corner.T.contiguous()
    if l2 is None:
        l2 = _choose_strength(rows, targets, groups, seed)
    found = _minimize(rows, targets, _zeros(rows, targets), l2)
    # Back to the features' own units, in float64: the shift may be much larger than the result.
    weight = found[:, :-1].double()
    if basis is not None:
        weight = weight @ basis.T.double()
    weight = weight * scale.double()
    return weight, found[:, -1].double() - weight @ mean.double(), l2


def _units(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and one over the deviation of each column, 0 where a column does not vary."""
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    varies = std > 1e-6 * mean.abs() + 1e-12  # else it is rounding error, as in AF.standardize
    return mean, varies / torch.where(varies, std, 1.0)


def _choose_strength(x: Tensor, targets: Tensor, groups: Tensor, seed: int) -> float:
    """The strength that predicts held-out rows best, going from strong to weak until worse."""
    number = _deal(groups.cpu(), _FEW_FOLDS if len(x) > _MANY_ROWS else _FOLDS, seed)
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
            loss += float(_sum_loss(x[held], targets[held], found[fold], known=targets[kept]))
            if loss >= best:
                return chosen
        best, chosen = loss, strength
    return chosen


def _deal(groups: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each row: of each group about as many in every fold.

    A row that is alone in its group gets -1 and is never held out, so that what is left of a group
    of classes is never empty. With fewer rows than folds there are fewer folds.
    """
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    order = order[groups[order].argsort(stable=True)]
    order = order[groups.bincount()[groups[order]] > 1]
    number = torch.full((len(groups),), -1)
    number[order] = torch.arange(len(order)) % max(1, min(folds, len(order)))
    return number


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
    """Cross entropy, summed over rows and, of several labels, those that vary in ``known``."""
    logits = AF.matmul(x, found[:, :-1].T) + found[:, -1]
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets, reduction="sum")
    if known is not None:
        varies = (known != known[0]).any(dim=0)
        logits, targets = logits[:, varies], targets[:, varies]
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")


def _check_features(features: Tensor) -> Tensor:
    """The features in full precision."""
    if features.ndim != 2 or not features.is_floating_point() or 0 in features.shape:
        raise InputError(
            "Expected `features` to be floating point of shape (samples, dim), but got "
            f"{describe(features)}."
        )
    x = AF.full_precision(features.detach())
    if bad := int((~x.isfinite()).any(dim=1).sum()):
        raise InputError(
            f"Expected finite `features`, but {bad} of {len(x)} rows hold NaN or infinity. Leave "
            "those samples out or compute them anew."
        )
    return x


def _check_classes(labels: Tensor, x: Tensor, num_classes: int | None) -> tuple[Tensor, Tensor]:
    """Labels counted over the classes that have samples, and the numbers of these."""
    integer = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != (len(x),) or not integer:
        raise InputError(
            f"Expected `labels` to be class numbers, integers of shape ({len(x)},), but got "
            f"{describe(labels)}. For regression or several labels a sample, use another loss."
        )
    present, classes = labels.to(x.device).long().unique(return_inverse=True)
    lowest, highest = int(present[0]), int(present[-1])
    if lowest < 0 or (num_classes is not None and highest >= num_classes):
        allowed = "up" if num_classes is None else f"to {num_classes - 1}"
        raise InputError(
            f"Expected `labels` to be class numbers from 0 {allowed}, but got {lowest} to "
            f"{highest}."
        )
    if len(present) < 2:
        raise InputError(
            f"Expected `labels` of at least 2 classes, but all {len(labels)} are class {highest}: "
            "there is nothing to tell apart."
        )
    return classes, present


def _range(values: Tensor) -> str:
    if not values.numel() or values.is_complex():
        return ""
    return f" with values from {values.min().item():.4g} to {values.max().item():.4g}"
