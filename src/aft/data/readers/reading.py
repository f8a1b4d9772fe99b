"""Where rows come from: folders, tables and Hugging Face data sets, read into one form."""

from __future__ import annotations

import os
from pathlib import Path

from aft.data.readers.find_columns import Columns
from aft.data.readers.folders import read_file, read_folder
from aft.data.readers.hub_data_sets import read_hub
from aft.data.readers.rows import Request, Rows
from aft.data.readers.tables import TABLES
from aft.errors import DataError


def read_source(source: str, columns: Columns, *, labelled: bool = True) -> Rows:
    """Read a folder, file or Hugging Face data set.

    Args:
        source: A folder of images, texts or tables, a table, a data set saved by `datasets`, or
            the name of one on the Hugging Face hub.
        columns: Names of the columns, where they are not the usual ones.
        labelled: Whether labels are needed; without, a flat folder or a single file will do.

    Raises:
        DataError: If there is nothing there, or a needed column is missing.
    """
    request = Request(columns, labelled)
    path = Path(source).expanduser()
    if path.is_dir():
        return read_folder(path, request)
    if path.is_file():
        return read_file(path, request)
    looks_like_path = source.startswith((".", "/", "~")) or source.endswith(("/", *TABLES, ".txt"))
    if looks_like_path or source.count("/") > 1 or (os.sep == "\\" and "\\" in source):
        raise DataError(f"there is no folder or file {source} (looked in {Path.cwd()})")
    return read_hub(source, request)
