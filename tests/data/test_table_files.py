"""Delimiters and encodings of tables and texts, found out or given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aft.config.commands import InspectConfig, resolve
from aft.data.loading import DataSet, load_data, load_inputs
from aft.data.options import asked_columns
from aft.data.readers.find_columns import Columns
from aft.errors import ConfigError, DataError
from helpers.errors import says

MARKS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def read(file: Path, content: bytes, **options: Any) -> DataSet:
    file.write_bytes(content)
    return load_data(str(file), Columns(**options), validation_fraction=0.0, progress=False)


def texts_of(data: DataSet) -> list[Any]:
    return [data.splits["train"].input(i) for i in range(len(data.splits["train"]))]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize(("end", "usual"), [("csv", ","), ("tsv", "\t"), ("txt", ",")])
def test_delimiters_are_found(tmp_path: Path, end: str, usual: str, mark: str) -> None:
    texts = [f"one, two; three | {i}" for i in range(4)]
    rows = [f'"{text}"{mark}{"ab"[i % 2]}' for i, text in enumerate(texts)]
    data = read(tmp_path / f"t.{end}", "\n".join([f"text{mark}label", *rows]).encode())
    assert texts_of(data) == texts and data.task.names == ("a", "b")
    said = " ".join(data.report.notes)
    assert ("--delimiter" in said) == (MARKS[mark] in said) == (mark != usual)


@pytest.mark.parametrize(
    ("header", "row", "text", "found"),
    [
        ("text;label", "a, {};{}", "text", "a, {}"),  # commas in every text
        ("text|label", "a; {}, b|{}", "text", "a; {}, b"),
        ("x,y;label", "1,{};{}", "x,y", "1,{}"),  # as many commas as in the header
        ("a,text;label", "1,{};{}", "a,text", "1,{}"),
        ("id,text,label", "1;2|3,{},{}", "text", "{}"),
    ],
)
def test_texts_do_not_decide(tmp_path: Path, header: str, row: str, text: str, found: str) -> None:
    rows = [row.format(i, "ab"[i % 2]) for i in range(4)]
    data = read(tmp_path / "t.csv", "\n".join([header, *rows]).encode(), text=(text,))
    assert texts_of(data) == [found.format(i) for i in range(4)]


def test_a_given_delimiter(tmp_path: Path) -> None:
    content = b"text:label\na;b:x\nc;d:y\n"
    assert texts_of(read(tmp_path / "t.csv", content, delimiter=":")) == ["a;b", "c;d"]
    given = resolve(InspectConfig, None, {"path": "x", "delimiter": "tab", "encoding": "cp1252"})
    assert asked_columns(given).delimiter == "\t" and asked_columns(given).encoding == "cp1252"
    for options in ({"delimiter": "ab"}, {"delimiter": '"'}, {"encoding": "base64"}):
        with pytest.raises(ConfigError) as error:
            resolve(InspectConfig, None, options)
        assert says(error.value, *options, *options.values())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["csv", "jsonl", "txt"])
def test_byte_order_marks(tmp_path: Path, end: str, encoding: str) -> None:
    content = {
        "csv": "text,label\ncafé,a\nthé,b\n",
        "jsonl": '{"text": "café", "label": "a"}\n{"text": "thé", "label": "b"}\n',
        "txt": "text\tlabel\ncafé\ta\nthé\tb\n",
    }[end]
    data = read(tmp_path / f"t.{end}", content.encode(encoding), encoding="cp1252")
    assert texts_of(data) == ["café", "thé"]
    data = read(tmp_path / f"t.{end}", content.encode(encoding))
    assert (encoding.upper() in " ".join(data.report.notes)) == (encoding != "utf-8-sig")


def test_encodings_that_are_given(tmp_path: Path) -> None:
    content = "text,label\ncafé,a\nthé,b\n"
    for encoding in ("cp1252", "utf-16-le", "shift_jis_2004"):
        data = read(tmp_path / "t.csv", content.encode(encoding), encoding=encoding)
        assert texts_of(data) == ["café", "thé"]
    for encoding in ("cp1252", "utf-16-le"):  # not given
        with pytest.raises(DataError) as error:
            read(tmp_path / "t.csv", content.encode(encoding))
        assert says(error.value, "t.csv", "--encoding")
    with pytest.raises(DataError) as error:
        read(tmp_path / "t.csv", content.encode(), encoding="ascii")
    assert says(error.value, "t.csv", "ascii", "--encoding")


def test_texts_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "lines.txt").write_bytes(b"caf\xe9\n")
    for source in ("texts", "lines.txt"):
        columns = Columns(encoding="latin-1")
        samples, _ = load_inputs(str(tmp_path / source), columns, progress=False)
        assert samples.input(0) == "café"


def test_guessed_labels_are_said(tmp_path: Path) -> None:
    def said(labels: list[str], **options: Any) -> str:
        rows = [json_row(i, label) for i, label in enumerate(labels * 5)]
        file = tmp_path / "t.jsonl"
        file.write_text("".join(rows))
        data = load_data(str(file), validation_fraction=0.0, progress=False, **options)
        return " ".join(data.report.notes)

    def json_row(i: int, label: str) -> str:
        return f'{{"text": "{i}", "label": {label}}}\n'

    assert "--task regression" in said(["1", "2", "3"])
    assert "--task regression" in said(["1", "2", "3", '"none"'])
    assert "'a|b'" in said(['"a|b"', '"c"']) and "--task multilabel" in said(['"a;b"', '"c"'])
    assert "5 empty" in said(['"a|b"', '"c"', '""'], task="multilabel")
    assert (
        not said(["0", "1"]) + said(['"a"', '"b"']) + said(["1", "2", "3"], task="classification")
    )
    assert not said(['"a|b"', '"c"', '"|"'], task="multilabel")
