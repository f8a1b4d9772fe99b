"""Linear models of sparse inputs such as TF-IDF vectors, from labels and soft labels."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from aft.tasks import TaskKind

Array = NDArray[Any]
STRENGTHS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""Strengths of the regularization, from strong to weak; 1 / C of scikit-learn's
`LogisticRegression` and the alpha of `Ridge`."""
_MOST_ITERATIONS = 100


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

    def __call__(self, x: csr_array) -> Tensor:
        """Outputs ``(n, C)``: logits, or predictions for regression."""
        return torch.addmm(self.bias, sparse_tensor(x), self.weight)


def fit_linear(
    x: csr_array,
    targets: Tensor,
    held_out: csr_array,
    expected: Tensor,
    kind: TaskKind,
    row_weights: Tensor | None = None,
) -> LinearModel:
    """Fit a linear model whose regularization is chosen on held-out rows.

    Minimizes ``sum(loss) + strength / 2 * sum(weight²)`` with L-BFGS, where the loss of a row is
    the cross entropy, the sum over labels of the binary cross entropy, or half the squared error.
    The strengths of :data:`STRENGTHS` are tried until the loss on the held-out rows increases.

    Args:
        x: ``(n, V)``.
        targets: ``(n, C)``: probabilities of classes or labels, or standardized regression
            targets.
        held_out: Rows that are not in ``x``, ``(m, V)``.
        expected: Their targets, ``(m, C)``.
        kind: The kind of task.
        row_weights: ``(n,)``; 1 by default.
    """
    forward, backward = sparse_tensor(x), sparse_tensor(x.T.tocsr())
    weights = torch.ones(len(targets)) if row_weights is None else row_weights
    start = torch.zeros(x.shape[1], targets.shape[1]), torch.zeros(targets.shape[1])
    best, chosen = float("inf"), LinearModel(*start, STRENGTHS[0])
    model = chosen
    for strength in STRENGTHS:
        model = _minimize(forward, backward, targets, weights, model, strength, kind)
        loss = float(row_losses(model(held_out), expected, kind).mean())
        if loss >= best:
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


def sparse_tensor(x: csr_array) -> Tensor:
    """A sparse matrix in the compressed rows of torch, in float32."""
    with warnings.catch_warnings():  # torch warns that the format is new
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(x.indptr.astype(np.int64)),
            torch.from_numpy(x.indices.astype(np.int64)),
            torch.from_numpy(x.data.astype(np.float32)),
            size=x.shape,
        )


def _minimize(
    forward: Tensor,
    backward: Tensor,
    targets: Tensor,
    row_weights: Tensor,
    start: LinearModel,
    strength: float,
    kind: TaskKind,
) -> LinearModel:
    """The model at the minimum of the loss for one strength.

    Args:
        forward: ``(n, V)``.
        backward: Its transpose; autograd would transpose it in every iteration.
        targets: ``(n, C)``.
        row_weights: ``(n,)``.
        start: The model to start from.
        strength: Strength of the regularization.
        kind: The kind of task.
    """
    weight, bias = start.weight.clone(), start.bias.clone()
    share = strength / float(row_weights.sum())  # the mean over rows has the better scale
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_MOST_ITERATIONS,
        history_size=10,
        tolerance_grad=1e-5,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        outputs = torch.addmm(bias, forward, weight).requires_grad_()
        with torch.enable_grad():
            losses = row_losses(outputs, targets, kind)
            loss = (losses * row_weights).sum() / row_weights.sum()
            (by_output,) = torch.autograd.grad(loss, outputs)
        weight.grad = torch.addmm(share * weight, backward, by_output)
        bias.grad = by_output.sum(dim=0)
        return loss.detach() + share / 2 * weight.square().sum()

    with torch.no_grad():
        optimizer.step(objective)
    return LinearModel(weight, bias, strength)
