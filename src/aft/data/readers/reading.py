"""Find the reader of a source: a folder, a file, or a data set on the Hugging Face hub."""

from __future__ import annotations

import sys
from pathlib import Path

from aft.config.groups import InMemory
from aft.data.readers.find_columns import Columns
from aft.data.readers.folders import read_file, read_folder
from aft.data.readers.hub_data_sets import read_hub
from aft.data.readers.in_memory import read_in_memory
from aft.data.readers.label_values import merge_names
from aft.data.readers.remote import fetch
from aft.data.readers.rows import Request, Rows
from aft.data.readers.table_files import PARQUET, suffix_of
from aft.data.texts import to_utf8
from aft.errors import DataError
from aft.paths import STDIO, find_source


def read_source(
    source: str | InMemory, columns: Columns, *, labelled: bool = True, keep: bool = False
) -> Rows:
    """Read a folder, file, Hugging Face data set, or data in memory.

    Args:
        source: A folder of images, texts or tables, a table, a data set saved by `datasets`, the
            address of one in object storage, the name of a data set on the Hugging Face hub, ``-``
            for the standard input, or data in memory.
        columns: Names of the columns; without them the usual names are searched.
        labelled: Whether labels are required. If not, a flat folder or a single file is accepted.
        keep: Whether to keep all columns of a table.

    Raises:
        DataError: If the source does not exist, or a required column is missing.
    """
    if isinstance(source, InMemory):
        path, rows = None, read_in_memory(source.value, Request(columns, labelled))
    elif source == STDIO:
        path, rows = None, _read_stdin(columns, labelled, keep)
    elif (path := fetch(source) if "://" in source else find_source(source)) is None:
        rows = read_hub(source, Request(columns, labelled))
    elif path.is_dir():
        rows = read_folder(path, Request(columns, labelled, path, keep))
    else:
        rows = read_file(path, Request(columns, labelled, path.parent, keep))
    for name, values in rows.labels.items():
        rows.labels[name], notes = merge_names(values, name)
        rows.notes += notes
    return rows


def _read_stdin(columns: Columns, labelled: bool, keep: bool) -> Rows:
    content = sys.stdin.buffer.read()
    if not content.startswith(PARQUET):
        try:
            content = to_utf8(content, columns.encoding)
        except DataError as error:
            raise DataError(f"cannot read the standard input: {error}") from None
    end = suffix_of(content, columns)
    return read_file(Path(f"stdin{end}"), Request(columns, labelled, Path(), keep, content))
