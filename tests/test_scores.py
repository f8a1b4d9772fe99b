from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from aft.errors import InputError
from aft.scores import log_me

REFERENCE = Path(__file__).parent / "reference"
# Factors on alpha and beta: at the maximum, then around it.
GRID = [(1.0, 1.0), (1.5, 1.0), (0.6, 1.0), (1.0, 1.2), (1.0, 0.8)]


def samples(
    n: int = 60, dim: int = 8, classes: int = 3, noise: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Features that tell classes apart, the better the less noise."""
    labels = torch.arange(n) % classes
    means = torch.randn(classes, dim, dtype=torch.float64)
    return means[labels] + noise * torch.randn(n, dim, dtype=torch.float64), labels


def log_evidence(x: Tensor, y: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Log density of ``y`` under ``N(0, 1 / beta + x x^T / alpha)``, per sample."""
    covariance = torch.eye(len(x), dtype=x.dtype) / beta + x @ x.T / alpha
    normal = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance)
    density: Tensor = normal.log_prob(y) / len(x)
    return density


@pytest.mark.parametrize("case", ["tall", "wide"])
def test_matches_the_published_code(case: str) -> None:
    reference = load_file(REFERENCE / f"logme_{case}.safetensors")
    found = log_me(reference["features"], reference["labels"])
    assert found.score == pytest.approx(float(reference["score"]), abs=1e-6)
    torch.testing.assert_close(found.mean_weights, reference["mean_weights"], rtol=1e-6, atol=1e-9)
    regression = log_me(reference["features"], reference["targets"])
    assert regression.score == pytest.approx(float(reference["regression_score"]), abs=1e-6)


def test_is_the_evidence_of_a_gaussian_model() -> None:
    x, labels = samples(40, 5)
    found = log_me(x, labels)
    evidences = []
    for c in range(3):
        y = (labels == c).double()
        at = [log_evidence(x, y, f * found.alpha[c], g * found.beta[c]) for f, g in GRID]
        assert float(at[0]) > float(max(at[1:])) - 1e-6  # alpha and beta maximize it
        evidences.append(at[0])
        precision = found.alpha[c] * torch.eye(5) + found.beta[c] * x.T @ x
        mean = found.beta[c] * torch.linalg.solve(precision, x.T @ y)
        torch.testing.assert_close(found.mean_weights[c], mean, rtol=1e-3, atol=1e-6)
    assert found.score == pytest.approx(float(torch.stack(evidences).mean()), abs=1e-4)


@settings(max_examples=20)
@given(st.integers(2, 30), st.integers(1, 30), st.integers(0, 2**31))
def test_rows_and_rotations_do_not_matter(n: int, dim: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, labels = samples(n, dim, 2)
    expected = log_me(x, labels)
    order = torch.randperm(n)
    rotation, _ = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64))
    found = log_me(x[order] @ rotation, labels[order])
    assert found.score == pytest.approx(expected.score, rel=1e-6, abs=1e-6)
    torch.testing.assert_close(
        found.mean_weights, expected.mean_weights @ rotation, rtol=1e-5, atol=1e-6
    )


def test_better_features_score_higher() -> None:
    scores = [log_me(*samples(200, 8, noise=noise)).score for noise in (0.1, 0.5, 2.0)]
    assert scores == sorted(scores, reverse=True)
    x, labels = samples(200, noise=0.3)
    assert log_me(x, labels).score > log_me(x[torch.randperm(200)], labels).score


def test_dead_dimensions_and_near_square_shapes() -> None:
    x, labels = samples(60, 8)
    dead = torch.cat([x, torch.zeros(60, 3, dtype=torch.float64)], dim=1)
    found, expected = log_me(dead, labels), log_me(x, labels)
    assert found.score == pytest.approx(expected.score, abs=1e-9)
    assert not found.mean_weights[:, 8:].any()
    # One row decides which Gram matrix is taken; the result must not jump.
    around = [log_me(*(part[:n] for part in (x.repeat(1, 3), labels))).score for n in (24, 25)]
    assert abs(around[0] - around[1]) < 0.5


