"""Linear models of sparse inputs such as TF-IDF vectors, from labels and soft labels."""

from __future__ import annotations

import math
import warnings
from collections import deque
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
_MOST_HISTORY = 25_000_000
"""Coefficients of earlier iterations to keep in memory, four times."""
_EXACT = 2_000_000
"""Most outputs of rows to compute in float64."""
_LEAST_GRADIENT, _LEAST_CHANGE = 1e-5, 1e-7
_FLAT, _MOST_TRIALS = 0.1, 25


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
    problem = _Problem(x, targets, row_weights, kind)
    best, vector = float("inf"), problem.start()
    chosen = problem.model(vector, STRENGTHS[0])
    words = (
        f"fitting a linear model to TF-IDF vectors: {len(targets):,} rows, {sum(x.widths):,} "
        f"features, {targets.shape[1]:,} outputs"
    )
    for strength in tqdm(STRENGTHS, words, leave=False, delay=2, disable=not progress):
        vector = problem.minimize(vector, strength)
        model = problem.model(vector, strength)
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


class _Problem:
    """The loss of one fit as a function of the coefficients.

    Weights of the minimum are combinations of rows, since the regularization is that of all
    directions alike. There are fewer rows than features, and a step of L-BFGS on the coefficients,
    with the inner product of the weights, is a step on the weights. Its line search needs no
    further product of matrices, since outputs along a line are linear.

    A vector has the shape ``(2, n + 1, C)``: the coefficients of the rows, and their outputs
    without the bias; the last row of both is the bias. So are gradients, steps and differences.
    """

    def __init__(
        self, x: SparseRows, targets: Tensor, row_weights: Tensor | None, kind: TaskKind
    ) -> None:
        self.x = x
        self.dtype = torch.float64 if targets.numel() <= _EXACT else torch.float32
        self.targets = targets.to(self.dtype)
        weights = torch.ones(len(targets)) if row_weights is None else row_weights
        self.total = float(weights.sum())
        self.shares = weights.to(self.dtype)[:, None] / self.total
        self.kind = kind
        most = _MOST_WORK // (x.entries * targets.shape[1] + 1)
        self.iterations = int(max(_FEWEST_ITERATIONS, min(_MOST_ITERATIONS, most)))
        self.history = max(2, min(10, _MOST_HISTORY // targets.numel()))

    def start(self) -> Tensor:
        """The vector of a model that predicts 0."""
        return torch.zeros(2, len(self.targets) + 1, self.targets.shape[1], dtype=self.dtype)

    def minimize(self, vector: Tensor, strength: float) -> Tensor:
        """The vector at the minimum for one strength, from a vector near it."""
        decay = strength / self.total
        loss, gradient = self._evaluate(vector, decay)
        steps: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=self.history)
        for _ in range(self.iterations):
            if float(_inner(gradient, gradient)) <= _LEAST_GRADIENT**2:
                break
            direction = _newton(gradient, steps)
            length = self._search(vector, direction, decay, gradient, first=not steps)
            step = direction * length
            vector = vector + step
            before, old = loss, gradient
            loss, gradient = self._evaluate(vector, decay)
            change = gradient - old
            if (curvature := float(_inner(change, step))) > 0:
                steps.append((step, change, 1 / curvature))
            if before - loss <= _LEAST_CHANGE * abs(before):
                break
        return vector

    def model(self, vector: Tensor, strength: float) -> LinearModel:
        """The model with the coefficients of a vector."""
        coefficients = vector[0].float()
        return LinearModel(self.x.gradient(coefficients[:-1]), coefficients[-1], strength)

    def _evaluate(self, vector: Tensor, decay: float) -> tuple[float, Tensor]:
        """The loss with its regularization, and the gradient as a vector."""
        outputs = vector[1, :-1] + vector[1, -1]
        loss = float(row_losses(outputs, self.targets, self.kind) @ self.shares[:, 0])
        loss += decay / 2 * float((vector[0, :-1] * vector[1, :-1]).sum())
        by_output = self._slopes(outputs)
        products = (self.x @ self.x.gradient(by_output.float())).to(self.dtype)
        bias = by_output.sum(dim=0, keepdim=True)
        gradient = torch.stack([torch.cat([by_output, bias]), torch.cat([products, bias])])
        gradient[:, :-1] += decay * vector[:, :-1]
        return loss, gradient

    def _slopes(self, outputs: Tensor) -> Tensor:
        """The derivatives of the mean loss by the outputs, ``(n, C)``."""
        if self.kind == "classification":
            outputs = outputs.softmax(dim=1)
        elif self.kind == "multilabel":
            outputs = outputs.sigmoid()
        return (outputs - self.targets) * self.shares

    def _search(
        self, vector: Tensor, direction: Tensor, decay: float, gradient: Tensor, first: bool
    ) -> float:
        """The length of a step along a direction, at which the slope has nearly vanished."""
        outputs, change = vector[1, :-1] + vector[1, -1], direction[1, :-1] + direction[1, -1]
        middle = float((vector[0, :-1] * direction[1, :-1]).sum())
        square = float((direction[0, :-1] * direction[1, :-1]).sum())

        def slope(length: float) -> float:
            by_output = self._slopes(outputs + length * change)
            return float((by_output * change).sum()) + decay * (middle + length * square)

        start = float(_inner(gradient, direction))
        low, high, at_low, at_high = 0.0, math.inf, start, math.inf
        length = 1 / math.sqrt(float(_inner(direction, direction))) if first else 1.0
        for _ in range(_MOST_TRIALS):
            found = slope(length)
            if abs(found) <= _FLAT * abs(start):
                break
            if found < 0:
                low, at_low = length, found
            else:
                high, at_high = length, found
            if high == math.inf:
                length *= 4
            else:  # the slope of a convex function rises: between a secant and bisection
                share = at_low / (at_low - at_high)
                length = low + (high - low) * min(0.9, max(0.1, share))
        return length


def _inner(one: Tensor, other: Tensor) -> Tensor:
    """The inner product of the weights and biases of two vectors."""
    return torch.dot(one[0].ravel(), other[1].ravel())


def _newton(gradient: Tensor, steps: Sequence[tuple[Tensor, Tensor, float]]) -> Tensor:
    """The direction of L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.4)."""
    direction = -gradient
    factors = []
    for step, change, scale in reversed(steps):
        factors.append(scale * _inner(step, direction))
        direction = direction - factors[-1] * change
    if steps:
        step, change, scale = steps[-1]
        direction = direction / (scale * _inner(change, change))
    for (step, change, scale), factor in zip(steps, reversed(factors), strict=True):
        direction = direction + step * (factor - scale * _inner(change, direction))
    return direction
