"""The score of a constant predictor, and the warning if a student is no better."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from aft.tasks import Task
from aft.trivial import compare_with_trivial, is_no_better, trivial_score

CLASSES = Task("classification", ("a", "b", "c"))
TAGS = Task("multilabel", ("x", "y", "z"))
NUMBERS = Task("regression", ("u", "v"))


def test_classes() -> None:
    """The largest class is that of the training rows, even if it is rare in the scored ones."""
    train, labels = np.array([0, 1, 1, 2]), np.array([0, 0, 0, 1, 2])
    found = {
        metric: trivial_score(train, labels, CLASSES, metric)
        for metric in ("accuracy", "balanced_accuracy", "macro_f1")
    }
    f1 = 2 * 1 / (1 + 5)  # of class b: one right among five predictions
    assert found == pytest.approx(
        {"accuracy": 1 / 5, "balanced_accuracy": 1 / 3, "macro_f1": f1 / 3}
    )


def test_numbers() -> None:
    train = np.array([[0.0, 10.0], [2.0, 30.0]])
    labels = np.array([[1.0, 10.0], [5.0, 20.0]])
    expected = [1 - (0 + 16) / 8, 1 - (100 + 0) / 50]
    assert trivial_score(train, labels, NUMBERS, "r2") == pytest.approx(np.mean(expected))
    assert trivial_score(train, train, NUMBERS, "r2") == 0
    assert math.isnan(trivial_score(train, labels[:1], NUMBERS, "r2"))


def test_several_labels() -> None:
    train = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=np.float32)
    labels = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=np.float32)
    precision = trivial_score(train, labels, TAGS, "mean_average_precision")
    assert precision == pytest.approx((2 / 4 + 3 / 4) / 2)  # their shares; the last is absent
    # only the first label is predicted: two right, two wrong, three missed
    assert trivial_score(train, labels, TAGS, "micro_f1") == pytest.approx(2 * 2 / (2 * 2 + 2 + 3))


def test_no_better() -> None:
    assert is_no_better(0.5, 0.5) and is_no_better(0.2, 0.5) and is_no_better(math.nan, 0.5)
    assert is_no_better(0.5001, 0.5) and not is_no_better(0.51, 0.5)
    assert is_no_better(-0.2, -0.1) and not is_no_better(0.05, -0.1)
    assert not is_no_better(0.5, math.nan)
    assert not is_no_better(1.0, 1.0)  # scored rows of one class: nothing is better


@pytest.mark.parametrize("train", [[0, 1, 2, 0, 1, 2], [0] * 9 + [1, 2]])
def test_the_warning(train: list[int]) -> None:
    labels = np.array([0, 1, 2])
    summary: dict[str, Any] = {"metric": "accuracy", "split": "test", "lr": 0.002, "steps": 300}

    def compare(score: float) -> dict[str, Any]:
        metrics = {"accuracy": score}
        return compare_with_trivial(
            np.array(train), labels, CLASSES, {**summary, "metrics": metrics}
        )

    assert compare(0.9) == {"metric": "accuracy", "score": pytest.approx(1 / 3)}
    warned = compare(0.25)["sentence"]
    wanted = ("0.250", "0.333", "--lr", "0.002", "--steps", "300", "--student", "aft score")
    assert all(text in warned for text in wanted)
    assert ("--class-weights" in warned) == ("--metric" in warned) == (len(train) > 6)
