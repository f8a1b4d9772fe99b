"""A teacher that says nothing must do no harm: AFT's gates shut it out, on real digits.

The real teacher is a network that learned from one half of scikit-learn's digits; the students
learn from 200 digits of the other half and are scored on the rest of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from aft.comparison.statistics import compare_paired
from aft.losses import AFTLoss

SEEDS = range(5)
FIRST_HALF, TRAINED_ON, STEPS, LR, BETA = 900, 200, 200, 4e-3, 3.0
TIMES = 4  # as many useless features as real ones


@cache
def digits() -> tuple[Tensor, Tensor]:
    pictures, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return torch.from_numpy(pictures[order]).float() / 16, torch.from_numpy(labels[order])


def network(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, width), nn.ReLU())


def train(
    seed: int,
    width: int,
    rows: Tensor,
    teachers: Sequence[Tensor] = (),
    weights: str = "diagonal",
) -> tuple[nn.Sequential, nn.Linear, list[Tensor]]:
    """Features, head and, with teachers, the learned gates."""
    pictures, labels = digits()
    torch.manual_seed(seed)
    body, head = network(width), nn.Linear(width, 10)
    groups = [{"params": [*body.parameters(), *head.parameters()], "lr": LR}]
    loss_fn = AFTLoss([one.shape[1] for one in teachers], weights=weights) if teachers else None
    if loss_fn is not None and weights != "fixed":
        groups.append({"params": list(loss_fn.parameters()), "lr": 1e-2})
    optimizer = torch.optim.Adam(groups)
    for _ in range(STEPS):
        batch = rows[torch.randint(0, len(rows), (64,))]
        features = body(pictures[batch])
        loss = F.cross_entropy(head(features), labels[batch])
        if loss_fn is not None:
            loss = loss + BETA * loss_fn(features, [one[batch] for one in teachers])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return body, head, loss_fn.gates() if loss_fn is not None else []


@cache
def known() -> Tensor:
    """Features of all digits by the real teacher, without those that are always 0."""
    body, _, _ = train(100, 64, torch.arange(FIRST_HALF))
    with torch.no_grad():
        features = body(digits()[0])
    return features[:, features.std(0) > 1e-6]


@cache
def useless(kind: str) -> Tensor:
    """Features of noise, or the real teacher's of the wrong digits."""
    generator = torch.Generator().manual_seed(1)
    rows, width = known().shape
    if kind == "noise":
        return torch.randn(rows, TIMES * width, generator=generator)
    parts = [known()[torch.randperm(rows, generator=generator)] for _ in range(TIMES)]
    return torch.cat(parts, dim=1)


@cache
def run(
    seed: int, kinds: tuple[str, ...], weights: str = "diagonal"
) -> tuple[float, dict[str, Tensor]]:
    """Accuracy of a student, and the gates of each of its teachers."""
    pictures, labels = digits()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels) - FIRST_HALF))
    chosen, rest = (FIRST_HALF + order).split([TRAINED_ON, len(order) - TRAINED_ON])
    teachers = [known() if kind == "real" else useless(kind) for kind in kinds]
    body, head, gates = train(seed, 32, chosen, teachers, weights)
    with torch.no_grad():
        right = head(body(pictures[rest])).argmax(1) == labels[rest]
    return float(right.float().mean()), dict(zip(kinds, gates, strict=True))


def scores(*kinds: str, weights: str = "diagonal") -> list[float]:
    return [run(seed, kinds, weights)[0] for seed in SEEDS]


@pytest.mark.parametrize("other", ["noise", "wrong digits"])
def test_gates_shut_out_what_says_nothing(other: str) -> None:
    for seed in SEEDS:
        _, gates = run(seed, ("real", other))
        assert gates["real"].mean() > 0.7
        assert gates[other].mean() < 0.2
        assert (gates[other] < gates["real"].median()).float().mean() > 0.99


def test_the_place_of_a_teacher_tells_gates_nothing() -> None:
    _, gates = run(0, ("noise", "real"))
    assert gates["real"].mean() > 0.7
    assert gates["noise"].mean() < 0.2


@pytest.mark.parametrize("other", ["noise", "wrong digits"])
def test_what_says_nothing_costs_nothing(other: str) -> None:
    taught = scores("real")
    assert compare_paired("accuracy", scores(), taught).outcome == "better"
    change = compare_paired("accuracy", taught, scores("real", other))
    assert change.outcome != "worse"
    assert change.difference > -0.01


def test_without_gates_it_costs() -> None:
    """So these digits can show what the gates are good for."""
    taught, beside = (scores(*k, weights="fixed") for k in (("real",), ("real", "noise")))
    change = compare_paired("accuracy", taught, beside)
    assert change.outcome == "worse"
    assert change.difference < -0.01
