"""Read folders of images or text files, whose names give the classes and splits."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aft.data.images import image_suffixes
from aft.data.readers.find_columns import InputColumn, Modality
from aft.data.readers.hub_data_sets import read_saved
from aft.data.readers.rows import SPLIT_NAMES, Request, Rows, column_of, join_rows
from aft.data.readers.table_files import is_table, open_table
from aft.data.readers.tables import read_beside_images, read_table, read_tables
from aft.data.texts import to_utf8
from aft.errors import DataError
from aft.paths import LEFTOVERS, TABLES, is_utf8, printable
from aft.paths import read_file as read_content

_METADATA = tuple(f"metadata{end}" for end in TABLES)
_TEXT_SUFFIXES = frozenset({".txt"})
_NO_SUFFIX = frozenset({""})
_UNLABELLED = ("unsup", "unsupervised", "unlabelled", "unlabeled")
_SHARD = re.compile(r"(.+)-\d+-of-(\d+)(-\w+)?\.parquet")
"""A table of a data set from a hub, as in ``train-00000-of-00002.parquet``."""
_NOT_UTF8 = "its name is not UTF-8 text; rename the file or its folder"


class _Found(NamedTuple):
    path: Path
    label: str
    split: str


def read_folder(root: Path, request: Request) -> Rows:
    """Read a folder of images, texts or tables, or a data set saved by `datasets`.

    Raises:
        DataError: If the folder has none of these, or lacks required labels.
    """
    if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
        return read_saved(root, request)
    metadata = [root / name for name in _METADATA if (root / name).is_file()]
    if metadata:
        return read_table(metadata[0], request)
    for folder in (root, root / "data"):
        if any(_SHARD.fullmatch(path.name) for path in _tables(folder)):
            return _read_shards(folder, request)
    if _any(root, image_suffixes()):
        rows = read_beside_images(root, request)
        return _read_files(root, image_suffixes(), "image", request) if rows is None else rows
    if tables := _tables(root):
        return read_tables(tables, root, request)
    classes = _Tree(root, _NO_SUFFIX).look(root)[0]
    for suffixes in (_TEXT_SUFFIXES, _NO_SUFFIX):
        # Text files next to the class folders, such as a README, are not samples.
        if any(_any(part, suffixes) for part in classes or [root]):
            return _read_files(root, suffixes, "text", request)
    inside = [folder for folder in classes if _tables(folder)]
    if len(inside) == 1:
        return read_folder(inside[0], request)
    if inside:
        names = ", ".join(map(str, inside))
        raise DataError(f"{root} has tables in several folders: pass one of {names}")
    wanted = f"; expected {root}/CLASS/*.png, {root}/CLASS/*.txt or a table"
    raise DataError(f"no images or texts found in {root}{wanted if request.needs_labels else ''}")


def _tables(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if path.suffix.lower() in TABLES and path.is_file()]


def _read_shards(folder: Path, request: Request) -> Rows:
    """Read the tables of a data set from a hub, several per split.

    Raises:
        DataError: If a table is missing, or none belongs to a split.
    """
    parts: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in _tables(folder):
        if match := _SHARD.fullmatch(path.name):
            parts[match[1], match[2]].append(path)
    read, notes = [], []
    for (name, count), paths in parts.items():
        if len(paths) < int(count):
            raise DataError(
                f"{folder} has {len(paths)} of the {int(count)} tables of {name}: add the others"
            )
        if split := SPLIT_NAMES.get(name.lower()):
            read += [read_table(path, request, split) for path in paths]
        else:
            notes.append(f"the {name} split is not read")
    if not read:
        names = ", ".join(name for name, _ in parts)
        raise DataError(f"{folder} has the splits {names}; expected train and test")
    rows = join_rows(read, str(folder))
    rows.notes += notes
    return rows


def read_file(path: Path, request: Request) -> Rows:
    """Read a table or, if labels are not required, an image or a file with one text per line.

    Raises:
        DataError: If the file is none of these.
    """
    end = path.suffix.lower()
    if end in TABLES:
        return read_table(path, request)
    if end in _TEXT_SUFFIXES and is_table(open_table(path, request), request.columns):
        rows = read_table(path, request)
        rows.notes.append(f"{path.name} is read as a table, since its first line names columns")
        return rows
    if end in image_suffixes() and not request.needs_labels:
        return _image_rows(path.parent, [_Found(path, "", "")])
    if end in _TEXT_SUFFIXES:
        if request.needs_labels:
            raise DataError(
                f"the texts in {path} have no labels; put each class in its own folder "
                "(CLASS/*.txt) or give a table with the columns text,label"
            )
        return _line_rows(path, request)
    raise DataError(f"expected a folder or one of {', '.join(TABLES)}, got the file {path}")


def _read_files(root: Path, suffixes: frozenset[str], modality: Modality, request: Request) -> Rows:
    """Read ``CLASS/*``, or ``train/CLASS/*`` if folders are named after splits."""
    folders = _Tree(root, suffixes).look(root)[0]
    parts = _find_splits(root, folders, suffixes, modality)
    tree = _Tree(root, suffixes)
    if root not in parts:
        others, files = tree.look(root)
        files += [folder for folder in others if folder not in parts]
        tree.leave_out("files or folders beside train", *files)
    found: list[_Found] = []
    for part, split in parts.items():
        tree.start(part)
        classes = [part]
        inside, files = tree.look(part) if request.labelled else ([], [])
        if inside or request.needs_labels:
            classes = inside
            tree.leave_out("files outside the class folders", *files)
        for folder in classes:
            before = len(found)
            label = "" if folder == part else folder.name
            found += [_Found(path, label, split) for path in tree.files(folder)]
            if len(found) == before:
                tree.leave_out(f"folders without {modality}s", folder)
    if request.needs_labels and not found:
        what, end = ("images", "png") if modality == "image" else ("texts", "txt")
        raise DataError(
            f"the {what} in {root} have no labels; put each class in its own folder "
            f"({root}/CLASS/*.{end}) or give a table with the columns {modality},label"
        )
    if modality == "image":
        rows = _image_rows(root, found)
    else:
        rows = _text_rows(root, found, request.columns.encoding)
    rows.split_names = tuple(dict.fromkeys(split for split in parts.values() if split))
    rows.notes += tree.notes()
    if request.labelled:
        labels: list[str | None] = [printable(item.label) for item in found]
        if modality == "text":
            labels = [None if label in _UNLABELLED else label for label in labels]
        rows.labels = {"label": labels}
    return rows


def _find_splits(
    root: Path, folders: list[Path], suffixes: frozenset[str], modality: Modality
) -> dict[Path, str]:
    """The folders named after splits, and their splits; only the root if there are none.

    Beside other folders with samples, a folder ``train`` is a class, unless it contains classes.
    """
    named = {folder: _split_of(folder.name, modality) for folder in folders}
    parts = {folder: split for folder, split in named.items() if split}
    if any(_any(folder, suffixes) for folder in named.keys() - parts.keys()):
        train = [folder for folder, split in parts.items() if split == "train"]
        inside = [sub for folder in train for sub in _Tree(folder, suffixes).look(folder)[0]]
        if sum(_any(sub, suffixes) for sub in inside) < 2:
            return {root: ""}
    return parts or {root: ""}


def _split_of(name: str, modality: Modality) -> str:
    """The split of a folder name; of text folders the last word, as in 20news-bydate-train."""
    last = re.split(r"[-_.]", name)[-1] if modality == "text" else name
    return SPLIT_NAMES.get(last.lower(), "")


class _Tree:
    """The files and folders below a root, each real folder once; the rest is counted.

    Args:
        root: The folder.
        suffixes: Suffixes of the files to find, in lower case.
    """

    def __init__(self, root: Path, suffixes: frozenset[str]) -> None:
        self.root = root
        self.suffixes = suffixes
        self.left_out: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.start(root)

    def start(self, folder: Path) -> None:
        """Forget the folders that were entered; none that contains `folder` is entered."""
        self.entered = _with_parents(folder)

    def files(self, folder: Path) -> Iterator[Path]:
        """All files with the suffixes below a folder."""
        waiting = [folder]
        while waiting:
            folders, files = self.look(waiting.pop())
            yield from files
            waiting += reversed(folders)

    def look(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The folders in a folder that were not entered yet, and the files with the suffixes."""
        folders, files = [], []
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            self.leave_out("folders that cannot be opened", folder)
            return [], []
        for entry in entries:
            path, end = Path(entry.path), os.path.splitext(entry.name)[1].lower()
            linked, hidden = entry.is_symlink(), entry.name.startswith(".")
            if path.is_dir() if linked else entry.is_dir():
                if hidden or entry.name in LEFTOVERS:
                    self.leave_out("hidden folders", path)
                elif (real := _identity(path)) in self.entered:
                    self.leave_out("links to folders that are read already", path)
                else:
                    self.entered |= _with_parents(path) if linked else {real}
                    folders.append(path)
            elif hidden:
                self.leave_out("hidden files", path)
            elif end in self.suffixes:
                files.append(path)
            else:
                self.leave_out(f"{end} files" if end else "files without a suffix", path)
        return folders, files

    def leave_out(self, kind: str, *paths: Path) -> None:
        """Count files or folders that are not read, and keep the name of the first."""
        self.left_out[kind] += len(paths)
        for path in paths[:1]:
            self.examples.setdefault(kind, printable(path.relative_to(self.root)))

    def notes(self) -> list[str]:
        """One message about all that is not read."""
        counts = [(kind, count) for kind, count in self.left_out.items() if count]
        found = [f"{count} {kind} (e.g. {self.examples[kind]})" for kind, count in counts]
        return [f"not read: {', '.join(found)}"] if found else []


def _identity(folder: Path) -> tuple[int, int]:
    """The same for all links to a folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _with_parents(folder: Path) -> set[tuple[int, int]]:
    """A folder and all that contain it."""
    return {_identity(path) for path in (folder, *folder.resolve().parents)}


def _any(folder: Path, suffixes: frozenset[str]) -> bool:
    return next(_Tree(folder, suffixes).files(folder), None) is not None


def _splits(found: Iterable[_Found]) -> np.ndarray:
    return np.asarray([item.split for item in found], dtype="<U10")


def _image_rows(root: Path, found: list[_Found]) -> Rows:
    paths = [str(item.path) if is_utf8(item.path) else None for item in found]
    return Rows(
        (InputColumn("image", "image"),),
        (column_of(paths),),
        _names(root, found),
        _splits(found),
        faults={i: _NOT_UTF8 for i, path in enumerate(paths) if path is None},
    )


def _names(root: Path, found: Iterable[_Found]) -> list[str]:
    return [printable(item.path.relative_to(root).as_posix()) for item in found]


def _text_rows(root: Path, found: list[_Found], encoding: str | None) -> Rows:
    contents: list[bytes | None] = []
    faults = {}
    for i, item in enumerate(found):
        content = None
        try:
            content = to_utf8(read_content(item.path), encoding)
        except OSError as error:
            faults[i] = error.strerror or str(error)
        except DataError as error:
            faults[i] = str(error)
        if not is_utf8(item.path):
            faults[i] = _NOT_UTF8
        contents.append(content)
    columns = (InputColumn("text", "text"),)
    values = (column_of(contents, binary=True),)
    return Rows(columns, values, _names(root, found), _splits(found), faults=faults)


def _line_rows(path: Path, request: Request) -> Rows:
    try:
        content = request.content
        if content is None:
            content = to_utf8(read_content(path), request.columns.encoding)
    except (OSError, DataError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    found = [_Found(path, "", "") for _ in lines]
    return Rows(
        (InputColumn("text", "text"),),
        (column_of([line.removesuffix(b"\r") for line in lines], binary=True),),
        [f"{path.name}[{i}]" for i in range(len(lines))],
        _splits(found),
    )
