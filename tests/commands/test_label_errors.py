"""`aft inspect --labels`, on labels that were flipped on purpose."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from numpy.typing import NDArray

import aft
from aft.cli import main
from aft.errors import ConfigError, DataError
from aft.ids import content_id
from helpers.report_pages import Page, check_self_contained

ROWS, FLIPPED = 90, (4, 11, 50)
NAMES = ("bread", "match")


def write_features(path: Path, contents: list[bytes], values: NDArray[Any]) -> str:
    ids = [content_id(content).hex() for content in contents]
    columns = {"sample_id": ids, "features": list(values.astype(np.float32))}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return f"features:{path}"


def make_texts(folder: Path, kind: str) -> tuple[Path, str]:
    """A table with some wrong labels, and a feature table that knows the right ones."""
    generator = np.random.default_rng(0)
    texts = [f"=<script>some text {i}</script>" for i in range(ROWS)]
    classes = np.arange(ROWS) % 2
    hidden = generator.normal(size=ROWS) + 6 * classes
    rows = []
    for i, text in enumerate(texts):
        wrong = i in FLIPPED
        label: Any = NAMES[classes[i] ^ wrong]
        if kind == "regression":
            label = float(hidden[i] + 0.1 * generator.normal() + 20 * wrong)
        elif kind == "multilabel":
            label = [name for j, name in enumerate(NAMES) if (classes[i] == j) ^ (wrong and j == 0)]
        rows.append({"text": text, "label": label})
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = np.stack([hidden, generator.normal(size=ROWS)], axis=1)
    return path, write_features(folder / "f.parquet", [one.encode() for one in texts], values)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_writes_a_table_and_a_page(tmp_path: Path, kind: str) -> None:
    data, teacher = make_texts(tmp_path, kind)
    options = {"teachers": teacher, "features": tmp_path / "store", "progress": False}
    file = tmp_path / "new" / "labels.csv"
    found = aft.inspect(data=str(data), labels=file, **options)
    errors, written = found["labels"]["errors"], read_csv(file)
    assert {one["file"] for one in errors} == {f"data.jsonl[{i}]" for i in FLIPPED}
    assert len(written) == len(errors) == len(FLIPPED) and found["labels"]["rows"] == ROWS
    assert [one["score"] for one in errors] == sorted((e["score"] for e in errors), reverse=True)
    for one, row in zip(errors, written, strict=True):
        assert row["file"] == one["file"] and float(row["score"]) == one["score"]
        assert row["target"] == {"multilabel": "bread", "regression": "label"}.get(kind, "")
        assert one["text"] in row["text"] and row["text"].startswith("'=")  # no formula
        assert (one["probability_given"] is None) == (kind == "regression")
        number = int(one["file"][11:-1])
        if kind == "classification":
            assert one["given"] == NAMES[number % 2 ^ 1] and one["predicted"] == NAMES[number % 2]
    page = Page(Path(found["labels"]["page"]))
    check_self_contained(page)
    assert page.source.count("some text") == len(FLIPPED) and "script" not in page.tags
    assert any(str(file) in line for line in found["lines"])
    assert sum(one["file"] in line for one in errors for line in found["lines"]) == len(FLIPPED)


def test_shows_images(
    tmp_path: Path, picture_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = picture_folder(classes=2, train=40)
    files = sorted((root / "train").rglob("*.png"))
    classes = np.array([file.parent.name == files[0].parent.name for file in files]) * 6.0
    classes[3] = 6 - classes[3]  # of this image alone the features tell another class
    noise = np.random.default_rng(1).normal(size=(len(files), 2))
    contents = [file.read_bytes() for file in files]
    teacher = write_features(tmp_path / "f.parquet", contents, classes[:, None] + noise)
    labels = tmp_path / "labels.csv"
    arguments = ["--data", root, "--teachers", teacher, "--features", tmp_path / "store"]
    assert main([str(a) for a in ["inspect", *arguments, "--labels", labels, "--json"]]) == 0
    found = json.loads(capsys.readouterr().out)["labels"]
    assert [Path(one["file"]).name for one in found["errors"]] == [files[3].name]
    page = Page(Path(found["page"]))
    assert page.tags.count("img") == 1 and read_csv(labels)[0]["text"] == ""


def test_nothing_found(tmp_path: Path) -> None:
    data, teacher = make_texts(tmp_path, "classification")
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    right = [row for i, row in enumerate(rows) if i not in FLIPPED]
    data.write_text("".join(json.dumps(row) + "\n" for row in right))
    options = {"teachers": teacher, "features": tmp_path / "store", "progress": False}
    found = aft.inspect(data=str(data), labels=tmp_path / "l.csv", **options)["labels"]
    assert found["errors"] == [] and read_csv(tmp_path / "l.csv") == []
    assert "ul" not in Page(Path(found["page"])).tags


def test_errors(tmp_path: Path) -> None:
    data, teacher = make_texts(tmp_path, "classification")
    file = tmp_path / "labels.csv"
    for wrong in (
        {"data": str(data), "labels": file},
        {"teachers": teacher, "labels": file},
        {"data": str(data), "teachers": teacher, "labels": tmp_path / "labels.html"},
        {"data": str(data), "teachers": teacher, "labels": tmp_path},
    ):
        with pytest.raises(ConfigError, match="--labels"):
            aft.inspect(**wrong)
    rows = [json.loads(line) | {"label": "bread"} for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError):
        aft.inspect(
            data=str(data), teachers=teacher, labels=file, features=tmp_path / "s", progress=False
        )
