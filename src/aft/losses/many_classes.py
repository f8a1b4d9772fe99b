"""Linear classifiers for many classes and rows, fitted in a time that is linear in both.

A linear discriminant needs only the mean of each class and one covariance matrix. It is good where
classes have few rows. Logistic regression is better where they have many. Here, logistic
regression starts from the discriminant and is regularized towards it or towards 0, whichever
predicts held-out rows better.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from aft import functional as AF
from aft.losses.folds import assign_folds

_STRENGTHS = {1.0: (1e4, 1e3, 100.0), 0.0: (1e4, 1e3, 100.0, 10.0, 1.0)}
"""For each centre of the regularization, from strong to weak, for the loss summed over rows. A
weaker pull towards the discriminant may be best for the few classes of the sample, but not for all
classes."""
_SHRINKAGE = (1e-3, 0.01, 0.03, 0.1, 0.3)
_PRIOR_ROWS = (1.0, 3.0, 10.0)
_SCALES = (0.07, 0.1, 0.14, 0.2, 0.3, 0.55, 1.0)
_SAMPLE = 300_000_000
_SAMPLE_CLASSES = 100
_FEWEST_STEPS, _MOST_STEPS = 10, 20
_WORK = 1_000_000_000_000
_BLOCK = 2**22
_LEAST = -50.0  # exp of less may be subnormal, which is many times slower
_FOLDS = 5


class Options(NamedTuple):
    """What is chosen by cross-validation.

    Attributes:
        shrinkage: Share of a multiple of the identity in the covariance matrix, from 0 to 1.
        prior_rows: Number of rows that the mean of all rows counts in the mean of a class.
        scale: Factor of the discriminant's scores, a reciprocal temperature.
        towards: Centre of the regularization: 1 for the discriminant, 0 for zero.
        strength: Strength of the regularization, for the loss summed over rows.
    """

    shrinkage: float = 0.1
    prior_rows: float = 3.0
    scale: float = 0.2
    towards: float = 1.0
    strength: float = 100.0


class Rows:
    """Rows in the basis of the eigenvectors of their covariance matrix within classes.

    Args:
        x: ``(n, D)``, standardized.
        targets: Class indices ``(n,)``, or ``(n, C)`` of 0 and 1.
        outputs: C.
    """

    def __init__(self, x: Tensor, targets: Tensor, outputs: int) -> None:
        self.targets = targets
        covariance = AF.matmul(x.T, x) / len(x)
        if targets.ndim == 1:
            counts = targets.bincount(minlength=outputs).to(x)
            means = x.new_zeros((outputs, x.shape[1])).index_add_(0, targets, x)
            means = means / counts.clamp_min(1)[:, None]
            covariance -= AF.matmul((means * counts[:, None]).T, means) / len(x)
        else:
            counts, means = targets.sum(dim=0), x.new_zeros((outputs, x.shape[1]))
        variance, basis = torch.linalg.eigh(covariance.double())
        self.variance, self.basis = variance.to(x).clamp_min(0), basis.to(x)
        self.x, self.counts = AF.matmul(x, self.basis), counts
        self.means = AF.matmul(means, self.basis)

    def discriminant(self, options: Options) -> Tensor:
        """Weights and, in the last column, biases ``(C, D + 1)``; 0 for several labels."""
        share = self.counts / len(self.x)
        if self.targets.ndim == 2:
            return torch.cat([self.means, share.logit(1e-6)[:, None]], dim=1)
        means = self.means * (self.counts / (self.counts + options.prior_rows))[:, None]
        # Not 0 if every class has one row.
        average = options.shrinkage * self.variance.mean().clamp_min(0.01)
        weight = means / ((1 - options.shrinkage) * self.variance + average)
        bias = share.log().clamp_min(-1e4) - options.scale / 2 * (weight * means).sum(dim=1)
        return torch.cat([options.scale * weight, bias[:, None]], dim=1)

    def improve(
        self, start: Tensor, centre: Tensor, strength: float, steps: int, bar: tqdm[Any]
    ) -> Tensor:
        """Weights and biases near the minimum of the regularized loss.

        Each weight has the unit of a Newton step for its curvature, so few steps of L-BFGS do.

        Args:
            start: ``(C, D + 1)``.
            centre: ``(C, D + 1)``, of the regularization.
            strength: Strength of the regularization.
            steps: Number of evaluations of the loss.
            bar: Counts the evaluations.
        """
        l2 = strength / len(self.x)
        share = (self.counts / len(self.x)).clamp(1 / len(self.x), 1 - 1 / len(self.x))
        curvature = (share * (1 - share))[:, None]
        unit = torch.cat([curvature * self.variance + l2, curvature], dim=1).rsqrt()
        some = torch.arange(0, len(self.x), -(-len(self.x) // 4096), device=start.device)
        gradient = _loss(self.x[some], self.targets[some], start, centre, l2)[1]
        # L-BFGS divides its first step by this sum.
        first = float((gradient * unit).abs().sum())
        if not first > 0:
            return start
        unit *= first
        scaled = start / unit
        optimizer = torch.optim.LBFGS(
            [scaled],
            max_iter=steps,
            max_eval=steps,
            history_size=10,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            loss, gradient = _loss(self.x, self.targets, scaled * unit, centre, l2)
            scaled.grad = gradient.mul_(unit / first**2)
            bar.update()
            return loss / first**2

        with torch.no_grad():
            optimizer.step(objective)
        return scaled * unit


def fit_many(
    x: Tensor, targets: Tensor, groups: Tensor, l2: float | None, seed: int, bar: tqdm[Any]
) -> tuple[Tensor, float]:
    """Fit a linear classifier to many rows of many classes or labels.

    The options are chosen by cross-validation on the rows of some classes, few enough to be
    fitted in seconds. The strength is that of the loss summed over rows, which suits any number
    of classes and rows.

    Args:
        x: ``(n, D)``, standardized.
        targets: Consecutive class indices ``(n,)``, or ``(n, C)`` of 0 and 1.
        groups: ``(n,)``, strata of the folds.
        l2: The strength for the mean over rows; None chooses it, too.
        seed: Seed of the sample and the folds.
        bar: Counts the evaluations of the loss.

    Returns:
        Weights and, in the last column, biases ``(C, D + 1)``, and the strength for the mean.
    """
    outputs = int(targets.max()) + 1 if targets.ndim == 1 else targets.shape[1]
    strength = None if l2 is None else l2 * len(x)
    options = _choose(*_draw(x, targets, groups, outputs, seed), strength, seed, bar)
    rows = Rows(x, targets, outputs)
    start = rows.discriminant(options)
    steps = max(_FEWEST_STEPS, min(_MOST_STEPS, _WORK // (x.numel() * outputs)))
    found = rows.improve(start, options.towards * start, options.strength, steps, bar)
    found = torch.cat([AF.matmul(found[:, :-1], rows.basis.T), found[:, -1:]], dim=1)
    return found, options.strength / len(x)


def _draw(
    x: Tensor, targets: Tensor, groups: Tensor, outputs: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, targets and groups of random rows of random classes or labels."""
    generator = torch.Generator().manual_seed(seed)
    share = (_SAMPLE / (x.numel() * outputs)) ** 0.5
    number = min(outputs, max(_SAMPLE_CLASSES, int(share * outputs)))
    chosen = torch.randperm(outputs, generator=generator)[:number].to(x.device)
    rows = torch.arange(len(x), device=x.device)
    if targets.ndim == 1:
        rows = rows[torch.isin(targets, chosen)]
    order = torch.randperm(len(rows), generator=generator)
    rows = rows[order[: _SAMPLE // (number * x.shape[1])].to(x.device)]
    some = targets[rows]
    some = some.unique(return_inverse=True)[1] if targets.ndim == 1 else some[:, chosen]
    return x[rows], some, groups[rows]


def _choose(
    x: Tensor,
    targets: Tensor,
    groups: Tensor,
    given: float | None,
    seed: int,
    bar: tqdm[Any],
) -> Options:
    """The options with the lowest held-out loss."""
    classes = targets.ndim == 1
    outputs = int(targets.max()) + 1 if classes else targets.shape[1]
    number = assign_folds(groups.cpu(), _FOLDS, seed).to(x.device)
    fitted, held = [], []
    for fold in range(int(number.max()) + 1):
        fitted.append(Rows(x[number != fold], targets[number != fold], outputs))
        out = number == fold
        held.append((AF.matmul(x[out], fitted[-1].basis), targets[out]))

    def held_out_loss(found: Sequence[Tensor]) -> float:
        return sum(
            float(_losses(_outputs(rows, one), known).sum())
            for (rows, known), one in zip(held, found, strict=True)
        )

    options = Options(towards=float(classes), strength=given or Options().strength)
    if not fitted:
        return options
    if classes:
        grid = [Options(*one) for one in product(_SHRINKAGE, _PRIOR_ROWS, _SCALES)]
        options = min(grid, key=lambda one: held_out_loss([f.discriminant(one) for f in fitted]))
    starts, best = [rows.discriminant(options) for rows in fitted], float("inf")
    for towards in (1.0, 0.0) if classes else (0.0,):
        found, before = starts, float("inf")
        for strength in _STRENGTHS[towards] if given is None else (given,):
            found = [
                rows.improve(one, towards * start, strength, _FEWEST_STEPS, bar)
                for rows, one, start in zip(fitted, found, starts, strict=True)
            ]
            if (loss := held_out_loss(found)) >= before:
                break
            before = loss
            if loss < best:
                best, options = loss, options._replace(towards=towards, strength=strength)
    return options


def _outputs(x: Tensor, found: Tensor) -> Tensor:
    return AF.matmul(x, found[:, :-1].T) + found[:, -1]


def _losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each row."""
    if targets.ndim == 1:
        return F.cross_entropy(outputs, targets, reduction="none")
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(dim=1)


def _loss(
    x: Tensor, targets: Tensor, found: Tensor, centre: Tensor, l2: float
) -> tuple[Tensor, Tensor]:
    """The regularized loss, in float64, and its gradient; in blocks of rows."""
    away = found[:, :-1] - centre[:, :-1]
    loss = l2 / 2 * away.square().sum().double()
    gradient = torch.cat([l2 * away, torch.zeros_like(found[:, -1:])], dim=1)
    size = max(1, _BLOCK // len(found))
    memory = x.new_empty((min(size, len(x)), len(found)))  # new memory costs more than the sums
    for rows, known in zip(x.split(size), targets.split(size), strict=True):
        outputs = torch.mm(rows, found[:, :-1].T, out=memory[: len(rows)]).add_(found[:, -1])
        if targets.ndim == 1:
            each = torch.arange(len(known), device=x.device)
            outputs -= outputs.amax(dim=1, keepdim=True)
            outputs.clamp_min_(_LEAST)
            right = outputs[each, known]
            total = outputs.exp_().sum(dim=1)
            loss += (total.log() - right).sum().double() / len(x)
            outputs /= total[:, None]
            outputs[each, known] -= 1
        else:
            loss += _losses(outputs, known).sum().double() / len(x)
            outputs.sigmoid_().sub_(known)
        gradient[:, :-1].addmm_(outputs.T, rows, alpha=1 / len(x))
        gradient[:, -1].add_(outputs.sum(dim=0), alpha=1 / len(x))
    return loss, gradient
