"""Paths in options: local data sources and result folders."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from aft.errors import ConfigError, DataError
from aft.files import remove_leftovers, writing

LOCK = ".lock"
"""Name of the file that a command locks in the folder that it writes to."""
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


@contextmanager
def locked(out: Path, enabled: bool = True) -> Iterator[None]:
    """Make a result folder, and keep other processes out of it.

    Args:
        out: The folder. Temporary files of killed processes are deleted from it.
        enabled: Whether to do anything: only the first process of a run does.

    Raises:
        ConfigError: If the folder cannot be made, or another process uses it.
    """
    if not enabled:
        yield
        return
    with writing(out, ConfigError, "Use another --out"):
        existed = out.exists()
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK)
        with suppress(NotImplementedError):  # the file system has no locks
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise ConfigError(
                    f"another process is writing to {out}; wait for it, or use another --out"
                ) from None
    try:
        for folder in (out, *(one for one in out.glob("*") if one.is_dir())):
            remove_leftovers(folder)
        yield
    finally:
        lock.release()
        if not existed and [one.name for one in out.iterdir()] == [LOCK]:  # nothing was written
            (out / LOCK).unlink()
            out.rmdir()


def empty_folder(out: Path) -> None:
    """Delete everything in a locked folder."""
    for one in out.iterdir():
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one)
        elif one.name != LOCK:
            one.unlink()


def check_own_folder(out: Path, what: str, *markers: str) -> bool:
    """Whether a folder contains results of the given kind; false if it is empty or missing.

    Args:
        out: The folder.
        what: The kind of results, for the error message.
        markers: Names of files that every folder of this kind contains.

    Raises:
        ConfigError: If the folder contains other files.
    """
    if not out.exists() or (out.is_dir() and all(one.name == LOCK for one in out.iterdir())):
        return False
    if not all((out / marker).is_file() for marker in markers):
        raise ConfigError(f"{out} exists but is not a {what} of aft; use another --out")
    return True
