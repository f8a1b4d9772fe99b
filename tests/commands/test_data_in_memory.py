"""Commands take data in memory, with the ids, splits and checks of the same data in files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import yaml
from PIL import Image

import aft
from aft.comparison.runs import list_settings, run_options
from aft.config.commands import CompareConfig
from aft.data.loading import DataSet, load_data, load_inputs
from aft.data.readers.find_columns import Columns
from aft.errors import ConfigError, DataError
from helpers.errors import says
from helpers.training import TEACHER, assert_same, weights

TEXTS = [f"{word} number {i}" for i in range(20) for word in ("red", "blue", "green")]
LABELS = ["warm", "cold", "cold"] * 20
QUICK: dict[str, Any] = {
    "student": "small:static?dim=8",
    "steps": 6,
    "batch_size": 16,
    "device": "cpu",
    "num_workers": 0,
    "progress": False,
}


def same(first: DataSet, second: DataSet) -> bool:
    return first.content == second.content and all(
        (first.splits[name].ids == second.splits[name].ids).all()
        and (np.asarray(first.splits[name].labels) == np.asarray(second.splits[name].labels)).all()
        for name in first.splits.keys() | second.splits.keys()
    )


@pytest.fixture
def table() -> pandas.DataFrame:
    return pandas.DataFrame({"text": TEXTS, "label": LABELS, "more": [{"a"}] * len(TEXTS)})


def test_texts_have_the_ids_and_splits_of_a_file(table: pandas.DataFrame, tmp_path: Path) -> None:
    table[["text", "label"]].to_csv(tmp_path / "t.csv", index=False)
    wanted = load_data(str(tmp_path / "t.csv"))
    columns = {"text": TEXTS, "label": LABELS}
    rows = table.to_dict("records")
    data_set = datasets.Dataset.from_dict(columns)
    for data in (
        table,
        columns,
        rows,
        data_set,
        (TEXTS, LABELS),
        (np.array(TEXTS), np.array(LABELS)),
        (table["text"], table["label"].astype("category")),
        (table[["text"]], table["label"]),
        (tuple(TEXTS), pandas.Series(LABELS)),
    ):
        found = load_data(data)
        assert same(found, wanted) and found.source == "data in memory"
        assert found.lines() == wanted.lines()
    parts = {"train": table[:40], "test": table[40:]}
    frames = load_data(parts)
    sets = {
        name: datasets.Dataset.from_dict({"text": TEXTS[s], "label": LABELS[s]})
        for name, s in (("train", slice(40)), ("test", slice(40, None)))
    }
    assert same(frames, load_data(datasets.DatasetDict(sets)))
    assert len(frames.splits["test"]) == 20
    split = load_data(table.assign(split=["train"] * 40 + ["test"] * 20))
    assert same(split, frames)


def test_labels_of_every_kind() -> None:
    texts = TEXTS[:40]
    numbers = np.linspace(0.1, 2, 40)
    for labels in (numbers, numbers.tolist(), pandas.Series(numbers), numbers[:, None]):
        data = load_data((texts, labels))
        assert data.task.kind == "regression"
    assert data.task.names == ("label",)
    several = load_data((texts, np.stack([numbers, -numbers], 1)))
    assert several.task.kind == "regression" and several.task.num_outputs == 2
    onehot = load_data((texts, np.array([[1, 0, 1], [0, 1, 0]] * 20)))
    assert onehot.task.kind == "multilabel" and onehot.task.num_outputs == 3
    lists = load_data((texts, [["a", "b"], ("b",)] * 20))
    assert lists.task.kind == "multilabel" and lists.task.names == ("a", "b")
    ints = load_data((texts, np.array([0, 1] * 20)))
    assert ints.task.names == ("0", "1")
    floats = load_data(pandas.DataFrame({"text": texts, "label": [0, 1, None, 1] * 10}))
    assert floats.task.names == ("0", "1") and floats.report.unlabelled == 10
    named = datasets.Dataset.from_dict({"text": texts, "label": [0, 1] * 20}).cast_column(
        "label", datasets.ClassLabel(names=["no", "yes"])
    )
    assert load_data(named).task.names == ("no", "yes")


def test_pictures_have_the_ids_of_their_files(picture_folder: Callable[..., Path]) -> None:
    folder = picture_folder(train=12, test=6, size=16)
    wanted = load_data(str(folder))
    paths = sorted(folder.glob("*/*/*.png"))
    labels = [path.parent.name for path in paths]
    splits = [path.parent.parent.name for path in paths]
    contents = [path.read_bytes() for path in paths]
    for images in (paths, list(map(str, paths)), contents):
        found = load_data({"image": images, "label": labels, "split": splits})
        assert found.content.keys() == wanted.content.keys()
        for name, rows in wanted.splits.items():
            assert {one.tobytes() for one in rows.ids} == {
                one.tobytes() for one in found.splits[name].ids
            }
    # Images without files: the same id for the same pixels, in any form.
    opened = [Image.open(path).convert("RGB") for path in paths]
    arrays = [np.asarray(image) for image in opened]
    first = load_data((opened, labels))
    for data in (
        (arrays, labels),
        (np.stack(arrays), labels),
        pandas.DataFrame({"photo": opened, "label": labels}),
        [{"photo": image, "label": label} for image, label in zip(arrays, labels, strict=True)],
    ):
        assert same(load_data(data), first)
    for i in (0, 5):
        assert first.splits["train"].input(i).size == (16, 16)
    file = load_inputs(str(folder / "train"))[0]
    assert {one.tobytes() for one in file.ids}.isdisjoint(
        x.tobytes() for x in first.splits["train"].ids
    )


def test_wrong_data_are_refused() -> None:
    for data, words in (
        ((TEXTS, LABELS[:-1]), ("60", "59")),
        ((TEXTS, LABELS, LABELS), ("tuple",)),
        (TEXTS, ("inputs, labels",)),
        (object(), ("object",)),
        ({"text": TEXTS, "label": LABELS[:3]}, ("60", "3")),
        ({"text": TEXTS}, ("label",)),
        ({"words": [1, 2], "label": [1, 2]}, ("words",)),
        ((pandas.DataFrame({"text": TEXTS, "label": 1}), LABELS), ("label",)),
        (pandas.DataFrame([["a", "b"]], columns=["text", "text"]), ("text",)),
        ({"unsupervised": pandas.DataFrame({"text": TEXTS})}, ("unsupervised",)),
        (datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset(), ("Iterable",)),
        ((TEXTS, [{"a": 1}] * 60), ("dict",)),
        ({"text": TEXTS, "label": [*LABELS[:-1], object()]}, ("object", "59")),
    ):
        with pytest.raises(DataError) as error:
            load_data(data)
        assert says(error.value, *words), data
    skipped = load_data(([*TEXTS, None, "", 3], [*LABELS, "warm", "warm", "warm"]))
    assert [name for name, _ in skipped.report.bad_inputs] == [f"input[{i}]" for i in (60, 61, 62)]
    with pytest.raises(DataError, match=r"row\[2\]"):
        load_data({"text": ["a", "b", "", "d"], "label": list("xyxy")}, on_bad_input="fail")
    mixed = load_data({"text": [*TEXTS, 3], "label": [*LABELS, "cold"]})
    assert sum(map(len, mixed.splits.values())) == 61  # numbers among texts become text


def test_train_resume_and_evaluate(table: pandas.DataFrame, tmp_path: Path) -> None:
    table[["text", "label"]].to_csv(tmp_path / "t.csv", index=False)
    out = tmp_path / "memory"
    result = aft.train(data=table, out=out, **QUICK)
    aft.train(data=str(tmp_path / "t.csv"), out=tmp_path / "file", **QUICK)
    assert_same(weights(out), weights(tmp_path / "file"))
    config = yaml.safe_load((out / "config.yaml").read_text())
    record = json.loads((out / "data.json").read_text())
    assert config["data"] == record["source"] == "data in memory"
    assert record["content"] == json.loads((tmp_path / "file/data.json").read_text())["content"]

    again = aft.train(data=(TEXTS, LABELS), out=out, resume=True, **QUICK)
    assert again.metrics == result.metrics
    with pytest.raises(ConfigError) as error:
        aft.train(data=table[1:], out=out, resume=True, **QUICK)
    assert says(error.value, out, "train")
    with pytest.raises(DataError, match="memory"):
        aft.evaluate(run=out)
    with pytest.raises(DataError, match="memory"):
        aft.train(**{**config, "out": tmp_path / "new"})
    scored = aft.evaluate(run=out, data=table, progress=False)
    assert scored["split"] == "validation" and scored["accuracy"] == result.metrics["accuracy"]
    other = aft.evaluate(run=out, data=table[:30], progress=False)
    assert other["split"] == "all" and other["rows"] == 30
    assert aft.evaluate(run=out / "student", data=table, progress=False)["rows"] == 60

    found = aft.predict(run=out, data=TEXTS[:5], out=tmp_path / "p.csv", progress=False)
    assert found["rows"] == 5
    read = pandas.read_csv(tmp_path / "p.csv").to_dict("list")
    rows = result.student().predict(TEXTS[:5])
    assert read["label"] == [row["label"] for row in rows]
    assert read["file"] == [f"input[{i}]" for i in range(5)]


def test_every_command_takes_data_in_memory(
    picture_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("teacher.py").write_text(TEACHER)
    paths = sorted(picture_folder(train=12, test=0, size=16).glob("*/*/*.png"))
    images = [Image.open(path).convert("RGB") for path in paths]
    labels = [path.parent.name for path in paths]
    teacher = {"teachers": "python:teacher.py:colours", "features": tmp_path / "features"}
    quick = {**QUICK, **teacher, "student": "small:cnn-tiny?size=16"}
    few, rest = list(range(0, 36, 2)), list(range(1, 36, 2))
    data = ([images[i] for i in few], [labels[i] for i in few])
    more = [np.asarray(images[i]) for i in rest]

    stored = aft.extract(data=images, device="cpu", progress=False, **teacher)
    assert stored[0]["samples"] == len(images)
    result = aft.train(data=data, unlabelled=more, views="clean", baselines=False, **quick)
    assert result.out == Path("runs/data-in-memory-1")
    assert result.summary["rows_without_labels"] == len(more)
    scored = aft.score(data=data, device="cpu", progress=False, **teacher)
    assert scored.document["data"] == "data in memory"
    config = CompareConfig(data=data, student="small:cnn-tiny", teachers="timm:any")
    options = run_options(config, list_settings(config)[0], "aft", 0)
    assert options.data is config.data and config.data.value is data  # in every run


def test_columns_can_be_named() -> None:
    table = pandas.DataFrame({"a": TEXTS, "b": LABELS})
    data = load_data(table, Columns(text=("a",), label=("b",)))
    assert data.task.names == ("cold", "warm")
    assert [one.name for one in data.splits["train"].columns] == ["a"]
