"""One method over several data sets: the mean, its interval and the signed-rank test."""

from __future__ import annotations

import pytest
from scipy import stats

from aft.comparison.statistics import count_outcomes, summarize_tasks
from aft.errors import InputError


def test_against_the_labels_alone() -> None:
    ratios = [0.9, 0.8, 0.95, 1.02, 0.85]
    found = summarize_tasks(ratios)
    assert found["tasks"] == 5 and found["mean"] == pytest.approx(0.904)
    assert found["difference"] == pytest.approx(-0.096)
    interval = stats.ttest_1samp(ratios, 1).confidence_interval()
    assert (found["low"], found["high"]) == pytest.approx((interval.low - 1, interval.high - 1))
    assert found["p_value"] == pytest.approx(2 * 2 / 2**5)  # two of 32 signs are as extreme


def test_against_another_method() -> None:
    found = summarize_tasks([0.9, 0.8, 0.7], [1.0, 0.9, 0.8])
    assert found["mean"] == pytest.approx(0.8) and found["difference"] == pytest.approx(-0.1)
    assert found["low"] == pytest.approx(-0.1)
    assert summarize_tasks([0.9, 0.8], [0.9, 0.8])["p_value"] == 1


def test_what_cannot_be_told() -> None:
    assert summarize_tasks([0.9])["low"] is None
    with pytest.raises(InputError, match="pairs of ratios, got 2 and 1"):
        summarize_tasks([0.9, 0.8], [1.0])
    with pytest.raises(InputError, match="got 0 and 0"):
        summarize_tasks([])


def test_outcomes_are_counted() -> None:
    def setting(aft: str | None, kd: str) -> dict[str, dict[str, object]]:
        alone = {"outcome": None, "keeps_teachers": False}
        refine = {"outcome": "better", "keeps_teachers": True}
        own, other = ({"outcome": one, "keeps_teachers": False} for one in (aft, kd))
        return {"alone": alone, "aft": own, "kd": other, "refine": refine}

    told = count_outcomes([setting("better", "worse"), setting("no difference shown", "worse")])
    assert told == (
        "aft is better than the labels alone in 1 of 2 settings. "
        "kd is worse than the labels alone in 2 of 2 settings."
    )
    assert "in 1 of 1" in count_outcomes([setting("better", "worse"), setting(None, "worse")])
    assert count_outcomes([setting("no difference shown", "no difference shown")] * 2) == (
        "No difference from the labels alone is shown of aft, kd."
    )
    assert "Nothing can be said" in count_outcomes([])
