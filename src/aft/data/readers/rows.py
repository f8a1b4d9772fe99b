"""The rows of a source: the common form that all readers return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aft.data.readers.find_columns import (
    BYTES,
    STRINGS,
    Columns,
    InputColumn,
    choose_inputs,
    choose_labels,
    embeds_images,
    kind_of,
    match_names,
    no_column,
    read_column,
)
from aft.data.readers.image_paths import ImagePaths
from aft.data.readers.label_values import read_words
from aft.data.texts import find_fault
from aft.errors import DataError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

VALUE = "value"
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


@dataclass(frozen=True)
class Column:
    """The values of an input column in memory; :func:`column_of` makes one.

    It has the part of a `Dataset` that samples need, without the seconds that its import takes.

    Attributes:
        content: All values, one after the other; texts as UTF-8.
        ends: Where each value ends, after a zero, shape ``(n + 1,)``.
        missing: Mask of the missing values, shape ``(n,)``.
        binary: Whether the values are bytes, not texts.
        rows: The positions of the values in this column; None for all, in order.
    """

    content: bytes
    ends: NDArray[np.int64]
    missing: NDArray[np.bool_]
    binary: bool
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.missing if self.rows is None else self.rows)

    def __getitem__(self, key: Any) -> Any:
        if key == VALUE:
            return [self[i][VALUE] for i in range(len(self))]
        value = self.bytes_of(key)
        return {VALUE: value if value is None or self.binary else value.decode()}

    def bytes_of(self, index: int) -> bytes | None:
        """One value as bytes."""
        place = index if self.rows is None else self.rows[index]
        start, end = self.ends[place : place + 2]
        return None if self.missing[place] else self.content[start:end]

    def select(self, rows: NDArray[np.int64]) -> Column:
        """The values at these positions."""
        return replace(self, rows=rows if self.rows is None else self.rows[rows])


@dataclass(frozen=True)
class Request:
    """What to read from a source.

    Attributes:
        columns: The named columns.
        labelled: Whether labels are required. If not, a flat folder or a single file is accepted.
        folder: The data folder, which holds the images that tables name; None for the hub.
        keep: Whether all columns of tables are kept.
        content: The content of the file, as UTF-8 unless it is Parquet, if it is not on disk.
    """

    columns: Columns
    labelled: bool = True
    folder: Path | None = None
    keep: bool = False
    content: bytes | None = None

    @property
    def needs_labels(self) -> bool:
        """Whether data without labels are an error."""
        return self.labelled and not self.columns.label_optional


@dataclass
class Rows:
    """The rows of a source, before ids and tasks are computed.

    Attributes:
        columns: The input columns.
        inputs: One table per input column, with the single column ``value``. Values of an image
            column are a path, the bytes, or a struct of ``bytes`` and ``path``; values of a text
            column are a string or its bytes. Missing values are null.
        files: A readable name per row.
        splits: ``train``, ``validation``, ``test`` or an empty string, per row.
        labels: The values of each label column; empty if the source has no labels.
        class_names: The ordered class names, if the source defines them.
        split_names: The splits that the source names, including those without rows.
        faults: The faults of rows that could not be read, by position.
        unused: Columns that are not an input, label or split column.
        notes: Readable messages about what was read differently than it is written, or left out.
        kept: All columns of a table, if they were asked for.
    """

    columns: tuple[InputColumn, ...]
    inputs: tuple[Dataset | Column, ...]
    files: Sequence[str]
    splits: NDArray[np.str_]
    labels: dict[str, list[Any]] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    split_names: tuple[str, ...] = ()
    faults: dict[int, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    kept: pyarrow.Table | None = None

    def __len__(self) -> int:
        return len(self.files)


def rows_of_table(
    table: Dataset,
    request: Request,
    where: str,
    *,
    row_name: str,
    names: Sequence[str] | None = None,
    path: Path | None = None,
    split: str = "",
) -> Rows:
    """The rows of a table with an image column, text columns or both.

    Args:
        table: The columns that may be needed.
        request: What to read.
        where: The name of the table in error messages.
        row_name: The name of the table in row names, as in ``row_name[17]``.
        names: All columns of the table, if some were not read.
        path: The file of the table, or its folder; relative image paths start at the folder.
        split: The split of all rows, unless a split column is named.

    Raises:
        DataError: If a column is missing or has values of the wrong type.
    """
    import datasets

    names = names or table.column_names
    inputs = choose_inputs(table, names, request.columns, where)
    labels = choose_labels(names, inputs, request.columns, request.labelled, where)
    usual = request.columns.usual
    taken: list[InputColumn | None] = list(inputs)
    if usual:
        taken = [None if i is None else inputs[i] for i in match_names(inputs, usual)]
        inputs = tuple(column for column in taken if column is not None)
    split_column = request.columns.split
    if split_column is None and not split:
        split_column = next((name for name in names if name.lower() == "split"), None)
    if split_column is not None and split_column not in names:
        raise DataError(no_column("split", split_column, names, where))
    splits = np.full(len(table), split, dtype="<U10")
    if split_column is not None:
        splits = split_values(read_column(table, split_column), where)
    files = _file_names(table, inputs, row_name)
    folders = [SPLIT_NAMES.get(name.split("/")[0].lower(), "") for name in files]
    notes = []
    if split_column is None and not split and "train" in folders and all(folders):
        splits = np.asarray(folders, dtype="<U10")
        notes = [f"the splits of {where} are the folders of its images"]
    class_names = None
    values = {name: label_values(read_column(table, name), name, where) for name in labels}
    if labels:
        feature = table.features[labels[0]]
        feature = getattr(feature, "feature", feature)  # that of the items of a list
        if isinstance(feature, datasets.ClassLabel):
            class_names = tuple(feature.names)
            column = values[labels[0]]
            column[:] = [None if isinstance(v, int) and v < 0 else v for v in column]
    anywhere = request.columns.allow_outside or request.folder is None
    path = path or Path()
    paths = ImagePaths(path, request.folder or path, anywhere, where)
    return Rows(
        usual or inputs,
        tuple(
            column_of([None] * len(table))
            if column is None
            else _input_values(table, column, paths, where)
            for column in taken
        ),
        files,
        splits,
        values,
        class_names,
        tuple(dict.fromkeys(str(name) for name in splits if name)) or ((split,) if split else ()),
        paths.faults,
        tuple(
            name
            for name in names
            if name not in {split_column, *labels, *(column.name for column in inputs)}
        ),
        notes + paths.notes,
    )


def join_rows(parts: Sequence[Rows], where: str) -> Rows:
    """Concatenate the rows of tables with the same columns, and read the words in their labels.

    Raises:
        DataError: If their columns differ.
    """
    import datasets

    first = parts[0]
    for part in parts[1:]:
        if part.columns != first.columns or part.labels.keys() != first.labels.keys():
            raise DataError(
                f"the tables of {where} have different columns: "
                f"{_column_names(first)} and {_column_names(part)}"
            )
        if part.class_names != first.class_names:
            raise DataError(f"the tables of {where} have different class names or orders of them")
    try:
        inputs = tuple(
            datasets.concatenate_datasets(_alike([as_dataset(part.inputs[c]) for part in parts]))
            for c in range(len(first.columns))
        )
    except (ValueError, TypeError) as error:
        raise DataError(f"the tables of {where} have different columns: {error}") from None
    labels = {name: [v for part in parts for v in part.labels[name]] for name in first.labels}
    if first.class_names is None:
        labels = {name: read_words(some, len(labels) > 1) for name, some in labels.items()}
    starts = np.cumsum([0, *(len(part) for part in parts)])
    return Rows(
        first.columns,
        inputs,
        [file for part in parts for file in part.files],
        np.concatenate([part.splits for part in parts]),
        labels,
        first.class_names,
        tuple(dict.fromkeys(name for part in parts for name in part.split_names)),
        {
            int(start) + row: fault
            for start, part in zip(starts, parts, strict=False)
            for row, fault in part.faults.items()
        },
        tuple(dict.fromkeys(name for part in parts for name in part.unused)),
        [note for part in parts for note in part.notes],
        _join_kept([part.kept for part in parts]),
    )


def _join_kept(parts: Sequence[pyarrow.Table | None]) -> pyarrow.Table | None:
    import pyarrow

    tables = [part for part in parts if part is not None]
    if len(tables) < max(1, len(parts)):
        return None
    try:
        return pyarrow.concat_tables(tables, promote_options="permissive")
    except pyarrow.ArrowException:  # the columns differ in their types
        return None


def _alike(tables: list[Dataset]) -> list[Dataset]:
    """Convert texts to bytes in every table if the tables store them differently."""
    import pyarrow
    from datasets import Dataset

    kinds = {kind_of(table, VALUE) for table in tables}
    if len(kinds) == 1 or not kinds <= {*STRINGS, *BYTES}:
        return tables
    whole = [table.with_format("arrow")[:].column(VALUE) for table in tables]
    return [Dataset(pyarrow.table({VALUE: v.cast(pyarrow.large_binary())})) for v in whole]


def split_values(values: Sequence[Any], where: str) -> NDArray[np.str_]:
    """The splits that the values of a split column name.

    Raises:
        DataError: If a value is not the name of a split.
    """
    known = {value: SPLIT_NAMES.get(str(value).strip().lower()) for value in set(values)}
    for value, split in known.items():
        if split is None:
            raise DataError(
                f"the split column of {where} has the value {value!r} in row "
                f"{list(values).index(value)}; expected train, validation or test"
            )
    return np.asarray([known[value] for value in values], dtype="<U10")


def _column_names(rows: Rows) -> str:
    return ", ".join([*(column.name for column in rows.columns), *rows.labels])


def label_values(values: Sequence[Any], column: str, where: str) -> list[Any]:
    """The values of a label column as plain texts, numbers, and lists of these.

    Raises:
        DataError: If a value is none of these.
    """
    return [
        _label_value(value, f"row {i} of the label column {column!r} of {where}")
        for i, value in enumerate(values)
    ]


def _label_value(value: Any, place: str) -> Any:
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, list | tuple) and not any(isinstance(part, list) for part in value):
        return [_label_value(part, place) for part in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if not isinstance(value, bytes):
        raise DataError(
            f"expected a text, a number, true or false, or a list of these in {place}, got "
            f"{type(value).__name__} {value!r:.80}"
        )
    if fault := find_fault(value):
        raise DataError(
            f"{place} is invalid ({fault}); convert the table to UTF-8, or "
            "name its encoding with --encoding"
        )
    return value.decode("utf-8")


def _input_values(
    table: Dataset, column: InputColumn, paths: ImagePaths, where: str
) -> Dataset | Column:
    import datasets

    name, feature = column.name, table.features[column.name]
    kept = table.select_columns([name])
    if column.modality == "image":
        if isinstance(feature, datasets.Image):
            kept = kept.cast_column(name, datasets.Image(decode=False))
        elif kind_of(table, name) in STRINGS or not embeds_images(table, name):
            return column_of(paths.find(read_column(kept, name)))
        return _with_paths(kept if name == VALUE else kept.rename_column(name, VALUE), paths)
    kind = kind_of(table, name)
    if kind.startswith(("int", "uint")):
        return column_of([None if v is None else str(v) for v in read_column(kept, name)])
    if kind == "null":
        return column_of([None] * len(table))
    if kind not in (*STRINGS, *BYTES):
        raise DataError(
            f"expected text in the text column {name!r} of {where}, got values of type {kind}"
        )
    return kept if name == VALUE else kept.rename_column(name, VALUE)


def column_of(values: Sequence[str | bytes | None], binary: bool = False) -> Column:
    """An input column from a list of values."""
    parts = [value.encode() if isinstance(value, str) else value or b"" for value in values]
    missing = np.asarray([value is None for value in values], dtype=bool)
    return Column(b"".join(parts), np.cumsum([0, *map(len, parts)]), missing, binary)


def as_dataset(values: Dataset | Column) -> Dataset:
    """The values of an input column as a data set, which can be joined with others."""
    import pyarrow
    from datasets import Dataset

    if not isinstance(values, Column):
        return values
    kind = pyarrow.large_binary() if values.binary else pyarrow.large_string()
    return Dataset(pyarrow.table({VALUE: pyarrow.array(values[VALUE], kind)}))


def _with_paths(images: Dataset, paths: ImagePaths) -> Dataset:
    """Find the files of embedded images that have a path but no bytes."""
    import pyarrow
    import pyarrow.compute
    from datasets import Dataset

    values = images.with_format("arrow")[:].column(VALUE)
    names = [field.name for field in values.type] if pyarrow.types.is_struct(values.type) else []
    if "path" not in names:
        return images
    named = pyarrow.compute.struct_field(values, "path")
    content = pyarrow.nulls(len(values), pyarrow.large_binary())
    if "bytes" in names:
        content = pyarrow.compute.struct_field(values, "bytes").cast(pyarrow.large_binary())
        named = pyarrow.compute.if_else(content.is_null(), named, None)
    if named.null_count == len(named):
        return images
    found = pyarrow.array(paths.find(named.to_pylist()), pyarrow.large_string())
    fields = [pyarrow.chunked_array(content).combine_chunks(), found]
    struct = pyarrow.StructArray.from_arrays(fields, ["bytes", "path"])
    return Dataset(pyarrow.table({VALUE: struct}))


def _file_names(table: Dataset, inputs: Sequence[InputColumn], row_name: str) -> list[str]:
    names = [f"{row_name}[{i}]" for i in range(len(table))]
    kind = kind_of(table, inputs[0].name)
    if len(inputs) > 1 or inputs[0].modality != "image" or kind not in STRINGS:
        return names
    values = read_column(table, inputs[0].name)
    return [str(v) if v else n for v, n in zip(values, names, strict=True)]
