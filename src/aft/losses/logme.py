"""LogME: the evidence that a linear model on features has for labels, and its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from aft.errors import InputError
from aft.losses.checks import describe

_EPS = 1e-5
_MOST_STEPS = 11
_CONVERGED = 1e-3
_CHUNK = 8192


class LogME(NamedTuple):
    """What :func:`log_me` finds; a row or entry for each of C classes or targets.

    Attributes:
        score: Log of the maximum evidence per sample, averaged over classes or targets. Higher is
            better; only differences between teachers on the same labels mean anything.
        mean_weights: ``(C, D)``, the posterior mean of the linear model's weights.
        alpha: ``(C,)``, precision of the weights' prior.
        beta: ``(C,)``, precision of the noise.
    """

    score: float
    mean_weights: Tensor
    alpha: Tensor
    beta: Tensor


def log_me(
    features: Tensor | NDArray[Any],
    labels: Tensor | NDArray[Any],
    *,
    num_classes: int | None = None,
) -> LogME:
    """How well a teacher's features explain labels, without training anything.

    A linear model without intercept, ``y = features @ m + noise``, has a Gaussian prior of
    precision alpha on ``m`` and noise of precision beta. Both are set to what makes the labels
    most probable (the evidence); a class is one such model of its one-hot label.

    All is computed in float64. The features are decomposed once for all classes: through their
    ``D x D`` Gram matrix where ``n > D``, else through the ``n x n`` one. So time grows linearly
    with n, and the features of many samples are never widened all at once.

    References:
        You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer Learning",
        ICML 2021, arXiv 2102.11005; the fixed-point iteration is that of You et al., "Ranking and
        Tuning Pre-trained Models", JMLR 2022, arXiv 2110.10545. Scores are those of their code
        (thuml/LogME). For ``n < D`` it counts D prior precisions in the evidence but n of them in
        the determinant; this is kept so that scores can be compared with published ones.

    Args:
        features: ``(n, D)``, floating point of any precision.
        labels: Class numbers ``(n,)``, integers from 0; or targets ``(n,)`` or ``(n, T)``, floating
            point, for regression and, as 0 and 1, for several labels a sample.
        num_classes: C, where the labels here may lack the last ones. A class without samples gets
            weights of 0 and infinite precisions, and has no part in the score.

    Raises:
        InputError: If shapes or types do not fit, values are NaN or infinite, all features are 0,
            or there is but one class or nothing but zeros to explain.
    """
    features, labels = torch.as_tensor(features), torch.as_tensor(labels)
    _check(features, labels)
    labels = labels.to(features.device)
    classes, targets = _targets(labels, num_classes)
    n, dim = features.shape
    squares = targets.square().sum(dim=0) if classes is None else targets
    known = squares > 0
    if not known.any():
        raise InputError("Expected targets that are not all 0: there is nothing to explain.")
    if n > dim:
        sigma, basis = _spectrum(_gram(features))
        along = basis.T @ _moments(features, classes, targets)[:, known]
        explained = torch.where(sigma > 0, along.square() / sigma, 0.0)
    else:
        rows = features.double()
        sigma, basis = _spectrum(rows @ rows.T)
        dense = targets if classes is None else F.one_hot(classes, len(targets)).double()
        along = basis.T @ dense[:, known]
        explained = along.square()
    rest = (squares[known] - explained.sum(dim=0)).clamp_min(0)
    ratio, alpha, beta, evidence = _maximize(sigma, explained, rest, n, dim)
    weights = basis @ (along / (ratio + sigma))
    mean_weights = features.new_zeros((len(squares), dim), dtype=torch.float64)
    mean_weights[known] = (weights if n > dim else rows.T @ weights).T
    everywhere = torch.full_like(squares, math.inf)
    return LogME(
        float(evidence.mean()) / n,
        mean_weights,
        everywhere.masked_scatter(known, alpha),
        everywhere.masked_scatter(known, beta),
    )


def _maximize(
    sigma: Tensor, explained: Tensor, rest: Tensor, n: int, dim: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fixed-point iteration over all classes at once; a class that has converged stands still.

    Args:
        sigma: ``(k, 1)``, squared singular values of the features.
        explained: ``(k, C)``, squared labels along each left singular vector.
        rest: ``(C,)``, squared labels outside of all of them.
        n: Samples.
        dim: Features.

    Returns:
        For each class the alpha / beta that the posterior mean is for, then alpha, beta and the
        log evidence, each ``(C,)``.
    """
    ratio, alpha, beta = (torch.ones_like(rest) for _ in range(3))
    moving = torch.ones_like(rest, dtype=torch.bool)
    for _ in range(_MOST_STEPS):
        ratio = torch.where(moving, alpha / beta, ratio)
        shrunk = ratio / (ratio + sigma)
        length = (explained * sigma / (ratio + sigma).square()).sum(dim=0)
        residual = (explained * shrunk.square()).sum(dim=0) + rest
        alpha = (sigma / (ratio + sigma)).sum(dim=0) / (length + _EPS)
        # n less the effective number of weights, as a sum of what is positive: n - sum(1 - shrunk)
        # rounds to 0 where n < D and features are large.
        beta = (shrunk.sum(dim=0) + (n - len(sigma))) / (residual + _EPS)
        moving = moving & ((alpha / beta - ratio).abs() > _CONVERGED * ratio)
        if not moving.any():
            break
    evidence = (
        dim * alpha.log()
        + n * beta.log()
        - (alpha + beta * sigma).log().sum(dim=0)
        - beta * residual
        - alpha * length
        - n * math.log(2 * math.pi)
    ) / 2
    return ratio, alpha, beta, evidence


