from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aft.data.loading import load_data, load_inputs
from aft.data.readers.find_columns import Columns
from aft.errors import DataError
from aft.ids import content_id
from aft.tasks import Task
from helpers.errors import says

Folder = Callable[..., Path]


def read(source: Path | str, **options: object) -> object:
    return load_data(str(source), progress=False, **options)  # type: ignore[arg-type]


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class TestImageFolder:
    def test_reads_splits_and_classes(self, picture_folder: Folder) -> None:
        data = load_data(str(picture_folder(classes=3, train=20, test=8)), progress=False)
        assert data.task == Task("classification", ("circle", "square", "triangle"))
        assert {name: len(split) for name, split in data.splits.items()} == {
            "train": 54,
            "validation": 6,
            "test": 24,
        }
        assert data.held_out == ("validation",)
        sample = data.splits["test"]
        assert sample.files[0] == "test/circle/000.png"
        assert sample.input(0).size == (48, 48)
        assert sample.labels is not None and sample.labels[0] == 0

    def test_ids_are_of_the_content(self, picture_folder: Folder) -> None:
        root = picture_folder()
        samples, _ = load_inputs(str(root), progress=False)
        file = root / samples.files[5]
        assert samples.ids[5].tobytes() == content_id(file.read_bytes())

    def test_class_folders_without_splits(self, picture_folder: Folder) -> None:
        data = load_data(
            str(picture_folder() / "train"), test_fraction=0.25, progress=False, seed=3
        )
        rows = {name: len(split) for name, split in data.splits.items()}
        assert rows["test"] == 15 and 3 <= rows["validation"] <= 6 and sum(rows.values()) == 60
        again = load_data(
            str(picture_folder() / "train"), test_fraction=0.25, progress=False, seed=3
        )
        assert (again.splits["test"].ids == data.splits["test"].ids).all()

    def test_held_out_part_is_stratified_and_disjoint(self, picture_folder: Folder) -> None:
        data = load_data(str(picture_folder(train=20)), validation_fraction=0.2, progress=False)
        labels = data.splits["validation"].labels
        assert labels is not None and np.bincount(labels).tolist() == [4, 4, 4]
        train = {sample.tobytes() for sample in data.splits["train"].ids}
        assert not train & {sample.tobytes() for sample in data.splits["validation"].ids}

    def test_a_class_may_be_called_train(self, tmp_path: Path, picture_folder: Folder) -> None:
        root = picture_folder(test=0) / "train"
        (root / "circle").rename(root / "train")
        data = load_data(str(root), progress=False)
        assert data.task.names == ("square", "train", "triangle")

    def test_other_files_are_ignored(self, picture_folder: Folder) -> None:
        root = picture_folder()
        (root / "train/circle/.DS_Store").write_bytes(b"x")
        (root / "train/circle/notes.txt").write_text("not a picture")
        data = load_data(str(root), progress=False)
        assert len(data.splits["train"]) == 54 and not data.report.bad_inputs


