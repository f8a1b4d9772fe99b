"""Linear models of sparse inputs: their optimum is that of scikit-learn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.sparse import random as random_matrix
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor
from torch.nn import functional as F

from aft.linear import models
from aft.linear.models import LinearModel, SparseRows, fit_linear
from aft.tasks import TaskKind

TRAIN = 120
CLOSE = 2e-3
"""The minimizer stops at gradients of 1e-5, scikit-learn at smaller ones."""


class Problem(NamedTuple):
    """Rows, of which the first 120 are for training, and scores of three classes."""

    x: csr_array
    scores: np.ndarray[tuple[int, int], np.dtype[np.float64]]

    def fit(self, targets: Tensor, kind: TaskKind, weights: Tensor | None = None) -> LinearModel:
        held_out = SparseRows([self.x[TRAIN:]])
        rows = SparseRows([self.x[:TRAIN]])
        return fit_linear(rows, targets[:TRAIN], held_out, targets[TRAIN:], kind, weights)

    def outputs(self, model: LinearModel) -> Tensor:
        return model(SparseRows([self.x[TRAIN:]]))

    @property
    def one_hot(self) -> Tensor:
        return F.one_hot(torch.from_numpy(self.scores.argmax(1)), 3).float()


@pytest.fixture
def problem() -> Problem:
    x = csr_array(random_matrix(160, 30, density=0.2, random_state=0, format="csr"))
    return Problem(x, x @ np.random.default_rng(1).normal(size=(30, 3)) * 3)


def one_strength(monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    monkeypatch.setattr(models, "STRENGTHS", (strength,))


@pytest.mark.parametrize("strength", [3.0, 0.1])
def test_classification_is_logistic_regression(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, strength: float
) -> None:
    one_strength(monkeypatch, strength)
    labels = problem.scores.argmax(1)
    found = problem.outputs(problem.fit(problem.one_hot, "classification"))
    model = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=1000)
    expected = model.fit(problem.x[:TRAIN], labels[:TRAIN]).predict_proba(problem.x[TRAIN:])
    np.testing.assert_allclose(found.softmax(1).numpy(), expected, atol=CLOSE)


def test_regression_is_ridge(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    one_strength(monkeypatch, 0.5)
    targets = torch.from_numpy(problem.scores[:, :2]).float()
    found = problem.outputs(problem.fit(targets, "regression"))
    rows = problem.x.toarray()
    expected = Ridge(alpha=0.5).fit(rows[:TRAIN], targets[:TRAIN].numpy()).predict(rows[TRAIN:])
    np.testing.assert_allclose(found.numpy(), expected, atol=CLOSE)


def test_several_labels_are_one_logistic_regression_each(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_strength(monkeypatch, 1.0)
    targets = torch.from_numpy(problem.scores > 0).float()
    found = problem.outputs(problem.fit(targets, "multilabel")).sigmoid().numpy()
    for label in range(3):
        own = LogisticRegression(C=1.0, tol=1e-8)
        own.fit(problem.x[:TRAIN], targets[:TRAIN, label].numpy())
        expected = own.predict_proba(problem.x[TRAIN:])[:, 1]
        np.testing.assert_allclose(found[:, label], expected, atol=CLOSE)


def test_a_weight_counts_as_copies_of_a_row(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_strength(monkeypatch, 0.3)
    copies = torch.ones(TRAIN)
    copies[:40] = 3
    weighted = problem.fit(problem.one_hot, "classification", copies)
    index = np.repeat(np.arange(TRAIN), copies.long().numpy())
    repeated = fit_linear(
        SparseRows([problem.x[index]]),
        problem.one_hot[index],
        SparseRows([problem.x[TRAIN:]]),
        problem.one_hot[TRAIN:],
        "classification",
    )
    difference = problem.outputs(weighted) - problem.outputs(repeated)
    assert float(difference.abs().max()) < CLOSE


def test_the_strength_is_chosen_on_held_out_rows(problem: Problem) -> None:
    clear = problem.one_hot
    noise = clear[torch.randperm(160, generator=torch.Generator().manual_seed(0))]
    strong = problem.fit(noise, "classification").strength
    weak = problem.fit(clear, "classification").strength
    assert weak < strong


def test_a_block_is_a_product_of_matrices(problem: Problem) -> None:
    factor = csr_array(random_matrix(30, 12, density=0.3, random_state=2, format="csr"))
    both = SparseRows([problem.x], [problem.x, factor])
    product = np.hstack([problem.x.toarray(), (problem.x @ factor).toarray()])
    weight, by_output = torch.randn(42, 3), torch.from_numpy(problem.scores).float()
    np.testing.assert_allclose((both @ weight).numpy(), product @ weight.numpy(), atol=1e-5)
    expected = product.T @ by_output.numpy()
    np.testing.assert_allclose(both.gradient(by_output).numpy(), expected, atol=1e-4)


def test_more_work_gets_fewer_iterations(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    one_strength(monkeypatch, 0.1)
    whole = problem.fit(problem.one_hot, "classification")
    monkeypatch.setattr(models, "_MOST_WORK", 0)
    monkeypatch.setattr(models, "_FEWEST_ITERATIONS", 1)
    short = problem.fit(problem.one_hot, "classification")
    assert short.weight.norm() < whole.weight.norm()
    monkeypatch.setattr(models, "_FEWEST_ITERATIONS", 100)
    same = problem.fit(problem.one_hot, "classification")
    assert torch.equal(same.weight, whole.weight)
