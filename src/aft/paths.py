"""Paths in options: local data sources and result folders."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from aft.errors import ConfigError, DataError, StudentError
from aft.files import remove_leftovers, writing
from aft.hub import download_student

LOCK = ".lock"
"""Name of the file that a command locks in the folder that it writes to."""
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""File extensions of tables."""
STDIO = "-"
"""What --data and --out of predict call the standard input and output."""
JSON_LINES = (".jsonl", ".ndjson")
PREDICTIONS = (".csv", *JSON_LINES, ".parquet")
"""File extensions of predictions."""
LEFTOVERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")
"""Folders that zip programs, network drives and Windows leave behind."""
MOST_BYTES = 2**30
"""Largest file of one image or text."""


def read_file(path: str | Path) -> bytes:
    """Read the file of an image or text; never a pipe or a device, which may have no end.

    Raises:
        OSError: If it is not a file, larger than `MOST_BYTES`, or cannot be read.
    """
    try:
        status = os.stat(path)
    except ValueError as error:  # a NUL character, or one that no file name can have
        raise OSError(errno.EINVAL, f"not a file name ({error})") from None
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EINVAL, "a pipe, socket or device, not a file")
    if status.st_size > MOST_BYTES:
        raise OSError(errno.EFBIG, f"{status.st_size:,} bytes; expected at most {MOST_BYTES:,}")
    # A file of size 0 may be one of the system, such as /proc/kmsg, which never ends.
    return Path(path).read_bytes() if status.st_size else b""


def printable(path: str | Path) -> str:
    r"""A path as text, with the bytes that are not UTF-8 escaped, as in ``caf\xe9.png``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_utf8(path: str | Path) -> bool:
    """Whether a path is UTF-8 text, as files that name it must be."""
    return printable(path) == str(path)


def find_source(source: str) -> Path | None:
    """The local folder or file of a data source; None if it is the name of a data set on a hub.

    Raises:
        DataError: If the source looks like a path but does not exist.
    """
    if not is_utf8(source) or "\0" in source:
        raise DataError(f"the path {source!r} is not UTF-8 text; rename the file or folder")
    path = Path(source).expanduser()
    if path.is_dir() or path.is_file():
        return path
    if path.exists():
        raise DataError(f"expected a file or folder, got a pipe, socket or device: {source}")
    looks_like_path = source.startswith((".", "/", "~")) or source.endswith(("/", *TABLES, ".txt"))
    if looks_like_path or source.count("/") > 1 or (os.sep == "\\" and "\\" in source):
        raise DataError(f"no such file or folder: {source} (current folder: {Path.cwd()})")
    return None


def result_name(data: str) -> str:
    """A folder name derived from the data, e.g. ``flowers`` for ``~/pictures/flowers.csv``."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(data).resolve().stem).strip("-") or "run"


@contextmanager
def locked(out: Path, enabled: bool = True, begun: Sequence[str] = ()) -> Iterator[None]:
    """Make a result folder, and keep other processes out of it.

    Args:
        out: The folder. Temporary files of killed processes are deleted from it.
        enabled: Whether to do anything: only the first process of a run does.
        begun: Files that are no result. If the command fails and left no others, they are deleted.

    Raises:
        ConfigError: If the folder cannot be made, or another process uses it.
    """
    if not enabled:
        yield
        return
    from filelock import FileLock, Timeout

    with writing(out, ConfigError, "Use another --out"):
        existed, parent_existed = out.exists(), out.parent.exists()
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
    except Exception:
        if {one.name for one in out.iterdir()} <= {LOCK, *begun}:
            for name in begun:
                (out / name).unlink(missing_ok=True)
        raise
    finally:
        lock.release()
        if not existed and [one.name for one in out.iterdir()] == [LOCK]:  # nothing was written
            (out / LOCK).unlink()
            out.rmdir()
            if not parent_existed and not any(out.parent.iterdir()):
                out.parent.rmdir()


def find_student(folder: str | Path) -> Path:
    """The folder of a saved student.

    Args:
        folder: A run folder, the ``student`` folder in it, or ``hf://user/name`` on the Hub, which
            is downloaded.

    Raises:
        StudentError: If it contains no student, or cannot be downloaded.
    """
    downloaded = download_student(folder)
    folder = downloaded or Path(folder)
    if (folder / "student" / "student.json").exists():
        folder = folder / "student"
    if (folder / "student.json").exists():
        return folder
    if (folder / "compare.json").exists():
        raise StudentError(
            f"expected a run, but {folder} is a comparison: use one of the runs inside it, "
            "for example the one that its report recommends"
        )
    missing = folder / "student.json" if downloaded or folder.exists() else folder
    raise StudentError(f"expected a finished run or student folder, but {missing} does not exist")


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


def check_writable(path: Path, option: str, is_file: bool = False) -> None:
    """Check, without writing, that a file or folder can be made or written.

    Args:
        path: The file or folder.
        option: The option that names it, for error messages.
        is_file: Whether it is a file.

    Raises:
        ConfigError: If it cannot.
    """
    try:
        if not is_utf8(path) or "\0" in str(path):
            raise ValueError("it is not UTF-8 text")
        if re.match(r"\w{2,}:[/\\]", str(path)):  # "s3://a" as a path is "s3:/a"
            raise ValueError("expected a local folder, got an address; copy it there afterwards")
        there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
        if there.is_dir() == (is_file and there == path):
            raise ValueError(f"{there} is {'a' if there.is_dir() else 'not a'} folder")
        if not os.access(there, os.W_OK):
            raise ValueError(f"no permission to write {there}")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{option} {str(path)!r} cannot be written: {error}") from None