def _gram(features: Tensor) -> Tensor:
    """``features^T @ features``, ``(D, D)``."""
    gram = features.new_zeros((features.shape[1],) * 2, dtype=torch.float64)
    for rows in _chunks(features):
        gram.addmm_(rows.T, rows)
    return gram


def _spectrum(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(k, 1)`` and, as columns, eigenvectors ``(k, k)`` of a Gram matrix."""
    sigma, basis = torch.linalg.eigh(gram)
    if not sigma.max() > 0:
        raise InputError("Expected features that are not all 0: they cannot explain anything.")
    # Below that, an eigenvalue is the rounding error of 0.
    smallest = len(sigma) * torch.finfo(sigma.dtype).eps * sigma.max()
    return torch.where(sigma > smallest, sigma, 0.0)[:, None], basis


def _moments(features: Tensor, classes: Tensor | None, targets: Tensor) -> Tensor:
    """``features^T @ targets``, ``(D, C)``; for classes the sum of each one's features."""
    moments = features.new_zeros((targets.shape[-1], features.shape[1]), dtype=torch.float64)
    for rows, part in zip(
        _chunks(features), (targets if classes is None else classes).split(_CHUNK), strict=True
    ):
        if classes is None:
            moments.addmm_(part.T, rows)
        else:
            moments.index_add_(0, part, rows)
    return moments.T


def _targets(labels: Tensor, num_classes: int | None) -> tuple[Tensor | None, Tensor]:
    """Class numbers and the number of samples of each; or None and targets ``(n, T)``."""
    if labels.is_floating_point():
        return None, (labels[:, None] if labels.ndim == 1 else labels).double()
    highest = int(labels.max())
    if int(labels.min()) < 0 or (num_classes is not None and highest >= num_classes):
        allowed = "up" if num_classes is None else f"to {num_classes - 1}"
        raise InputError(
            f"Expected `labels` to be class numbers from 0 {allowed}, but got "
            f"{int(labels.min())} to {highest}."
        )
    counts = labels.long().bincount(minlength=num_classes or 0)
    if int((counts > 0).sum()) < 2:
        raise InputError(
            f"Expected `labels` of at least 2 classes, but all {len(labels)} are class {highest}: "
            "there is nothing to tell apart."
        )
    return labels.long(), counts.double()


def _check(features: Tensor, labels: Tensor) -> None:
    if features.ndim != 2 or not features.is_floating_point() or 0 in features.shape:
        raise InputError(
            "Expected `features` to be floating point of shape (samples, dim), but got "
            f"{describe(features)}."
        )
    regression = labels.is_floating_point()
    if labels.ndim not in ((1, 2) if regression else (1,)) or len(labels) != len(features):
        raise InputError(
            f"Expected `labels` to be {len(features)} class numbers, integers of shape "
            f"({len(features)},), or floating-point targets of shape ({len(features)}, targets), "
            f"but got {describe(labels)}."
        )
    if labels.dtype == torch.bool or labels.is_complex() or 0 in labels.shape:
        raise InputError(f"Expected `labels` to be numbers, but got {describe(labels)}.")
    for name, values in (("features", features), ("labels", labels)):
        bad = sum(
            int((~part.isfinite()).reshape(len(part), -1).any(dim=1).sum())
            for part in values.split(_CHUNK)
        )
        if bad:
            raise InputError(
                f"Expected finite `{name}`, but {bad} of {len(values)} rows hold NaN or infinity. "
                "Leave those samples out or compute them anew."
            )


def _chunks(values: Tensor) -> Iterator[Tensor]:
    """Consecutive rows in float64, so that only a part of half-precision features is widened."""
    for rows in values.split(_CHUNK):
        yield rows.double()
