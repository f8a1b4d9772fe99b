"""`--train-fraction`: which rows a smaller share keeps, and that both commands draw the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import aft
from aft.config.commands import TrainConfig
from aft.data.loading import DataSet, load_data
from aft.errors import ConfigError
from aft.training.run_folder import open_run
from helpers.errors import says
from helpers.report_pages import Page

COUNTS = {"common": 60, "usual": 30, "rare": 3, "single": 1}


def write_rows(path: Path, validation: int = 0, copies: int = 1) -> Path:
    """Texts of classes of very different size, each text `copies` times."""
    rows = [
        {"text": f"{name} text {number}", "label": name, "split": "train"}
        for name, count in COUNTS.items()
        for number in range(count)
        for _ in range(copies)
    ]
    rows += [
        {"text": f"held out {i}", "label": "usual", "split": "validation"}
        for i in range(validation)
    ]
    if not validation:
        rows = [{key: row[key] for key in ("text", "label")} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., DataSet]:
    def load(validation: int = 0, copies: int = 1, **options: Any) -> DataSet:
        path = write_rows(tmp_path / "rows.jsonl", validation, copies)
        return load_data(str(path), progress=False, **options)

    return load


def texts(data: DataSet, split: str = "train") -> set[Any]:
    samples = data.splits[split]
    return {samples.input(i) for i in range(len(samples))}


def test_every_class_keeps_its_share_and_at_least_one_row(read: Callable[..., DataSet]) -> None:
    data = read(train_fraction=0.2, test_fraction=0.2)
    whole = read(test_fraction=0.2)
    counts = data.task.counts(data.splits["train"].labels)
    assert all(counts[name] >= 1 for name in COUNTS)
    used, of = data.train_rows or (0, 0)
    assert of == len(whole.splits["train"]) + len(whole.splits["validation"])
    assert used == len(data.splits["train"]) + len(data.splits["validation"])
    assert used == pytest.approx(0.2 * of, abs=4)
    assert 8 <= counts["common"] <= 10 and 3 <= counts["usual"] <= 5
    assert texts(data, "test") == texts(whole, "test")  # every share is scored on the same rows
    assert texts(data) < texts(whole) | texts(whole, "validation")
    assert not texts(data) & texts(data, "validation")
    assert "--unlabelled left-out" in data.lines()[0]  # what the unused rows are good for
    assert "--unlabelled" not in read(train_fraction=0.2, unlabelled="left-out").lines()[0]


def test_nothing_changes_with_all_rows(read: Callable[..., DataSet]) -> None:
    plain, whole = read(seed=3), read(seed=3, train_fraction=1.0)
    for name in ("train", "validation"):
        assert (plain.splits[name].ids == whole.splits[name].ids).all()
    assert whole.train_rows is None and whole.describe()["train_rows_not_used"] == 0
    assert not whole.lines()


def test_drawn_by_the_seed_and_a_smaller_share_is_part_of_a_larger(
    read: Callable[..., DataSet],
) -> None:
    shares = {share: read(validation=5, train_fraction=share) for share in (0.1, 0.3, 0.7, 1.0)}
    drawn = [texts(data) for data in shares.values()]
    assert drawn[0] < drawn[1] < drawn[2] < drawn[3]
    assert texts(read(validation=5, train_fraction=0.3)) == drawn[1]
    assert texts(read(validation=5, train_fraction=0.3, seed=1)) != drawn[1]
    for data in shares.values():  # a validation split of the data's own stays whole
        assert len(data.splits["validation"]) == 5 and data.held_out == ()


def test_copies_stay_together(read: Callable[..., DataSet]) -> None:
    data = read(copies=3, train_fraction=0.5)
    keys, counts = np.unique(data.splits["train"].keys, return_counts=True)
    assert set(counts) == {3} and len(keys) < 60


def test_so_few_rows_that_none_can_be_left_out(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i], "split": "train"} for i in range(2)]
    rows.append({"text": "another", "label": "a", "split": "validation"})
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_data(str(tmp_path / "two.jsonl"), train_fraction=0.1, progress=False)
    assert data.train_rows == (2, 2) and len(data.splits["train"]) == 2


def test_targets_are_thinned_as_a_whole(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": i / 7} for i in range(100)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_data(str(tmp_path / "t.jsonl"), train_fraction=0.4, progress=False)
    assert data.task.kind == "regression" and data.train_rows == (40, 100)


@pytest.mark.usefixtures("run_pages")
def test_a_run_says_what_it_used_and_is_scored_on_its_own_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = {
        "data": str(write_rows(tmp_path / "rows.jsonl")),
        "student": "small:static?dim=8",
        "out": out,
        "steps": 4,
        "batch_size": 8,
        "device": "cpu",
        "progress": False,
    }
    result = aft.train(**options, train_fraction=0.5)
    rows = result.summary["rows"]
    used = rows["train"] + rows["validation"]
    said = [note for note in result.summary["notes"] if "train-fraction 0.5" in note]
    assert len(said) == 1 and f"{used} of 94" in said[0]
    assert said[0] in capsys.readouterr().err and said[0] in Page(out / "report.html").text
    described = json.loads((out / "data.json").read_text())
    assert described["train_fraction"] == 0.5 and described["train_rows_not_used"] == 94 - used
    scored = aft.evaluate(run=out, progress=False)
    assert scored["rows"] == rows["validation"]
    assert scored["nll"] == pytest.approx(result.metrics["nll"])
    with pytest.raises(ConfigError) as error:
        aft.train(**options, resume=True)
    assert says(error.value, "train_fraction", 0.5, 1.0)
    for wrong in (0.0, 1.5):
        with pytest.raises(ConfigError) as error:
            aft.train(**{**options, "out": tmp_path / "x"}, train_fraction=wrong)
        assert says(error.value, "train_fraction", wrong)


def test_a_run_from_before_the_option_counts_as_one_with_all_rows(tmp_path: Path) -> None:
    config = TrainConfig(data="rows.csv", student="small:static", out=tmp_path, resume=True)
    saved = config.model_dump(mode="json")
    del saved["train_fraction"]
    saved["keep_teachers"] = False  # as earlier versions wrote
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    for name in ("data.json", "result.json"):
        (tmp_path / name).write_text("{}")
    open_run(tmp_path, config)
    with pytest.raises(ConfigError) as error:
        open_run(tmp_path, config.model_copy(update={"train_fraction": 0.5}))
    assert says(error.value, "train_fraction", 1.0, 0.5)
