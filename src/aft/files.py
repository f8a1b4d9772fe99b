"""Files on disk: written whole, and checked when they are read.

A file is written under a temporary name, synchronised and renamed, so that after a crash it is
there with all its content or not at all. What is read back is compared with a checksum: JSON
documents hold their own and those of the files that belong to them, other files begin with it.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from aft.errors import AftError

SHA256 = "sha256"
_MAGIC = b"AFTCHECK"
_DAY = 86_400.0


class Damaged(Exception):
    """The content of a file is not what was written."""


@contextmanager
def reading(
    path: Path, error: type[AftError], cure: str = "Restore it, or get it again"
) -> Iterator[None]:
    """Convert whatever reading a damaged or foreign file raises to an error that names the file.

    Args:
        path: The file.
        error: Class of the error.
        cure: What to do about a damaged file, as a sentence without its full stop.
    """
    try:
        yield
    except AftError:
        raise
    except Exception as caught:  # a damaged or crafted file may raise anything
        if isinstance(caught, OSError) and caught.strerror:
            raise error(f"cannot read {path}: {caught.strerror}") from None
        reason = " ".join(str(caught).split())[:200]
        if not isinstance(caught, Damaged):
            reason = f"{type(caught).__name__}: {reason}"
        raise error(f"{path} is damaged or has another format ({reason}). {cure}") from caught


@contextmanager
def writing(path: Path, error: type[AftError], cure: str, needed: int = 0) -> Iterator[None]:
    """Convert what writing a file or to a folder raises to an error that names it.

    Args:
        path: The file or folder.
        error: Class of the error.
        cure: What to do on a full disk, as a sentence without its full stop.
        needed: Number of bytes to write, if known.
    """
    try:
        yield
    except OSError as caught:
        if caught.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise error(f"cannot write {path}: {caught.strerror or caught}") from caught
        more = f"{format_bytes(needed)} needed, " if needed else ""
        raise error(
            f"cannot write {path}: {caught.strerror} ({more}{format_bytes(free_bytes(path))} "
            f"free). {cure}"
        ) from caught


def write_whole(path: Path, content: bytes | str | Iterable[bytes]) -> None:
    """Write a file atomically: it is complete or absent, even after a crash.

    Args:
        path: The file.
        content: Its content, or the parts of it.
    """
    data = content.encode() if isinstance(content, str) else content
    owner = f"{platform.node()}-{os.getpid()}"
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.{owner}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.writelines([data] if isinstance(data, bytes) else data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # so that the new name survives a power failure
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files in a folder whose writers were killed.

    Those of running processes stay; those of other machines, too, for a day.
    """
    for file in folder.glob(".*.tmp"):
        node, _, number = file.name.removesuffix(".tmp").rpartition(".")[2].rpartition("-")
        with suppress(OSError):
            here = node == platform.node() and number.isdecimal()
            dead = here and not _is_alive(int(number))
            if dead or time.time() - file.stat().st_mtime > _DAY:
                file.unlink()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def write_sealed(path: Path, data: bytes) -> str:
    """Write a file that begins with the checksum of its content; returns the checksum."""
    digest = hashlib.sha256(data)
    write_whole(path, _MAGIC + digest.digest() + data)
    return digest.hexdigest()


def read_sealed(path: Path) -> bytes:
    """Read the content of a file of :func:`write_sealed`.

    Files of versions without checksums, which are ZIP archives, are returned as they are.

    Raises:
        Damaged: If the content has another checksum; use within :func:`reading`.
    """
    data = path.read_bytes()
    if data.startswith(b"PK"):
        return data
    head = len(_MAGIC) + 32
    content = data[head:]
    if data[:head] != _MAGIC + hashlib.sha256(content).digest():
        raise Damaged("the checksum does not match")
    return content


def write_json(path: Path, values: Mapping[str, Any], sealed: bool = True) -> None:
    """Write indented JSON; numbers that are not finite become null.

    Args:
        path: The file.
        values: The content.
        sealed: Whether to add ``sha256``, the checksum of the other values.
    """
    strict = strict_json(dict(values))
    if sealed:
        strict[SHA256] = _seal(strict)
    text = json.dumps(strict, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # File names that are not UTF-8 hold lone surrogates; Python's escapes are those of JSON.
    write_whole(path, text.encode("utf-8", "backslashreplace"))


def read_json(
    path: Path, error: type[AftError], cure: str = "Restore it, or get it again"
) -> dict[str, Any]:
    """Read a JSON object, and compare it with its checksum if it has one.

    Args:
        path: The file.
        error: Class of the error.
        cure: What to do about a damaged file, as a sentence without its full stop.

    Raises:
        AftError: Of the given class, if the file is missing, damaged or no JSON object.
    """
    with reading(path, error, cure):
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise Damaged(f"expected a JSON object, got {type(values).__name__}")
        given = values.pop(SHA256, None)
        if given is not None and given != _seal(values):
            raise Damaged(
                f"it was changed after it was written; if you changed it, remove its {SHA256}"
            )
    return values


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Compare files with their checksums.

    Args:
        folder: The folder of the files.
        files: SHA-256 by file name.

    Raises:
        Damaged: If a file has another checksum; use within :func:`reading`.
        OSError: If a file cannot be read.
    """
    for name, expected in files.items():
        if sha256_of(folder / name) != expected:
            raise Damaged(f"the checksum of {name} does not match")


def strict_json(value: Any) -> Any:
    """A copy of JSON values in which numbers that are not finite are None."""
    if isinstance(value, Mapping):
        return {str(key): strict_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def no_formula(cell: Any) -> Any:
    """A cell of a CSV file: text that a spreadsheet would run as a formula gets an apostrophe."""
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write the rows of a CSV file, in which no cell is a formula."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(map(no_formula, row) for row in rows)
    write_whole(path, text.getvalue().encode("utf-8", "backslashreplace"))


def free_bytes(path: Path) -> int:
    """Free bytes on the disk of a path, which may not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def format_bytes(count: float) -> str:
    """Format a size: ``1234567`` as ``1.2 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_seconds(seconds: float) -> str:
    """Format a duration: ``4000`` as ``1 h 7 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere the signal 0 is not a question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def _seal(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
