"""Unlabelled rows: where they come from, which are left out, and that the splits stay as is."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import aft
from aft.config.commands import TrainConfig
from aft.config.groups import LEFT_OUT
from aft.data.options import load_training_data
from aft.data.readers.find_columns import Columns
from aft.errors import ConfigError, DataError
from helpers.errors import says
from helpers.unlabelled_data import Folder, inputs, load, same_splits, table, texts


class TestRowsOfTheDataSet:
    def test_are_used_and_counted(self, tmp_path: Path) -> None:
        rows = texts()
        for i in (3, 17, 20):
            rows[i]["label"] = None
        data = load(table(tmp_path / "t.jsonl", rows))
        assert inputs(data.unlabelled) == ["text 3", "text 17", "text 20"]
        assert data.report.unlabelled == 3 and data.report.unlabelled_used == 3
        (line,) = data.lines()
        assert line.startswith("3 ")
        described = data.describe()
        assert described["unlabelled"] == 3 and described["unlabelled_used"] == 3

    def test_labelled_rows_stay_in_their_splits(self, tmp_path: Path) -> None:
        rows = texts()
        more = [row for i in range(40) for row in (rows[i], {"text": f"new {i}", "label": None})]
        options: dict[str, Any] = {"test_fraction": 0.3, "train_fraction": 0.5, "seed": 4}
        plain = load(table(tmp_path / "rows.jsonl", rows), **options)
        mixed = load(table(tmp_path / "more.jsonl", more), **options)
        assert plain.unlabelled is None and plain.lines()[1:] == []
        for name, split in plain.splits.items():
            assert (split.ids == mixed.splits[name].ids).all()
        assert len(inputs(mixed.unlabelled)) == 40

    def test_splits_are_the_same_as_before_unlabelled_rows_were_supported(
        self, tmp_path: Path
    ) -> None:
        rows = texts(20)
        for i in range(0, 20, 5):
            rows.insert(i, {"text": f"new {i}", "label": None})
        data = load(
            table(tmp_path / "t.jsonl", rows),
            test_fraction=0.2,
            train_fraction=0.5,
            validation_fraction=0.3,
            seed=3,
            unlabelled=LEFT_OUT,
        )
        found = {
            name: [int(str(split.input(i)).split()[1]) for i in range(len(split))]
            for name, split in data.splits.items()
        }
        assert found == {
            "train": [1, 6, 13, 17, 18],
            "test": [2, 5, 8, 11],
            "validation": [9, 10, 16],
        }
        assert len(inputs(data.unlabelled)) == 4 + 8

    def test_rows_of_held_out_splits_are_left_out(self, tmp_path: Path) -> None:
        rows = texts(split="train") + [
            {"text": f"{split} {i}", "label": label, "split": split}
            for split, labels in (("validation", "ab"), ("test", (None, None, None)))
            for i, label in enumerate((*labels, None))
        ]
        rows[0]["label"] = None
        data = load(table(tmp_path / "t.jsonl", rows))
        assert inputs(data.unlabelled) == ["text 0"]
        assert {name: len(split) for name, split in data.splits.items()} == {
            "train": 39,
            "validation": 2,
        }
        report = data.report
        assert (report.unlabelled_used, report.unlabelled_left_out) == (1, 5)
        assert report.unlabelled_splits == ["test"]
        used, left_out, unused = data.lines()
        assert used.startswith("1 ") and left_out.startswith("5 ") and "test split" in unused

    def test_duplicates_and_labelled_contents(self, tmp_path: Path) -> None:
        rows = [*texts(split="train"), {"text": "held", "label": "a", "split": "test"}]
        for text in ("held", "text 1", "new", "new", "text 2", "new", "other"):
            rows.append({"text": text, "label": None, "split": "train"})
        data = load(table(tmp_path / "t.jsonl", rows))
        assert inputs(data.unlabelled) == ["new", "other"]
        assert [line.split()[0] for line in data.lines()] == ["2", "3", "2"]
        report = data.report
        assert report.unlabelled_used == 2 and report.unlabelled_left_out == 0
        assert report.unlabelled_seen == 3 and report.unlabelled_copies == 2
        described = data.describe()
        assert described["same_content_in_unlabelled_and_labelled"] == 3
        assert described["duplicates_in_unlabelled"] == 2

    def test_rows_held_out_of_train_count_as_labelled(self, tmp_path: Path) -> None:
        rows = texts() + [{**row, "label": None} for row in texts()]
        data = load(table(tmp_path / "t.jsonl", rows), test_fraction=0.3)
        assert data.unlabelled is None and data.report.unlabelled_seen == 40

    def test_empty_and_unreadable_rows(self, tmp_path: Path) -> None:
        lines = [json.dumps(row) for row in texts()]
        lines += ['{"text": " ", "label": null}', '{"text": "\\ud83d", "label": null}']
        path = tmp_path / "t.jsonl"
        path.write_text("\n".join([*lines, ""]))
        data = load(path)
        assert data.unlabelled is None
        assert [file for file, _ in data.report.bad_inputs] == ["t.jsonl[41]"]
        assert data.report.unlabelled_left_out == 1
        assert data.lines()[-1].startswith("1 ")
        with pytest.raises(DataError, match=r"t\.jsonl\[41\]"):
            load(path, on_bad_input="fail")
        path.write_text("\n".join(lines[:-1]))
        assert load(path, on_bad_input="fail").unlabelled is None

    def test_folders_of_texts_without_labels(self, tmp_path: Path) -> None:
        for name in ("train/pos", "train/neg", "train/unsup"):
            (tmp_path / name).mkdir(parents=True)
            for i in range(10):
                (tmp_path / name / f"{i}.txt").write_text(f"{name} {i}")
        data = load(tmp_path)
        assert inputs(data.unlabelled) == [f"train/unsup {i}" for i in range(10)]
        assert data.unlabelled is not None and data.unlabelled.files[0] == "train/unsup/0.txt"

    def test_scoring_reads_no_unlabelled_rows(self, tmp_path: Path) -> None:
        rows = texts()
        rows[0]["label"] = None
        path = table(tmp_path / "t.jsonl", rows)
        data = load(path, for_training=False, unlabelled="nowhere.csv")
        assert data.unlabelled is None and len(data.splits["all"]) == 39
        assert data.report.unlabelled_left_out == 1 and data.report.unlabelled_used == 0
        (line,) = data.lines()
        assert line.startswith("1 ")


class TestNamedSource:
    @pytest.fixture
    def labelled(self, tmp_path: Path) -> Path:
        return table(tmp_path / "t.jsonl", texts())

    def test_lines_of_text(self, labelled: Path, tmp_path: Path) -> None:
        (tmp_path / "more.txt").write_bytes(b"one\ntwo\n\xe9\ntext 3\none\n\n")
        data = load(labelled, unlabelled=str(tmp_path / "more.txt"))
        assert inputs(data.unlabelled) == ["one", "two"]
        assert [file for file, _ in data.report.bad_inputs] == [
            f"{tmp_path}/more.txt: more.txt[2]",
            f"{tmp_path}/more.txt: more.txt[5]",
        ]
        assert "0xe9 at 0" in data.report.bad_inputs[0][1]
        assert data.report.unlabelled_seen == 1 and data.report.unlabelled_copies == 1
        assert data.describe()["unlabelled_source"] == str(tmp_path / "more.txt")
        assert same_splits(load(labelled), data)
        with pytest.raises(DataError) as error:
            load(labelled, unlabelled=str(tmp_path / "more.txt"), on_bad_input="fail")
        assert says(error.value, f"--unlabelled {tmp_path / 'more.txt'}", "more.txt[2]")

    @pytest.mark.parametrize("name", ["text", "sentence"])
    def test_table_with_and_without_the_name(
        self, labelled: Path, tmp_path: Path, name: str
    ) -> None:
        (tmp_path / "more.csv").write_text(f"number,{name}\n1,one\n2,two\n")
        data = load(labelled, unlabelled=str(tmp_path / "more.csv"))
        assert inputs(data.unlabelled) == ["one", "two"]
        assert data.unlabelled is not None and data.unlabelled.columns[0].name == "text"

    def test_named_columns_of_the_data_are_used(self, tmp_path: Path) -> None:
        rows = [{"words": row["text"], "kind": row["label"]} for row in texts()]
        more = [{"words": f"new {i}", "text": "not this", "kind": "x"} for i in range(3)]
        data = load(
            table(tmp_path / "t.jsonl", rows),
            Columns(text=("words",), label=("kind",)),
            unlabelled=str(table(tmp_path / "more.jsonl", more)),
        )
        assert inputs(data.unlabelled) == ["new 0", "new 1", "new 2"]

    def test_joins_rows_of_the_data_set(self, labelled: Path, tmp_path: Path) -> None:
        rows = [*texts(), {"text": "own", "label": None}]
        (tmp_path / "more.txt").write_text("given\nown\n")
        data = load(table(tmp_path / "rows.jsonl", rows), unlabelled=str(tmp_path / "more.txt"))
        assert inputs(data.unlabelled) == ["own", "given"]
        assert data.report.unlabelled == 1 and data.report.unlabelled_used == 2

    def test_its_held_out_splits_are_left_out(self, labelled: Path, tmp_path: Path) -> None:
        rows = [{"text": f"{split} 1", "split": split} for split in ("train", "test")]
        data = load(labelled, unlabelled=str(table(tmp_path / "more.jsonl", rows)))
        assert inputs(data.unlabelled) == ["train 1"]
        assert data.report.unlabelled_left_out == 1
        assert data.lines()[-1].startswith("1 ")
        with pytest.raises(DataError) as error:
            load(labelled, unlabelled=str(table(tmp_path / "more.jsonl", rows[1:])))
        assert says(error.value, f"--unlabelled {tmp_path / 'more.jsonl'}", "train", "only test")

    def test_errors(self, labelled: Path, tmp_path: Path, picture_folder: Folder) -> None:
        folder = picture_folder()
        (tmp_path / "more.csv").write_text("first,second\n1,2\n")
        (tmp_path / "empty.txt").write_text(" \n\n")
        for source, values in (
            (folder, ("text 'text'", "image 'image'")),
            (tmp_path / "more.csv", ("first, second", "'text'")),
            ("./nowhere", (Path.cwd(),)),
            (tmp_path / "empty.txt", ("2 inputs", "empty.txt[0]")),
        ):
            with pytest.raises(DataError) as error:
                load(labelled, unlabelled=str(source))
            assert says(error.value, f"--unlabelled {source}", *values)

    def test_all_rows_are_labelled_rows(self, labelled: Path) -> None:
        data = load(labelled, unlabelled=str(labelled))
        assert data.unlabelled is None and data.report.unlabelled_seen == 40
        assert same_splits(load(labelled), data)


class TestLeftOut:
    def test_are_the_rows_that_the_fraction_leaves_out(self, tmp_path: Path) -> None:
        path = table(tmp_path / "t.jsonl", texts(80))
        options: dict[str, Any] = {"train_fraction": 0.25, "test_fraction": 0.25, "seed": 2}
        plain, data = load(path, **options), load(path, unlabelled=LEFT_OUT, **options)
        assert same_splits(plain, data) and plain.unlabelled is None
        every = {row["text"] for row in texts(80)}
        for split in data.splits.values():
            every -= {split.input(i) for i in range(len(split))}
        assert set(inputs(data.unlabelled)) == every and len(every) == 45
        assert data.train_rows == (15, 60) and data.report.unlabelled_used == 45
        share, used = data.lines()
        assert all(value in share for value in ("15 of 60", "--train-fraction 0.25"))
        assert share not in plain.lines() and used.startswith("45 ")
        assert data.report.unlabelled == 0

    def test_with_unlabelled_rows_and_duplicates_of_test(self, tmp_path: Path) -> None:
        rows = texts(40, split="train")
        rows += [{"text": f"text {i}", "label": "ab"[i % 2], "split": "test"} for i in range(40)]
        rows += [{"text": "new", "label": None, "split": "train"}]
        path = table(tmp_path / "t.jsonl", rows)
        data = load(path, train_fraction=0.5, unlabelled=LEFT_OUT)
        assert inputs(data.unlabelled) == ["new"] and data.report.unlabelled_seen == 20

    def test_pictures(self, picture_folder: Folder) -> None:
        data = load(picture_folder(), train_fraction=0.5, unlabelled=LEFT_OUT)
        assert len(inputs(data.unlabelled)) == 30

    def test_nothing_is_left_out(self, tmp_path: Path) -> None:
        path = table(tmp_path / "t.jsonl", texts())
        with pytest.raises(DataError) as error:
            load(path, unlabelled=LEFT_OUT)
        assert says(error.value, "--unlabelled left-out", "--train-fraction")


class TestCommands:
    def test_the_option_of_a_run(self, tmp_path: Path) -> None:
        path = table(tmp_path / "t.jsonl", texts())
        (tmp_path / "more.txt").write_text("one\ntwo\n")
        config = TrainConfig(
            data=str(path),
            student=("small:static",),
            unlabelled=str(tmp_path / "more.txt"),
            progress=False,
        )
        data = load_training_data(config)
        assert inputs(data.unlabelled) == ["one", "two"]
        (tmp_path / "more.txt").unlink()  # scoring a run needs its splits alone
        again = load_training_data(config, data.task, unlabelled=False)
        assert again.unlabelled is None and same_splits(data, again)
        with pytest.raises(ConfigError, match="unlabelled"):
            aft.train(data=str(path), student="small:static", unlabelled=3)

    def test_inspect_counts_and_writes_ids(self, tmp_path: Path) -> None:
        rows = texts()
        rows[0]["label"] = None
        found = aft.inspect(
            data=str(table(tmp_path / "t.jsonl", rows)), ids=tmp_path / "ids.csv", progress=False
        )
        assert any(line.strip().startswith("1 ") for line in found["lines"])
        assert any("40 rows" in line and f"{tmp_path}/ids.csv" in line for line in found["lines"])
        assert found["data"]["unlabelled_used"] == 1
        with (tmp_path / "ids.csv").open() as file:
            written = list(csv.DictReader(file))
        assert [row["file"] for row in written if row["split"] == "unlabelled"] == ["t.jsonl[0]"]
        assert len(written) == 40
