"""Unlabelled rows with images or with several columns."""

from __future__ import annotations

import shutil
from pathlib import Path

import datasets
import pytest
from PIL import Image

from aft.data.readers.find_columns import InputColumn
from aft.errors import DataError
from helpers.errors import says
from helpers.unlabelled_data import Folder, Rows, inputs, load, same_splits, table, texts


class TestPictures:
    def test_folder_without_classes(self, picture_folder: Folder, tmp_path: Path) -> None:
        root = picture_folder()
        other = picture_folder("other", seed=1) / "train"
        (tmp_path / "flat").mkdir()
        for i, path in enumerate(sorted(other.rglob("*.png"))):
            shutil.copy(path, tmp_path / "flat" / f"{i:03}.png")
        shutil.copy(root / "test/circle/000.png", tmp_path / "flat/test.png")
        shutil.copy(root / "train/circle/000.png", tmp_path / "flat/train.png")
        (tmp_path / "flat/broken.png").write_bytes(b"hello")
        data = load(root, unlabelled=str(tmp_path / "flat"))
        assert len(inputs(data.unlabelled)) == 60 and data.report.unlabelled_seen == 2
        assert data.unlabelled is not None and data.unlabelled.files[0] == "000.png"
        assert data.unlabelled.input(0).size == (48, 48)  # type: ignore[union-attr]
        assert [file for file, _ in data.report.bad_inputs] == [f"{tmp_path}/flat: broken.png"]
        with_classes = load(root, unlabelled=str(other))
        assert {*with_classes.unlabelled.keys} == {*data.unlabelled.keys}  # type: ignore[union-attr]
        assert same_splits(load(root), data)

    def test_paths_and_embedded_pictures_together(
        self, picture_folder: Folder, tmp_path: Path
    ) -> None:
        root = picture_folder()
        rows = [
            {"image": str(path), "label": path.parent.name}
            for path in sorted((root / "train").rglob("*.png"))
        ]
        rows[5]["label"] = None  # its content is a path, those below are bytes
        pictures = [Image.new("RGB", (9, 7), (i, 0, 0)) for i in range(3)]
        features = datasets.Features({"image": datasets.Image()})
        datasets.Dataset.from_dict({"image": pictures}, features).save_to_disk(tmp_path / "hf")
        data = load(table(tmp_path / "t.jsonl", rows), unlabelled=str(tmp_path / "hf"))
        sizes = [image.size for image in inputs(data.unlabelled)]
        assert sizes == [(48, 48), (9, 7), (9, 7), (9, 7)]
        assert data.unlabelled is not None
        assert data.unlabelled.input(2).getpixel((0, 0)) == (1, 0, 0)  # type: ignore[union-attr]


class TestPairs:
    @pytest.fixture
    def pairs(self) -> Rows:
        return [
            {"premise": f"first {i}", "hypothesis": f"second {i}", "label": i % 2}
            for i in range(30)
        ]

    def test_matched_by_name_and_place(self, pairs: Rows, tmp_path: Path) -> None:
        more = [{"hypothesis": f"h {i}", "premise": f"p {i}", "idx": i} for i in range(2)]
        path = table(tmp_path / "t.jsonl", pairs)
        data = load(path, unlabelled=str(table(tmp_path / "more.jsonl", more)))
        assert inputs(data.unlabelled)[1] == {"premise": "p 1", "hypothesis": "h 1"}
        other = [{"sentence1": "p 1", "sentence2": "h 1"}]
        again = load(path, unlabelled=str(table(tmp_path / "other.jsonl", other)))
        assert inputs(again.unlabelled) == [{"premise": "p 1", "hypothesis": "h 1"}]
        with pytest.raises(DataError) as error:
            load(path, unlabelled=str(table(tmp_path / "one.jsonl", texts(3))))
        assert says(error.value, "--unlabelled", "text 'text'", "'premise', 'hypothesis'")

    def test_parts_of_held_out_rows_stay_unseen(self, pairs: Rows, tmp_path: Path) -> None:
        held = [
            {"premise": "whole", "hypothesis": "too", "label": 0, "split": "test"},
            {"premise": "alone", "hypothesis": None, "label": 0, "split": "test"},
        ]
        for row in pairs:
            row["split"] = "train"
        more = [
            {"premise": "whole", "hypothesis": "too"},  # the same
            {"premise": "whole", "hypothesis": None},  # a part of it
            {"premise": "alone", "hypothesis": "more"},  # with more
            {"premise": None, "hypothesis": "alone"},  # in another column
            {"premise": "whole", "hypothesis": "other"},  # another pair
        ]
        path = table(tmp_path / "t.jsonl", pairs + held)
        data = load(path, unlabelled=str(table(tmp_path / "more.jsonl", more)))
        assert inputs(data.unlabelled) == [
            {"premise": None, "hypothesis": "alone"},
            {"premise": "whole", "hypothesis": "other"},
        ]
        assert data.report.unlabelled_seen == 3

    def test_pictures_without_their_texts(self, picture_folder: Folder, tmp_path: Path) -> None:
        rows = [
            {"image": str(path), "caption": f"picture {i}", "label": path.parent.name}
            for i, path in enumerate(sorted((picture_folder() / "train").rglob("*.png")))
        ]
        rows[0]["label"] = None
        other = picture_folder("other", seed=1, train=3, test=0) / "train"
        data = load(table(tmp_path / "t.jsonl", rows), unlabelled=str(other))
        found = inputs(data.unlabelled)
        assert [row["caption"] for row in found] == ["picture 0"] + [None] * 9
        assert {row["image"].size for row in found} == {(48, 48)}
        (tmp_path / "more.txt").write_text("only words\n")
        words = load(tmp_path / "t.jsonl", unlabelled=str(tmp_path / "more.txt"))
        assert inputs(words.unlabelled)[1] == {"image": None, "caption": "only words"}
        assert words.unlabelled is not None
        assert words.unlabelled.columns == (
            InputColumn("image", "image"),
            InputColumn("caption", "text"),
        )

    def test_rows_with_none_of_the_columns(self, tmp_path: Path, picture_folder: Folder) -> None:
        (image, *_) = sorted(picture_folder().rglob("*.png"))
        more = [
            {"image": str(image), "caption": "words"},
            {"image": str(image), "caption": None},
        ]
        path = table(tmp_path / "t.jsonl", texts())
        data = load(path, unlabelled=str(table(tmp_path / "more.jsonl", more)))
        assert inputs(data.unlabelled) == ["words"]
        assert data.unlabelled is not None and not data.report.unlabelled
        with pytest.raises(DataError) as error:
            load(path, unlabelled=str(table(tmp_path / "more.jsonl", more[1:])))
        assert says(error.value, f"--unlabelled {tmp_path / 'more.jsonl'}", "1 inputs")
