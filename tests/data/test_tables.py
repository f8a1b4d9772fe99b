"""Tables as spreadsheets and scripts write them: quotes, encodings, column names and sizes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aft.data.loading import DataSet, load_data
from aft.data.readers import tables
from aft.data.readers.find_columns import Columns
from aft.errors import DataError
from helpers.errors import says


def load(path: Path, **options: Any) -> DataSet:
    columns = Columns(**options)
    return load_data(str(path), columns, validation_fraction=0.0, progress=False)


def texts_of(data: DataSet) -> list[Any]:
    train = data.splits["train"]
    return [train.input(i) for i in range(len(train))]


def lines(texts: list[str], mark: str) -> str:
    rows = [f"{i}{mark}{text}{mark}{'ab'[i % 2]}" for i, text in enumerate(texts)]
    return "\n".join([mark.join(("index", "text", "label")), *rows, ""])


# Quotation marks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "texts",
    [
        ['"one', "two", '"three', "four"],
        ['"one', "two", 'three"', "four"],
        ['"one" said', 'two ""', '"', '"three"'],
        ['"one', "two", "three", "four"],
    ],
)
def test_every_line_of_a_tsv_is_a_row(tmp_path: Path, texts: list[str]) -> None:
    file = tmp_path / "t.tsv"
    file.write_text(lines(texts, "\t"))
    assert texts_of(load(file)) == texts


@pytest.mark.parametrize("texts", [['"a ""b"" c"', "d"], ['"a\tb"', "c"], ['"a\nb"', '"c"']])
def test_cells_of_a_tsv_that_are_quoted(tmp_path: Path, texts: list[str]) -> None:
    file = tmp_path / "t.tsv"
    file.write_text(lines(texts, "\t"))
    found = [text.strip('"').replace('""', '"') for text in texts]
    assert texts_of(load(file)) == found


@pytest.mark.parametrize(
    ("end", "mark", "texts"),
    [
        (".csv", ",", ["one", '"two', "three", '"four', "five"]),
        (".csv", ",", ["one", '"two', "three", "four", "five"]),
        (".tsv", "\t", ["one", '"two', "three", '"four', "five\tsix"]),
    ],
)
def test_a_mark_that_swallows_rows_is_named(
    tmp_path: Path, end: str, mark: str, texts: list[str]
) -> None:
    file = tmp_path / f"t{end}"
    file.write_text(lines(texts, mark))
    with pytest.raises(DataError) as error:
        load(file)
    assert says(error.value, file, "line 3")


def test_texts_of_several_lines(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(lines(['"one\ntwo, ""x"""', "three", '"four\n\nfive"'], ","))
    assert texts_of(load(file)) == ['one\ntwo, "x"', "three", "four\n\nfive"]


def test_semicolons_between_cells(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(lines(["one, two", "three"], ";"))
    assert texts_of(load(file)) == ["one, two", "three"]


# Columns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["split", "Split", "SPLIT", " split "])
def test_the_split_column_in_any_case(tmp_path: Path, name: str) -> None:
    rows = [f"text {i},{'ab'[i % 2]},{' Test' if i > 5 else 'TRAIN '}" for i in range(9)]
    (tmp_path / "t.csv").write_text("\n".join([f"Text,Label,{name}", *rows]) + "\n")
    data = load(tmp_path / "t.csv")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "test": 3}


def test_a_row_without_a_split_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label,split\na,b,train\nc,d,\n")
    with pytest.raises(DataError) as error:
        load(tmp_path / "t.csv")
    assert says(error.value, tmp_path / "t.csv", "row 1")


