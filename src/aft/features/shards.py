"""Shards of a feature store: safetensors files, written atomically, read by memory map."""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from aft.errors import InputError, StoreError
from aft.ids import ID_BYTES

Ids = NDArray[np.uint8]  # (n, 16)
Keys = NDArray[np.bytes_]  # (n,) ids as fixed-width strings, which can be sorted and compared


class Format(NamedTuple):
    """Data type of stored features."""

    torch: torch.dtype
    numpy: np.dtype[Any]  # numpy has no bfloat16: stored as int16 bits
    tag: str  # name of the type in safetensors


FORMATS = {
    "fp16": Format(torch.float16, np.dtype("<f2"), "F16"),
    "fp32": Format(torch.float32, np.dtype("<f4"), "F32"),
    "bf16": Format(torch.bfloat16, np.dtype("<i2"), "BF16"),
}


class Shard(NamedTuple):
    """One file of features."""

    path: Path
    rows: int
    offset: int  # of the features, in bytes from the start of the file
    bytes: int


def _most_maps() -> int:
    """Maximum number of mapped shards; before Python 3.13 each one keeps a file open."""
    if sys.version_info >= (3, 13) or os.name != "posix":
        return 16384
    import resource

    return min(16384, max(32, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))


class ShardMap(NamedTuple):
    """A memory-mapped shard; ``features`` has the shape (rows, dim)."""

    buffer: mmap.mmap
    features: NDArray[Any]

    def read_ahead(self) -> None:
        """Ask the system to read the whole shard ahead."""
        if hasattr(mmap, "MADV_WILLNEED"):
            self.buffer.madvise(mmap.MADV_WILLNEED)


def as_keys(ids: Ids) -> Keys:
    """Sample ids (n, 16) as sortable keys (n,)."""
    given = np.asarray(ids)
    if given.dtype != np.uint8 or given.ndim != 2 or given.shape[1] != ID_BYTES:
        raise InputError(
            f"expected sample ids (n, {ID_BYTES}) uint8, got {given.shape} {given.dtype}"
        )
    return np.ascontiguousarray(given).view(f"S{ID_BYTES}")[:, 0]


def read_shard(path: Path, dim: int, format_: Format) -> tuple[Shard, Keys]:
    """Read the header and the sample ids of a shard, not the features.

    Raises:
        StoreError: If the file is damaged or does not match ``dim`` and ``format_``.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header_bytes = int.from_bytes(file.read(8), "little")
            start = 8 + header_bytes
            if not 0 < header_bytes <= size - 8:
                raise ValueError(f"the header is incomplete, got {size} bytes")
            header = json.loads(file.read(header_bytes))
            features, ids = header["features"], header["sample_ids"]
            rows = int(features["shape"][0])
            expected = ([rows, dim], format_.tag, [rows, ID_BYTES], "U8")
            given = (features["shape"], features["dtype"], ids["shape"], ids["dtype"])
            if given != expected:
                raise ValueError(f"expected shapes and types {expected}, got {given}")
            end = start + max(features["data_offsets"][1], ids["data_offsets"][1])
            if size != end:
                raise ValueError(f"expected {end} bytes, got {size}")
            file.seek(start + ids["data_offsets"][0])
            keys = np.frombuffer(file.read(rows * ID_BYTES), f"S{ID_BYTES}")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreError(
            f"damaged shard {path}: {error}. Delete this file and run the same command again to "
            "recompute its rows"
        ) from error
    return Shard(path, rows, start + features["data_offsets"][0], size), keys


@lru_cache(maxsize=_most_maps())
def map_shard(shard: Shard, dim: int, format_: Format) -> ShardMap:
    """Memory-map a shard for random row access.

    Raises:
        StoreError: If the file was deleted or cannot be read.
    """
    try:
        with shard.path.open("rb") as file:
            buffer = _map_file(file.fileno())
        if hasattr(mmap, "MADV_RANDOM"):  # otherwise the system reads 128 KiB around every row
            buffer.madvise(mmap.MADV_RANDOM)
        flat = np.frombuffer(buffer, format_.numpy, shard.rows * dim, shard.offset)
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read the shard {shard.path}: {error}") from error
    return ShardMap(buffer, flat.reshape(shard.rows, dim))


@contextmanager
def disk_errors(folder: Path, needed: int = 0) -> Iterator[None]:
    """Convert errors when writing ``needed`` bytes under ``folder`` to StoreError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(
                f"cannot write features to {folder}: {error}. Use another features folder"
            ) from error
        raise StoreError(
            f"disk full: {format_bytes(needed)} needed in {folder}, "
            f"{format_bytes(free_bytes(folder))} free ({error.strerror}).\n"
            "Finished shards are kept: free some space and run the same command again to resume"
        ) from error


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of ``folder``, which may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def write_whole(file: Path, data: bytes) -> None:
    """Write a file atomically: it is complete or absent, even after a crash."""
    temporary = file.with_name(f".{file.name}.{uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # so that the new name survives a power failure
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def take_lock(folder: Path, rank: int) -> FileLock:
    """Lock the store for this rank; prints a message and waits if it is already locked."""
    lock = _rank_lock(folder, rank)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that is writing features to {folder}", file=sys.stderr)
        lock.acquire()
    return lock


def remove_leftovers(folder: Path, rank: int) -> None:
    """Delete temporary files of killed writers; files of running writers are kept."""
    for file in (folder / "shards").glob(".part-*.tmp"):
        owner = int(file.name.split("-")[1])
        if owner == rank:
            file.unlink(missing_ok=True)
            continue
        try:
            with _rank_lock(folder, owner).acquire(timeout=0):
                file.unlink(missing_ok=True)
        except Timeout:
            pass


def format_bytes(count: float) -> str:
    """Format a size: ``1234567`` as ``1.2 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _rank_lock(folder: Path, rank: int) -> FileLock:
    return FileLock(folder / f".rank-{rank:03d}.lock")


def _map_file(number: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(number, 0, access=mmap.ACCESS_READ, trackfd=False)
    return mmap.mmap(number, 0, access=mmap.ACCESS_READ)
