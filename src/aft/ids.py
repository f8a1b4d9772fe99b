"""Content ids: 128-bit hashes of samples, cached for unchanged files."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aft.paths import read_file

ID_BYTES = 16
CACHE_FILE = "files.sqlite"
"""Cache of the ids of files, in the cache folder."""
_CHUNK = 256
_RECENT_SECONDS = 2.0


def default_cache_dir() -> Path:
    """Folder of stored features and cached ids: ``$AFT_CACHE`` or the user's cache folder."""
    if "AFT_CACHE" in os.environ:
        return Path(os.environ["AFT_CACHE"])
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "aft"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "aft"


def content_id(content: bytes) -> bytes:
    """The id of a content: its 16-byte BLAKE2b hash."""
    return hashlib.blake2b(content, digest_size=ID_BYTES).digest()


def join_ids(parts: NDArray[np.uint8], present: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Compute the ids of samples from the ids of their parts.

    Args:
        parts: Ids of the parts, shape ``(n, num_columns, 16)``.
        present: Mask of the parts that are not missing, shape ``(n, num_columns)``.

    Returns:
        Shape ``(n, 16)``: the id of the only part, or the hash of the concatenated ids of the
        parts; zeros where all parts are missing.
    """
    if parts.shape[1] == 1:
        return np.ascontiguousarray(parts[:, 0])
    rows = np.ascontiguousarray(parts).reshape(len(parts), parts.shape[1] * parts.shape[2])
    joined = b"".join(content_id(row.tobytes()) for row in rows)
    ids: NDArray[np.uint8] = np.frombuffer(joined, dtype=np.uint8).reshape(-1, ID_BYTES).copy()
    ids[~present.any(axis=1)] = 0
    return ids


class Identified(NamedTuple):
    """The id of a content, and its fault (None if it can be read)."""

    sample_id: bytes
    fault: str | None


def identify(
    inputs: Iterable[str | bytes],
    find_fault: Callable[[bytes], str | None],
    cache_dir: Path | None = None,
) -> Iterator[Identified]:
    """Yield the id and fault of each input, in order; cached files that are unchanged are not read.

    Files with a fault are not cached: the fault may be one of the disk or of the installed decoder.

    Args:
        inputs: File paths (str) or contents (bytes).
        find_fault: Returns what is wrong with a content, or None.
        cache_dir: Folder of the cache of file ids; default :func:`default_cache_dir`.
    """
    source = iter(inputs)
    workers = min(8, os.cpu_count() or 1)
    cache = _IdCache((cache_dir or default_cache_dir()) / CACHE_FILE)
    with ThreadPoolExecutor(workers) as pool, closing(cache):
        while chunk := list(islice(source, _CHUNK)):
            keys = [_Key.of(item) if isinstance(item, str) else None for item in chunk]
            known = cache.load([key for key in keys if key is not None])

            def check(
                index: int,
                chunk: list[str | bytes] = chunk,
                keys: list[_Key | None] = keys,
                known: dict[_Key, bytes] = known,
            ) -> Identified:
                key, item = keys[index], chunk[index]
                if key is not None and key in known:
                    return Identified(known[key], None)
                try:
                    content = read_file(item) if isinstance(item, str) else item
                    return Identified(content_id(content), find_fault(content))
                except OSError as error:
                    return Identified(content_id(b""), error.strerror or str(error))
                except MemoryError:
                    return Identified(content_id(b""), "not enough memory to decode it")

            found = list(pool.map(check, range(len(chunk))))
            cache.save(
                {
                    key: one.sample_id
                    for key, one in zip(keys, found, strict=True)
                    if key is not None and key not in known and one.fault is None
                }
            )
            yield from found


class _Key(NamedTuple):
    """A file as it was when its id was computed."""

    path: bytes
    signature: str
    """Size, inode, and times of modification and change: two files that are exchanged, or one that
    is replaced and gets the old time, have another inode or time of change."""
    changed: int
    """The later of the two times, in nanoseconds."""

    @classmethod
    def of(cls, path: str) -> _Key | None:
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return None
        times = (status.st_mtime_ns, status.st_ctime_ns)
        signature = f"{status.st_size} {status.st_ino} {times[0]} {times[1]}"
        return cls(os.fsencode(os.path.abspath(path)), signature, max(times))


class _IdCache:
    """A SQLite cache of ids by path and signature. If it cannot be used, nothing is cached."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The garbage collector may close an abandoned one in another thread.
            self.connection = sqlite3.connect(path, timeout=5, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            _say_not_cached(path, error)
        self._execute("DROP TABLE IF EXISTS files")  # of earlier versions, without inodes
        self._execute(
            "CREATE TABLE IF NOT EXISTS ids (path BLOB PRIMARY KEY, signature TEXT, "
            "sample_id BLOB) WITHOUT ROWID"
        )

    def load(self, keys: list[_Key]) -> dict[_Key, bytes]:
        rows = self._execute(
            "SELECT path, signature, sample_id FROM ids "
            f"WHERE path IN ({','.join('?' * len(keys))}) AND length(sample_id) = {ID_BYTES}",
            [[key.path for key in keys]],
        )
        found = {(path, signature): sample_id for path, signature, sample_id in rows}
        return {key: found[key[:2]] for key in keys if isinstance(found.get(key[:2]), bytes)}

    def save(self, found: dict[_Key, bytes]) -> None:
        # A file written just now may change again within the resolution of the clock.
        before = (time.time() - _RECENT_SECONDS) * 1e9
        rows = [(*key[:2], found[key]) for key in found if key.changed < before]
        self._execute("INSERT OR REPLACE INTO ids VALUES (?, ?, ?)", rows)

    def _execute(self, statement: str, rows: Sequence[Sequence[Any]] = ((),)) -> list[Any]:
        """The results for all rows; without a connection, or after an error, none."""
        found: list[Any] = []
        try:
            if self.connection is not None:
                with self.connection:
                    for row in rows:
                        found += self.connection.execute(statement, row).fetchall()
        except sqlite3.Error as error:
            _say_not_cached(self.path, error)
            self.close()
            return []
        return found

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None


_said: set[Path] = set()


def _say_not_cached(path: Path, error: Exception) -> None:
    """Say once that a cache cannot be used."""
    if path not in _said:
        _said.add(path)
        print(
            f"ids of files are not cached, so every run reads all files again: cannot use {path} "
            f"({error}). Make it writable, or delete it",
            file=sys.stderr,
        )
