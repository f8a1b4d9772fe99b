"""Read texts from tables and files; report unreadable ones."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from aft.data.loading import DataSet, load_data, load_inputs
from aft.data.readers.find_columns import Columns, InputColumn
from aft.data.samples import match_columns
from aft.data.texts import find_fault, is_empty, read_text
from aft.errors import DataError
from aft.ids import content_id
from aft.tasks import Task
from helpers.errors import says


def load(source: Path, columns: Columns | None = None, **options: object) -> DataSet:
    return load_data(str(source), columns, progress=False, **options)  # type: ignore[arg-type]


def json_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lists(bad_inputs: list[tuple[str, str]], *expected: tuple[str, ...]) -> bool:
    """Whether these files are listed in this order, each with a fault that has its values."""
    return [file for file, _ in bad_inputs] == [file for file, *_ in expected] and all(
        value in fault
        for (_, fault), (_, *values) in zip(bad_inputs, expected, strict=True)
        for value in values
    )


def texts(count: int = 20, name: str = "text") -> list[dict[str, object]]:
    return [{name: f"sample {i}", "label": "ab"[i % 2]} for i in range(count)]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    match path.suffix:
        case ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        case ".json":
            path.write_text(json.dumps(rows))
        case ".jsonl":
            json_lines(path, rows)
        case end:
            options = pyarrow.csv.WriteOptions(delimiter="\t" if end == ".tsv" else ",")
            pyarrow.csv.write_csv(pyarrow.Table.from_pylist(rows), path, options)
    return path


class TestTables:
    @pytest.mark.parametrize("end", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
    def test_formats(self, tmp_path: Path, end: str) -> None:
        rows = texts(30)
        rows[3]["text"] = 'a "quoted", long\nline — ü'
        for i, row in enumerate(rows):
            row["split"] = ("train", "dev", "test")[i % 3]
        data = load(write(tmp_path / f"t{end}", rows))
        train = data.splits["train"]
        assert {name: len(split) for name, split in data.splits.items()} == {
            "train": 10,
            "validation": 10,
            "test": 10,
        }
        assert train.columns == (InputColumn("text", "text"),)
        assert train.input(1) == rows[3]["text"] and train.files[1] == f"t{end}[3]"
        expected = content_id(str(rows[3]["text"]).encode())
        assert train.ids[1].tobytes() == train.parts[1, 0].tobytes() == expected
        assert train.present.all() and data.task.names == ("a", "b")
        assert data.describe()["columns"] == {"text": "text"}
        assert data.describe()["missing"] == {}

    def test_split_tables_of_which_one_is_not_utf8(self, tmp_path: Path) -> None:
        write(tmp_path / "train.csv", texts(20))
        (tmp_path / "test.csv").write_bytes(b"text,label\nfine,a\ncaf\xe9,b\nalso fine,b\n")
        data = load(tmp_path)
        assert len(data.splits["test"]) == 2 and data.splits["test"].input(1) == "also fine"
        assert lists(data.report.bad_inputs, ("test.csv[1]", "0xe9 at 3"))

    @pytest.mark.parametrize("name", ["Sentence", "review", "content", "title", "tweet"])
    def test_usual_names(self, tmp_path: Path, name: str) -> None:
        data = load(json_lines(tmp_path / "t.jsonl", texts(name=name)))
        assert data.splits["train"].columns == (InputColumn(name, "text"),)

    def test_a_named_column_is_the_only_input(self, tmp_path: Path) -> None:
        rows = [{**row, "remark": f"remark {i}"} for i, row in enumerate(texts())]
        data = load(json_lines(tmp_path / "t.jsonl", rows), Columns(text=("remark",)))
        assert data.splits["train"].columns == (InputColumn("remark", "text"),)

    def test_paths_of_text_files_are_not_images(self, tmp_path: Path) -> None:
        rows = [{**row, "file": f"{i}.txt"} for i, row in enumerate(texts())]
        data = load(json_lines(tmp_path / "t.jsonl", rows))
        assert data.splits["train"].columns == (InputColumn("text", "text"),)

    def test_scores_are_targets(self, tmp_path: Path) -> None:
        rows = [{"sentence": f"s {i}", "score": i / 4} for i in range(20)]
        assert load(json_lines(tmp_path / "t.jsonl", rows)).task == Task("regression", ("score",))

    def test_leading_zeros_of_texts_are_kept(self, tmp_path: Path) -> None:
        file = tmp_path / "t.csv"
        file.write_text("text,label\n" + "".join(f"00{i},{i % 2}\n" for i in range(20)))
        assert load(file).splits["train"].input(0) == "000"

    def test_named_whole_numbers_become_text(self, tmp_path: Path) -> None:
        rows = [{"text": i, "label": i % 2} for i in range(20)]
        file = json_lines(tmp_path / "t.jsonl", rows)
        assert load(file, Columns(text=("text",))).splits["train"].input(1) == "1"
        with pytest.raises(DataError) as error:
            load(file)
        assert says(error.value, "'text'", "int64", "--image-column", "--text-column")

    @pytest.mark.parametrize(
        ("value", "kind"), [(0.5, "double|float64"), (["a"], "List"), (True, "bool")]
    )
    def test_other_types_than_text_are_errors(
        self, tmp_path: Path, value: object, kind: str
    ) -> None:
        rows: list[dict[str, object]] = [{"text": value, "label": i % 2} for i in range(20)]
        file = json_lines(tmp_path / "t.jsonl", rows)
        with pytest.raises(DataError, match=kind) as error:
            load(file, Columns(text=("text",)))
        assert says(error.value, "'text'", file)

    def test_numbers_among_texts_become_text(self, tmp_path: Path) -> None:
        rows = texts()
        rows[4]["text"] = 17
        inputs, _ = load_inputs(str(json_lines(tmp_path / "t.jsonl", rows)), progress=False)
        assert inputs.input(4) == "17"

    def test_unused_columns_may_have_any_type(self, tmp_path: Path) -> None:
        rows = [{**row, "meta": [{"a": 1}, [1, "b"], 3][i % 3]} for i, row in enumerate(texts())]
        assert len(load(json_lines(tmp_path / "t.jsonl", rows)).splits["train"]) == 18

    def test_missing_columns(self, tmp_path: Path) -> None:
        file = json_lines(tmp_path / "t.jsonl", texts(name="words"))
        options = ("--image-column", "--text-column")
        for columns, values in (
            (Columns(), (file, "words, label", *options)),
            (Columns(text=("word",)), ("'word'", file, "words, label", "--text-column")),
            (Columns(text=("a", "b", "c")), ("at most 2", "3: a, b, c")),
            (Columns(text=("words", "words")), ("'words'", file)),
            (Columns(text=("label",), label=("label",)), ("'label'", file)),
        ):
            with pytest.raises(DataError) as error:
                load(file, columns)
            assert says(error.value, *values)

    def test_hugging_face_folder(self, tmp_path: Path) -> None:
        import datasets

        features = datasets.Features(
            {
                "sentence": datasets.Value("string"),
                "label": datasets.ClassLabel(names=["bad", "good"]),
                "idx": datasets.Value("int64"),
            }
        )

        def part(count: int, label: int | None = None) -> datasets.Dataset:
            rows = {
                "sentence": [f"text {count} {i}" for i in range(count)],
                "label": [i % 2 if label is None else label for i in range(count)],
                "idx": list(range(count)),
            }
            return datasets.Dataset.from_dict(rows, features=features).shuffle(seed=1)

        parts = {"train": part(40), "validation": part(10), "test": part(6, -1)}
        datasets.DatasetDict(parts).save_to_disk(tmp_path / "hf")
        data = load(tmp_path / "hf")
        assert data.task.names == ("bad", "good")
        assert {name: len(split) for name, split in data.splits.items()} == {
            "train": 40,
            "validation": 10,
        }
        assert data.splits["validation"].files[3] == "validation[3]"
        assert data.splits["validation"].input(3) == parts["validation"][3]["sentence"]
        assert data.report.unlabelled_left_out == 6 and data.report.unlabelled_splits == ["test"]
        left_out, unused = data.report.lines()
        assert left_out.startswith("6 ") and "test split" in unused


class TestFolders:
    @pytest.fixture
    def reviews(self, tmp_path: Path) -> Path:
        """Folders with the layout of IMDB."""
        root = tmp_path / "reviews"
        for name in ("train/pos", "train/neg", "train/unsup", "test/pos", "test/neg"):
            (root / name).mkdir(parents=True)
            for i in range(10):
                (root / name / f"{i}_7.txt").write_text(f"review {name} {i}\n")
        (root / "README").write_text("read me")
        (root / "train/urls.txt").write_text("not a review")
        return root

    def test_classes_and_splits(self, reviews: Path) -> None:
        data = load(reviews)
        assert data.task.names == ("neg", "pos")
        assert {name: len(split) for name, split in data.splits.items()} == {
            "train": 18,
            "test": 20,
            "validation": 2,
        }
        test = data.splits["test"]
        assert test.input(0) == "review test/neg 0\n" and test.files[0] == "test/neg/0_7.txt"
        assert test.columns == (InputColumn("text", "text"),)
        assert data.report.unlabelled == 10

    def test_names_without_suffix(self, tmp_path: Path) -> None:
        """Folders with the layout of the 20 newsgroups."""
        for name in ("news-train/sci.med", "news-train/alt", "news-test/sci.med", "news-test/alt"):
            (tmp_path / name).mkdir(parents=True)
            for i in range(10):
                (tmp_path / name / str(49960 + i)).write_text(f"post {name} {i}")
        data = load(tmp_path)
        assert data.task.names == ("alt", "sci.med") and len(data.splits["test"]) == 20

    def test_files_in_other_encodings(self, reviews: Path) -> None:
        (reviews / "train/pos/0_7.txt").write_bytes(b"\xef\xbb\xbfwith a mark")
        (reviews / "train/pos/1_7.txt").write_bytes("in UTF-16".encode("utf-16-le"))
        (reviews / "train/pos/2_7.txt").write_bytes(b"caf\xe9")
        (reviews / "train/pos/3_7.txt").write_bytes(b" \n")
        inputs, report = load_inputs(str(reviews / "train/pos"), progress=False)
        assert inputs.input(0) == "with a mark" and inputs.files[1] == "4_7.txt"
        assert lists(
            report.bad_inputs,
            ("1_7.txt", "UTF-16", "UTF-32", "--encoding"),
            ("2_7.txt", "0xe9 at 3"),
            ("3_7.txt",),
        )
        with pytest.raises(DataError) as error:
            load(reviews, on_bad_input="fail")
        assert says(error.value, "train/pos/1_7.txt", "UTF-16")

    def test_no_labels(self, reviews: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError) as error:
            load(reviews / "train/pos")
        assert says(error.value, f"{reviews / 'train/pos'}/CLASS/*.txt", "text,label")
        (tmp_path / "lines.txt").write_text("one\n")
        with pytest.raises(DataError) as error:
            load(tmp_path / "lines.txt")
        assert says(error.value, tmp_path / "lines.txt", "CLASS/*.txt", "text,label")

    def test_one_text_per_line(self, tmp_path: Path) -> None:
        file = tmp_path / "lines.txt"
        file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\n\xe9\nfive")
        inputs, report = load_inputs(str(file), progress=False)
        assert [inputs.input(i) for i in range(3)] == ["one", "two", "five"]
        assert list(inputs.files) == ["lines.txt[0]", "lines.txt[1]", "lines.txt[4]"]
        assert lists(report.bad_inputs, ("lines.txt[2]",), ("lines.txt[3]", "0xe9 at 0"))

    def test_missing_text_file(self) -> None:
        with pytest.raises(DataError, match=r"nowhere\.txt"):
            load_inputs("nowhere.txt")


class TestEncodings:
    def test_bytes_that_are_not_utf8(self, tmp_path: Path) -> None:
        good = "".join(f"café {i},{'ab'[i % 2]}\n" for i in range(20)).encode()
        file = tmp_path / "t.csv"
        file.write_bytes(b"\xef\xbb\xbftext,label\n" + good + b"it was a caf\xe9 there,a\n")
        data = load(file)
        assert lists(data.report.bad_inputs, ("t.csv[20]", "0xe9 at 12"))
        (line,) = data.report.lines()
        assert line.startswith("1 ") and "t.csv[20]" in line and "0xe9 at 12" in line
        assert data.splits["train"].input(0) in ("café 0", "café 1")
        with pytest.raises(DataError) as error:
            load(file, on_bad_input="fail")
        assert says(error.value, "t.csv[20]", "0xe9 at 12", "--on-bad-input skip")

    def test_json_lines(self, tmp_path: Path) -> None:
        file = json_lines(tmp_path / "t.jsonl", texts())
        with file.open("ab") as end:
            end.write(b'{"text": "caf\xe9", "label": "a"}\n')
            end.write(b'{"text": "a \\ud83d b", "label": "a"}\n')
            end.write(b'\n{"text": "zero \\u0000", "label": "a"}\n')
            end.write(b'{"text": null, "label": "a"}\n{"label": "a"}\n')
        report = load(file).report
        assert lists(
            report.bad_inputs,
            ("t.jsonl[20]", "0xe9 at 3"),
            ("t.jsonl[21]", "\\ud83d at 2"),
            ("t.jsonl[23]",),
            ("t.jsonl[24]",),
        )

    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
    @pytest.mark.parametrize("end", ["csv", "jsonl", "json"])
    def test_whole_files_in_utf16(self, tmp_path: Path, encoding: str, end: str) -> None:
        (tmp_path / f"t.{end}").write_bytes('{"text": "abc", "label": 1}\n'.encode(encoding))
        with pytest.raises(DataError) as error:
            load(tmp_path / f"t.{end}")
        assert says(error.value, tmp_path / f"t.{end}", "UTF-16", "UTF-32", "--encoding")

    def test_labels_that_are_not_utf8(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_bytes(b"text,label\none,a\ntwo,\xe9\n")
        with pytest.raises(DataError) as error:
            load(tmp_path / "t.csv")
        assert says(error.value, "'label'", tmp_path / "t.csv", "row 1", "0xe9", "UTF-8")

    @pytest.mark.parametrize(
        ("line", "values"),
        [
            ('{"text": "b"', ("line 2", "JSON")),
            ("[1, 2]", ("line 2", "list")),
            ('{"text": ["b"], "label": "c"}', ("'text'", "line 1")),
        ],
    )
    def test_broken_lines(self, tmp_path: Path, line: str, values: tuple[str, ...]) -> None:
        file = tmp_path / "t.jsonl"
        file.write_text('{"text": "a", "label": "b"}\n' + line + "\n")
        with pytest.raises(DataError) as error:
            load(file)
        assert says(error.value, file, *values)

    def test_no_text_at_all(self, tmp_path: Path) -> None:
        rows: list[dict[str, object]] = [{"text": None, "label": "a"}] * 3
        with pytest.raises(DataError) as error:
            load(json_lines(tmp_path / "t.jsonl", rows))
        assert says(error.value, "3 inputs", "t.jsonl[0]")

    def test_single_texts(self) -> None:
        assert read_text("häß\0".encode()) == "häß\0"
        assert find_fault(b"ok") is None and "0x80 at 1" in str(find_fault(b"a\x80"))
        with pytest.raises(DataError, match="0xff at 0"):
            read_text(b"\xff")
        assert is_empty(b"") and is_empty(" \n\t\u00a0\u2003".encode())
        assert not is_empty("\u00a0x".encode()) and not is_empty(b" \xff")


class TestLabels:
    def test_unknown_to_a_trained_student(self, tmp_path: Path) -> None:
        rows = [{"text": f"t {i}", "label": "abc"[i % 3]} for i in range(30)]
        file = json_lines(tmp_path / "t.jsonl", rows)
        one = Task("classification", ("a", "b"))
        with pytest.raises(DataError) as error:
            load(file, known_task=one, for_training=False)
        assert says(error.value, "'c'", "2 known classes", "a, b", "10 rows")
        other = Task("classification", ("a", "x"))
        with pytest.raises(DataError) as error:
            load(file, known_task=other, for_training=False)
        assert says(error.value, "2 labels", "20 rows", "'b' (10), 'c' (10)", "a, x")

    def test_held_out_classes_unseen_in_training(self, tmp_path: Path) -> None:
        rows = [{**row, "split": "train"} for row in texts()]
        rows += [{"text": f"new {i}", "label": "c", "split": "test"} for i in range(4)]
        with pytest.raises(DataError) as error:
            load(json_lines(tmp_path / "t.jsonl", rows))
        assert says(error.value, "test split", "4 rows", ": c.")

    def test_no_labels_at_all(self, tmp_path: Path) -> None:
        rows: list[dict[str, object]] = [{"text": "a", "label": None}] * 3
        with pytest.raises(DataError, match="3 rows"):
            load(json_lines(tmp_path / "t.jsonl", rows))


class TestSamples:
    def test_duplicates_leaks_and_conflicts(self, tmp_path: Path) -> None:
        rows = [{**row, "split": "train"} for row in texts()]
        rows += [{"text": "sample 3", "label": "a", "split": "train"}]
        rows += [{"text": "sample 4", "label": "a", "split": "test"}]
        rows += [{"text": "new", "label": "a", "split": "test"}]
        report = load(json_lines(tmp_path / "t.jsonl", rows)).report
        assert report.duplicates == 1
        assert report.conflicts == [("t.jsonl[3]", "t.jsonl[20]")]
        assert report.leaks == [("t.jsonl[4]", "t.jsonl[21]")]

    def test_the_same_text_has_the_same_id_everywhere(self, tmp_path: Path) -> None:
        csv = write(tmp_path / "a.csv", texts())
        (tmp_path / "b.txt").write_text("sample 5\n")
        one = load_inputs(str(csv), progress=False)[0].ids[5]
        assert (load_inputs(str(tmp_path / "b.txt"), progress=False)[0].ids[0] == one).all()

    def test_subset(self, tmp_path: Path) -> None:
        inputs, _ = load_inputs(str(write(tmp_path / "a.csv", texts())), progress=False)
        some = inputs.subset([7, 2])
        assert [some.input(i) for i in range(2)] == ["sample 7", "sample 2"]
        assert (
            list(some.files) == ["a.csv[7]", "a.csv[2]"] and (some.ids == inputs.ids[[7, 2]]).all()
        )

    def test_columns_of_a_trained_student(self, tmp_path: Path) -> None:
        rows = [{"text": f"t {i}", "words": f"w {i}", "label": i % 2} for i in range(20)]
        file = json_lines(tmp_path / "t.jsonl", rows)
        known = InputColumn("words", "text")
        assert load_inputs(str(file), Columns(usual=(known,)))[0].input(0) == "w 0"
        other = (InputColumn("sentence", "text"),)
        assert load_inputs(str(file), Columns(usual=other))[0].columns == other
        assert match_columns(load_inputs(str(file))[0], other).columns == other
        with pytest.raises(DataError) as error:
            match_columns(load_inputs(str(file))[0], [InputColumn("image", "image")])
        assert says(error.value, "image 'image'", "text 'text'")


class TestSize:
    def test_long_texts(self, tmp_path: Path) -> None:
        rows = [{"text": "x y" * 400_000 + str(i), "label": "ab"[i % 2]} for i in range(4)]
        for end in (".csv", ".jsonl"):
            inputs, _ = load_inputs(str(write(tmp_path / f"t{end}", rows)), progress=False)
            assert inputs.input(3) == rows[3]["text"]

    @pytest.mark.parametrize("end", [".csv", ".jsonl"])
    def test_many_texts(self, tmp_path: Path, end: str) -> None:
        rows = texts(30_000)
        rows[20_000]["text"] = "half \ud83d" if end == ".jsonl" else "  "
        file = write(tmp_path / f"t{end}", rows)
        start = time.perf_counter()
        inputs, report = load_inputs(str(file), progress=False)
        assert time.perf_counter() - start < 5
        assert len(np.unique(inputs.ids, axis=0)) == 29_999 and len(report.bad_inputs) == 1
