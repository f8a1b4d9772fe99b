"""Which checkpoint is kept, and when training stops early."""

from __future__ import annotations

import math

import pytest

from aft.training.checkpoints import Best


def kept(scores: list[float], error: float = 0.0, first: int = 0) -> Best:
    """The record after evaluations at steps ``first``, ``first + 10`` and so on."""
    best = Best()
    for i, score in enumerate(scores):
        best.update(first + 10 * i, score, error)
    return best


def test_the_initial_weights_may_be_the_best() -> None:
    assert kept([0.5, 0.4, 0.3]).step == 0
    assert kept([0.5, 0.4, 0.6]).step == 20


def test_the_initial_weights_follow_the_one_standard_error_rule() -> None:
    assert kept([0.5, 0.45, 0.3], error=0.1).step == 10
    assert kept([0.5, 0.5]).step == 10  # tied: the later one
    assert kept([0.5, 0.3], error=0.1).step == 0


def test_early_stopping_does_not_count_step_0() -> None:
    """As if training began without an evaluation."""
    later = [0.1, 0.2, 0.2, 0.15]
    for initial in (0.0, 0.15, 0.9, math.nan):
        assert kept([initial]).stale == 0
        assert kept([initial, *later]).stale == kept(later, first=10).stale == 2


@pytest.mark.parametrize("scores", [[math.nan] * 3, [math.nan, 0.2, -1.0, math.nan]])
def test_no_score_never_beats_a_score(scores: list[float]) -> None:
    best = kept(scores)
    assert best.step == (10 if 0.2 in scores else 20)  # without any score the latest is kept
