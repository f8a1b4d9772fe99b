"""Read folders of images or text files, whose names give the classes and splits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aft.data.images import image_suffixes
from aft.data.readers.find_columns import InputColumn, Modality
from aft.data.readers.hub_data_sets import read_saved
from aft.data.readers.rows import SPLIT_NAMES, Request, Rows, column_of
from aft.data.readers.tables import read_beside_images, read_table, read_tables
from aft.data.texts import find_encoding_fault, without_mark
from aft.errors import DataError
from aft.paths import TABLES

_METADATA = tuple(f"metadata{end}" for end in TABLES)
_TEXT_SUFFIXES = frozenset({".txt"})
_NO_SUFFIX = frozenset({""})
_UNLABELLED = ("unsup", "unsupervised", "unlabelled", "unlabeled")


class _Found(NamedTuple):
    path: Path
    label: str
    split: str


def read_folder(root: Path, request: Request) -> Rows:
    """Read a folder of images, texts or tables, or a data set saved by `datasets`.

    Raises:
        DataError: If the folder has none of these, or lacks required labels.
    """
    if (root / "dataset_dict.json").exists() or (root / "state.json").exists():
        return read_saved(root, request)
    metadata = [root / name for name in _METADATA if (root / name).exists()]
    if metadata:
        return read_table(metadata[0], request)
    if _any(root, image_suffixes()):
        rows = read_beside_images(root, request)
        return _read_files(root, image_suffixes(), "image", request) if rows is None else rows
    tables = [p for p in sorted(root.iterdir()) if p.suffix.lower() in TABLES and p.is_file()]
    if tables:
        return read_tables(tables, root, request)
    classes = _subfolders(root)
    for suffixes in (_TEXT_SUFFIXES, _NO_SUFFIX):
        # Text files next to the class folders, such as a README, are not samples.
        if any(_any(part, suffixes) for part in classes or [root]):
            return _read_files(root, suffixes, "text", request)
    wanted = f"; expected {root}/CLASS/*.png, {root}/CLASS/*.txt or a table"
    raise DataError(f"no images or texts found in {root}{wanted if request.labelled else ''}")


def read_file(path: Path, request: Request) -> Rows:
    """Read a table or, if labels are not required, an image or a file with one text per line.

    Raises:
        DataError: If the file is none of these.
    """
    end = path.suffix.lower()
    if end in TABLES:
        return read_table(path, request)
    if end in image_suffixes() and not request.labelled:
        return _image_rows(path.parent, [_Found(path, "", "")])
    if end in _TEXT_SUFFIXES:
        if request.labelled:
            raise DataError(
                f"the texts in {path} have no labels; put each class in its own folder "
                "(CLASS/*.txt) or give a table with the columns text,label"
            )
        return _line_rows(path)
    raise DataError(f"expected a folder or one of {', '.join(TABLES)}, got the file {path}")


def _read_files(root: Path, suffixes: frozenset[str], modality: Modality, request: Request) -> Rows:
    """Read ``CLASS/*``, or ``train/CLASS/*`` if every folder is named after a split."""
    folders = _subfolders(root)
    if request.labelled and not folders:
        what, end = ("images", "png") if modality == "image" else ("texts", "txt")
        raise DataError(
            f"the {what} in {root} have no labels; put each class in its own folder "
            f"({root}/CLASS/*.{end}) or give a table with the columns {modality},label"
        )
    names = {folder: _split_of(folder.name, modality) for folder in folders}
    parts = names if names and all(names.values()) else {root: ""}

    def walk() -> Iterator[_Found]:
        for part, split in parts.items():
            for folder in _subfolders(part) if request.labelled else [part]:
                for path in _files(folder, suffixes):
                    yield _Found(path, folder.name, split)

    found = list(walk())
    rows = _image_rows(root, found) if modality == "image" else _text_rows(root, found)
    rows.split_names = tuple(dict.fromkeys(split for split in parts.values() if split))
    if request.labelled:
        labels: list[str | None] = [item.label for item in found]
        if modality == "text":
            labels = [None if label in _UNLABELLED else label for label in labels]
        rows.labels = {"label": labels}
    return rows


def _split_of(name: str, modality: Modality) -> str:
    """The split of a folder name; of text folders the last word, as in 20news-bydate-train."""
    last = re.split(r"[-_.]", name)[-1] if modality == "text" else name
    return SPLIT_NAMES.get(last.lower(), "")


def _subfolders(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _files(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                yield Path(base, name)


def _any(folder: Path, suffixes: frozenset[str]) -> bool:
    return next(_files(folder, suffixes), None) is not None


def _splits(found: Iterable[_Found]) -> np.ndarray:
    return np.asarray([item.split for item in found], dtype="<U10")


def _image_rows(root: Path, found: list[_Found]) -> Rows:
    return Rows(
        (InputColumn("image", "image"),),
        (column_of([str(item.path) for item in found]),),
        [item.path.relative_to(root).as_posix() for item in found],
        _splits(found),
    )


def _text_rows(root: Path, found: list[_Found]) -> Rows:
    contents: list[bytes | None] = []
    faults = {}
    for i, item in enumerate(found):
        content = None
        try:
            content = item.path.read_bytes()
        except OSError as error:
            faults[i] = error.strerror or str(error)
        if content is not None and (fault := find_encoding_fault(content)):
            faults[i] = fault
        contents.append(None if content is None else without_mark(content))
    files = [item.path.relative_to(root).as_posix() for item in found]
    column = column_of(contents, binary=True)
    return Rows((InputColumn("text", "text"),), (column,), files, _splits(found), faults=faults)


def _line_rows(path: Path) -> Rows:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    if fault := find_encoding_fault(content):
        raise DataError(f"cannot read {path}: {fault}")
    lines = without_mark(content).split(b"\n")
    if not lines[-1]:
        lines.pop()
    found = [_Found(path, "", "") for _ in lines]
    return Rows(
        (InputColumn("text", "text"),),
        (column_of([line.removesuffix(b"\r") for line in lines], binary=True),),
        [f"{path.name}[{i}]" for i in range(len(lines))],
        _splits(found),
    )
