"""Where rows come from: image folders, tables and Hugging Face data sets, read into one form.

Every source becomes a `datasets.Dataset` with the columns ``input`` (a file path, or a struct of
``bytes`` and ``path``), ``file`` (a name for people), ``split`` (``train``, ``validation``,
``test`` or empty) and the label columns under their own names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aft.errors import DataError
from aft.hub import why_unreachable
from aft.images import image_suffixes

if TYPE_CHECKING:
    from datasets import Dataset

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_IMAGE_COLUMNS = ("image", "img", "picture", "file_name", "filename", "file", "path", "image_path")
_LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "y", "fine_label")
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_METADATA = tuple(f"metadata{end}" for end in _TABLES)


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what; None means the usual names are looked for."""

    image: str | None = None
    label: tuple[str, ...] = ()
    split: str | None = None


@dataclass
class Rows:
    """What a source holds, before ids and tasks.

    Attributes:
        table: Columns ``input``, ``file``, ``split`` and the label columns.
        label_columns: Names of the label columns; empty where the source has no labels.
        class_names: The classes in their given order, where the source knows one.
        splits: The splits the source names, also those without rows.
    """

    table: Dataset
    label_columns: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    splits: tuple[str, ...] = ()


def read_source(source: str, columns: Columns, *, labelled: bool = True) -> Rows:
    """Read a folder, file or Hugging Face data set.

    Args:
        source: An image folder, a table file, a folder of tables, a data set saved by
            `datasets`, or the name of one on the Hugging Face hub.
        columns: Names of the columns, where they are not the usual ones.
        labelled: Whether labels are needed; without, a flat folder or a single picture will do.

    Raises:
        DataError: If there is nothing there, or a needed column is missing.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path, columns, labelled)
    if path.is_file():
        if path.suffix.lower() in image_suffixes() and not labelled:
            return _picture_rows(path.parent, [(path, "", "")], labelled=False)
        if path.suffix.lower() in _TABLES:
            return _from_table(_read_table(path), path.parent, columns, labelled, str(path))
        raise DataError(f"expected a folder or one of {', '.join(_TABLES)}, got the file {source}")
    looks_like_path = source.startswith((".", "/", "~")) or source.endswith(("/", *_TABLES))
    if looks_like_path or source.count("/") > 1 or (os.sep == "\\" and "\\" in source):
        raise DataError(f"there is no folder or file {source} (looked in {Path.cwd()})")
    return _read_hub(source, columns, labelled)


# ---------------------------------------------------------------------------- image folders


def _read_folder(root: Path, columns: Columns, labelled: bool) -> Rows:
    if (root / "dataset_dict.json").exists() or (root / "state.json").exists():
        import datasets

        return _from_hugging_face(datasets.load_from_disk(str(root)), columns, labelled, str(root))
    metadata = [root / name for name in _METADATA if (root / name).exists()]
    if metadata:
        return _from_table(_read_table(metadata[0]), root, columns, labelled, str(metadata[0]))
    tables = [p for p in sorted(root.iterdir()) if p.suffix.lower() in _TABLES and p.is_file()]
    pictures = _find_pictures(root)
    first = next(pictures, None)
    if tables and first is None:
        return _from_split_tables(tables, root, columns, labelled)
    if first is None:
        wanted = f"; expected {root}/CLASS/*.png or a table" if labelled else ""
        raise DataError(f"there is no image in {root}{wanted}")
    return _read_pictures(root, labelled)


def _read_pictures(root: Path, labelled: bool) -> Rows:
    """``CLASS/*.png``, or ``train/CLASS/*.png`` where every folder has the name of a split."""
    folders = _subfolders(root)
    if labelled and not folders:
        raise DataError(
            f"the images in {root} have no labels: put each class in a folder of its own "
            f"({root}/CLASS/*.png) or give a table with columns image,label"
        )
    names = {folder: SPLIT_NAMES.get(folder.name.lower(), "") for folder in folders}
    parts = names if names and all(names.values()) else {root: ""}

    def walk() -> Iterator[tuple[Path, str, str]]:
        for part, split in parts.items():
            for folder in _subfolders(part) if labelled else [part]:
                yield from ((picture, folder.name, split) for picture in _find_pictures(folder))

    rows = _picture_rows(root, walk(), labelled)
    rows.splits = tuple(dict.fromkeys(split for split in parts.values() if split))
    return rows


def _subfolders(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _find_pictures(folder: Path) -> Iterator[Path]:
    suffixes = image_suffixes()
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                yield Path(base, name)


def _picture_rows(
    root: Path, found: Iterator[tuple[Path, str, str]] | list[tuple[Path, str, str]], labelled: bool
) -> Rows:
    from datasets import Dataset

    paths, labels, splits, files = [], [], [], []
    for path, label, split in found:
        paths.append(str(path))
        files.append(path.relative_to(root).as_posix())
        labels.append(label)
        splits.append(split)
    table = {"input": paths, "file": files, "split": splits}
    if labelled:
        table["label"] = labels
    return Rows(Dataset.from_dict(table), ("label",) if labelled else ())


# ---------------------------------------------------------------------------- tables


def _read_table(path: Path) -> Dataset:
    import pyarrow
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet
    from datasets import Dataset

    end = path.suffix.lower()
    try:
        if end == ".parquet":
            return Dataset(pyarrow.parquet.read_table(path))
        if end in (".csv", ".tsv"):
            options = pyarrow.csv.ParseOptions(
                delimiter="\t" if end == ".tsv" else ",", newlines_in_values=True
            )
            return Dataset(pyarrow.csv.read_csv(path, parse_options=options))
        if end == ".json" and path.read_text(encoding="utf-8").lstrip().startswith("["):
            return Dataset.from_list(json.loads(path.read_text(encoding="utf-8")))
        return Dataset(pyarrow.json.read_json(path))
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise DataError(f"cannot read the table {path}: {error}") from None


def _from_split_tables(tables: list[Path], root: Path, columns: Columns, labelled: bool) -> Rows:
    from datasets import concatenate_datasets

    parts, splits = [], []
    for path in tables:
        split = SPLIT_NAMES.get(path.stem.lower())
        if split is None:
            if len(tables) > 1:
                raise DataError(
                    f"{root} has several tables; expected names like train.csv and test.csv, "
                    f"got {path.name}. Name one table, or give it a split column"
                )
            return _from_table(_read_table(path), root, columns, labelled, str(path))
        table = _read_table(path)
        parts.append(table.add_column("split", [split] * len(table)))
        splits.append(split)
    try:
        joined = concatenate_datasets(parts)
    except ValueError as error:
        raise DataError(f"the tables in {root} do not have the same columns: {error}") from None
    rows = _from_table(joined, root, columns, labelled, str(root))
    rows.splits = tuple(splits)
    return rows


def _from_table(table: Dataset, root: Path, columns: Columns, labelled: bool, name: str) -> Rows:
    """Rows of a table whose image column holds paths (relative to `root`) or embedded images."""
    from datasets import Dataset

    image = _pick(table, columns.image, _IMAGE_COLUMNS, "image", name)
    label_columns = _label_columns(table, columns, labelled, name)
    split = columns.split if columns.split else "split" if "split" in table.column_names else None
    if split and split not in table.column_names:
        raise DataError(_no_column("split", split, table, name))
    kept = table.select_columns([image, *label_columns, *([split] if split else [])])
    values = kept[image]
    if len(kept) and isinstance(values[0], dict):
        files = [(v or {}).get("path") or f"row {i}" for i, v in enumerate(values)]
        inputs: list[Any] = list(values)
    else:
        files = ["" if value is None else str(value) for value in values]
        inputs = [str(root / file) for file in files]
    splits = _split_values(kept[split], name) if split else [""] * len(kept)
    rows = Dataset.from_dict({"input": inputs, "file": files, "split": splits})
    for column in label_columns:
        rows = rows.add_column(column, kept[column][:])
    return Rows(rows, label_columns, splits=tuple(dict.fromkeys(s for s in splits if s)))


def _label_columns(table: Dataset, columns: Columns, labelled: bool, name: str) -> tuple[str, ...]:
    if not labelled:
        return ()
    for column in columns.label:
        if column not in table.column_names:
            raise DataError(_no_column("label", column, table, name))
    return columns.label or (_pick(table, None, _LABEL_COLUMNS, "label", name),)


def _split_values(values: Sequence[Any], name: str) -> list[str]:
    splits = []
    for value in values:
        split = SPLIT_NAMES.get(str(value).strip().lower())
        if split is None:
            raise DataError(
                f"the split column of {name} holds {value!r}; expected train, validation or test"
            )
        splits.append(split)
    return splits


def _pick(table: Dataset, given: str | None, usual: Sequence[str], what: str, name: str) -> str:
    if given is not None:
        if given not in table.column_names:
            raise DataError(_no_column(what, given, table, name))
        return given
    lower: dict[str, str] = {column.lower(): column for column in table.column_names}
    for column in usual:
        if column in lower:
            return lower[column]
    raise DataError(_no_column(what, None, table, name))


def _no_column(what: str, given: str | None, table: Dataset, name: str) -> str:
    wanted = f"no column {given!r}" if given else f"no {what} column found"
    return (
        f"{wanted} in {name}; its columns are {', '.join(table.column_names)}. "
        f"Name it with --{what}-column"
    )


# ---------------------------------------------------------------------------- Hugging Face


def _read_hub(name: str, columns: Columns, labelled: bool) -> Rows:
    import datasets

    repository, _, configuration = name.partition(":")
    complaint = f"there is no folder or file {name!r} here, and no Hugging Face data set: "
    cached = Path(datasets.config.HF_DATASETS_CACHE, repository.replace("/", "___")).exists()
    if not cached and (reason := why_unreachable()):
        raise DataError(f"{complaint}the hub cannot be reached ({reason})")
    try:
        loaded = datasets.load_dataset(repository, configuration or None)
    except Exception as error:  # the hub's client raises a zoo of errors
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{complaint}{first}") from None
    return _from_hugging_face(loaded, columns, labelled, name)


def _from_hugging_face(loaded: Any, columns: Columns, labelled: bool, name: str) -> Rows:
    import datasets

    parts = loaded if isinstance(loaded, dict) else {"": loaded}
    tables, splits, class_names = [], [], None
    for part, table in parts.items():
        split = SPLIT_NAMES.get(part.lower(), "")
        if part and not split:
            continue  # e.g. "unsupervised"
        images = [c for c, kind in table.features.items() if isinstance(kind, datasets.Image)]
        image = _pick(table, columns.image or (images or [None])[0], _IMAGE_COLUMNS, "image", name)
        labels = _label_columns(table, columns, labelled, name)
        if labels and isinstance(table.features[labels[0]], datasets.ClassLabel):
            class_names = tuple(table.features[labels[0]].names)
        keep = [image, *labels, *([columns.split] if columns.split else [])]
        table = table.select_columns(keep)
        if isinstance(table.features[image], datasets.Image):
            table = table.cast_column(image, datasets.Image(decode=False))
        if class_names:
            table = table.cast_column(labels[0], datasets.Value("int64"))
        given = _split_values(table[columns.split], name) if columns.split else [split] * len(table)
        table = table.rename_column(image, "input")
        table = table.add_column("file", [f"{part or 'row'}[{i}]" for i in range(len(table))])
        if "split" in table.column_names:
            table = table.remove_columns("split")
        table = table.add_column("split", given)
        tables.append(table)
        splits += list(dict.fromkeys(s for s in given if s))
    if not tables:
        raise DataError(f"{name} has the splits {', '.join(parts)}; expected train and test")
    joined = datasets.concatenate_datasets(tables)
    return Rows(joined, labels, class_names, tuple(splits))
