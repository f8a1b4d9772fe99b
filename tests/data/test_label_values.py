"""Labels of tables: numbers, true/false, class names and lists, as people write them."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aft.data.loading import DataSet, load_data
from aft.data.readers.find_columns import Columns
from aft.data.readers.label_values import merge_names, read_words
from aft.errors import DataError
from aft.tasks import Task, as_number, encode_labels, infer_task
from helpers.errors import says

PRICES = [f"{100 + i * 1.5:g}" for i in range(30)]


def load(path: Path, *label: str, **options: Any) -> DataSet:
    return load_data(
        str(path), Columns(label=label), validation_fraction=0.0, progress=False, **options
    )


def table(path: Path, labels: list[str], head: str = "text,label") -> Path:
    rows = "".join(f"text {i},{label}\n" for i, label in enumerate(labels))
    path.write_text(f"{head}\n{rows}", encoding="utf-8")
    return path


def parquet(path: Path, labels: Any) -> Path:
    texts = [f"text {i}" for i in range(len(labels))]
    pq.write_table(pa.table({"text": texts, "label": labels}), path)
    return path


def labels_of(data: DataSet) -> list[Any]:
    assert data.splits["train"].labels is not None
    return data.splits["train"].labels.tolist()  # type: ignore[no-any-return]


# Numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["None", "inf", "-inf", "-", "?", "#N/A", '"1,5"', "12 kg", "1_0"])
@pytest.mark.parametrize("row", [0, 17, 30])
def test_a_word_among_numbers_is_named(tmp_path: Path, word: str, row: int) -> None:
    file = table(tmp_path / "t.csv", [*PRICES[:row], word, *PRICES[row:]])
    value = repr(word.strip('"'))
    with pytest.raises(DataError) as error:
        load(file)
    assert says(error.value, f"t.csv[{row}]", value, "'label'", "--task regression")
    assert says(error.value, "--task classification")
    with pytest.raises(DataError) as error:
        load(file, task="regression")
    assert says(error.value, f"t.csv[{row}]", value, "'label'")
    assert load(file, task="classification").task.num_outputs == 31


@pytest.mark.parametrize(
    "written", ["{},5", "{}.000,25", "{},000", "{}'000", "{} 000", "{}%", "${}", "{} €"]
)
def test_numbers_in_another_notation_are_no_classes(tmp_path: Path, written: str) -> None:
    labels = [f'"{written.format(i)}"' for i in range(1, 30)]
    with pytest.raises(DataError) as error:
        load(table(tmp_path / "t.csv", labels))
    assert says(error.value, "t.csv[0]", repr(written.format(1)), "29", "--task classification")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["1", "2", "x"], ("1", "2", "x")),
        (["1.0", "1", "2"], ("1", "2")),
        (["007", "7"], ("7", "007")),
        (["12345678901234567890123", "12345678901234567890124"], None),
        (["1|2", "2|3"], ("1|2", "2|3")),
        (["1.2.3", "2.0.1"], ("1.2.3", "2.0.1")),
        (["18-24", "65+"], ("18-24", "65+")),
    ],
)
def test_classes_that_look_like_numbers(
    tmp_path: Path, labels: list[str], names: tuple[str, ...] | None
) -> None:
    found = load(table(tmp_path / "t.csv", labels * 8)).task
    assert found == Task("classification", names or tuple(labels))


def test_a_rare_word_among_ratings_is_no_class(tmp_path: Path) -> None:
    ratings = [str(i % 5) for i in range(40)]
    with pytest.raises(DataError) as error:
        load(table(tmp_path / "t.csv", [*ratings, "-"]))
    assert says(error.value, "t.csv[40]", "'-'")
    assert load(table(tmp_path / "t.csv", [*ratings, *["none"] * 10])).task.num_outputs == 6


def test_words_for_a_missing_number_are_counted(tmp_path: Path) -> None:
    data = load(table(tmp_path / "t.csv", [*PRICES, "", "NA", "N/A", "nan", "null"]))
    assert data.task.kind == "regression" and len(data.splits["train"]) == 30
    assert data.report.unlabelled == 5


def test_numbers_stored_as_text_or_decimals(tmp_path: Path) -> None:
    quarters = [i / 4 for i in range(20)]
    for values in (list(map(str, quarters)), list(map(Decimal, quarters))):
        data = load(parquet(tmp_path / "t.parquet", values))
        assert data.task.kind == "regression"
        assert labels_of(data) == [[value] for value in quarters]


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    file = parquet(tmp_path / "t.parquet", [0.5, 1.5, float("inf"), 2.5])
    with pytest.raises(DataError) as error:
        load(file)
    assert says(error.value, "t.parquet[2]", "inf", "'label'")
    with pytest.raises(DataError) as error:
        load(table(tmp_path / "t.csv", [*PRICES, "1e39"]))
    assert says(error.value, "t.csv[30]", "1e+39")


def test_targets_must_differ_in_float32() -> None:
    days = 1.7e15 + np.arange(20.0)
    with pytest.raises(DataError) as error:
        encode_labels({"time": days.tolist()}, Task("regression", ("time",)))
    assert says(error.value, "'time'", "1.7e+15")
    years = (2000 + np.arange(20.0)).tolist()
    assert encode_labels({"y": years}, Task("regression", ("y",)))[:, 0].tolist() == years


@pytest.mark.parametrize(
    ("word", "number"),
    [("1", 1), ("-0.5", -0.5), ("1.", 1.0), (".5e3", 500.0), ("10" * 20, int("10" * 20))],
)
def test_words_that_are_numbers(word: str, number: float) -> None:
    assert as_number(word) == number and type(as_number(word)) is type(number)


@pytest.mark.parametrize("word", ["", "01", "1,5", "1_000", "inf", "nan", "٣", "0x1", "1 "])
def test_words_that_are_no_numbers(word: str) -> None:
    assert as_number(word) is None


# True and false -----------------------------------------------------------------------------------


def test_spellings_of_true_are_one_class(tmp_path: Path) -> None:
    words = ["True", "TRUE", "true", "1", "False", "0"]
    data = load(table(tmp_path / "t.csv", words * 4))
    assert data.task == Task("classification", ("False", "True"))
    assert labels_of(data) == [1, 1, 1, 1, 0, 0] * 4


def test_a_trained_student_knows_true_in_any_spelling(tmp_path: Path) -> None:
    task = load(table(tmp_path / "t.csv", ["true", "false"] * 4)).task
    assert task.names == ("false", "true")
    file = parquet(tmp_path / "t.parquet", [True, False, False])
    data = load(file, known_task=task)
    assert labels_of(data) == [1, 0, 0]


@pytest.mark.parametrize("words", [("True", "False"), ("TRUE", "false"), ("1", "0"), ("1.0", "0")])
def test_columns_of_true_and_false_are_multilabel(tmp_path: Path, words: tuple[str, str]) -> None:
    rows = [f"{words[i % 2]},{words[i % 3 > 0]}" for i in range(12)]
    data = load(table(tmp_path / "t.csv", rows, "text,red,round"), "red", "round")
    assert data.task == Task("multilabel", ("red", "round"))
    assert labels_of(data) == [[float(i % 2 == 0), float(i % 3 == 0)] for i in range(12)]


@pytest.mark.parametrize(
    ("cell", "task"), [("x", "auto"), ("2", "multilabel"), ("0.5", "multilabel")]
)
def test_an_odd_cell_of_several_columns_is_named(tmp_path: Path, cell: str, task: str) -> None:
    rows = [f"0,{cell if i == 7 else i % 2}" for i in range(12)]
    with pytest.raises(DataError) as error:
        load(table(tmp_path / "t.csv", rows, "text,red,round"), "red", "round", task=task)
    assert says(error.value, "t.csv[7]", "'round'", cell)


# Names --------------------------------------------------------------------------------------------


def test_spaces_and_unicode_forms_make_no_classes(tmp_path: Path) -> None:
    words = ["neg", "neg ", " pos", "pos", "caf\u00e9", "cafe\u0301"]
    data = load(table(tmp_path / "t.csv", words * 4, "text, label "))
    assert data.task.names == ("caf\u00e9", "neg", "pos")
    assert [note.count("'neg'") + note.count("'pos'") for note in data.report.notes].count(0) == 1
    assert len(data.report.notes) == 3 and "e\\u0301" in "".join(data.lines())
    clean = load(table(tmp_path / "t.csv", ["neg", "pos"] * 4))
    assert not clean.report.notes


def test_class_folders_in_another_unicode_form(tmp_path: Path) -> None:
    for split, name in (("train", "caf\u00e9"), ("test", "cafe\u0301")):
        for folder in (name, "tea"):
            (tmp_path / split / folder).mkdir(parents=True)
            for i in range(3):
                (tmp_path / split / folder / f"{i}.txt").write_text(f"{split} {folder} {i}")
    data = load(tmp_path)
    assert data.task.names == ("caf\u00e9", "tea") and len(data.report.notes) == 1


def test_lists_keep_the_names_of_the_data_set(tmp_path: Path) -> None:
    import datasets

    names = datasets.ClassLabel(names=["joy", "anger", "fear"])
    features = datasets.Features(
        {"text": datasets.Value("string"), "labels": datasets.Sequence(names)}
    )
    rows = {"text": ["a", "b", "c", "d"], "labels": [[0], [1, 0], [], [1]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "hf")
    data = load(tmp_path / "hf")
    assert data.task == Task("multilabel", ("joy", "anger", "fear"))
    assert labels_of(data) == [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]]
    assert data.report.empty_classes == ["fear"] and any("fear" in line for line in data.lines())


def test_splits_of_a_data_set_that_name_their_classes_differently(tmp_path: Path) -> None:
    import datasets

    parts = {}
    for split, names in (("train", ["a", "b"]), ("test", ["b", "a"])):
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
        )
        rows = {"text": [f"{split} {i}" for i in range(4)], "label": [0, 1, 0, 1]}
        parts[split] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "hf")
    with pytest.raises(DataError) as error:
        load(tmp_path / "hf")
    assert says(error.value, tmp_path / "hf")


def test_splits_that_are_not_used_are_counted(tmp_path: Path) -> None:
    import datasets

    parts = {
        name: datasets.Dataset.from_dict(
            {"text": [f"{name} {i}" for i in range(rows)], "label": [i % 2 for i in range(rows)]}
        )
        for name, rows in (("train", 8), ("extra", 1234))
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "hf")
    (note,) = load(tmp_path / "hf").report.notes
    assert "'extra'" in note and "1,234" in note


def test_nulls_in_lists_are_no_class(tmp_path: Path) -> None:
    rows = [["a", None], [None], [" b"], []] * 3
    file = tmp_path / "t.jsonl"
    lines = [{"text": f"text {i}", "label": row} for i, row in enumerate(rows)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = load(file)
    assert data.task == Task("multilabel", ("a", "b"))
    assert data.report.unlabelled == 3 and labels_of(data) == [[1, 0], [0, 1], [0, 0]] * 3


@pytest.mark.parametrize("value", [{"a": 1}, [["a"]], [{"a": 1}]])
def test_labels_of_other_types_are_named(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError) as error:
        load(parquet(tmp_path / "t.parquet", [value] * 3))
    assert says(error.value, tmp_path / "t.parquet", "'label'", "row 0")


def test_names_in_functions_of_their_own() -> None:
    assert read_words(["1", " 2.5", None, "NA"]) == [1, 2.5, None, None]
    assert read_words(["a ", "b"]) == ["a ", "b"] and read_words([1.5, "x"]) == [1.5, "x"]
    assert merge_names([["a "], "b", 3, None], "c") == ([["a"], "b", 3, None], [])
    with pytest.raises(DataError) as error:
        infer_task({"y": [0.5, 1.5, "x"]}, None, "auto")
    assert says(error.value, "row 2", "'x'")
