"""Linear classifiers for many classes and rows, beside the exact optimum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from aft.losses import heads, many_classes
from aft.losses.heads import LinearHead, fit_head, fit_label_heads
from aft.losses.many_classes import Rows


def problem(classes: int = 12, rows: int = 25, dim: int = 10) -> tuple[Tensor, Tensor]:
    """Overlapping classes with correlated features."""
    labels = torch.arange(classes).repeat(rows)
    noise = torch.randn(len(labels), dim) @ torch.randn(dim, dim) / 2
    return 3 + torch.randn(classes, dim)[labels] * 1.5 + noise, labels


@pytest.fixture(autouse=True)
def few_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_classes, "_SHRINKAGE", (0.01, 0.1))
    monkeypatch.setattr(many_classes, "_PRIOR_ROWS", (1.0,))
    monkeypatch.setattr(many_classes, "_SCALES", (0.1, 0.3, 1.0))


@pytest.fixture
def always_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "MOST_WORK", 0)
    monkeypatch.setattr(heads, "MANY_CLASSES", 1)


def held_out_loss(head: LinearHead, x: Tensor, labels: Tensor) -> float:
    return float(F.cross_entropy(x @ head.weight.T + head.bias, labels))


@pytest.mark.parametrize("sample", [10**9, 12_000])
def test_new_rows_are_predicted_as_well_as_by_the_exact_optimum(
    monkeypatch: pytest.MonkeyPatch, sample: int
) -> None:
    x, labels = problem()
    new = torch.rand(len(x)) < 0.3
    exact = fit_head(x[~new], labels[~new])
    monkeypatch.setattr(heads, "MOST_WORK", 0)
    monkeypatch.setattr(heads, "MANY_CLASSES", 1)
    monkeypatch.setattr(many_classes, "_SAMPLE", sample)  # 12,000: some classes
    monkeypatch.setattr(many_classes, "_SAMPLE_CLASSES", 6)
    found = fit_head(x[~new], labels[~new])
    assert held_out_loss(found, x[new], labels[new]) < 1.05 * held_out_loss(
        exact, x[new], labels[new]
    )


@pytest.mark.parametrize("block", [50, 2**24])
def test_the_minimum_is_that_of_logistic_regression(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(many_classes, "_BLOCK", block)
    x, labels = problem()
    x = ((x - x.mean(0)) / x.std(0, correction=0)).double()
    rows = Rows(x, labels, 12)
    zero = x.new_zeros((12, 11))
    with tqdm(disable=True) as bar:
        found = rows.improve(zero, zero, 3.0, 100, bar)
    peer = LogisticRegression(C=1 / 3.0, tol=1e-10, max_iter=2000).fit(x.numpy(), labels.numpy())
    expected = torch.from_numpy(peer.predict_proba(x.numpy()))
    outputs = rows.x @ found[:, :-1].T + found[:, -1]
    torch.testing.assert_close(outputs.softmax(1), expected, rtol=0, atol=1e-4)


def test_a_strong_pull_stays_at_the_centre() -> None:
    x, labels = problem()
    rows = Rows(x - x.mean(0), labels, 12)
    start = rows.discriminant(many_classes.Options())
    with tqdm(disable=True) as bar:
        found = rows.improve(start, start, 1e8, 10, bar)
    torch.testing.assert_close(found[:, :-1], start[:, :-1], rtol=0, atol=1e-3)


@pytest.mark.usefixtures("always_many")
def test_the_same_arguments_give_the_same_head() -> None:
    x, labels = problem()
    one, two = fit_head(x, labels, seed=3), fit_head(x, labels, seed=3)
    assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)


@pytest.mark.usefixtures("always_many")
def test_absent_classes_and_classes_of_one_row() -> None:
    x = 3 * F.one_hot(torch.arange(8)).float() + 0.1 * torch.randn(8, 8)
    head = fit_head(x, 2 * torch.arange(8), num_classes=16)
    outputs = x @ head.weight.T + head.bias
    assert torch.equal(outputs.argmax(1), 2 * torch.arange(8))
    assert not outputs.softmax(1)[:, 1::2].any()


@pytest.mark.usefixtures("always_many")
def test_more_features_than_rows() -> None:
    x, labels = problem(rows=3, dim=60)
    head = fit_head(x, labels)
    right = (x @ head.weight.T + head.bias).argmax(1) == labels
    assert float(right.float().mean()) > 0.9


@pytest.mark.usefixtures("always_many")
def test_several_labels() -> None:
    x = torch.randn(200, 6)
    labels = (x[:, :3] + 0.3 * torch.randn(200, 3) > 0).long()
    head = fit_label_heads(x, labels)
    right = ((x @ head.weight.T + head.bias) > 0) == (labels > 0)
    assert float(right.float().mean()) > 0.85


@pytest.mark.parametrize("most", [0, 10**9])
def test_progress_names_classes_and_rows(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    shown = []

    def bar(*_: Any, **options: Any) -> tqdm[Any]:
        shown.append(options)
        return tqdm(disable=True)

    monkeypatch.setattr(heads, "tqdm", bar)
    monkeypatch.setattr(heads, "MOST_WORK", most)
    monkeypatch.setattr(heads, "MANY_CLASSES", 1)
    x, labels = problem(rows=5)
    for progress in (False, True):
        fit_head(x, labels, progress=progress)
    assert [options["disable"] for options in shown] == [True, False]
    assert "12 classes" in shown[0]["desc"] and "60 rows" in shown[0]["desc"]
