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
from aft.functional import cka
from aft.losses.logme import log_me
from aft.scoring.measures import (
    CALIBRATION,
    Calibration,
    chance_level,
    compare_probes,
    cross_validate_probe,
    debiased_cka,
    expect_gain,
    join_features,
    label_alignment,
    nearest_neighbours,
    tmi,
)
from aft.scoring.recommendation import Candidate, recommend
from aft.tasks import Task

REFERENCE = Path(__file__).parents[1] / "reference"
CLASSES, TARGETS = Task("classification", ("a", "b", "c")), Task("regression", ("x", "y"))
LABELS = Task("multilabel", ("p", "q"))
# Factors on alpha and beta: at the maximum, then around it.
GRID = [(1.0, 1.0), (1.5, 1.0), (0.6, 1.0), (1.0, 1.2), (1.0, 0.8)]


def samples(
    n: int = 60, dim: int = 8, classes: int = 3, noise: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Features of separable classes; less noise separates them better."""
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
    # One row more selects the other Gram matrix; the result must be continuous.
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
    with pytest.raises(InputError, match=r"`features`.*\b2 of 60\b"):
        log_me(x, labels)
    x, _ = samples()
    targets = torch.randn(60, 2)
    targets[5] = bad
    with pytest.raises(InputError, match=r"`labels`.*\b1 of 60\b"):
        log_me(x, targets)


def test_one_class_or_nothing_to_explain() -> None:
    x, labels = samples()
    with pytest.raises(InputError, match=r"`labels`.*\b2\b.*\b60\b.*\b0\b"):
        log_me(x, torch.zeros_like(labels))
    with pytest.raises(InputError, match="`labels`"):
        log_me(x, torch.zeros(60))
    for wide in (x, torch.zeros(60, 90)):
        with pytest.raises(InputError, match="`features`"):
            log_me(torch.zeros_like(wide), labels)


@pytest.mark.parametrize(
    ("features", "labels", "match"),
    [
        (torch.randn(6), torch.arange(6), r"`features`.*\(6,\)"),
        (torch.ones(6, 2).long(), torch.arange(6), "`features`.*int64"),
        (torch.randn(0, 2), torch.arange(0), r"`features`.*\(0, 2\)"),
        (torch.randn(6, 2), torch.arange(5), r"`labels`.*\(6,\).*\(5,\)"),
        (torch.randn(6, 2), torch.ones(6, 2).long(), r"`labels`.*int64.*\(6, 2\)"),
        (torch.randn(6, 2), torch.randn(6, 2, 1), r"`labels`.*\(6, 2, 1\)"),
        (torch.randn(6, 2), torch.ones(6).bool(), "`labels`.*bool"),
        (torch.randn(6, 2), torch.arange(6) - 1, r"`labels`.*-1 to 4\b"),
    ],
)
def test_wrong_shapes_and_types(features: Tensor, labels: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        log_me(features, labels)


def test_more_classes_than_announced() -> None:
    with pytest.raises(InputError, match=r"`labels`.*\b0 to 1\b.*\b0 to 2\b"):
        log_me(*samples(), num_classes=2)


# Probe --------------------------------------------------------------------------------------------


def test_no_row_is_told_by_a_model_that_has_seen_it() -> None:
    """With as many features as rows, a model fits any labels but does not generalize."""
    x, labels = torch.randn(120, 200), torch.randint(0, 3, (120,))
    found = cross_validate_probe(x, labels, CLASSES)
    assert 0.15 < found.score < 0.52
    known = cross_validate_probe(*samples(120, noise=0.1), CLASSES)
    assert known.score == 1 and known.se == 0


def test_standard_errors_are_those_of_shares_and_of_new_rows() -> None:
    x, labels = samples(600, noise=2.0)
    found = cross_validate_probe(x, labels, CLASSES)
    share = (found.score * (1 - found.score) / 600) ** 0.5
    assert found.se == pytest.approx(share, rel=0.35)
    assert cross_validate_probe(x, labels, CLASSES).score == found.score
    gap, se = compare_probes(found, cross_validate_probe(x[:, :4], labels, CLASSES))
    assert gap > 0 and 0 < se < 2 * share
    assert compare_probes(found, found) == (0, 0)


def test_probes_of_targets_and_of_several_labels() -> None:
    x = torch.randn(200, 6)
    targets = x[:, :2] * torch.tensor([1.0, 100.0]) + 5
    assert cross_validate_probe(x, targets, TARGETS).score > 0.99
    assert abs(cross_validate_probe(torch.randn(200, 6), targets, TARGETS).score) < 0.15
    several = cross_validate_probe(x, (targets > 5).float(), LABELS)
    assert several.score > 0.95 and 0 < several.se < 0.05
    with pytest.raises(InputError, match=r"\b2\b.*\b1\b"):
        cross_validate_probe(x[:1], targets[:1], TARGETS)


def test_guessing() -> None:
    assert chance_level(torch.tensor([0, 1, 1, 2]), CLASSES) == 0.5
    assert chance_level(torch.randn(5, 2), TARGETS) == 0
    assert chance_level(torch.tensor([[1.0, 0], [1, 1]]), LABELS) == 0.75


# Neighbours and alignment -------------------------------------------------------------------------


def test_neighbours_by_hand() -> None:
    angles = torch.tensor([0.0, 0.1, 0.25, 3.0, 3.1, 3.25])
    x = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.arange(1, 7)[:, None]
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    two = Task("classification", ("a", "b"))
    assert nearest_neighbours(x, labels, two, k=1) == pytest.approx(5 / 6)  # the third is wrong
    assert nearest_neighbours(x, labels, two, k=2) == pytest.approx(5 / 6)  # the nearer of a tie
    targets = torch.tensor([[0.0], [1], [2], [10], [11], [12]])
    told = torch.tensor([1.0, 0, 1, 11, 10, 11])
    r2 = 1 - (targets[:, 0] - told).square().sum() / (targets - targets.mean()).square().sum()
    found = nearest_neighbours(x, targets, Task("regression", ("x",)), k=1)
    assert found == pytest.approx(float(r2))


def test_neighbours_of_more_rows_than_a_block() -> None:
    x, labels = samples(1100, noise=0.2)
    assert nearest_neighbours(x, labels, CLASSES) > 0.97
    assert nearest_neighbours(x[:5], labels[:5], CLASSES, k=10) < 1


def test_alignment_of_known_features() -> None:
    x, labels = samples(300, noise=0.0)
    one_hot = torch.nn.functional.one_hot(labels).double()
    assert label_alignment(7 * one_hot + 3, labels, CLASSES) == pytest.approx(1)
    assert label_alignment(x, labels, CLASSES) > 0.7
    assert abs(label_alignment(torch.randn(300, 500), labels, CLASSES)) < 0.05
    assert label_alignment(torch.ones(300, 5), labels, CLASSES) == 0
    targets = torch.randn(300, 2)
    scaled = targets * torch.tensor([1.0, 1e3])
    assert label_alignment(targets, scaled, TARGETS) == pytest.approx(1, abs=0.02)


def test_unrelated_wide_features_are_not_alike() -> None:
    """Plain CKA is high for them; both agree if there are many rows."""
    a, b = torch.randn(60, 600), torch.randn(60, 600)
    assert float(cka(a, b)) > 0.8 and abs(debiased_cka(a, b)) < 0.1
    assert debiased_cka(a, 3 * a) == pytest.approx(1)
    a, b = torch.randn(2000, 3), torch.randn(2000, 3)
    assert debiased_cka(a, a + b) == pytest.approx(float(cka(a, a + b)), abs=0.01)
    with pytest.raises(InputError, match=r"\b4\b.*\b3\b"):
        debiased_cka(a[:3], b[:3])


def test_no_part_rules_by_its_size() -> None:
    a, b = torch.randn(50, 4) + 9, torch.randn(50, 8)
    joined = join_features([1e4 * a, b])
    torch.testing.assert_close(joined, join_features([a, 10 * b]))
    parts = [p - p.mean(0) for p in joined.split([4, 8], dim=1)]
    for part in parts:
        assert float(part.square().sum(1).mean()) == pytest.approx(1, rel=1e-4)


# TMI ----------------------------------------------------------------------------------------------


def test_tmi_is_the_entropy_of_gaussians() -> None:
    spreads = torch.tensor([0.5, 3.0])
    labels = (torch.arange(3000) % 3 == 0).long()  # two thirds of the first class
    x = torch.randn(3000, 2) * spreads[labels][:, None] + 50 * labels[:, None]
    entropies = torch.log(2 * torch.pi * torch.e * spreads.square())  # of two dimensions each
    expected = float(2 / 3 * entropies[0] + 1 / 3 * entropies[1])
    found = tmi(x, labels, min_distance=1e-9)
    assert found.score == pytest.approx(expected, abs=0.1) and found.floored == 0


def test_tmi_grows_with_what_varies_within_classes() -> None:
    x, labels = samples(200, noise=5.0)
    wider = tmi(2 * x, labels)
    assert wider.score > tmi(x, labels).score and wider.floored < 0.01
    tight = tmi(0.01 * x, labels)
    # All distances are raised to the minimum: only the class sizes matter.
    n = torch.tensor(200 / 3)
    floor = torch.digamma(n) - torch.digamma(torch.tensor(3.0)) + 8 * torch.log(torch.tensor(2.0))
    assert tight.floored == 1 and tight.score == pytest.approx(float(floor), abs=0.01)
    shuffled = labels[torch.randperm(200)]
    far = x + 100 * labels[:, None]
    assert tmi(far, shuffled).score > tmi(far, labels).score


def test_tmi_needs_classes_of_some_rows() -> None:
    x, labels = samples()
    with pytest.raises(InputError, match="`labels`"):
        tmi(x, torch.randn(60, 1))
    with pytest.raises(InputError, match=r"\b3\b"):
        tmi(x[:6], labels[:6])


# Expected gain ------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", CALIBRATION)
def test_expected_gain_is_a_share_of_the_gap(setting: tuple[bool, bool]) -> None:
    share = CALIBRATION[setting].share
    mean, low, high = expect_gain(0.2, 0.02, *setting)
    assert mean == pytest.approx(0.2 * share) and low < mean < high
    assert high - mean == pytest.approx(mean - low)
    assert expect_gain(-0.2, 0.02, *setting)[0] == 0
    unsure = expect_gain(0.2, 0.2, *setting)
    assert unsure[0] == mean and unsure[2] > high


def test_expected_gain_by_other_experience() -> None:
    table = {(True, False): Calibration(share=0.5, share_sd=0.0, spread=0.01)}
    mean, low, high = expect_gain(0.2, 0.0, True, False, table)
    assert mean == pytest.approx(0.1) and (low, high) == pytest.approx((0.0804, 0.1196))
    nothing = expect_gain(0.0, 0.0, True, False, table)
    assert nothing == pytest.approx((0, -0.0196, 0.0196))  # the spread without a gap


def test_calibration_has_every_kind_of_task() -> None:
    assert set(CALIBRATION) == {(a, b) for a in (False, True) for b in (False, True)}
    assert all(one.share_sd > 0 and one.spread > 0 for one in CALIBRATION.values())


@pytest.mark.parametrize("unlabelled", [False, True])
def test_rows_without_labels_may_pay_all_the_same(unlabelled: bool) -> None:
    probe = cross_validate_probe(*samples(), CLASSES)
    teacher, student = Candidate(("t",), ("x",), 8, probe), Candidate(("s",), (), 8, probe)
    found = recommend(
        [teacher], student, chance=0.3, metric="accuracy", rows=60, unlabelled=unlabelled
    )
    assert found.verdict == ("unclear" if unlabelled else "don't")
    worse = Candidate(("t",), ("x",), 8, cross_validate_probe(*samples(noise=9.0), CLASSES))
    found = recommend(
        [worse], student, chance=0.0, metric="accuracy", rows=60, unlabelled=unlabelled
    )
    assert found.verdict == "don't" and ("aft compare" in found.sentences[-1]) == unlabelled
