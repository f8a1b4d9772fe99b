"""Linear models of sparse inputs: their optimum is that of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.sparse import random as random_matrix
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn import functional as F

from aft.linear import models
from aft.linear.models import fit_linear


@pytest.fixture
def rows() -> tuple[csr_array, csr_array, np.ndarray[Any, Any]]:
    """Training rows, held-out rows, and scores of both for three classes."""
    x = csr_array(random_matrix(160, 30, density=0.2, random_state=0, format="csr"))
    scores = x @ np.random.default_rng(1).normal(size=(30, 3)) * 3
    return x[:120], x[120:], scores


def strength_only(monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    monkeypatch.setattr(models, "STRENGTHS", (strength,))


@pytest.mark.parametrize("strength", [3.0, 0.1])
def test_classification_is_logistic_regression(
    rows: Any, monkeypatch: pytest.MonkeyPatch, strength: float
) -> None:
    x, held_out, scores = rows
    strength_only(monkeypatch, strength)
    labels = scores.argmax(1)
    targets = F.one_hot(torch.from_numpy(labels), 3).float()
    model = fit_linear(x, targets[:120], held_out, targets[120:], "classification")
    expected = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=1000).fit(x, labels[:120])
    np.testing.assert_allclose(
        model(held_out).softmax(1).numpy(), expected.predict_proba(held_out), atol=2e-3
    )


def test_regression_is_ridge(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, held_out, scores = rows
    strength_only(monkeypatch, 0.5)
    targets = torch.from_numpy(scores[:, :2]).float()
    model = fit_linear(x, targets[:120], held_out, targets[120:], "regression")
    expected = Ridge(alpha=0.5).fit(x.toarray(), targets[:120].numpy())
    np.testing.assert_allclose(
        model(held_out).numpy(), expected.predict(held_out.toarray()), atol=2e-3
    )


def test_several_labels_are_one_logistic_regression_each(
    rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, held_out, scores = rows
    strength_only(monkeypatch, 1.0)
    targets = torch.from_numpy(scores > 0).float()
    model = fit_linear(x, targets[:120], held_out, targets[120:], "multilabel")
    for label in range(3):
        own = LogisticRegression(C=1.0, tol=1e-8).fit(x, targets[:120, label].numpy())
        np.testing.assert_allclose(
            model(held_out)[:, label].sigmoid().numpy(),
            own.predict_proba(held_out)[:, 1],
            atol=2e-3,
        )


def test_a_weight_counts_as_copies_of_a_row(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, held_out, scores = rows
    strength_only(monkeypatch, 0.3)
    targets = F.one_hot(torch.from_numpy(scores.argmax(1)), 3).float()
    copies = torch.ones(120)
    copies[:40] = 3
    index = np.repeat(np.arange(120), copies.long().numpy())
    weighted = fit_linear(
        x, targets[:120], held_out, targets[120:], "classification", row_weights=copies
    )
    repeated = fit_linear(x[index], targets[:120][index], held_out, targets[120:], "classification")
    torch.testing.assert_close(weighted(held_out), repeated(held_out), atol=2e-3, rtol=0)


def test_the_strength_is_chosen_on_held_out_rows(rows: Any) -> None:
    x, held_out, scores = rows
    clear = F.one_hot(torch.from_numpy(scores.argmax(1)), 3).float()
    noise = clear[torch.randperm(160, generator=torch.Generator().manual_seed(0))]
    strong = fit_linear(x, noise[:120], held_out, noise[120:], "classification").strength
    weak = fit_linear(x, clear[:120], held_out, clear[120:], "classification").strength
    assert weak < strong
