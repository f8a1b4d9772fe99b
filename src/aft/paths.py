"""Paths in options: local data sources and result folders."""

from __future__ import annotations

import os
import re
from pathlib import Path

from aft.errors import ConfigError, DataError

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""File extensions of tables."""


def find_source(source: str) -> Path | None:
    """The local folder or file of a data source; None if it is the name of a data set on a hub.

    Raises:
        DataError: If the source looks like a path but does not exist.
    """
    path = Path(source).expanduser()
    if path.is_dir() or path.is_file():
        return path
    looks_like_path = source.startswith((".", "/", "~")) or source.endswith(("/", *TABLES, ".txt"))
    if looks_like_path or source.count("/") > 1 or (os.sep == "\\" and "\\" in source):
        raise DataError(f"no such file or folder: {source} (current folder: {Path.cwd()})")
    return None


def result_name(data: str) -> str:
    """A folder name derived from the data, e.g. ``flowers`` for ``~/pictures/flowers.csv``."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(data).resolve().stem).strip("-") or "run"


def check_own_folder(out: Path, what: str, *markers: str) -> bool:
    """Whether a folder contains results of the given kind; false if it is empty or missing.

    Args:
        out: The folder.
        what: The kind of results, for the error message.
        markers: Names of files that every folder of this kind contains.

    Raises:
        ConfigError: If the folder contains other files.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not all((out / marker).is_file() for marker in markers):
        raise ConfigError(f"{out} exists but is not a {what} of aft; use another --out")
    return True
