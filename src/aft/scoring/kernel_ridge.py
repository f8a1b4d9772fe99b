"""Kernel ridge regression on stored features: a better reader of few labels than a linear head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aft.errors import InputError
from aft.losses.checks import describe

STRENGTHS = tuple(10.0**power for power in range(-6, 3))
WIDTHS = (1.0, 2.0)
"""Inverse squared widths of the kernel, in units of the inverse median squared distance."""
MOST_ROWS = 4_000
"""Rows that the model keeps; its time is cubic in them."""
_BLOCK = 1024
_ABSENT = -1e4  # logit of a class without rows
_SAME = 1e-9  # squared distance of equal rows, up to rounding


class KernelRidge(NamedTuple):
    """A kernel ridge regression, see :func:`fit_kernel_ridge`.

    Attributes:
        rows: ``(n, D)``, the rows it was fitted on, normalized, float64.
        gamma: Inverse squared width of the kernel.
        coefficients: ``(n, C)``.
        bias: ``(C,)``, the mean targets.
        strength: The regularization.
        left_out: ``(n, C)``, the prediction of each row by the model fitted on all others.
    """

    rows: Tensor
    gamma: float
    coefficients: Tensor
    bias: Tensor
    strength: float
    left_out: Tensor

    def predict(self, features: Sequence[Tensor]) -> Tensor:
        """Predicted targets ``(m, C)``, float32, for the features of each teacher, ``(m, D_t)``."""
        parts = []
        for new in _normalize(features).split(_BLOCK):
            near = torch.exp(-self.gamma * torch.cdist(new, self.rows).square())
            parts.append((near @ self.coefficients + self.bias).float())
        return torch.cat(parts)


def fit_kernel_ridge(features: Sequence[Tensor], targets: Tensor) -> KernelRidge:
    """Fit a kernel ridge regression with a Gaussian kernel.

    The kernel compares the signed square roots of the features, each teacher's normalized to length
    1: features of networks have long tails, and large values would dominate distances. The width of
    the kernel and the regularization are those with the smallest squared error of the rows left
    out, whose predictions are exact without fitting again.

    References:
        Square roots: Arandjelović and Zisserman, "Three things everyone should know to improve
        object retrieval", CVPR 2012. Rows left out: Rifkin and Lippert, "Notes on Regularized Least
        Squares", MIT 2007.

    Args:
        features: ``(n, D_t)`` for each teacher; at most :data:`MOST_ROWS` rows, since the time is
            cubic in them.
        targets: ``(n, C)``: numbers, or 0 and 1 per class or label.

    Raises:
        InputError: If shapes do not match, or there are fewer than 2 rows or more than allowed.
    """
    sizes = {len(part) for part in features}
    if targets.ndim != 2 or sizes != {len(targets)} or any(part.ndim != 2 for part in features):
        raise InputError(
            "Expected `features` (n, D) for each teacher and `targets` (n, C), but got "
            f"{', '.join(map(describe, features))} and {describe(targets)}."
        )
    if not 2 <= len(targets) <= MOST_ROWS:
        raise InputError(f"Expected 2 to {MOST_ROWS} rows of `features`, but got {len(targets)}.")
    rows = _normalize(features)
    distances = torch.cdist(rows, rows).square()
    apart = distances[distances > _SAME]
    scale = 1 / float(apart.median()) if len(apart) else 1.0
    bias = targets.double().mean(0)
    centred = targets.double() - bias
    best: tuple[float, KernelRidge] | None = None
    for gamma in (width * scale for width in WIDTHS):
        values, vectors = torch.linalg.eigh(torch.exp(-gamma * distances))
        values, along = values.clamp_min(0), vectors.T @ centred
        for strength in STRENGTHS:
            kept = values / (values + strength)
            own = vectors.square() @ kept
            wrong = (centred - vectors @ (kept[:, None] * along)) / (1 - own).clamp_min(1e-9)[
                :, None
            ]
            error = float(wrong.square().mean())
            if best is None or error < best[0]:
                coefficients = vectors @ (along / (values + strength)[:, None])
                left_out = (targets.double() - wrong).float()
                found = KernelRidge(rows, gamma, coefficients, bias, strength, left_out)
                best = error, found
    assert best is not None
    return best[1]


def fit_logits(left_out: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and bias that turn predictions of 0 and 1 per class into logits.

    Those with the highest likelihood of the labels, with a small penalty on the bias. The scale is
    positive: where features tell nothing, a row left out lowers the prediction of its own class,
    and a negative scale would read the label from that. A class without rows is never predicted.

    Args:
        left_out: ``(n, C)``, predictions of rows by models that have not seen them.
        labels: ``(n,)``, classes.

    Returns:
        A scalar and ``(C,)``: logits are ``scale * predictions + bias``.
    """
    log_scale = torch.tensor(5.0).log().requires_grad_()
    bias = torch.zeros(left_out.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        value = F.cross_entropy(log_scale.exp() * left_out + bias, labels)
        value = value + 1e-3 * bias.square().mean()
        value.backward()
        return float(value.detach())

    with torch.enable_grad():
        optimizer.step(loss)
    absent = labels.bincount(minlength=len(bias)) == 0
    return log_scale.detach().exp(), bias.detach().masked_fill(absent, _ABSENT)


def _normalize(features: Sequence[Tensor]) -> Tensor:
    roots = [part.double().sign() * part.double().abs().sqrt() for part in features]
    return torch.cat([F.normalize(part) for part in roots], dim=1)
