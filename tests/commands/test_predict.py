"""Predictions beside the columns of the input, in every format and through the standard streams."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

import aft
from aft.cli import main
from aft.errors import ConfigError, DataError
from helpers.errors import says

TEXTS = {"space": "rocket orbit moon", "food": "salt soup onion"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    rows = [f"{text} {i};{label}" for i in range(12) for label, text in TEXTS.items()]
    (folder / "t.csv").write_text("\n".join(["text;label", *rows]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aft.commands.train.write_run_report", lambda out, _: out)
        aft.train(
            data=str(folder / "t.csv"),
            student="small:ngrams",
            out=folder / "run",
            steps=2,
            baselines=False,
            device="cpu",
            num_workers=0,
            progress=False,
        )
    return folder / "run"


def rows_of(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    if file.suffix == ".csv":
        return pyarrow.csv.read_csv(file).to_pylist()  # type: ignore[no-any-return]
    return pyarrow.parquet.read_table(file).to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("end", [".csv", ".jsonl", ".parquet"])
def test_the_columns_of_the_input_are_kept(run: Path, tmp_path: Path, end: str) -> None:
    data = tmp_path / "new.csv"
    data.write_bytes(b"id|text|label\n1|soup, onion|x\n2||y\n3|moon|caf\xe9\n")
    out = tmp_path / f"p{end}"
    found = aft.predict(run=run, data=str(data), out=out, probabilities=True, progress=False)
    assert found["rows"] == 2 and [file for file, _ in found["skipped"]] == ["new.csv[1]"]
    rows = rows_of(out)
    names = ["id", "text", "label", "predicted_label", "probability"]
    assert list(rows[0]) == [*names, "probability_food", "probability_space"]
    kept = [(str(row["id"]), row["text"], row["label"]) for row in rows]
    assert kept == [("1", "soup, onion", "x"), ("3", "moon", "caf\\xe9")]
    assert [row["predicted_label"] for row in rows] == ["food", "space"]
    assert all(row["probability"] == row[f"probability_{row['predicted_label']}"] for row in rows)


@pytest.mark.parametrize("end", [".csv", ".jsonl", ".parquet"])
def test_columns_of_any_type(run: Path, tmp_path: Path, end: str) -> None:
    table = pyarrow.table({"text": ["soup", "moon"], "raw": [b"\0", None], "parts": [[1], [2, 3]]})
    pyarrow.parquet.write_table(table, tmp_path / "new.parquet")
    data, out = str(tmp_path / "new.parquet"), tmp_path / f"p{end}"
    aft.predict(run=run, data=data, out=out, progress=False)
    rows = rows_of(out)
    assert [row["label"] for row in rows] == ["food", "space"]
    assert ("raw" in rows[0]) == (end == ".parquet")
    assert rows[1]["parts"] == ("[2, 3]" if end == ".csv" else [2, 3])
    lines = [{"text": "soup", "n": 1, "odd": {"a": 1}}, {"text": "moon", "n": "b", "odd": 2}]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = str(tmp_path / "new.jsonl")
    aft.predict(run=run, data=data, out=out, overwrite=True, progress=False)
    assert [str(row["n"]) for row in rows_of(out)] == ["1", "b"]


@pytest.mark.parametrize(
    ("content", "first", "labels"),
    [
        (b"id;text\n1;soup\n2;moon, orbit\n", "id", ["food", "space"]),
        (b"text\nsoup\nmoon\n", "text", ["food", "space"]),
        (b'{"text": "soup", "id": 1}\n{"text": "moon"}\n', "text", ["food", "space"]),
        (b'[{"text": "soup"}, {"text": "moon"}]', "text", ["food", "space"]),
        ("soup of the day\nmoon, orbit\n".encode("utf-16"), "file", ["food", "space"]),
    ],
    ids=["semicolons", "one column", "JSON lines", "JSON", "texts"],
)
def test_the_standard_streams(
    run: Path,
    content: bytes,
    first: str,
    labels: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    options = ["--run", str(run), "--device", "cpu", "--no-progress"]
    assert main(["predict", *options, "--data", "-", "--out", "-"]) == 0
    out, messages = capsys.readouterr()
    if content.lstrip()[:1] in (b"{", b"["):
        rows = [json.loads(line) for line in out.splitlines()]
    else:
        rows = pyarrow.csv.read_csv(io.BytesIO(out.encode())).to_pylist()
    assert [row["label"] for row in rows] == labels and next(iter(rows[0])) == first
    assert "2 rows" in messages


def test_what_cannot_be_written_or_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as error:
        aft.predict(run=run, data="-", out=Path("p.xlsx"))
    assert says(error.value, "p.xlsx", ".csv", ".jsonl", ".parquet")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(DataError):
        aft.predict(run=run, data="-", out=Path("p.csv"), progress=False)


def test_a_command_that_fails_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("text,label\n" + "soup,a\nmoon,b\nsalt,a\norbit,b\n" * 3)
    for out in (None, Path("runs/one")):
        with pytest.raises(aft.AftError):  # a student of pictures
            aft.train(data="t.csv", student="small:cnn", out=out, device="cpu", progress=False)
        assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
