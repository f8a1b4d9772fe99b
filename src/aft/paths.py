"""Paths that the user names: data on this machine, folders of results."""

from __future__ import annotations

import os
import re
from pathlib import Path

from aft.errors import ConfigError, DataError

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""Endings of tables."""


def find_source(source: str) -> Path | None:
    """The folder or file that a data source names; None for the name of a data set on a hub.

    Raises:
        DataError: If it is written like a path and nothing is there.
    """
    path = Path(source).expanduser()
    if path.is_dir() or path.is_file():
        return path
    looks_like_path = source.startswith((".", "/", "~")) or source.endswith(("/", *TABLES, ".txt"))
    if looks_like_path or source.count("/") > 1 or (os.sep == "\\" and "\\" in source):
        raise DataError(f"there is no folder or file {source} (looked in {Path.cwd()})")
    return None


def result_name(data: str) -> str:
    """A folder name made from the data's: ``flowers`` for ``~/pictures/flowers.csv``."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(data).resolve().stem).strip("-") or "run"


def check_own_folder(out: Path, marker: str, what: str) -> bool:
    """Whether results of the same kind are in a folder; otherwise it must be empty or missing.

    Args:
        out: The folder.
        marker: A file that every such folder has.
        what: What such a folder holds, for the error.

    Raises:
        ConfigError: If there is something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / marker).is_file():
        raise ConfigError(f"{out} exists and is no {what} of aft; pass another --out")
    return True