def test_labels_are_one_target_a_class() -> None:
    x, labels = samples()
    one_hot = torch.nn.functional.one_hot(labels).double()
    found, expected = log_me(x, one_hot), log_me(x, labels)
    assert found.score == pytest.approx(expected.score, abs=1e-12)
    torch.testing.assert_close(found.mean_weights, expected.mean_weights)
    single = log_me(x, one_hot[:, 0])
    torch.testing.assert_close(single.mean_weights[0], expected.mean_weights[0])
    assert single.alpha.shape == single.beta.shape == (1,)


@pytest.mark.parametrize("dim", [8, 90])
def test_absent_classes_have_no_part(dim: int) -> None:
    x, labels = samples(60, dim)
    expected = log_me(x, labels)
    found = log_me(x, torch.tensor([0, 2, 3])[labels], num_classes=6)
    assert found.score == pytest.approx(expected.score, abs=1e-12)
    torch.testing.assert_close(found.mean_weights[[0, 2, 3]], expected.mean_weights)
    torch.testing.assert_close(found.alpha[[0, 2, 3]], expected.alpha)
    assert not found.mean_weights[[1, 4, 5]].any()
    assert found.alpha[[1, 4, 5]].isinf().all() and found.beta[[1, 4, 5]].isinf().all()


def test_takes_half_precision_and_numpy() -> None:
    x, labels = samples()
    half = log_me(x.half(), labels.int())
    assert half.score == pytest.approx(log_me(x, labels).score, abs=1e-2)
    assert half.mean_weights.dtype == torch.float64
    arrays = log_me(x.numpy(), np.asarray(labels))
    assert arrays.score == log_me(x, labels).score


@pytest.mark.parametrize("shape", [(60, 8), (10, 40)])
def test_large_features_do_not_break_it(shape: tuple[int, int]) -> None:
    x, labels = samples(*shape)
    for factor in (1e-3, 1e8):
        found = log_me(factor * x, labels)
        assert np.isfinite(found.score)
        assert found.mean_weights.isfinite().all()


def test_time_is_linear_in_samples() -> None:
    x, labels = samples(40_000, 64, 10)

    def seconds(n: int) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            log_me(x[:n], labels[:n])
            times.append(time.perf_counter() - start)
        return min(times)

    assert seconds(40_000) < 4 * seconds(20_000) + 0.05


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_values_are_counted(bad: float) -> None:
    x, labels = samples()
    x[3, 1] = x[7, 0] = bad
    with pytest.raises(InputError, match="finite `features`, but 2 of 60 rows"):
        log_me(x, labels)
    x, _ = samples()
    targets = torch.randn(60, 2)
    targets[5] = bad
    with pytest.raises(InputError, match="finite `labels`, but 1 of 60 rows"):
        log_me(x, targets)


def test_one_class_or_nothing_to_explain() -> None:
    x, labels = samples()
    with pytest.raises(InputError, match="at least 2 classes, but all 60 are class 0"):
        log_me(x, torch.zeros_like(labels))
    with pytest.raises(InputError, match="targets that are not all 0"):
        log_me(x, torch.zeros(60))
    for wide in (x, torch.zeros(60, 90)):
        with pytest.raises(InputError, match="features that are not all 0"):
            log_me(torch.zeros_like(wide), labels)


@pytest.mark.parametrize(
    ("features", "labels", "match"),
    [
        (torch.randn(6), torch.arange(6), r"`features`.*\(samples, dim\).*shape \(6,\)"),
        (torch.ones(6, 2).long(), torch.arange(6), "`features`.*int64"),
        (torch.randn(0, 2), torch.arange(0), "`features`"),
        (torch.randn(6, 2), torch.arange(5), r"`labels` to be 6 class numbers.*\(5,\)"),
        (torch.randn(6, 2), torch.ones(6, 2).long(), r"`labels`.*int64 of shape \(6, 2\)"),
        (torch.randn(6, 2), torch.randn(6, 2, 1), r"`labels`.*\(6, 2, 1\)"),
        (torch.randn(6, 2), torch.ones(6).bool(), "`labels` to be numbers.*bool"),
        (torch.randn(6, 2), torch.arange(6) - 1, "class numbers from 0 up, but got -1 to 4"),
    ],
)
def test_wrong_shapes_and_types(features: Tensor, labels: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        log_me(features, labels)


def test_more_classes_than_announced() -> None:
    with pytest.raises(InputError, match="from 0 to 1, but got 0 to 2"):
        log_me(*samples(), num_classes=2)
