"""The linear start: a student of words and word pairs begins as the linear model itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aft.config.commands import TrainConfig, resolve
from aft.data.options import load_training_data
from aft.linear import start
from aft.linear.models import LinearModel, SparseRows, fit_linear
from aft.linear.rows import PreparedRows
from aft.students.run_student import compute_logits
from aft.training.prepare import list_notes, make_student

GOOD, BAD = ["fine", "lovely", "superb"], ["poor", "dull", "awful"]
LABELS: dict[str, Any] = {
    "classification": lambda score: ("bad", "so-so", "good")[(score > 0.3) + (score > 0.6)],
    "multilabel": lambda score: [name for name in ("good", "great") if score > len(name) / 9],
    "regression": lambda score: 1000 + 50 * score,
}


def write_table(path: Path, kind: str) -> str:
    """Texts of good and bad words, with labels by the share of the good ones."""
    drawn = np.random.default_rng(0)
    rows = []
    for number in range(120):
        words = drawn.choice([*GOOD, *BAD, "film", "plot", f"name{number}"], size=8)
        score = float(np.isin(words, GOOD).mean()) + 0.1 * drawn.random()
        rows.append({"text": " ".join(words), "label": LABELS[kind](score)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("most", [None, 30])
@pytest.mark.parametrize("kind", LABELS)
def test_the_student_predicts_what_the_linear_model_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, most: int | None
) -> None:
    fitted: list[tuple[LinearModel, SparseRows]] = []
    rows_fitted: list[int] = []

    def fit(*given: Any) -> LinearModel:
        fitted.append((fit_linear(*given), given[2]))
        rows_fitted.append(len(given[1]))
        return fitted[-1][0]

    monkeypatch.setattr(start, "fit_linear", fit)
    data_file = write_table(tmp_path / "texts.jsonl", kind)
    config = resolve(
        TrainConfig, None, {"data": data_file, "student": "small:ngrams?dim=8", "task": kind}
    )
    data = load_training_data(config)
    saved = make_student(config, data, False)
    train, validation = (
        PreparedRows(data.splits[name], saved.transform) for name in ("train", "validation")
    )
    if most:  # features and rows that fit a limit
        monkeypatch.setattr(start, "MOST_WEIGHTS", most * data.task.num_outputs)
    start.start_linear(saved.module, data.task, train, validation)
    (model, held_out) = fitted[0]
    if most:
        assert len(model.weight) == most and rows_fitted[0] == most < len(train.samples)
    found = compute_logits(saved.module, saved.inputs(data.splits["validation"]))
    expected = saved.module.rescale(model(held_out)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert np.ptp(expected, axis=0).min() > 0  # the model did learn
    with torch.no_grad():
        saved.module.head.weight.zero_()
    flat = compute_logits(saved.module, saved.inputs(data.splits["validation"]))
    assert np.abs(flat - expected).max() > 0  # and the head reads it


def test_fewer_features_than_outputs_are_noted(tmp_path: Path) -> None:
    data_file = write_table(tmp_path / "texts.jsonl", "classification")
    for dim, notes in ((2, 1), (3, 0)):
        config = resolve(
            TrainConfig, None, {"data": data_file, "student": f"small:ngrams?dim={dim}"}
        )
        data = load_training_data(config)
        saved = make_student(config, data, False)
        found = list_notes(config, saved, PreparedRows(data.splits["train"], saved.transform))
        assert len([note for note in found if "dim=3" in note]) == notes
