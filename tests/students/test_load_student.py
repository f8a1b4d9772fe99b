"""Predictions from Python are those of `aft predict`, whatever holds the inputs."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

import aft
from aft.data.readers.find_columns import InputColumn
from aft.errors import AftError, DataError, StudentError
from aft.students.backbone import load_backbone
from aft.students.saved import SavedStudent
from aft.students.student import new_student
from aft.students.towers import join
from aft.tasks import Task

WORDS = ("birds sing", "the garden is quiet", "rain", "a very long road\nhome")
CLASSES = Task("classification", ("no", "yes", "perhaps"))


def save(
    folder: Path, spec: str, columns: tuple[InputColumn, ...], task: Task = CLASSES
) -> SavedStudent:
    backbone = load_backbone(spec, texts=lambda: list(WORDS))
    module = new_student(backbone, task).eval()
    SavedStudent(module, task, columns, backbone).save(folder)
    return aft.load_student(folder)


@pytest.fixture
def pictures(tmp_path: Path) -> SavedStudent:
    return save(tmp_path / "pictures", "small:cnn-tiny?size=32", (InputColumn("image", "image"),))


@pytest.fixture
def texts(tmp_path: Path) -> SavedStudent:
    return save(tmp_path / "texts", "small:static?dim=8", (InputColumn("text", "text"),))


def picture(mode: str) -> Image.Image:
    """A picture of 40 x 30 pixels in which colours, and their order, matter."""
    y, x = np.mgrid[:30, :40]
    colours = np.stack([6 * x, 8 * y, 255 - 6 * x, 4 * (x + y) % 256], 2).astype(np.uint8)
    rgba = Image.fromarray(colours)
    if mode == "I;16":
        return Image.fromarray(colours[..., 0].astype(np.uint16) * 257)
    if mode == "P transparent":
        image = rgba.convert("RGB").quantize(16)
        image.info["transparency"] = 3
        return image
    if mode == "P":
        return rgba.convert("RGB").quantize(16)
    return rgba.convert(mode) if mode in ("RGBA", "LA") else rgba.convert("RGB").convert(mode)


FORMATS = {
    **{("PNG", m): {} for m in ("RGB", "P", "P transparent", "RGBA", "LA", "1", "L", "I;16")},
    ("TIFF", "I"): {},
    ("TIFF", "F"): {},
    ("TIFF", "CMYK"): {},
    ("TIFF", "I;16"): {},
    ("JPEG", "RGB"): {"quality": 90},
    ("JPEG", "CMYK"): {},
    ("JPEG", "L"): {},
    ("GIF", "P"): {},
    ("WEBP", "RGBA"): {"lossless": True},
    ("BMP", "RGB"): {},
}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A picture of every mode in several formats, and one to turn."""
    folder = tmp_path / "files"
    folder.mkdir()
    paths = []
    for (kind, mode), options in FORMATS.items():
        path = folder / f"{len(paths):02d}.{kind.lower()}"
        picture(mode).save(path, kind, **options)
        paths.append(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    paths.append(folder / f"{len(paths):02d}.jpeg")
    picture("RGB").save(paths[-1], "JPEG", exif=exif)
    return paths


def predicted(student: Path, data: Path, out: Path) -> list[dict[str, Any]]:
    """Label and probability of each row, from the command."""
    aft.predict(run=student, data=str(data), out=out, progress=False, num_workers=0, device="cpu")
    table = pyarrow.parquet.read_table(out).to_pylist()
    return [{name: row[name] for name in ("label", "probability")} for row in table]


def same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    labels = [one["label"] for one in found] == [one["label"] for one in wanted]
    return labels and np.allclose(
        [one["probability"] for one in found], [one["probability"] for one in wanted], atol=1e-6
    )


def read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def in_memory(path: Path) -> io.BytesIO:
    return io.BytesIO(path.read_bytes())


HOLDERS: dict[str, Callable[[list[Path]], Any]] = {
    "paths": lambda paths: paths,
    "names of files": lambda paths: [str(path) for path in paths],
    "bytes": lambda paths: [path.read_bytes() for path in paths],
    "PIL images": lambda paths: [read(path) for path in paths],
    "PIL images that are not loaded": lambda paths: [Image.open(f) for f in map(in_memory, paths)],
    "a mixed tuple": lambda paths: (
        read(paths[0]),
        *paths[1:3],
        paths[3].read_bytes(),
        *map(read, paths[4:]),
    ),
    "an array of objects": lambda paths: np.array([*map(read, paths), None], object)[:-1],
    "a pandas column": lambda paths: pandas.Series([read(path) for path in paths]),
    "a pandas table": lambda paths: pandas.DataFrame(
        {"image": [read(path) for path in paths], "more": [{1, 2}] * len(paths)}
    ),
    "a pandas table of names": lambda paths: pandas.DataFrame({"image": map(str, paths)}),
    "columns": lambda paths: {"image": [read(path) for path in paths], "n": range(len(paths))},
    "dictionaries": lambda paths: [{"image": read(path), "n": 1} for path in paths],
    "an arrow column": lambda paths: pyarrow.array([path.read_bytes() for path in paths]),
    "an arrow table": lambda paths: pyarrow.table({"image": [p.read_bytes() for p in paths]}),
    "a data set": lambda paths: datasets.Dataset.from_dict(
        {"image": [str(path) for path in paths]}
    ).cast_column("image", datasets.Image()),
}


def test_pictures_of_every_mode_and_format(
    pictures: SavedStudent, files: list[Path], tmp_path: Path
) -> None:
    wanted = predicted(tmp_path / "pictures", files[0].parent, tmp_path / "out.parquet")
    assert len({one["probability"] for one in wanted}) > 12  # the pictures differ
    logits = pictures.logits(files)
    for name, make in HOLDERS.items():
        assert same(pictures.predict(make(files)), wanted), name
        assert (pictures.logits(make(files)) == logits).all(), name
    for i, path in enumerate(files):
        for one in (path, str(path), path.read_bytes(), read(path)):
            assert same(pictures.predict(one), wanted[i : i + 1])
    features = pictures.embed(files)
    assert features.shape == (len(files), pictures.module.dim)
    probabilities = pictures.predict_proba(files, batch_size=5)
    assert probabilities.shape == (len(files), 3)
    assert np.allclose(probabilities.sum(1), 1)
    assert np.allclose(probabilities.max(1), [one["probability"] for one in wanted], atol=1e-6)


def test_arrays_are_pictures(pictures: SavedStudent) -> None:
    for mode in ("RGB", "L", "RGBA", "LA", "I;16", "1"):
        image = picture(mode)
        array = np.asarray(image)
        wanted = pictures.predict([image])
        assert pictures.predict([array]) == pictures.predict(array) == wanted
        assert same(pictures.predict(np.stack([array] * 5)), wanted * 5)
    assert pictures.predict(np.asarray(picture("L"))[..., None]) == pictures.predict(picture("L"))


RGB = np.zeros((8, 8, 3), np.uint8)
BAD = [
    (RGB / 255.0, "float64"),
    (RGB.astype(int), "int64"),
    (RGB.transpose(2, 0, 1), r"\(3, 8, 8\)"),
    (np.zeros((8, 8, 5), np.uint8), r"\(8, 8, 5\)"),
    (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\)"),
    (b"no picture", "JPEG"),
    (b"", "missing"),
    (None, "missing"),
    ("missing.png", "missing.png|No such file"),
    (3, "int 3"),
    (Image.new("RGB", (1, 5000)), "5000"),
    (Image.fromarray(np.full((4, 4), 0.5, np.float32)), "0.5"),
]


@pytest.mark.parametrize(("bad", "words"), BAD, ids=range(len(BAD)))
def test_a_bad_picture_is_named(bad: Any, words: str, pictures: SavedStudent) -> None:
    good = picture("RGB")
    for inputs in ([good, good, bad, good], [bad]):
        with pytest.raises(DataError) as error:
            pictures.predict(inputs)
        place = r"\[2\]" if len(inputs) > 1 else r"\[0\]"
        assert re.search(words, str(error.value))
        assert re.search(place, str(error.value)) or "missing.png" in str(error.value)


def test_texts(texts: SavedStudent, tmp_path: Path) -> None:
    table = pandas.DataFrame({"text": WORDS})
    table.to_json(tmp_path / "texts.jsonl", orient="records", lines=True)
    wanted = predicted(tmp_path / "texts", tmp_path / "texts.jsonl", tmp_path / "out.parquet")
    logits = texts.logits(list(WORDS))
    holders: list[Any] = [
        list(WORDS),
        WORDS,
        np.array(WORDS),
        np.array(WORDS, object),
        table,
        table["text"],
        table.rename(columns={"text": "sentence"}),
        pyarrow.table({"text": WORDS}),
        {"text": WORDS},
        [{"text": word} for word in WORDS],
        datasets.Dataset.from_dict({"text": WORDS}),
        datasets.Dataset.from_dict({"text": WORDS})["text"],
        [word.encode() for word in WORDS],
    ]
    for inputs in holders:
        assert (texts.logits(inputs) == logits).all(), type(inputs)
        assert same(texts.predict(inputs), wanted)
    for word, one in zip(WORDS, wanted, strict=True):  # one text is no list of characters
        assert same(texts.predict(word), [one])
        assert same(texts.predict({"text": word}), [one])
    assert texts.predict("photo.png") == texts.predict(["photo.png"])  # a text, not a path
    assert texts.predict([]) == [] and texts.predict_proba([]).shape == (0, 3)
    assert texts.embed(()).shape == (0, 8)


@pytest.mark.parametrize("bad", ["", " ", None, 3, b"\xff\xfe", "\ud800", float("nan"), ["a"]])
def test_a_bad_text_is_named(bad: Any, texts: SavedStudent) -> None:
    with pytest.raises(DataError, match=r"\[1\]"):
        texts.predict(["rain", bad, "birds", "sing", "the", "garden"])


def test_polars_columns_are_read_by_their_methods(texts: SavedStudent) -> None:
    polars = pytest.importorskip("polars")
    table = polars.DataFrame({"text": WORDS})
    wanted = texts.predict(list(WORDS))
    assert texts.predict(table) == texts.predict(table["text"]) == wanted


class Frame:
    """A table with no more than the methods that polars has too."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.inner = columns
        self.columns = list(columns)

    def __len__(self) -> int:
        return len(next(iter(self.inner.values())))

    def __getitem__(self, name: str) -> Any:
        class Series:
            to_list = self.inner[name].copy

            def __len__(inner) -> int:
                return len(self)

        return Series()


def test_a_table_needs_few_methods(texts: SavedStudent) -> None:
    frame = Frame({"text": list(WORDS), "n": [1, 2, 3, 4]})
    assert texts.predict(frame) == texts.predict(frame["text"]) == texts.predict(WORDS)


def test_several_columns(tmp_path: Path) -> None:
    columns = (InputColumn("picture", "image"), InputColumn("words", "text"))
    parts = {
        "picture": load_backbone("small:cnn-tiny?size=32"),
        "words": load_backbone("small:static?dim=8", texts=lambda: list(WORDS)),
    }
    backbone = join(parts)
    SavedStudent(new_student(backbone, CLASSES).eval(), CLASSES, columns, backbone).save(tmp_path)
    student = aft.load_student(tmp_path)
    rows = [
        {"picture": picture("P"), "words": "rain"},
        {"picture": None, "words": "birds sing"},
        {"picture": np.asarray(picture("RGB"))},
    ]
    logits = student.logits(rows)
    assert (student.logits(pandas.DataFrame(rows)) == logits).all()
    assert (student.logits(rows[0])[0] - logits[0]).abs().max() < 1e-5
    renamed = [{"image": one.get("picture"), "text": one.get("words")} for one in rows]
    assert (student.logits(renamed) == logits).all()
    bare, missing = student.logits(["rain"]), student.logits({"picture": None, "words": "rain"})
    assert (bare == missing).all()
    with pytest.raises(DataError, match=r"row\[1\]"):
        student.predict([rows[0], {"picture": None, "words": " "}])


def test_other_tasks(tmp_path: Path) -> None:
    column = (InputColumn("text", "text"),)
    tags = save(tmp_path / "tags", "small:static?dim=8", column, Task("multilabel", ("a", "b")))
    found = tags.predict(list(WORDS))
    chances = tags.predict_proba(list(WORDS))
    for one, row in zip(found, chances, strict=True):
        assert one["label"] == [n for n, p in zip("ab", row, strict=True) if p > 0.5]
        assert one["probability"] == [p for p in row if p > 0.5]
    sizes = save(tmp_path / "sizes", "small:static?dim=8", column, Task("regression", ("h", "w")))
    rows = sizes.predict(list(WORDS))
    assert np.allclose([[r["h"], r["w"]] for r in rows], sizes.logits(list(WORDS)))
    with pytest.raises(StudentError):
        sizes.predict_proba(list(WORDS))


def test_code_is_run_only_if_trusted(tmp_path: Path) -> None:
    with pytest.raises(AftError):
        aft.load_student(tmp_path)
