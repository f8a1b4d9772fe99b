"""Images that tables name: where they may lie, how they are spelled, and usual layouts."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aft.config.commands import InspectConfig
from aft.data.loading import DataSet, load_data, load_inputs
from aft.data.options import asked_columns
from aft.data.readers.find_columns import Columns
from aft.errors import DataError
from helpers.errors import says
from helpers.pictures import make_picture_folder


def load(path: Path, **options: Any) -> DataSet:
    columns = Columns(**options)
    return load_data(str(path), columns, validation_fraction=0.0, progress=False)


def flat(folder: Path, rows: int, seed: int = 0) -> list[Path]:
    """Pictures without class folders: ``00.png``, ``01.png``, …"""
    made = make_picture_folder(folder.with_name("made"), classes=1, train=rows, test=0, seed=seed)
    folder.mkdir(parents=True)
    found = []
    for i, picture in enumerate(sorted(made.rglob("*.png"))):
        found.append(picture.rename(folder / f"{i:02d}.png"))
    shutil.rmtree(made)
    return found


def write(path: Path, names: list[str], head: str = "file_name,label") -> Path:
    rows = [f"{name},{'ab'[i % 2]}" for i, name in enumerate(names)]
    path.write_text("\n".join([head, *rows, ""]), encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder with eight pictures, and one picture beside it."""
    pictures = flat(tmp_path / "data" / "pics", 9)
    pictures[8].rename(tmp_path / "private.png")
    return tmp_path / "data"


INSIDE = [f"pics/{i:02d}.png" for i in range(8)]


# Outside the data folder --------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../private.png", "pics/../../private.png", "absolute"])
def test_images_outside_the_data_folder(root: Path, path: str) -> None:
    path = str(root.parent / "private.png") if path == "absolute" else path
    file = write(root / "t.csv", [*INSIDE, path])
    with pytest.raises(DataError) as error:
        load(file)
    assert says(error.value, file, "row 8", repr(path), "--allow-outside")
    with pytest.raises(DataError):
        load_inputs(str(file), Columns(), progress=False)
    assert len(load(file, allow_outside=True).splits["train"]) == 9


def test_embedded_images_may_be_paths(root: Path) -> None:
    private, other = str(root.parent / "private.png"), (root / INSIDE[0]).read_bytes()
    rows = [{"bytes": other, "path": "/nowhere/x.png"}, {"bytes": None, "path": private}]
    pq.write_table(pa.table({"image": rows, "label": ["a", "b"]}), root / "t.parquet")
    with pytest.raises(DataError) as error:
        load(root / "t.parquet")
    assert says(error.value, root / "t.parquet", "row 1", private, "--allow-outside")
    assert len(load(root / "t.parquet", allow_outside=True).splits["train"]) == 2
    rows[1]["path"] = INSIDE[1]
    pq.write_table(pa.table({"image": rows, "label": ["a", "b"]}), root / "t.parquet")
    assert len(load(root / "t.parquet").splits["train"]) == 2


def test_paths_inside_the_data_folder(root: Path) -> None:
    absolute = [str(root / path) for path in INSIDE]
    link = root.with_name("link")
    link.symlink_to(root)
    for names in (absolute, [f"pics/../{path}" for path in INSIDE]):
        for folder in (root, link):
            assert len(load(write(folder / "t.csv", names)).splits["train"]) == 8


def test_a_folder_named_like_another_is_outside(root: Path) -> None:
    shutil.move(
        root.parent / "private.png", (root.parent / "data-2").mkdir() or root.parent / "data-2"
    )
    file = write(root / "t.csv", [*INSIDE, "../data-2/private.png"])
    with pytest.raises(DataError) as error:
        load(file)
    assert says(error.value, "'../data-2/private.png'")


def test_the_option_reaches_the_reader() -> None:
    for allowed in (False, True):
        config = InspectConfig(path="x", allow_outside=allowed)
        assert asked_columns(config).allow_outside is allowed


# Spelling -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("disk", "table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_another_unicode_form(root: Path, disk: Any, table: Any) -> None:
    folder = root / unicodedata.normalize(disk, "caf\u00e9")
    folder.mkdir()
    (root / INSIDE[0]).rename(folder / unicodedata.normalize(disk, "na\u00efve.png"))
    name = unicodedata.normalize(table, "caf\u00e9/na\u00efve.png")
    data = load(write(root / "t.csv", [name, *INSIDE[1:]]))
    assert len(data.splits["train"]) == 8 and not data.report.bad_inputs
    (note,) = data.report.notes
    assert note.startswith("1 ") and ascii(name) in note


def test_names_without_an_extension(root: Path) -> None:
    shutil.copy(root / INSIDE[0], root / "pics/00.jpg")  # 00 is ambiguous
    data = load(write(root / "t.csv", [path[:-4] for path in INSIDE]))
    assert [file for file, _ in data.report.bad_inputs] == ["pics/00"]
    assert data.report.notes[0].startswith("7 ") and len(data.splits["train"]) == 7


def test_paths_that_no_file_can_have(root: Path) -> None:
    report = load(write(root / "t.csv", [*INSIDE, "pics/\0.png", "pics/gone.png"])).report
    assert [file for file, _ in report.bad_inputs] == ["pics/\0.png", "pics/gone.png"]


# Layouts ------------------------------------------------------------------------------------------


def test_metadata_in_every_split_folder(tmp_path: Path) -> None:
    for split, rows in (("train", 8), ("test", 4)):
        pictures = flat(tmp_path / "data" / split, rows, seed=rows)
        write(tmp_path / "data" / split / "metadata.csv", [path.name for path in pictures])
    flat(tmp_path / "data" / "validation", 3, seed=3)
    data = load(tmp_path / "data")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 8, "test": 4}
    assert any(str(tmp_path / "data/validation") in note for note in data.report.notes)


@pytest.mark.parametrize("ending", ["", ".png"])
@pytest.mark.parametrize("column", ["id", "Image_ID", "image"])
def test_a_table_beside_a_split_folder(tmp_path: Path, ending: str, column: str) -> None:
    pictures = flat(tmp_path / "data" / "train", 8)
    flat(tmp_path / "data" / "test", 4, seed=1)  # the same names
    names = [path.stem + ending for path in pictures]
    write(tmp_path / "data" / "train.csv", names, f"{column},label")
    data = load(tmp_path / "data")
    train = data.splits["train"]
    assert len(train) == 8 and list(data.splits) == ["train"]
    assert any(str(tmp_path / "data/test") in note for note in data.report.notes)
    assert train.input(0).tobytes() == pixels(pictures[0])


def pixels(path: Path) -> bytes:
    from aft.data.images import open_image

    return open_image(path).tobytes()


def test_split_folders_in_paths(tmp_path: Path) -> None:
    names = []
    for split, rows in (("train", 6), ("test", 3)):
        names += [f"{split}/{path.name}" for path in flat(tmp_path / "data" / split, rows, rows)]
    write(tmp_path / "data" / "metadata.csv", names)
    data = load(tmp_path / "data")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "test": 3}
    assert data.report.notes


def test_split_folders_without_labels(tmp_path: Path) -> None:
    flat(tmp_path / "data" / "train", 4)
    write(tmp_path / "data" / "solution.csv", ["00.png"])
    with pytest.raises(DataError) as error:
        load(tmp_path / "data")
    train = tmp_path / "data" / "train"
    assert says(error.value, f"{train}/CLASS/*.png", f"{train}.csv", "solution.csv")
    assert len(load_inputs(str(tmp_path / "data"), progress=False)[0]) == 4
