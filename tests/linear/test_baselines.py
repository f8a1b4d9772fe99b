"""What people would use instead: which linear models a run scores, and what it says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import aft
from aft.errors import InputError
from aft.linear import baselines
from aft.linear.baselines import describe_baselines
from helpers.errors import says
from helpers.text_data import make_text_table
from helpers.training import TEACHERS


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """A run over texts with a teacher; a part of the rows has no labels."""
    teachers = tmp_path / "teachers.py"
    teachers.write_text(TEACHERS)
    return {
        "data": str(make_text_table(tmp_path / "texts.jsonl")),
        "teachers": f"python:{teachers}:words",
        "features": tmp_path / "features",
        "student": "small:ngrams?dim=16",
        "out": tmp_path / "run",
        "unlabelled": "left-out",
        "train_fraction": 0.5,
        "steps": 4,
        "batch_size": 16,
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
    }


def test_a_run_scores_the_linear_models_that_apply(options: dict[str, Any]) -> None:
    result = aft.train(**options)
    found = {one["name"]: one for one in result.summary["baselines"]}
    assert set(found) == {"tf-idf", "taught-tf-idf"}
    for one in found.values():
        assert 0 < one["metrics"]["accuracy"] <= 1
        assert 0 < one["validation"]["accuracy"] <= 1
        assert any(says(ValueError(note), one["words"]) for note in result.summary["notes"])


def test_without_teachers_or_wish_there_is_less(options: dict[str, Any]) -> None:
    alone = {**options, "teachers": (), "unlabelled": None}
    result = aft.train(**alone)
    assert [one["name"] for one in result.summary["baselines"]] == ["tf-idf"]
    result = aft.train(**alone, baselines=False, overwrite=True)
    assert result.summary["baselines"] == []


def test_baselines_change_nothing_else(options: dict[str, Any], tmp_path: Path) -> None:
    with_them = aft.train(**options)
    without = aft.train(**{**options, "out": tmp_path / "other"}, baselines=False)
    assert with_them.metrics == without.metrics


def test_a_linear_model_that_cannot_be_fitted_is_left_out(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any) -> Any:
        raise InputError("constant targets")

    monkeypatch.setattr(baselines, "fit_linear", fail)
    assert aft.train(**{**options, "student": "small:static?dim=8"}).summary["baselines"] == []


def test_many_rows_are_left_alone(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST_ROWS", 10)
    assert aft.train(**options).summary["baselines"] == []


def test_the_sentence_says_which_is_better() -> None:
    found = [{"words": "a linear model", "metrics": {"accuracy": 0.84}}]
    (worse,) = describe_baselines(found, "accuracy", 0.784, "test")
    (better,) = describe_baselines(found, "accuracy", 0.9, "test")
    assert "better than the student" in worse and "0.840" in worse and "0.784" in worse
    assert "better than" not in better and "0.900" in better
