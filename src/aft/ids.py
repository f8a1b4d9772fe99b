"""Content ids: 128-bit hashes of samples, cached for unchanged files."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ID_BYTES = 16
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
    rows = np.ascontiguousarray(parts).reshape(len(parts), -1)
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

    Args:
        inputs: File paths (str) or contents (bytes).
        find_fault: Returns what is wrong with a content, or None.
        cache_dir: Folder of the cache of file ids; default :func:`default_cache_dir`.
    """
    source = iter(inputs)
    workers = min(8, os.cpu_count() or 1)
    cache = _IdCache.open((cache_dir or default_cache_dir()) / "files.sqlite")
    with ThreadPoolExecutor(workers) as pool, closing(cache):
        while chunk := list(islice(source, _CHUNK)):
            keys = [_Key.of(item) if isinstance(item, str) else None for item in chunk]
            known = cache.load([key for key in keys if key is not None])

            def check(
                index: int,
                chunk: list[str | bytes] = chunk,
                keys: list[_Key | None] = keys,
                known: dict[_Key, Identified] = known,
            ) -> Identified:
                key, item = keys[index], chunk[index]
                if key is not None and key in known:
                    return known[key]
                try:
                    content = Path(item).read_bytes() if isinstance(item, str) else item
                except OSError as error:
                    return Identified(content_id(b""), error.strerror or str(error))
                return Identified(content_id(content), find_fault(content))

            found = list(pool.map(check, range(len(chunk))))
            cache.save(
                {k: f for k, f in zip(keys, found, strict=True) if k is not None and k not in known}
            )
            yield from found


class _Key(NamedTuple):
    path: str
    size: int
    modified: int  # nanoseconds

    @classmethod
    def of(cls, path: str) -> _Key | None:
        try:
            status = os.stat(path)
        except OSError:
            return None
        return cls(os.path.abspath(path), status.st_size, status.st_mtime_ns)


class _IdCache:
    """A SQLite cache of ids by path, size and modification time; in memory if opening fails."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    @classmethod
    def open(cls, path: Path) -> _IdCache:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=30)
            connection.execute("SELECT count(*) FROM sqlite_master")
        except (OSError, sqlite3.Error):  # read-only home or full disk: nothing is cached
            connection = sqlite3.connect(":memory:")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, "
            "modified INTEGER, sample_id BLOB, fault TEXT) WITHOUT ROWID"
        )
        return cls(connection)

    def load(self, keys: list[_Key]) -> dict[_Key, Identified]:
        rows = self.connection.execute(
            "SELECT path, size, modified, sample_id, fault FROM files "
            f"WHERE path IN ({','.join('?' * len(keys))})",
            [key.path for key in keys],
        )
        found = {_Key(row[0], row[1], row[2]): Identified(row[3], row[4]) for row in rows}
        return {key: found[key] for key in keys if key in found}

    def save(self, found: dict[_Key, Identified]) -> None:
        # A file written just now may change again within the resolution of the clock.
        before = (time.time() - _RECENT_SECONDS) * 1e9
        rows = [(*key, *value) for key, value in found.items() if key.modified < before]
        try:
            with self.connection:
                self.connection.executemany(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows
                )
        except sqlite3.Error:  # a full disk makes runs slower but must not stop them
            pass

    def close(self) -> None:
        self.connection.close()