def test_columns_without_a_name_or_of_any_type(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label,,\na,x,,\nb,y,,\n")
    assert load(tmp_path / "t.csv").task.names == ("x", "y")
    maps = pa.array([[("k", 1)]] * 2, pa.map_(pa.string(), pa.int64()))
    columns = [pa.array(["a", "b"]), pa.array(["x", "y"]), maps, maps, maps]
    table = pa.Table.from_arrays(columns, ["text", "label", "title", "other", "other"])
    pq.write_table(table, tmp_path / "t.parquet")
    data = load(tmp_path / "t.parquet")
    title, other = data.report.unused
    assert data.task.names == ("x", "y") and "map" in title and other == "other"


@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_needed_columns_are_there_once(tmp_path: Path, end: str) -> None:
    file = tmp_path / f"t.{end}"
    if end == "csv":
        file.write_text("text,label,label\na,x,y\n")
    else:
        columns = [pa.array(["a"]), pa.array(["x"]), pa.array(["y"])]
        pq.write_table(pa.Table.from_arrays(columns, ["text", "label", "label"]), file)
    with pytest.raises(DataError) as error:
        load(file)
    assert says(error.value, file, "'label'")


@pytest.mark.parametrize("named", [{}, {"label": ("label",)}])
def test_a_needed_column_of_an_unknown_type(tmp_path: Path, named: dict[str, Any]) -> None:
    maps = pa.array([[("k", 1)]] * 2, pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"text": ["a", "b"], "label": maps}), tmp_path / "t.parquet")
    with pytest.raises(DataError) as error:
        load(tmp_path / "t.parquet", **named)
    assert says(error.value, tmp_path / "t.parquet", "map<string, int64", "--label-column")


def test_no_column_that_is_known(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("one,two,two\na,x,y\n")
    with pytest.raises(DataError) as error:
        load(tmp_path / "t.csv")
    assert says(error.value, "one, two, two", "--text-column")


def test_half_characters_in_a_column_name(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": i % 2, "x\ud800": 1} for i in range(8)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (name,) = load(tmp_path / "t.jsonl").report.unused
    assert name == "x\\ud800"


# Encodings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [".csv", ".tsv"])
@pytest.mark.parametrize("head", ["text", "caf\u00e9"])
def test_latin_1_is_named(tmp_path: Path, end: str, head: str) -> None:
    mark = "\t" if end == ".tsv" else ","
    words = ["tea", "caf\u00e9", "caf\u00e9"] * 4
    rows = [f"{word} {i}{mark}{'ab'[i % 2]}" for i, word in enumerate(words)]
    content = "\n".join([f"{head}{mark}label", *rows, ""])
    file = tmp_path / f"t{end}"
    file.write_text(content, encoding="utf-8-sig")
    assert len(load(file, text=(head,)).splits["train"]) == 12
    file.write_text(content, encoding="latin-1")
    with pytest.raises(DataError) as error:
        load(file, text=(head,))
    assert says(error.value, "t" + end, "Latin-1", "0xe9", "--encoding")
    file.write_text(content, encoding="utf-16")
    assert len(load(file, text=(head,)).splits["train"]) == 12


# Size ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored_as", ["text", "dictionary"])
def test_parquet_that_grows_in_memory_is_refused(
    tmp_path: Path, stored_as: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 2000
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * 5000])
    table = pa.table({"text": texts, "label": ["a", "b"] * (rows // 2)})
    if stored_as == "text":
        table = table.cast(pa.schema([("text", pa.string()), ("label", pa.string())]))
    pq.write_table(table, tmp_path / "t.parquet")
    size = (tmp_path / "t.parquet").stat().st_size
    assert load(tmp_path / "t.parquet").splits["train"].input(0) == "x" * 5000
    monkeypatch.setattr(tables, "_LEAST_LIMIT", 5_000_000)
    with pytest.raises(DataError) as error:
        load(tmp_path / "t.parquet")
    assert says(error.value, tmp_path / "t.parquet", f"{size:,}")


def test_an_empty_parquet_table(tmp_path: Path) -> None:
    schema = pa.schema([("text", pa.string()), ("label", pa.string())])
    pq.write_table(schema.empty_table(), tmp_path / "t.parquet")
    with pytest.raises(DataError) as error:
        load(tmp_path / "t.parquet")
    assert says(error.value, tmp_path / "t.parquet")


def test_categories_and_class_names_of_parquet(tmp_path: Path) -> None:
    import datasets
    import pandas as pd

    frame = pd.DataFrame({"text": list("abcd"), "label": pd.Categorical(list("xyxy"))})
    frame.to_parquet(tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet").task.names == ("x", "y")
    names = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    rows = {"text": list("abcd"), "label": [0, 1, 0, 1]}
    buffer = io.BytesIO()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(buffer)
    (tmp_path / "t.parquet").write_bytes(buffer.getvalue())
    assert load(tmp_path / "t.parquet").task.names == ("no", "yes")
