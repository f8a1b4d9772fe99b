"""Read tables (CSV, TSV, JSON, JSON lines and Parquet); only the needed columns are loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aft.data.readers.rows import SPLIT_NAMES, Request, Rows, join_rows, rows_of_table
from aft.data.texts import find_encoding_fault, find_pointer, without_mark
from aft.errors import DataError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

_CHUNK_LINES = 10_000
_LARGEST_BLOCK = 2**31 - 1
_NOTHING = {"", "NA", "N/A", "NaN", "nan", "null", "NULL"}
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


class _Table(NamedTuple):
    table: Dataset
    names: tuple[str, ...]
    """All columns of the file, including those that were not loaded."""


def read_table(path: Path, request: Request, split: str = "") -> Rows:
    """Read the rows of a table file.

    Args:
        path: A file with one of the extensions in `TABLES`.
        request: What to read.
        split: The split of all rows, unless a split column is named.

    Raises:
        DataError: If the table cannot be read, or lacks a required column.
    """
    found = _read(path, request)
    return rows_of_table(
        found.table,
        request,
        str(path),
        row_name=path.name,
        names=found.names,
        root=path.parent,
        split=split,
    )


def read_tables(tables: Sequence[Path], root: Path, request: Request) -> Rows:
    """Read one table, or several tables that are named after splits.

    Raises:
        DataError: If a table cannot be read or has another name, or the columns differ.
    """
    if len(tables) == 1:
        rows = read_table(tables[0], request, SPLIT_NAMES.get(tables[0].stem.lower(), ""))
        return rows
    parts = []
    for path in tables:
        split = SPLIT_NAMES.get(path.stem.lower())
        if split is None:
            raise DataError(
                f"{root} has several tables; expected names like train.csv and test.csv, "
                f"got {path.name}. Rename the tables, or pass one table with a split column"
            )
        parts.append(read_table(path, request, split))
    rows = join_rows(parts, str(root))
    rows.split_names = tuple(SPLIT_NAMES[path.stem.lower()] for path in tables)
    return rows


def _read(path: Path, request: Request) -> _Table:
    import pyarrow

    end = path.suffix.lower()
    try:
        with path.open("rb") as file:
            start = file.read(1024)
        if fault := find_pointer(start) if end == ".parquet" else find_encoding_fault(start):
            raise DataError(f"cannot read the table {path}: {fault}")
        if end == ".parquet":
            return _read_parquet(path, request)
        if end in (".csv", ".tsv"):
            return _read_csv(path, request, "\t" if end == ".tsv" else ",")
        if end == ".json":
            content = without_mark(path.read_bytes())
            if content.lstrip().startswith(b"["):
                return _from_records(path, request, _array_records(content, path))
        with path.open("rb") as file:
            return _from_records(path, request, _line_records(file, path))
    except (pyarrow.ArrowException, ValueError, OSError, RecursionError) as error:
        raise DataError(f"cannot read the table {path}: {error}") from None


def _needed(names: Iterable[str], request: Request) -> list[str]:
    return [name for name in names if request.columns.may_use(name)]


def _read_parquet(path: Path, request: Request) -> _Table:
    import pyarrow.parquet
    from datasets import Dataset

    names = tuple(pyarrow.parquet.read_schema(path).names)
    table = pyarrow.parquet.read_table(path, columns=_needed(names, request))
    return _Table(Dataset(table), names)


# ---------------------------------------------------------------------------- CSV


def _read_csv(path: Path, request: Request, delimiter: str) -> _Table:
    """Read every column as text; convert a label column to numbers if all its values are."""
    import pyarrow
    import pyarrow.csv
    from datasets import Dataset

    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)

    def read(block_size: int) -> tuple[pyarrow.Table, tuple[str, ...]]:
        reading = pyarrow.csv.ReadOptions(block_size=block_size)
        with pyarrow.csv.open_csv(path, reading, parse) as reader:
            names = tuple(reader.schema.names)
        needed = _needed(names, request)
        convert = pyarrow.csv.ConvertOptions(
            include_columns=needed, column_types={name: pyarrow.binary() for name in needed}
        )
        return pyarrow.csv.read_csv(path, reading, parse, convert), names

    try:
        table, names = read(2**20)
    except pyarrow.ArrowInvalid as error:
        if "straddling" not in str(error):
            raise
        table, names = read(min(path.stat().st_size + 1, _LARGEST_BLOCK))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"cannot read the table {path}: it has two columns named {twice!r}")
    for i, name in enumerate(table.schema.names):
        column = _as_text(table.column(i))
        if column.type == pyarrow.large_string() and not request.columns.may_be_input(name):
            column = pyarrow.array(_typed(column.to_pylist()))
        table = table.set_column(i, name, column)
    return _Table(Dataset(table), names)


def _typed(values: Sequence[str]) -> Sequence[Any]:
    """Convert to integers or floats if all values are numbers; otherwise return the values.

    Values such as ``007`` and ``true`` are not numbers but names.
    """
    words = [value.strip() for value in values]
    there = {word for word in words if word not in _NOTHING}
    kind: Any = int if all(map(_WHOLE.fullmatch, there)) else float
    if not there or not all(map(_NUMBER.fullmatch, there)):
        return values
    return [None if word in _NOTHING else kind(word) for word in words]


def _as_text(column: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    """Convert to strings, or to bytes if some values are not UTF-8."""
    import pyarrow

    try:
        return column.cast(pyarrow.large_string())
    except pyarrow.ArrowInvalid:
        return column.cast(pyarrow.large_binary())


# ---------------------------------------------------------------------------- JSON


def _array_records(content: bytes, path: Path) -> Iterator[tuple[str, Any]]:
    for i, record in enumerate(json.loads(content.decode("utf-8", "surrogateescape"))):
        yield f"item {i}", record


def _line_records(lines: Iterable[bytes], path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, 1):
        line = without_mark(line) if number == 1 else line
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8", "surrogateescape"))
        except json.JSONDecodeError as error:
            raise DataError(
                f"cannot read the table {path}: line {number} is not JSON ({error.msg} at column "
                f"{error.colno}); expected one object per line. Repair or remove the line"
            ) from None
        yield f"line {number}", record


def _from_records(path: Path, request: Request, records: Iterator[tuple[str, Any]]) -> _Table:
    import pyarrow
    from datasets import Dataset

    names: dict[str, None] = {}
    chunks = []
    while some := list(islice(records, _CHUNK_LINES)):
        for place, record in some:
            if not isinstance(record, dict):
                raise DataError(
                    f"cannot read the table {path}: expected an object in {place}, got "
                    f"{type(record).__name__}; write the columns by name, as in "
                    '{"text": "…", "label": "…"}'
                )
            names |= dict.fromkeys(record)
        needed = _needed(names, request)
        columns = {
            name: _to_arrow([record.get(name) for _, record in some], name, f"{path}, {some[0][0]}")
            for name in needed
        }
        if not needed:  # a table without columns has no number of rows
            columns[""] = pyarrow.nulls(len(some))
        chunks.append(pyarrow.table(columns))
    if not chunks:
        raise DataError(f"{path} has no rows")
    try:
        table = pyarrow.concat_tables(_alike(chunks), promote_options="permissive")
    except pyarrow.ArrowException as error:
        raise DataError(
            f"cannot read the table {path}: a column has values of mixed types: {error}"
        ) from None
    return _Table(Dataset(table.select(_needed(names, request))), tuple(names))


def _to_arrow(values: list[Any], name: str, place: str) -> pyarrow.Array:
    """Strings, or bytes if some are not valid Unicode; scalars among strings become text."""
    import pyarrow

    kinds = {type(value) for value in values} - {type(None)}
    if str in kinds and not kinds & {list, dict}:
        if len(kinds) > 1:
            values = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
        try:
            return pyarrow.array(values, pyarrow.large_string())
        except UnicodeEncodeError:
            encoded = [None if v is None else v.encode("utf-8", "surrogatepass") for v in values]
            return pyarrow.array(encoded, pyarrow.large_binary())
    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise DataError(
            f"the column {name!r} has values of mixed types ({place} and after): {error}"
        ) from None


def _alike(chunks: list[pyarrow.Table]) -> list[pyarrow.Table]:
    """Give a column the same type in all chunks if only some of them have strings."""
    import pyarrow

    kinds: dict[str, set[pyarrow.DataType]] = {}
    for chunk in chunks:
        for column in chunk.schema:
            kinds.setdefault(column.name, set()).add(column.type)
    text, raw = pyarrow.large_string(), pyarrow.large_binary()
    for name, found in kinds.items():
        if len(found) == 1 or not found & {text, raw}:
            continue
        for i, chunk in enumerate(chunks):
            if name in chunk.column_names:
                values = chunk.column(name)
                values = values if values.type in (text, raw) else values.cast(text)
                values = values.cast(raw) if raw in found else values
                chunks[i] = chunk.set_column(chunk.column_names.index(name), name, values)
    return chunks
