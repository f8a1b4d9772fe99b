"""LogME: the evidence of labels under a linear model on features, and the model's weights."""

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
    """Result of :func:`log_me`, with one row or entry for each of C classes or targets.

    Attributes:
        score: Logarithm of the maximum evidence per sample, averaged over classes or targets.
            Higher is better; compare scores only between teachers on the same labels.
        mean_weights: ``(C, D)``, posterior mean of the linear model's weights.
        alpha: ``(C,)``, precision of the prior on the weights.
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
    """Score how well a teacher's features explain labels, without training.

    A linear model without intercept, ``y = features @ m + noise``, has a Gaussian prior of
    precision alpha on ``m`` and noise of precision beta. Both are set to the values that maximize
    the probability of the labels (the evidence). A class is modelled by its one-hot label.

    The computation is in float64. The features are decomposed once for all classes, through their
    ``D x D`` Gram matrix if ``n > D``, otherwise through the ``n x n`` one. Time is therefore
    linear in n for ``n > D``, and the features of many samples are converted to float64 in chunks.

    References:
        You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer Learning",
        ICML 2021, arXiv 2102.11005; the fixed-point iteration is that of You et al., "Ranking and
        Tuning Pre-trained Models", JMLR 2022, arXiv 2110.10545. Scores equal those of their code
        (thuml/LogME). For ``n < D`` their evidence counts D prior precisions but only n of them in
        the determinant; this function does the same, so that scores are comparable with published
        ones.

    Args:
        features: ``(n, D)``, floating point of any precision.
        labels: Class indices ``(n,)``, integers from 0; or floating-point targets ``(n,)`` or
            ``(n, T)`` for regression and, as 0 and 1, for multi-label tasks.
        num_classes: C; needed if the last classes may be missing from ``labels``. A class without
            samples gets zero weights and infinite precisions, and does not count in the score.

    Raises:
        InputError: If shapes or types do not match, values are NaN or infinite, all features are
            0, there is only one class, or all targets are 0.
    """
    features, labels = torch.as_tensor(features), torch.as_tensor(labels)
    _check(features, labels)
    labels = labels.to(features.device)
    classes, targets = _targets(labels, num_classes)
    n, dim = features.shape
    squares = targets.square().sum(dim=0) if classes is None else targets
    known = squares > 0
    if not known.any():
        raise InputError("Expected `labels` that are not all 0.")
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
    """Fixed-point iteration over all classes at once; converged classes are no longer updated.

    Args:
        sigma: ``(k, 1)``, squared singular values of the features.
        explained: ``(k, C)``, squared projection of the labels on each left singular vector.
        rest: ``(C,)``, squared norm of the labels outside their span.
        n: Number of samples.
        dim: Number of features.

    Returns:
        For each class the ratio alpha / beta of the posterior mean, then alpha, beta and the log
        evidence, each ``(C,)``.
    """
    ratio, alpha, beta = (torch.ones_like(rest) for _ in range(3))
    moving = torch.ones_like(rest, dtype=torch.bool)
    for _ in range(_MOST_STEPS):
        ratio = torch.where(moving, alpha / beta, ratio)
        shrunk = ratio / (ratio + sigma)
        length = (explained * sigma / (ratio + sigma).square()).sum(dim=0)
        residual = (explained * shrunk.square()).sum(dim=0) + rest
        alpha = (sigma / (ratio + sigma)).sum(dim=0) / (length + _EPS)
        # n minus the effective number of weights, as a sum of positive terms: n - sum(1 - shrunk)
        # would round to 0 for n < D and large features.
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
        raise InputError("Expected `features` that are not all 0.")
    # Smaller eigenvalues are rounding error of 0.
    smallest = len(sigma) * torch.finfo(sigma.dtype).eps * sigma.max()
    return torch.where(sigma > smallest, sigma, 0.0)[:, None], basis


def _moments(features: Tensor, classes: Tensor | None, targets: Tensor) -> Tensor:
    """``features^T @ targets``, ``(D, C)``; for classes the sum of the features of each class."""
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
    """Class indices and the number of samples per class; or None and targets ``(n, T)``."""
    if labels.is_floating_point():
        return None, (labels[:, None] if labels.ndim == 1 else labels).double()
    highest = int(labels.max())
    if int(labels.min()) < 0 or (num_classes is not None and highest >= num_classes):
        allowed = "up" if num_classes is None else f"to {num_classes - 1}"
        raise InputError(
            f"Expected `labels` to be class indices from 0 {allowed}, but got "
            f"{int(labels.min())} to {highest}."
        )
    counts = labels.long().bincount(minlength=num_classes or 0)
    if int((counts > 0).sum()) < 2:
        raise InputError(
            f"Expected `labels` of at least 2 classes, but all {len(labels)} rows are class "
            f"{highest}."
        )
    return labels.long(), counts.double()


def _check(features: Tensor, labels: Tensor) -> None:
    if features.ndim != 2 or not features.is_floating_point() or 0 in features.shape:
        raise InputError(
            "Expected `features` to be a non-empty floating-point tensor of shape (samples, dim), "
            f"but got {describe(features)}."
        )
    regression = labels.is_floating_point()
    if labels.ndim not in ((1, 2) if regression else (1,)) or len(labels) != len(features):
        raise InputError(
            f"Expected `labels` to be class indices, integers of shape ({len(features)},), or "
            f"floating-point targets of shape ({len(features)}, targets), but got "
            f"{describe(labels)}."
        )
    if labels.dtype == torch.bool or labels.is_complex() or 0 in labels.shape:
        raise InputError(f"Expected `labels` to be integers or floats, but got {describe(labels)}.")
    for name, values in (("features", features), ("labels", labels)):
        bad = sum(
            int((~part.isfinite()).reshape(len(part), -1).any(dim=1).sum())
            for part in values.split(_CHUNK)
        )
        if bad:
            raise InputError(
                f"Expected finite `{name}`, but {bad} of {len(values)} rows contain NaN or "
                "infinity. Remove these samples or compute them again."
            )


def _chunks(values: Tensor) -> Iterator[Tensor]:
    """Chunks of rows in float64, so that half-precision features are not converted all at once."""
    for rows in values.split(_CHUNK):
        yield rows.double()
