"""Linear models of sparse inputs such as TF-IDF vectors, from labels and soft labels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from aft.tasks import TaskKind

Array = NDArray[Any]
STRENGTHS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4)
"""Strengths of the regularization, from strong to weak; 1 / C of scikit-learn's
`LogisticRegression` and the alpha of `Ridge`."""
_MOST_ITERATIONS = 100
_FEWEST_ITERATIONS = 10
_MOST_WORK = 50_000_000_000
"""Products of entries and outputs to compute per strength, before iterations are saved."""
_MOST_HISTORY = 100_000_000
"""Weights of earlier iterations to keep in memory, twice."""


class SparseRows:
    """Rows of a sparse matrix, ``(n, V)``, as blocks of columns, each a product of matrices.

    A product is not computed: two sparse matrices may have far fewer entries than their product.

    Args:
        blocks: The factors of each block, from left to right; the first ones have ``n`` rows.
    """

    def __init__(self, *blocks: Sequence[csr_array]) -> None:
        self.blocks = [[_tensor(factor) for factor in factors] for factors in blocks]
        # Autograd would transpose a matrix in every step.
        self.transposed = [[_tensor(factor.T.tocsr()) for factor in factors] for factors in blocks]
        self.widths = [factors[-1].shape[1] for factors in blocks]
        self.entries = sum(factor.nnz for factors in blocks for factor in factors)

    def __matmul__(self, weight: Tensor) -> Tensor:
        """The product with ``weight``, ``(V, C)``."""
        total = torch.zeros(())
        for factors, part in zip(self.blocks, weight.split(self.widths), strict=True):
            for factor in reversed(factors):
                part = factor @ part
            total = total + part
        return total

    def gradient(self, by_output: Tensor) -> Tensor:
        """The product of the transposed matrix with ``by_output``, ``(n, C)``."""
        parts = []
        for factors in self.transposed:
            part = by_output
            for factor in factors:
                part = factor @ part
            parts.append(part)
        return torch.cat(parts)


class LinearModel(NamedTuple):
    """A linear model, ``outputs = x @ weight + bias``.

    Attributes:
        weight: ``(V, C)``.
        bias: ``(C,)``.
        strength: Strength of the regularization.
    """

    weight: Tensor
    bias: Tensor
    strength: float

    def __call__(self, x: SparseRows) -> Tensor:
        """Outputs ``(n, C)``: logits, or predictions for regression."""
        return x @ self.weight + self.bias


def fit_linear(
    x: SparseRows,
    targets: Tensor,
    held_out: SparseRows,
    expected: Tensor,
    kind: TaskKind,
    row_weights: Tensor | None = None,
    progress: bool = False,
) -> LinearModel:
    """Fit a linear model whose regularization is chosen on held-out rows.

    Minimizes ``sum(loss) + strength / 2 * sum(weight²)`` with L-BFGS, where the loss of a row is
    the cross entropy, the sum over labels of the binary cross entropy, or half the squared error.
    The strengths of :data:`STRENGTHS` are tried until the loss on the held-out rows increases. Many
    rows and outputs get fewer iterations.

    Args:
        x: ``(n, V)``.
        targets: ``(n, C)``: probabilities of classes or labels, or standardized regression
            targets.
        held_out: Rows that are not in ``x``, ``(m, V)``.
        expected: Their targets, ``(m, C)``.
        kind: The kind of task.
        row_weights: ``(n,)``; 1 by default.
        progress: Whether to show a progress bar if it takes more than two seconds.
    """
    weights = torch.ones(len(targets)) if row_weights is None else row_weights
    start = torch.zeros(sum(x.widths), targets.shape[1]), torch.zeros(targets.shape[1])
    best, chosen = float("inf"), LinearModel(*start, STRENGTHS[0])
    model = chosen
    words = (
        f"fitting a linear model to TF-IDF vectors: {len(targets):,} rows, {sum(x.widths):,} "
        f"features, {targets.shape[1]:,} outputs"
    )
    for strength in tqdm(STRENGTHS, words, leave=False, delay=2, disable=not progress):
        model = _minimize(x, targets, weights, model, strength, kind)
        loss = float(row_losses(model(held_out), expected, kind).mean())
        if not loss < best:
            break
        best, chosen = loss, model
    return chosen


def row_losses(outputs: Tensor, targets: Tensor, kind: TaskKind) -> Tensor:
    """The loss of each row, ``(n,)``."""
    if kind == "classification":
        return F.cross_entropy(outputs, targets, reduction="none")
    if kind == "multilabel":
        losses = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        return losses.sum(dim=1)
    return (outputs - targets).square().sum(dim=1) / 2


def _tensor(x: csr_array) -> Tensor:
    """A sparse matrix in the compressed rows of torch, in float32."""
    x.sum_duplicates()
    with warnings.catch_warnings():  # torch warns that the format is new
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(x.indptr.astype(np.int64)),
            torch.from_numpy(x.indices.astype(np.int64)),
            torch.from_numpy(x.data.astype(np.float32)),
            size=x.shape,
        )


def _minimize(
    x: SparseRows,
    targets: Tensor,
    row_weights: Tensor,
    start: LinearModel,
    strength: float,
    kind: TaskKind,
) -> LinearModel:
    """The model at the minimum of the loss for one strength.

    Args:
        x: ``(n, V)``.
        targets: ``(n, C)``.
        row_weights: ``(n,)``.
        start: The model to start from.
        strength: Strength of the regularization.
        kind: The kind of task.
    """
    weight, bias = start.weight.clone(), start.bias.clone()
    most = _MOST_WORK // (x.entries * targets.shape[1] + 1)
    share = strength / float(row_weights.sum())  # the mean over rows has the better scale
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max(_FEWEST_ITERATIONS, min(_MOST_ITERATIONS, most)),
        history_size=max(2, min(10, _MOST_HISTORY // weight.numel())),
        tolerance_grad=1e-5,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        outputs = (x @ weight + bias).requires_grad_()
        with torch.enable_grad():
            losses = row_losses(outputs, targets, kind)
            loss = (losses * row_weights).sum() / row_weights.sum()
            (by_output,) = torch.autograd.grad(loss, outputs)
        weight.grad = x.gradient(by_output).add_(weight, alpha=share)
        bias.grad = by_output.sum(dim=0)
        return loss.detach() + share / 2 * weight.square().sum()

    with torch.no_grad():
        optimizer.step(objective)
    return LinearModel(weight, bias, strength)
