"""The rows of a source: the common form that all readers return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
from aft.data.texts import find_fault
from aft.errors import DataError

if TYPE_CHECKING:
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
class Request:
    """What to read from a source.

    Attributes:
        columns: The named columns.
        labelled: Whether labels are required. If not, a flat folder or a single file is accepted.
    """

    columns: Columns
    labelled: bool = True


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
        notes: Messages about files and folders of the source that are not read.
    """

    columns: tuple[InputColumn, ...]
    inputs: tuple[Dataset, ...]
    files: Sequence[str]
    splits: NDArray[np.str_]
    labels: dict[str, list[Any]] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    split_names: tuple[str, ...] = ()
    faults: dict[int, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)


def rows_of_table(
    table: Dataset,
    request: Request,
    where: str,
    *,
    row_name: str,
    names: Sequence[str] | None = None,
    root: Path | None = None,
    split: str = "",
) -> Rows:
    """The rows of a table with an image column, text columns or both.

    Args:
        table: The columns that may be needed.
        request: What to read.
        where: The name of the table in error messages.
        row_name: The name of the table in row names, as in ``row_name[17]``.
        names: All columns of the table, if some were not read.
        root: The folder of relative image paths.
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
    if split_column is None and not split and "split" in names:
        split_column = "split"
    if split_column is not None and split_column not in names:
        raise DataError(no_column("split", split_column, names, where))
    splits = np.full(len(table), split, dtype="<U10")
    if split_column is not None:
        splits = split_values(read_column(table, split_column), where)
    class_names = None
    values = {column: _label_values(table, column, where) for column in labels}
    if labels and isinstance(table.features[labels[0]], datasets.ClassLabel):
        class_names = tuple(table.features[labels[0]].names)
        values[labels[0]] = [None if v is not None and v < 0 else v for v in values[labels[0]]]
    return Rows(
        usual or inputs,
        tuple(
            column_of([None] * len(table))
            if column is None
            else _input_values(table, column, root, where)
            for column in taken
        ),
        _file_names(table, inputs, row_name),
        splits,
        values,
        class_names,
        tuple(dict.fromkeys(str(name) for name in splits if name)) or ((split,) if split else ()),
        unused=tuple(
            name
            for name in names
            if name not in {split_column, *labels, *(column.name for column in inputs)}
        ),
    )


def join_rows(parts: Sequence[Rows], where: str) -> Rows:
    """Concatenate the rows of several tables with the same columns.

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
    try:
        inputs = tuple(
            datasets.concatenate_datasets(_alike([part.inputs[c] for part in parts]))
            for c in range(len(first.columns))
        )
    except (ValueError, TypeError) as error:
        raise DataError(f"the tables of {where} have different columns: {error}") from None
    return Rows(
        first.columns,
        inputs,
        [file for part in parts for file in part.files],
        np.concatenate([part.splits for part in parts]),
        {name: [v for part in parts for v in part.labels[name]] for name in first.labels},
        first.class_names,
        tuple(dict.fromkeys(name for part in parts for name in part.split_names)),
        unused=first.unused,
    )


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
                f"the split column of {where} has the value {value!r}; expected train, validation "
                "or test"
            )
    return np.asarray([known[value] for value in values], dtype="<U10")


def _column_names(rows: Rows) -> str:
    return ", ".join([*(column.name for column in rows.columns), *rows.labels])


def _label_values(table: Dataset, column: str, where: str) -> list[Any]:
    values = read_column(table, column)
    if any(isinstance(value, bytes) for value in values):
        for i, value in enumerate(values):
            if isinstance(value, bytes):
                if fault := find_fault(value):
                    raise DataError(
                        f"the label column {column!r} of {where} has an invalid value in row {i} "
                        f"({fault}); convert the table to UTF-8"
                    )
                values[i] = value.decode("utf-8")
    return values


def _input_values(table: Dataset, column: InputColumn, root: Path | None, where: str) -> Dataset:
    import datasets

    name, feature = column.name, table.features[column.name]
    kept = table.select_columns([name])
    if column.modality == "image":
        if isinstance(feature, datasets.Image):
            kept = kept.cast_column(name, datasets.Image(decode=False))
        elif kind_of(table, name) in STRINGS or not embeds_images(table, name):
            return column_of([_path(value, root) for value in read_column(kept, name)])
        return kept if name == VALUE else kept.rename_column(name, VALUE)
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


def column_of(values: Sequence[str | bytes | None], binary: bool = False) -> Dataset:
    """An input column from a list of values."""
    import pyarrow
    from datasets import Dataset

    kind = pyarrow.large_binary() if binary else pyarrow.large_string()
    return Dataset(pyarrow.table({VALUE: pyarrow.array(values, kind)}))


def _path(value: Any, root: Path | None) -> str | None:
    if value is None or not str(value).strip():
        return None
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text if root is None else str(root / text)


def _file_names(table: Dataset, inputs: Sequence[InputColumn], row_name: str) -> list[str]:
    names = [f"{row_name}[{i}]" for i in range(len(table))]
    kind = kind_of(table, inputs[0].name)
    if len(inputs) > 1 or inputs[0].modality != "image" or kind not in STRINGS:
        return names
    values = read_column(table, inputs[0].name)
    return [str(v) if v else n for v, n in zip(values, names, strict=True)]
