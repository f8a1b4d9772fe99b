"""One method over several data sets: the mean, its interval and the signed-rank test."""

from __future__ import annotations

import pytest
from scipy import stats

from aft.comparison.statistics import count_outcomes
from aft.errors import InputError
from helpers.errors import says
from tables import summarize_tasks


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
    with pytest.raises(InputError) as error:
        summarize_tasks([0.9, 0.8], [1.0])
    assert says(error.value, 2, 1)
    with pytest.raises(InputError):
        summarize_tasks([])


def test_outcomes_are_counted() -> None:
    def setting(aft: str | None, kd: str) -> dict[str, dict[str, object]]:
        return {"alone": {"outcome": None}, "aft": {"outcome": aft}, "kd": {"outcome": kd}}

    def told(*settings: dict[str, dict[str, object]]) -> list[str]:
        return count_outcomes(settings).removesuffix(".").split(". ")

    none = "no difference shown"
    own, other = told(setting("better", "worse"), setting(none, "worse"))
    assert own.startswith("aft ") and "better" in own and "worse" not in own and "1 of 2" in own
    assert other.startswith("kd ") and "worse" in other and "2 of 2" in other
    both, _ = told(setting("better", "worse"), setting("worse", "worse"))
    assert "better" in both and "worse" in both
    assert "1 of 1" in told(setting("better", "worse"), setting(None, "worse"))[0]
    (silent,) = told(setting(none, none), setting(none, none))
    assert "aft, kd" in silent and "better" not in silent and "worse" not in silent
    (nothing,) = told()
    assert "aft" not in nothing and len(nothing) > 0
