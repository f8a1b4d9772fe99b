"""How a table is written: its encoding, and what separates its cells."""

from __future__ import annotations

import csv
import io
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aft.data.readers.find_columns import Columns
from aft.data.readers.rows import Request
from aft.data.texts import find_pointer, other_encoding, to_utf8
from aft.errors import DataError
from aft.paths import TABLES

PARQUET = b"PAR1"
"""How Parquet begins."""
COMMA, TAB = ",", "\t"
_WORDS = {TAB: "tabs", ";": "semicolons", "|": "vertical bars", COMMA: "commas"}
"""What may separate cells; the comma, which is common in texts, comes last."""
_SAMPLE = 2**16
_OBJECTS = re.compile(rb"\s*(\[\s*)?\{")


@dataclass(frozen=True)
class TableFile:
    """A file that holds a table or lines of text.

    Attributes:
        path: The file.
        content: Its content, if it is not on disk or was converted to UTF-8.
        encoding: The encoding it was converted from.
    """

    path: Path
    content: bytes | None = None
    encoding: str | None = None

    def open(self) -> BinaryIO:
        """The content, as UTF-8 unless it is Parquet."""
        return self.path.open("rb") if self.content is None else io.BytesIO(self.content)

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.path.stat().st_size if self.content is None else len(self.content)


def open_table(path: Path, request: Request) -> TableFile:
    """The file of a table; one that is not UTF-8 is converted.

    Raises:
        DataError: If its encoding is not the given one, or it stands for another file.
    """
    file = TableFile(path, request.content)
    is_parquet = path.suffix.lower() == ".parquet"
    try:
        with file.open() as stream:
            start = stream.read(1024)
        encoding = other_encoding(start, request.columns.encoding)
        if is_parquet and (fault := find_pointer(start)):
            raise DataError(fault)
        if is_parquet or request.content is not None:
            return file
        if encoding is None:
            to_utf8(start, None)
            return file
        return TableFile(path, to_utf8(path.read_bytes(), encoding), encoding)
    except (DataError, OSError) as error:
        what = "the table " if path.suffix.lower() in TABLES else ""
        raise DataError(f"cannot read {what}{path}: {error}") from None


def find_delimiter(file: TableFile, columns: Columns) -> str:
    """What separates the cells of a table: the given delimiter, or one found in the first rows.

    It occurs in the header. Of several that do, the one wins whose header has more of the needed
    columns; then one that gives every row as many cells as the header; then the usual one.
    """
    usual = TAB if file.path.suffix.lower() == ".tsv" else COMMA
    if columns.delimiter is not None:
        return columns.delimiter
    scores = {}
    for mark in _WORDS:
        header, *rows = _first_rows(file, mark)
        if len(header) > 1:
            known = sum(columns.may_use(name.strip()) for name in header)
            even = all(len(row) == len(header) for row in rows)
            scores[mark] = (known, even, mark == usual and even)
    return max(scores, key=lambda mark: scores[mark], default=usual)


def describe(file: TableFile, columns: Columns, delimiter: str) -> list[str]:
    """Messages about an encoding or delimiter that is not the usual one and was not given."""
    usual = TAB if file.path.suffix.lower() == ".tsv" else COMMA
    notes = []
    if file.encoding and columns.encoding is None:
        notes.append(f"{file.path.name} is read as {file.encoding.upper()}, by its first bytes")
    if delimiter not in ("", usual) and columns.delimiter is None:
        notes.append(
            f"the cells of {file.path.name} are separated by {_WORDS[delimiter]}; if not, name "
            "the character with --delimiter"
        )
    return notes


def is_table(file: TableFile, columns: Columns, fewest: int = 2) -> bool:
    """Whether the first line of a file of texts is a header that names an input column.

    Args:
        file: The file.
        columns: The columns to look for.
        fewest: The fewest cells of a header.
    """
    header = _first_rows(file, find_delimiter(file, columns))[0]
    return len(header) >= fewest and any(columns.is_input(name.strip()) for name in header)


def suffix_of(content: bytes, columns: Columns) -> str:
    """The file extension of what came on the standard input.

    JSON objects and Parquet are known by their first characters. CSV has a header that names an
    input column. Everything else is one text per line.
    """
    if content.startswith(PARQUET):
        return ".parquet"
    if found := _OBJECTS.match(content):
        return ".json" if found[1] else ".jsonl"
    return ".csv" if is_table(TableFile(Path(), content), columns, fewest=1) else ".txt"


def _first_rows(file: TableFile, delimiter: str) -> list[list[str]]:
    """The header and the rows after it, without the last row if it may be cut; never empty."""
    with file.open() as stream:
        sample = stream.read(_SAMPLE)
    text = io.StringIO(sample.decode("utf-8-sig", "replace"), newline="")
    rows: list[list[str]] = []
    with suppress(csv.Error):
        rows.extend(row for row in csv.reader(text, delimiter=delimiter) if row)
    return (rows[:-1] if len(sample) == _SAMPLE and len(rows) > 1 else rows) or [[]]
