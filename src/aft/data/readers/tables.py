"""Read tables (CSV, TSV, JSON, JSON lines and Parquet); only the needed columns are loaded."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aft.data.readers.find_columns import IMAGE_NAMES
from aft.data.readers.rows import SPLIT_NAMES, Request, Rows, join_rows, rows_of_table
from aft.data.readers.table_files import TableFile, describe, find_delimiter, open_table
from aft.data.texts import find_fault, without_mark
from aft.errors import DataError
from aft.paths import LEFTOVERS, TABLES

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

_CHUNK_LINES = 10_000
_LARGEST_BLOCK = 2**31 - 1
_BATCH_ROWS = 256
_MOST_GROWTH = 100
_LEAST_LIMIT = 2**30
"""A Parquet file may decode to this many bytes, or to `_MOST_GROWTH` times its size."""
_QUOTED = re.compile(rb'"([^"]|"")*"')
_IMAGE_IDS = ("image_id", "img_id", "image_name", "id")


class _Table(NamedTuple):
    table: Dataset
    names: tuple[str, ...]
    """All columns of the file, including those that were not loaded."""
    kept: pyarrow.Table | None
    """All columns that have a name of their own, if they were asked for."""
    notes: list[str]


def read_table(path: Path, request: Request, split: str = "") -> Rows:
    """Read the rows of a table file.

    Args:
        path: A file with one of the extensions in `TABLES`.
        request: What to read.
        split: The split of all rows, unless a split column is named.

    Raises:
        DataError: If the table cannot be read, or lacks a required column.
    """
    return join_rows([_rows(path, request, split)], str(path))


def read_tables(tables: Sequence[Path], root: Path, request: Request) -> Rows:
    """Read one table, or several tables that are named after splits.

    Raises:
        DataError: If a table cannot be read or has another name, or the columns differ.
    """
    splits = {path: SPLIT_NAMES.get(path.stem.lower(), "") for path in tables}
    if len(tables) == 1:
        return read_table(tables[0], request, splits[tables[0]])
    for path, split in splits.items():
        if not split:
            raise DataError(
                f"{root} has several tables; expected names like train.csv and test.csv, "
                f"got {path.name}. Rename the tables, or pass one table with a split column"
            )
    return _join([_rows(path, request, split) for path, split in splits.items()], root, splits)


def read_beside_images(root: Path, request: Request) -> Rows | None:
    """Read tables that name the images of split folders.

    These are ``train/metadata.csv``, as for the `imagefolder` of `datasets`, or ``train.csv``
    beside a folder ``train`` without class folders, as on Kaggle; there, the names of the images
    may be in a column such as ``id``.

    Returns:
        The rows, or None if no split folder has such a table.

    Raises:
        DataError: If a table cannot be read or the columns differ, or if split folders have
            neither tables nor class folders.
    """
    folders = _subfolders(root)
    splits = {path: SPLIT_NAMES[p] for path in folders if (p := path.name.lower()) in SPLIT_NAMES}
    flat = [path for path in splits if not _subfolders(path)]
    parts, without = [], []
    for folder, split in splits.items():
        inside = [folder / f"metadata{end}" for end in TABLES]
        beside = [folder.with_name(folder.name + end) for end in TABLES if folder in flat]
        table = next((path for path in (*inside, *beside) if path.exists()), None)
        if table is None:
            without.append(folder)
        else:
            parts.append(_rows(table, request, split, beside_images=True))
    if parts:
        rows = _join(parts, root, {path: s for path, s in splits.items() if path not in without})
        rows.notes += [
            f"no table names the images in {path}; they are not used" for path in without
        ]
        return rows
    if request.needs_labels and flat and len(flat) == len(folders):
        tables = [path.name for path in sorted(root.iterdir()) if path.suffix.lower() in TABLES]
        found = f" (found {', '.join(tables)})" if tables else ""
        raise DataError(
            f"the images in {flat[0]} have no labels; put each class in its own folder "
            f"({flat[0]}/CLASS/*.png), or write their names and labels to a table "
            f"{flat[0]}.csv with the columns file_name,label{found}"
        )
    return None


def _subfolders(folder: Path) -> list[Path]:
    names = (p for p in sorted(folder.iterdir()) if p.name[0] != "." and p.name not in LEFTOVERS)
    return [path for path in names if path.is_dir()]


def _join(parts: Sequence[Rows], root: Path, splits: Mapping[Path, str]) -> Rows:
    rows = join_rows(parts, str(root))
    rows.split_names = tuple(dict.fromkeys(splits.values()))
    return rows


def _rows(path: Path, request: Request, split: str, beside_images: bool = False) -> Rows:
    found = _read(path, request)
    lower = {name.lower(): name for name in reversed(found.names)}
    ids = [lower[name] for name in _IMAGE_IDS if name in lower]
    if beside_images and ids and not lower.keys() & {*IMAGE_NAMES} and not request.columns.inputs:
        request = replace(request, columns=replace(request.columns, image=ids[0]))
        found = _read(path, request)
    rows = rows_of_table(
        found.table,
        request,
        str(path),
        row_name=path.name,
        names=found.names,
        path=path,
        split=split,
    )
    rows.notes[:0] = found.notes
    rows.kept = found.kept
    return rows


def _read(path: Path, request: Request) -> _Table:
    import pyarrow
    from datasets import Dataset

    notes: list[str] = []
    try:
        whole, names = _read_arrow(open_table(path, request), request, notes)
    except UnicodeDecodeError as error:
        fault = find_fault(error.object)
        raise DataError(
            f"cannot read the table {path}: the column names are {fault}; name the encoding with "
            "--encoding, e.g. cp1252"
        ) from None
    except DataError:
        raise
    except (pyarrow.ArrowException, ValueError, OSError, RecursionError) as error:
        raise DataError(f"cannot read the table {path}: {error}") from None
    kept = None
    if request.keep:
        kept = whole.rename_columns(list(map(_printable, whole.column_names)))
        kept = kept if path.suffix.lower() == ".parquet" else _only_text(kept)
    table = whole.select(_needed(whole.column_names, request, path))
    strange = {field.name: field.type for field in table.schema if not _is_readable(field.type)}
    names = [f"{name} ({strange[name]})" if name in strange else name for name in names]
    names = tuple(map(_printable, names))
    data = Dataset(table.drop_columns(list(strange)))
    return _Table(data, names, kept, notes)


def _only_text(table: pyarrow.Table) -> pyarrow.Table:
    """A table with the bytes escaped that are not UTF-8."""
    import pyarrow

    for i, column in enumerate(table.columns):
        if column.type == pyarrow.large_binary():
            texts = [
                v if v is None else v.decode("utf-8", "backslashreplace")
                for v in column.to_pylist()
            ]
            table = table.set_column(i, table.column_names[i], pyarrow.array(texts))
    return table


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _read_arrow(
    file: TableFile, request: Request, notes: list[str]
) -> tuple[pyarrow.Table, Sequence[str]]:
    """The columns that may be needed or are to be kept, and the names of all columns."""
    path, end = file.path, file.path.suffix.lower()
    if end == ".parquet":
        return _read_parquet(file, request)
    if end in (".csv", ".tsv", ".txt"):
        delimiter = find_delimiter(file, request.columns)
        notes += describe(file, request.columns, delimiter)
        return _read_csv(file, request, delimiter)
    notes += describe(file, request.columns, "")
    with file.open() as stream:
        if end == ".json":
            content = without_mark(stream.read())
            if content.lstrip().startswith(b"["):
                return _from_records(path, request, _array_records(content, path))
            stream.seek(0)
        return _from_records(path, request, _line_records(stream, path))


def _is_readable(kind: pyarrow.DataType) -> bool:
    """Whether `datasets` can hold a column of this type."""
    from datasets.features.features import generate_from_arrow_type

    try:
        generate_from_arrow_type(kind)
    except (ValueError, NotImplementedError, TypeError):
        return False
    return True


def _needed(names: Sequence[str], request: Request, path: Path) -> list[str]:
    needed = [name for name in names if request.columns.may_use(name)]
    if twice := [name for name in needed if needed.count(name) > 1]:
        raise DataError(f"cannot read the table {path}: it has two columns named {twice[0]!r}")
    return needed


def _loaded(names: Sequence[str], request: Request, path: Path) -> list[str]:
    """The columns that are needed or, if asked for, all that have a name of their own."""
    needed = _needed(names, request, path)
    return [n for n in names if names.count(n) == 1] if request.keep else needed


def _read_parquet(file: TableFile, request: Request) -> tuple[pyarrow.Table, Sequence[str]]:
    """Read in small batches: repeated values take no space in the file, but do in memory."""
    import pyarrow.parquet

    path, size = file.path, file.size
    with file.open() as stream, pyarrow.parquet.ParquetFile(stream) as content:
        schema = content.schema_arrow
        needed = _loaded(schema.names, request, path)
        fields = [
            field.with_type(getattr(field.type, "value_type", field.type))
            if pyarrow.types.is_dictionary(field.type)
            else field
            for field in map(schema.field, needed)
        ]
        plain = pyarrow.schema(fields, schema.metadata)
        parts, left = [plain.empty_table()], max(_LEAST_LIMIT, _MOST_GROWTH * size)
        for batch in content.iter_batches(_BATCH_ROWS, columns=needed):
            parts.append(pyarrow.Table.from_batches([batch]).cast(plain))
            left -= parts[-1].nbytes
            if left < 0:
                raise DataError(
                    f"cannot read the table {path}: {size:,} bytes decode to more than "
                    f"{_MOST_GROWTH} times as many, so it may be damaged or harmful; if it is "
                    "sound, split it into several tables"
                )
        return pyarrow.concat_tables(parts), schema.names


# ---------------------------------------------------------------------------- CSV


def _read_csv(
    file: TableFile, request: Request, delimiter: str
) -> tuple[pyarrow.Table, Sequence[str]]:
    """Read every needed column as text; column names lose the white space around them."""
    import pyarrow
    import pyarrow.csv

    path, size = file.path, file.size
    is_quoted = delimiter != "\t" or _is_quoted(file)
    parse = pyarrow.csv.ParseOptions(
        delimiter=delimiter, quote_char='"' if is_quoted else False, newlines_in_values=True
    )

    def read(block_size: int) -> tuple[pyarrow.Table, Sequence[str]]:
        reading = pyarrow.csv.ReadOptions(block_size=block_size)
        with file.open() as stream, pyarrow.csv.open_csv(stream, reading, parse) as reader:
            given = reader.schema.names
        names = [name.strip() for name in given]
        needed = _loaded(names, request, path)
        columns = [given[names.index(name)] for name in needed]
        convert = pyarrow.csv.ConvertOptions(
            include_columns=columns, column_types=dict.fromkeys(columns, pyarrow.binary())
        )
        with file.open() as stream:
            table = pyarrow.csv.read_csv(stream, reading, parse, convert)
        return table.select(columns).rename_columns(needed), names

    try:
        table, names = read(2**20)
    except pyarrow.ArrowInvalid as error:
        if "straddling" not in str(error):
            _check_quotes(file, delimiter)
            raise
        table, names = read(min(size + 1, _LARGEST_BLOCK))
    with file.open() as stream:
        lines = sum(bool(line.strip(b"\r\n")) for line in stream)
    if is_quoted and lines != len(table) + 1:
        _check_quotes(file, delimiter)
    for i, name in enumerate(table.schema.names):
        table = table.set_column(i, name, _as_text(table.column(i)))
    return table, names


def _is_quoted(file: TableFile) -> bool:
    """Whether quotation marks in a TSV file enclose cells.

    They do not if a mark is opened but not closed in a cell, although every line has as many
    cells as the first.
    """
    opened, tabs = False, -1
    with file.open() as stream:
        for line in stream:
            tabs = line.count(b"\t") if tabs < 0 else tabs
            if line.count(b"\t") != tabs and line.strip():
                return True
            cells = line.rstrip(b"\r\n").split(b"\t") if b'"' in line else ()
            opened |= any(c.startswith(b'"') and not _QUOTED.fullmatch(c) for c in cells)
    return not opened


def _check_quotes(file: TableFile, delimiter: str) -> None:
    """Refuse a file in which a quotation mark that is not closed swallows lines.

    Raises:
        DataError: If a quoted cell does not end where the cell ends.
    """
    csv.field_size_limit(_LARGEST_BLOCK)
    with io.TextIOWrapper(file.open(), encoding="latin-1", newline="") as lines:
        reader, start = csv.reader(lines, delimiter=delimiter, strict=True), 1
        try:
            for _ in reader:
                start = reader.line_num + 1
        except csv.Error:
            raise DataError(
                f"cannot read the table {file.path}: a quotation mark that begins a cell in line "
                f"{start} is not closed where the cell ends, but in line {reader.line_num}. Write "
                'texts with quotation marks in the form "a ""b"" c"'
            ) from None


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


def _from_records(
    path: Path, request: Request, records: Iterator[tuple[str, Any]]
) -> tuple[pyarrow.Table, Sequence[str]]:
    import pyarrow

    names: dict[str, None] = {}
    chunks, everything = [], []
    while some := list(islice(records, _CHUNK_LINES)):
        for place, record in some:
            if not isinstance(record, dict):
                raise DataError(
                    f"cannot read the table {path}: expected an object in {place}, got "
                    f"{type(record).__name__}; write the columns by name, as in "
                    '{"text": "…", "label": "…"}'
                )
            names |= dict.fromkeys(record)
        needed = _needed(list(names), request, path)
        columns = {
            name: _to_arrow([record.get(name) for _, record in some], name, f"{path}, {some[0][0]}")
            for name in needed
        }
        if not needed:  # a table without columns has no number of rows
            columns[""] = pyarrow.nulls(len(some))
        chunks.append(pyarrow.table(columns))
        everything += [record for _, record in some] if request.keep else []
    if not chunks:
        raise DataError(f"{path} has no rows")
    try:
        table = pyarrow.concat_tables(_alike(chunks), promote_options="permissive")
    except pyarrow.ArrowException as error:
        raise DataError(
            f"cannot read the table {path}: a column has values of mixed types: {error}"
        ) from None
    needed = _needed(list(names), request, path)
    table = table.select(needed)
    for name in _loaded(list(names), request, path):
        if name not in needed:
            table = table.append_column(name, _any_values([one.get(name) for one in everything]))
    return table.select(_loaded(list(names), request, path)), list(names)


def _any_values(values: list[Any]) -> pyarrow.Array:
    """Values as they are if they have one type, otherwise as text."""
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowException, ValueError, OverflowError):
        texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
        return pyarrow.array([v if v is None else _printable(v) for v in texts])


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
            f"the values of the column {name!r} have mixed types or are no texts ({place} and "
            f"after): {error}"
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
