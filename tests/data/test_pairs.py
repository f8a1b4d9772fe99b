"""Samples with several columns: two texts, or an image with a text."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aft.data.loading import DataSet, load_data, load_inputs
from aft.data.readers.find_columns import Columns, InputColumn, match_names
from aft.data.samples import match_columns
from aft.errors import DataError
from aft.ids import content_id
from helpers.errors import says

Rows = list[dict[str, object]]


def load(source: Path, columns: Columns | None = None, **options: object) -> DataSet:
    return load_data(str(source), columns, progress=False, **options)  # type: ignore[arg-type]


def table(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def pair_rows() -> Rows:
    return [
        {"premise": f"first {i}", "hypothesis": f"second {i}", "label": i % 2} for i in range(30)
    ]


@pytest.fixture
def captions(picture_folder: Callable[..., Path]) -> Rows:
    """Rows with the path of an image and a text."""
    pictures = sorted((picture_folder(test=0) / "train").rglob("*.png"))
    return [
        {"image": str(p), "caption": f"a picture {i}", "label": p.parent.name}
        for i, p in enumerate(pictures)
    ]


PAIR = (InputColumn("premise", "text"), InputColumn("hypothesis", "text"))
CAPTIONED = (InputColumn("image", "image"), InputColumn("caption", "text"))


class TestTextPairs:
    def test_columns_and_ids(self, pair_rows: Rows, tmp_path: Path) -> None:
        inputs, report = load_inputs(str(table(tmp_path / "t.jsonl", pair_rows)), progress=False)
        assert inputs.columns == PAIR and inputs.parts.shape == (30, 2, 16)
        assert inputs.input(4) == {"premise": "first 4", "hypothesis": "second 4"}
        parts = [content_id(b"first 4"), content_id(b"second 4")]
        assert [part.tobytes() for part in inputs.parts[4]] == parts
        assert inputs.ids[4].tobytes() == content_id(b"".join(parts))
        assert report.lines() == [] and report.missing == {}

    @pytest.mark.parametrize(
        "names",
        [("sentence1", "sentence2"), ("question", "sentence"), ("Question1", "Question2")],
    )
    def test_usual_names(self, names: tuple[str, str], pair_rows: Rows, tmp_path: Path) -> None:
        rows = [
            {names[1]: row["hypothesis"], names[0]: row["premise"], "label": row["label"]}
            for row in pair_rows
        ]
        inputs, _ = load_inputs(str(table(tmp_path / "t.jsonl", rows)), progress=False)
        assert [column.name for column in inputs.columns] == list(names)

    def test_order_of_named_columns(self, pair_rows: Rows, tmp_path: Path) -> None:
        file = table(tmp_path / "t.jsonl", pair_rows)
        inputs, _ = load_inputs(str(file), Columns(text=("hypothesis", "premise")), progress=False)
        assert inputs.columns == PAIR[::-1]

    def test_ids_depend_on_the_order(self, tmp_path: Path) -> None:
        rows: Rows = [{"text1": "a", "text2": "b"}, {"text1": "b", "text2": "a"}]
        inputs, _ = load_inputs(str(table(tmp_path / "t.jsonl", rows)), progress=False)
        assert (inputs.parts[0, 0] == inputs.parts[1, 1]).all()
        assert (inputs.ids[0] != inputs.ids[1]).any()

    def test_missing_parts(self, pair_rows: Rows, tmp_path: Path) -> None:
        pair_rows[0]["premise"] = None
        pair_rows[1]["hypothesis"] = "  "
        del pair_rows[2]["hypothesis"]
        pair_rows[3] |= {"premise": "", "hypothesis": None}
        data = load(table(tmp_path / "t.jsonl", pair_rows), validation_fraction=0.0)
        train, report = data.splits["train"], data.report
        assert len(train) == 29 and train.present[:3].tolist() == [
            [False, True],
            [True, False],
            [True, False],
        ]
        assert train.input(0) == {"premise": None, "hypothesis": "second 0"}
        assert not train.parts[0, 0].any()
        assert train.ids[0].tobytes() == content_id(bytes(16) + content_id(b"second 0"))
        assert report.missing == {"premise": 1, "hypothesis": 2}
        bad, missing = report.lines()
        assert bad.startswith("1 ")
        assert all(value in bad for value in ("t.jsonl[3]", "premise", "hypothesis"))
        assert missing.startswith("1 ")
        assert missing.index("premise") < missing.index("2 ") < missing.index("hypothesis")
        assert data.describe()["missing"] == {"premise": 1, "hypothesis": 2}
        assert data.describe()["columns"] == {"premise": "text", "hypothesis": "text"}

    def test_an_unreadable_part_makes_the_row_unreadable(self, tmp_path: Path) -> None:
        lines = b"".join(b"one %d,two %d,%d\n" % (i, i, i % 2) for i in range(20))
        (tmp_path / "t.csv").write_bytes(b"text1,text2,label\n" + lines + b"good,b\xe4d,1\n")
        data = load(tmp_path / "t.csv")
        ((file, fault),) = data.report.bad_inputs
        assert file == "t.csv[20]" and "0xe4 at 1" in fault

    def test_only(self, pair_rows: Rows, tmp_path: Path) -> None:
        pair_rows[0]["premise"] = None
        data = load(table(tmp_path / "t.jsonl", pair_rows), validation_fraction=0.0)
        train = data.splits["train"]
        premises = train.only("premise")
        assert premises.columns == PAIR[:1] and len(premises) == 30
        assert premises.input(0) is None and not premises.ids[0].any()
        assert premises.input(1) == "first 1" and premises.ids[1].tobytes() == content_id(
            b"first 1"
        )
        assert (premises.labels == train.labels).all()
        assert premises.subset([1]).input(0) == "first 1"
        swapped = train.only("hypothesis", "premise")
        assert list(swapped.input(1)) == ["hypothesis", "premise"]
        assert (train.only("premise", "hypothesis").ids == train.ids).all()
        with pytest.raises(DataError) as error:
            train.only("text")
        assert says(error.value, "'text'", "premise, hypothesis")

    def test_rows_without_any_part_left(self, captions: Rows, tmp_path: Path) -> None:
        rows = [{"premise": "a", "hypothesis": "b", **captions[0]} for _ in range(2)]
        rows[0] |= {"premise": None, "hypothesis": None}
        columns = Columns(image="image", text=("premise", "hypothesis"))
        inputs, _ = load_inputs(str(table(tmp_path / "t.jsonl", rows)), columns, progress=False)
        texts = inputs.only("premise", "hypothesis")
        assert len(texts) == 2 and not texts.ids[0].any() and texts.ids[1].any()

    def test_duplicates_are_whole_rows(self, pair_rows: Rows, tmp_path: Path) -> None:
        pair_rows.append({**pair_rows[0], "hypothesis": "another"})
        pair_rows.append({**pair_rows[0], "label": 1})
        report = load(table(tmp_path / "t.jsonl", pair_rows), validation_fraction=0.0).report
        assert report.duplicates == 1 and report.conflicts == [("t.jsonl[0]", "t.jsonl[31]")]

    def test_split_tables_of_which_one_lacks_a_text(self, pair_rows: Rows, tmp_path: Path) -> None:
        table(tmp_path / "train.jsonl", pair_rows)
        table(tmp_path / "test.jsonl", [{**row, "hypothesis": None} for row in pair_rows[:4]])
        data = load(tmp_path)
        assert data.splits["test"].columns == PAIR and data.report.missing == {"hypothesis": 4}
        table(tmp_path / "test.jsonl", [{"text": "a", "label": 1}])
        with pytest.raises(DataError) as error:
            load(tmp_path)
        assert says(error.value, tmp_path, "text, label", "premise, hypothesis, label")


class TestImageAndText:
    def test_columns_and_inputs(self, captions: Rows, tmp_path: Path) -> None:
        data = load(table(tmp_path / "t.jsonl", captions), validation_fraction=0.0)
        train = data.splits["train"]
        assert train.columns == CAPTIONED
        both = train.input(3)
        assert isinstance(both, dict) and list(both) == ["image", "caption"]
        assert isinstance(both["image"], Image.Image) and both["caption"] == "a picture 3"
        picture = Path(str(captions[3]["image"])).read_bytes()
        assert train.parts[3, 0].tobytes() == content_id(picture)
        assert train.files[3] == "t.jsonl[3]"
        assert data.describe()["columns"] == {"image": "image", "caption": "text"}

    def test_missing_and_broken_images(self, captions: Rows, tmp_path: Path) -> None:
        captions[0]["image"] = None
        captions[1]["image"] = "gone.png"
        captions[2]["caption"] = ""
        captions[3] |= {"image": "", "caption": ""}
        data = load(table(tmp_path / "t.jsonl", captions), validation_fraction=0.0)
        assert data.splits["train"].input(0) == {"image": None, "caption": "a picture 0"}
        gone, (file, fault) = data.report.bad_inputs
        assert gone == ("t.jsonl[1]", os.strerror(errno.ENOENT))
        assert file == "t.jsonl[3]" and "image" in fault and "caption" in fault
        assert data.report.missing == {"image": 1, "caption": 1}

    def test_one_of_them_by_name(self, captions: Rows, tmp_path: Path) -> None:
        file = table(tmp_path / "t.jsonl", captions)
        assert load(file, Columns(image="image")).splits["train"].columns == CAPTIONED[:1]
        assert load(file, Columns(text=("caption",))).splits["train"].columns == CAPTIONED[1:]

    def test_table_in_csv_with_a_path_that_is_not_utf8(
        self, captions: Rows, tmp_path: Path
    ) -> None:
        lines = [f"{row['image']},{row['caption']},{row['label']}\n" for row in captions]
        text = "image,caption,label\n" + "".join(lines)
        (tmp_path / "t.csv").write_bytes(text.encode() + b"caf\xe9.png,a caption,circle\n")
        data = load(tmp_path / "t.csv")
        assert data.report.bad_inputs == [("t.csv[60]", os.strerror(errno.ENOENT))]

    @pytest.mark.parametrize("form", ["struct", "bytes"])
    def test_embedded_images_in_parquet(self, captions: Rows, tmp_path: Path, form: str) -> None:
        import pyarrow
        import pyarrow.parquet

        contents = [Path(str(row["image"])).read_bytes() for row in captions]
        images = [{"bytes": c, "path": None} for c in contents] if form == "struct" else contents
        rows = [{**row, "image": image} for row, image in zip(captions, images, strict=True)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
        train = load(tmp_path / "t.parquet", validation_fraction=0.0).splits["train"]
        assert train.columns == CAPTIONED and train.parts[7, 0].tobytes() == content_id(contents[7])
        assert train.only("image").input(7).size == (48, 48)

    def test_hugging_face_folder(self, captions: Rows, tmp_path: Path) -> None:
        import datasets

        features = datasets.Features(
            {
                "picture of it": datasets.Image(),
                "text": datasets.Value("string"),
                "label": datasets.Value("string"),
            }
        )
        rows = {
            "picture of it": [row["image"] if i else None for i, row in enumerate(captions)],
            "text": [row["caption"] for row in captions],
            "label": [row["label"] for row in captions],
        }
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "hf"))
        data = load(tmp_path / "hf", validation_fraction=0.0)
        train = data.splits["train"]
        assert [column.modality for column in train.columns] == ["image", "text"]
        assert data.report.missing == {"picture of it": 1} and train.files[0] == "row[0]"
        assert train.input(1)["picture of it"].size == (48, 48)

    def test_metadata_beside_the_pictures(self, captions: Rows) -> None:
        root = Path(str(captions[0]["image"])).parents[1]
        rows: Rows = [
            {**row, "image": Path(str(row["image"])).relative_to(root).as_posix()}
            for row in captions
        ]
        table(root / "metadata.jsonl", rows)
        assert load(root).splits["train"].columns == CAPTIONED


class TestColumnsOfAStudent:
    text, image = InputColumn("text", "text"), InputColumn("image", "image")

    def test_by_name_and_by_order(self) -> None:
        a, b, c = (InputColumn(name, "text") for name in "abc")
        assert match_names([a, b], [b, a]) == [1, 0]
        assert match_names([a, b], [c, a]) == [1, 0]
        assert match_names([self.image, a, b], [self.text, InputColumn("other", "text")]) == [1, 2]
        assert match_names([self.image, a, b], [b]) == [2]
        assert match_names([a, self.image], [InputColumn("picture", "image"), self.text]) == [1, 0]

    def test_errors(self) -> None:
        a, b = (InputColumn(name, "text") for name in "ab")
        with pytest.raises(DataError) as error:
            match_names([a, b], [self.text])
        assert says(error.value, "text 'text'", "text 'a' and text 'b'", "'a', 'b'")
        assert says(error.value, "--text-column")
        with pytest.raises(DataError) as error:
            match_names([self.text], [a, b])
        assert says(error.value, "text 'a' and text 'b'", "text 'text'", "'a', 'b'")
        with pytest.raises(DataError) as error:
            match_names([a], [self.image])
        assert says(error.value, "image 'image'", "text 'a'")

    def test_columns_that_the_data_lacks_are_missing(self, captions: Rows, tmp_path: Path) -> None:
        a, b = (InputColumn(name, "text") for name in "ab")
        assert match_names([a], [a, self.image]) == [0, None]
        assert match_names([b], [a, b]) == [None, 0]
        rows = [{"caption": row["caption"], "label": row["label"]} for row in captions]
        wanted = (InputColumn("image", "image"), InputColumn("caption", "text"))
        file = str(table(tmp_path / "t.jsonl", rows))
        inputs, _ = load_inputs(file, Columns(usual=wanted), progress=False)
        assert inputs.input(0) == {"image": None, "caption": captions[0]["caption"]}
        plain, _ = load_inputs(file, progress=False)
        matched = match_columns(plain, wanted)
        assert matched.input(0) == inputs.input(0) and (matched.ids == inputs.ids).all()

    def test_samples_are_renamed(self, captions: Rows, tmp_path: Path) -> None:
        inputs, _ = load_inputs(str(table(tmp_path / "t.jsonl", captions)), progress=False)
        wanted = (InputColumn("words", "text"), InputColumn("picture", "image"))
        matched = match_columns(inputs, wanted)
        assert matched.columns == wanted and list(matched.input(0)) == ["words", "picture"]
        assert (matched.parts == inputs.parts[:, ::-1]).all()
        texts = match_columns(inputs, wanted[:1])
        assert texts.input(0) == "a picture 0" and (texts.ids == inputs.parts[:, 1]).all()

    def test_unused_columns_are_not_read(self, captions: Rows, tmp_path: Path) -> None:
        captions[0]["image"] = "gone.png"
        captions[1]["caption"] = ""
        file = table(tmp_path / "t.jsonl", captions)
        inputs, report = load_inputs(str(file), Columns(usual=(self.text,)), progress=False)
        assert inputs.columns == (self.text,) and np.asarray(inputs.present).all()
        assert [file for file, _ in report.bad_inputs] == ["t.jsonl[1]"]