class TestErrors:
    def test_missing_folder(self) -> None:
        with pytest.raises(DataError) as error:
            read("./nowhere")
        assert says(error.value, "./nowhere", Path.cwd())

    def test_unknown_name(self) -> None:
        with pytest.raises(DataError, match="'nowhere'"):
            read("nowhere")

    def test_pictures_without_classes(self, picture_folder: Folder) -> None:
        folder = picture_folder() / "train" / "circle"
        with pytest.raises(DataError) as error:
            read(folder)
        assert says(error.value, f"{folder}/CLASS/*.png", "image,label")

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError) as error:
            read(tmp_path)
        assert says(error.value, f"{tmp_path}/CLASS/*.png", f"{tmp_path}/CLASS/*.txt")

    def test_class_missing_from_train(self, picture_folder: Folder) -> None:
        root = picture_folder()
        shutil.rmtree(root / "train/circle")
        with pytest.raises(DataError) as error:
            read(root)
        assert says(error.value, "test split", "8 rows", "circle")

    def test_empty_test_set(self, picture_folder: Folder) -> None:
        root = picture_folder()
        for picture in (root / "test").rglob("*.png"):
            picture.unlink()
        with pytest.raises(DataError) as error:
            read(root)
        assert says(error.value, "test split", root)

    def test_one_class(self, picture_folder: Folder) -> None:
        with pytest.raises(DataError) as error:
            read(picture_folder(classes=1))
        assert says(error.value, "at least 2", "1: circle")

    def test_corrupt_images_are_skipped_and_listed(self, picture_folder: Folder) -> None:
        root = picture_folder()
        whole = (root / "train/circle/000.png").read_bytes()
        (root / "train/circle/000.png").write_bytes(whole[: len(whole) // 2])
        (root / "train/circle/001.png").write_bytes(b"")
        (root / "test/square/000.png").write_bytes(b"hello")
        report = load_data(str(root), progress=False).report
        bad = ["test/square/000.png", "train/circle/000.png", "train/circle/001.png"]
        assert sorted(file for file, _ in report.bad_inputs) == bad
        assert report.lines()[0].startswith("3 ")
        assert all(file in report.lines()[0] for file in bad)
        with pytest.raises(DataError) as error:
            read(root, on_bad_input="fail")
        assert says(error.value, "000.png", "--on-bad-input skip")

    def test_truncated_jpeg_is_found(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            for i in range(4):
                Image.fromarray(np.roll(noise, i, 0)).save(tmp_path / name / f"{name}{i}.jpg")
        file = tmp_path / "a" / "a0.jpg"
        file.write_bytes(file.read_bytes()[:-200])
        report = load_data(str(tmp_path), progress=False).report
        assert [name for name, _ in report.bad_inputs] == ["a/a0.jpg"]

    def test_leaks_are_reported(self, picture_folder: Folder) -> None:
        root = picture_folder()
        shutil.copy(root / "train/circle/003.png", root / "test/circle/copy.png")
        report = load_data(str(root), progress=False).report
        assert report.leaks == [("train/circle/003.png", "test/circle/copy.png")]
        assert report.lines()[0].startswith("1 ")
        assert all(file in report.lines()[0] for file in report.leaks[0])

    def test_conflicting_labels_are_reported(self, picture_folder: Folder) -> None:
        root = picture_folder()
        shutil.copy(root / "train/circle/003.png", root / "train/square/copy.png")
        shutil.copy(root / "train/circle/004.png", root / "train/circle/copy.png")
        report = load_data(str(root), validation_fraction=0.0, progress=False).report
        assert report.conflicts == [("train/circle/003.png", "train/square/copy.png")]
        assert report.duplicates == 2

    def test_duplicates_are_held_out_together(self, picture_folder: Folder) -> None:
        root = picture_folder(train=10)
        for picture in sorted((root / "train").rglob("*.png")):
            shutil.copy(picture, picture.with_name(f"copy-{picture.name}"))
        data = load_data(str(root), validation_fraction=0.3, progress=False)
        assert not data.report.leaks and len(data.splits["validation"]) % 2 == 0


class TestTables:
    @pytest.fixture
    def pictures(self, picture_folder: Folder) -> list[Path]:
        return sorted((picture_folder(test=0) / "train").rglob("*.png"))

    @pytest.mark.parametrize("end", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
    def test_formats(self, pictures: list[Path], tmp_path: Path, end: str) -> None:
        import pyarrow
        import pyarrow.parquet

        root, rows = pictures[0].parents[1], []
        for i, picture in enumerate(pictures):
            split = ("train", "dev", "test")[i % 3]
            path = picture.relative_to(root).as_posix()
            rows.append({"path": path, "label": picture.parent.name, "split": split})
        file = root / f"table{end}"
        if end == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        elif end == ".json":
            file.write_text(json.dumps(rows))
        elif end == ".jsonl":
            table(file, rows)
        else:
            mark = "\t" if end == ".tsv" else ","
            lines = [mark.join(rows[0]), *(mark.join(row.values()) for row in rows)]
            file.write_text("\n".join(lines) + "\n")
        data = load_data(str(file), progress=False)
        assert {k: len(v) for k, v in data.splits.items()} == {
            "train": 20,
            "validation": 20,
            "test": 20,
        }
        assert data.task.names == ("circle", "square", "triangle")

    def test_folder_of_split_tables(self, pictures: list[Path], tmp_path: Path) -> None:
        folder = tmp_path / "tables"
        folder.mkdir()
        rows = [{"file": str(p), "class": p.parent.name} for p in pictures]
        table(folder / "train.jsonl", rows[::2])
        table(folder / "test.jsonl", rows[1::2])
        data = load_data(str(folder), Columns(allow_outside=True), progress=False)
        assert len(data.splits["test"]) == 30 and data.held_out == ("validation",)

    def test_metadata_beside_the_pictures(self, pictures: list[Path]) -> None:
        root = pictures[0].parents[1]
        rows = [
            {"file_name": p.relative_to(root).as_posix(), "label": i % 2}
            for i, p in enumerate(pictures)
        ]
        table(root / "metadata.jsonl", rows)
        assert load_data(str(root), progress=False).task.names == ("0", "1")

    def test_missing_column(self, pictures: list[Path], tmp_path: Path) -> None:
        file = table(tmp_path / "t.jsonl", [{"path": str(pictures[0]), "colour": "red"}])
        with pytest.raises(DataError) as error:
            read(file)
        assert says(error.value, file, "path, colour", "--label-column")
        with pytest.raises(DataError) as error:
            read(file, columns=Columns(label=("kind",)))
        assert says(error.value, "'kind'", file, "path, colour", "--label-column")

    def test_unlabelled_rows_and_missing_files(self, pictures: list[Path], tmp_path: Path) -> None:
        rows: list[dict[str, object]] = [{"path": str(p), "label": p.parent.name} for p in pictures]
        rows[0]["label"] = None
        rows[1]["path"] = "gone.png"
        report = load_data(str(table(tmp_path / "t.jsonl", rows)), progress=False).report
        assert report.unlabelled == 1
        assert report.bad_inputs == [("gone.png", os.strerror(errno.ENOENT))]

    def test_not_a_table(self, tmp_path: Path) -> None:
        file = tmp_path / "t.parquet"
        file.write_bytes(b"nonsense")
        with pytest.raises(DataError) as error:
            read(file)
        assert says(error.value, file)

    def test_hugging_face_folder(self, pictures: list[Path], tmp_path: Path) -> None:
        import datasets

        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
        )
        names = {"circle": 0, "square": 1, "triangle": 2}
        rows = {
            "image": [{"bytes": p.read_bytes(), "path": None} for p in pictures],
            "label": [names[p.parent.name] for p in pictures],
        }
        whole = datasets.Dataset.from_dict(rows, features=features)
        datasets.DatasetDict(whole.train_test_split(0.2, seed=0)).save_to_disk(tmp_path / "hf")
        data = load_data(str(tmp_path / "hf"), progress=False)
        assert data.task.names == ("a", "b", "c")
        assert len(data.splits["test"]) == 12
        assert data.splits["test"].input(0).mode == "RGB"
        assert data.splits["test"].files[0] == "test[0]"
        contents = {content_id(p.read_bytes()) for p in pictures}
        assert {i.tobytes() for i in data.splits["test"].ids} <= contents


class TestTasks:
    @pytest.fixture
    def rows(self, picture_folder: Folder) -> list[dict[str, object]]:
        pictures = sorted((picture_folder(test=0) / "train").rglob("*.png"))
        return [{"path": str(p)} for p in pictures]

    def test_lists_are_multilabel(self, rows: list[dict[str, object]], tmp_path: Path) -> None:
        for i, row in enumerate(rows):
            row["labels"] = [["red"], ["red", "round"], []][i % 3]
        data = load_data(str(table(tmp_path / "t.jsonl", rows)), progress=False)
        assert data.task == Task("multilabel", ("red", "round"))
        labels = data.splits["train"].labels
        assert labels is not None and labels.shape == (54, 2) and labels.dtype == np.float32

    def test_joined_labels(self, rows: list[dict[str, object]], tmp_path: Path) -> None:
        for i, row in enumerate(rows):
            row["labels"] = ["red", "red|round", "round; big"][i % 3]
        data = load_data(str(table(tmp_path / "t.jsonl", rows)), task="multilabel", progress=False)
        assert data.task.names == ("big", "red", "round")

    def test_numbers_are_targets(self, rows: list[dict[str, object]], tmp_path: Path) -> None:
        for i, row in enumerate(rows):
            row |= {"x": i / 7, "y": -i * 1.5}
        columns = Columns(label=("x", "y"))
        data = load_data(str(table(tmp_path / "t.jsonl", rows)), columns, progress=False)
        assert data.task == Task("regression", ("x", "y"))
        assert data.splits["train"].labels is not None
        assert data.splits["train"].labels.shape == (54, 2)

    def test_ambiguous_numbers(self, rows: list[dict[str, object]], tmp_path: Path) -> None:
        for i, row in enumerate(rows):
            row["label"] = i
        file = table(tmp_path / "t.jsonl", rows)
        with pytest.raises(DataError) as error:
            read(file)
        options = ("--task regression", "--task classification")
        assert says(error.value, "'label'", "60", *options)
        assert load_data(str(file), task="regression", progress=False).task.kind == "regression"

    def test_text_is_not_a_regression_target(
        self, rows: list[dict[str, object]], tmp_path: Path
    ) -> None:
        for row in rows:
            row["label"] = "high"
        with pytest.raises(DataError) as error:
            read(table(tmp_path / "t.jsonl", rows), task="regression")
        assert says(error.value, "'label'", "'high'")

    def test_unknown_class_for_a_trained_student(self, picture_folder: Folder) -> None:
        known = Task("classification", ("circle", "square"))
        with pytest.raises(DataError) as error:
            read(picture_folder(), known_task=known, for_training=False)
        assert says(error.value, "'triangle'", "2 known classes", "circle, square")


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (["true", "false"], ("false", "true")),
        (["01", "02"], ("01", "02")),
        (["1", "2"], ("1", "2")),
        (["1.0", "2.0"], ("1", "2")),
        (["10", "9"], ("9", "10")),
        (["1", "x"], ("1", "x")),
    ],
)
def test_labels_of_a_csv_stay_as_written(
    written: list[str], names: tuple[str, ...], tmp_path: Path
) -> None:
    rows = "".join(f"text number {i},{written[i % 2]}\n" for i in range(8))
    (tmp_path / "t.csv").write_text("text,label\n" + rows)
    assert load_data(str(tmp_path / "t.csv"), progress=False).task.names == names
