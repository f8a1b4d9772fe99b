"""Read data in memory: data frames, data sets, lists, and inputs with their labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from aft.config.groups import IN_MEMORY
from aft.data.images import encode_image, image_suffixes
from aft.data.images import find_fault as find_image_fault
from aft.data.readers.find_columns import InputColumn, Modality
from aft.data.readers.hub_data_sets import rows_of_splits
from aft.data.readers.image_paths import ImagePaths
from aft.data.readers.label_values import read_words
from aft.data.readers.rows import Request, Rows, column_of, label_values, rows_of_table
from aft.errors import DataError
from aft.paths import read_file

if TYPE_CHECKING:
    from datasets import Dataset

_EXPECTED = (
    "expected a path, a data frame, a data set of `datasets`, a dictionary of columns, a list of "
    "dictionaries, or (inputs, labels)"
)
_AT_ONCE = 100  # images per chunk of a table, whose size is limited


def read_in_memory(data: Any, request: Request) -> Rows:
    """Read data in memory, with the checks of data in files.

    Args:
        data: A table: a data frame of pandas or polars, a table of pyarrow, a data set of
            `datasets`, a dictionary of columns, or a list of dictionaries; a dictionary of tables
            by split, such as a ``DatasetDict``; ``(inputs, labels)``, where the inputs may be a
            table; or inputs alone, if labels are not required: texts or images, or one of them.
            Images are PIL images, arrays as in :func:`aft.data.images.encode_image`, bytes of
            files, or paths. A list of strings holds texts, unless the first one ends like an image
            file.
        request: What to read.

    Raises:
        DataError: If it is none of these, or a required column is missing.
    """
    if isinstance(data, Mapping) and not any(map(_is_column, data.values())):
        data = [data]  # one row
    if isinstance(data, Mapping) and all(map(_is_table, data.values())):
        return rows_of_splits(data, request, IN_MEMORY, read=_read_table)
    if _is_table(data):
        return rows_of_splits({"": data}, request, IN_MEMORY, read=_read_table)
    if isinstance(data, tuple) and len(data) == 2 and _is_column(data[0]) and _has_length(data[1]):
        inputs, targets = data[0], _targets(data[1])
    elif request.needs_labels:
        raise DataError(f"{_EXPECTED}, got {_describe(data)}")
    else:
        inputs, targets = data, {}
    if not _is_table(inputs):
        return _read_bare(_values([inputs] if _is_one(inputs) else inputs), targets, request)
    columns = _columns(inputs)
    if both := columns.keys() & targets.keys():
        raise DataError(
            f"the inputs have a column {min(both)!r} too: rename it, or omit the labels"
        )
    named = replace(request.columns, label=tuple(targets) or request.columns.label)
    return rows_of_splits(
        {"": columns | targets}, replace(request, columns=named), IN_MEMORY, read=_read_table
    )


def _read_table(
    table: Any, request: Request, where: str, *, row_name: str, path: Path | None, split: str
) -> Rows:
    """The rows of one table; arguments are those of :func:`rows_of_table`."""
    if type(table).__module__.startswith("datasets."):
        if not hasattr(table, "__len__"):
            hint = "pass list(data), or a datasets.Dataset"
            raise DataError(f"the length of {type(table).__name__} is unknown; {hint}")
        return rows_of_table(table, request, where, row_name=row_name, path=path, split=split)
    columns = _columns(table)
    _check_lengths(columns)
    made, faults = _as_table(columns, request)
    names = list(columns)
    rows = rows_of_table(
        made, request, where, row_name=row_name, names=names, path=path, split=split
    )
    rows.faults |= faults
    return rows


def _check_lengths(columns: Mapping[str, Sequence[Any]]) -> None:
    if len({len(values) for values in columns.values()}) > 1:
        lengths = ", ".join(f"{name}: {len(values)}" for name, values in columns.items())
        raise DataError(f"expected columns of the same length, got {lengths}")


def _read_bare(values: list[Any], labels: Mapping[str, Any], request: Request) -> Rows:
    """The rows of a list of inputs of one column, without the import of `datasets`."""
    _check_lengths({"inputs": values, **labels})
    usual = request.columns.usual
    modality = usual[0].modality if len(usual) == 1 else _modality(values)
    column = usual[0] if len(usual) == 1 else InputColumn(modality, modality)
    faults: dict[int, str] = {}
    notes: list[str] = []
    if modality == "image":
        made = _each(values, _encode, faults)
        if any(isinstance(one, bytes) for one in made):
            made, binary = _each(made, _read, faults), True
        else:
            paths = ImagePaths(Path(), Path(), True, IN_MEMORY)
            made, binary = paths.find(made), False
            faults, notes = paths.faults | faults, paths.notes
    else:
        made, binary = _each(values, _as_text, faults), True
    found = {name: label_values(some, name, IN_MEMORY) for name, some in labels.items()}
    return Rows(
        (column,),
        (column_of(made, binary),),
        [f"input[{i}]" for i in range(len(values))],
        np.full(len(values), "", dtype="<U10"),
        {name: read_words(some, len(labels) > 1) for name, some in found.items()},
        faults=faults,
        notes=notes,
    )


def _as_table(
    columns: Mapping[str, Sequence[Any]], request: Request
) -> tuple[Dataset, dict[int, str]]:
    """The columns that may be needed as a data set, and the faults of images by row."""
    import datasets
    import pyarrow

    faults: dict[int, str] = {}
    arrays: dict[str, Any] = {}
    images = []
    for name, values in columns.items():
        if any(map(_is_image, values)):
            made = _each(values, _encode, faults)
            if any(isinstance(one, bytes) for one in made):
                structs = [
                    {"path": one} if isinstance(one, str) else one and {"bytes": one}
                    for one in made
                ]
                kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
                starts = range(0, max(1, len(made)), _AT_ONCE)
                arrays[name] = pyarrow.chunked_array(
                    [pyarrow.array(structs[start : start + _AT_ONCE], kind) for start in starts]
                )
                images.append(name)
                continue
            values = made
        if request.columns.may_use(name):
            arrays[name] = _as_array(name, values)
    table = datasets.Dataset(pyarrow.table(arrays))
    for name in images:
        table = table.cast_column(name, datasets.Image(decode=False))
    return table, faults


def _as_array(name: str, values: Sequence[Any]) -> Any:
    """A column of plain values; texts that are not UTF-8 as bytes, mixed values as texts."""
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
        for i, value in enumerate(values):
            if not isinstance(value, str | bytes | int | float | None):
                raise DataError(
                    f"the column {name!r} of the {IN_MEMORY} has values of several types, and "
                    f"{type(value).__name__} in row {i}; expected texts or numbers"
                ) from None
        texts = [v if v is None or isinstance(v, bytes) else _utf_8(str(v)) for v in values]
        return pyarrow.array(texts, pyarrow.large_binary())


def _columns(table: Any) -> dict[str, list[Any]]:
    """The columns of a table in memory by name, as lists."""
    if isinstance(table, Mapping):
        return {str(name): _values(values) for name, values in table.items()}
    if isinstance(table, Sequence):
        keys = dict.fromkeys(name for row in table for name in row or ())
        return {str(n): [_plain((row or {}).get(n)) for row in table] for n in keys}
    names = list(getattr(table, "column_names", None) or table.columns)
    if len(set(map(str, names))) < len(names):
        raise DataError(f"expected columns with different names, got {', '.join(map(str, names))}")
    return {str(name): _values(table[name]) for name in names}


def _values(column: Any) -> list[Any]:
    """The values of a list, an array, or a column of a data frame; missing ones are None."""
    if isinstance(column, np.ndarray) and column.ndim != 1:
        return list(column)
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, method):
            return [_plain(value) for value in getattr(column, method)()]
    if isinstance(column, str | bytes | Mapping) or not isinstance(column, Sequence):
        raise DataError(f"{_EXPECTED}, got {_describe(column)}")
    return [_plain(value) for value in column]


def _plain(value: Any) -> Any:
    """A value without the types of numpy and pandas; None if it is missing."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray) and value.ndim < 2:
        return value.tolist()
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    return None if isinstance(value, float) and value != value else value


def _targets(labels: Any) -> dict[str, list[Any]]:
    """The label columns; an array of several columns holds 0/1 labels or regression targets."""
    if _is_table(labels) and not isinstance(labels, list | tuple):
        return _columns(labels)
    if isinstance(labels, np.ndarray) and labels.ndim == 2:
        names = [f"label_{i}" for i in range(labels.shape[1])] if labels.shape[1] > 1 else ["label"]
        return {name: labels[:, i].tolist() for i, name in enumerate(names)}
    return {"label": _values(labels)}


def _modality(values: Sequence[Any]) -> Modality:
    first = next((value for value in values if value is not None), None)
    if isinstance(first, str):
        return "image" if first.lower().endswith(tuple(image_suffixes())) else "text"
    content = isinstance(first, bytes) and find_image_fault(first) is None
    return "image" if content or _is_image(first) else "text"


def _each(values: Sequence[Any], change: Callable[[Any], Any], faults: dict[int, str]) -> list[Any]:
    """Each value changed, or None and a fault."""
    made: list[Any] = []
    for row, value in enumerate(values):
        try:
            made.append(None if value is None else change(value))
        except (DataError, OSError) as error:
            faults.setdefault(row, str(getattr(error, "strerror", None) or error))
            made.append(None)
    return made


def _encode(value: Any) -> str | bytes:
    """The path or the content of an image."""
    if isinstance(value, Mapping) and _is_one(value):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image | np.ndarray):
        return encode_image(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str | bytes | Path):
        raise DataError(f"expected a PIL image, an array, bytes or a path, got {_describe(value)}")
    return str(value) if isinstance(value, Path) else value


def _read(value: str | bytes) -> bytes:
    return read_file(value) if isinstance(value, str) else value


def _as_text(value: Any) -> bytes:
    if not isinstance(value, str | bytes):
        raise DataError(f"expected a text, got {_describe(value)}")
    return value if isinstance(value, bytes) else _utf_8(value)


def _utf_8(text: str) -> bytes:
    """A text as bytes; a surrogate, which UTF-8 does not allow, is reported when it is checked."""
    return text.encode("utf-8", "surrogatepass")


def _is_table(data: Any) -> bool:
    if isinstance(data, Mapping):
        return any(_is_column(one) for one in data.values())
    if isinstance(data, list | tuple):
        rows = [row for row in data if row is not None]
        return bool(rows) and all(isinstance(row, Mapping) and not _is_one(row) for row in rows)
    return hasattr(data, "columns") or hasattr(data, "column_names")


def _is_column(data: Any) -> bool:
    """Whether it is several values."""
    return not _is_one(data) and (hasattr(data, "__len__") or _is_table(data))


def _has_length(data: Any) -> bool:
    return _is_column(data) or (isinstance(data, np.ndarray) and data.ndim > 0)


def _is_one(data: Any) -> bool:
    """Whether it is one value: one text, one image, or one number."""
    if isinstance(data, np.ndarray):
        return _is_image(data) or data.ndim == 0
    if isinstance(data, Mapping):  # an image as `datasets` stores it
        return "bytes" in data and data.keys() <= {"bytes", "path"}
    return _is_image(data) or np.isscalar(data) or data is None


def _is_image(data: Any) -> bool:
    if isinstance(data, np.ndarray):
        colours = data.ndim == 3 and (data.shape[2] <= 4 or len(data) <= 4)
        return data.dtype != object and (data.ndim == 2 or colours)
    return isinstance(data, Image.Image | Path | bytearray | memoryview)


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    return f"{type(value).__name__} {value!r:.80}"
