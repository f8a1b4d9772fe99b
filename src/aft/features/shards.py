"""Shards of a feature store: safetensors files, written atomically, read by memory map."""

from __future__ import annotations

import json
import mmap
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors.torch import save

from aft.errors import InputError, StoreError
from aft.files import Damaged, reading
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
    checksum: str  # of the features; empty in shards of older versions


CURE = (
    "Delete this file and run the same command again: its rows are computed anew, the others are "
    "kept"
)
_CHECKED: set[tuple[Any, ...]] = set()
"""Shards with inode and time of modification whose features were checked by this process."""


def _most_maps() -> int:
    """Maximum number of mapped shards; before Python 3.13 each one keeps a file open."""
    if sys.version_info >= (3, 13) or os.name != "posix":
        return 16384
    import resource

    return min(16384, max(32, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))


class ShardMap(NamedTuple):
    """A memory-mapped shard; ``features`` are its bytes, row by row."""

    buffer: mmap.mmap
    features: memoryview

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


def as_floats(values: NDArray[Any], dtype: str) -> torch.Tensor:
    """Features of a store with this data type as float32."""
    return torch.from_numpy(values).view(FORMATS[dtype].torch).float()


def shard_bytes(fingerprint: str, features: torch.Tensor, ids: torch.Tensor) -> bytes:
    """The content of a shard: features (n, dim), sample ids (n, 16) and their checksums."""
    content = {"features": features.contiguous(), "sample_ids": ids.contiguous()}
    sums = {name: checksum(one.view(torch.uint8).numpy()) for name, one in content.items()}
    return save(content, {"store": fingerprint, **sums})


def checksum(data: Any) -> str:
    """Checksum of a buffer, XXH3 with 128 bits: as fast as memory, against damage by chance."""
    return xxhash.xxh3_128_hexdigest(data)


def read_shard(path: Path, dim: int, format_: Format, fingerprint: str) -> tuple[Shard, Keys]:
    """Read and check the header and the sample ids of a shard, not the features.

    Args:
        path: The file.
        dim: Feature dimension of the store.
        format_: Data type of the store.
        fingerprint: Fingerprint of the teacher. Shards of older versions do not name theirs.

    Raises:
        StoreError: If the file cannot be read, is damaged or belongs to another store.
    """
    with reading(path, StoreError, CURE), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        header_bytes = int.from_bytes(file.read(8), "little")
        start = 8 + header_bytes
        if not 0 < header_bytes <= size - 8:
            raise Damaged(f"the header is incomplete, got {size} bytes")
        header = json.loads(file.read(header_bytes))
        sums = header.pop("__metadata__", None)
        rows = int(header["features"]["shape"][0])
        split, end = rows * dim * format_.numpy.itemsize, size - start
        expected = {
            "features": {"dtype": format_.tag, "shape": [rows, dim], "data_offsets": [0, split]},
            "sample_ids": {"dtype": "U8", "shape": [rows, ID_BYTES], "data_offsets": [split, end]},
        }
        if header != expected or end - split != rows * ID_BYTES:
            found = header["features"]
            raise Damaged(
                f"expected features {[rows, dim]} {format_.tag} and ids in {end} bytes, got "
                f"{found['shape']} {found['dtype']}"
            )
        if sums is not None and sums.get("store") != fingerprint:
            raise Damaged("it belongs to another teacher")
        file.seek(start + split)
        ids = file.read(rows * ID_BYTES)
        if sums is not None and sums["sample_ids"] != checksum(ids):
            raise Damaged("the checksum of the sample ids does not match")
        known = "" if sums is None else str(sums["features"])
    return Shard(path, rows, start, size, known), np.frombuffer(ids, f"S{ID_BYTES}")


@lru_cache(maxsize=_most_maps())
def map_shard(shard: Shard, row_bytes: int) -> ShardMap:
    """Memory-map a shard for random row access; its features are checked the first time.

    Raises:
        StoreError: If the file was deleted, cannot be read, or its features are damaged.
    """
    with reading(shard.path, StoreError, CURE), shard.path.open("rb") as file:
        found = os.fstat(file.fileno())
        buffer = _map_file(file.fileno())
        flat = np.frombuffer(buffer, np.uint8, shard.rows * row_bytes, shard.offset)
        version = (shard, found.st_ino, found.st_mtime_ns)
        if shard.checksum and version not in _CHECKED:
            if checksum(flat) != shard.checksum:
                raise Damaged("the checksum of the features does not match")
            _CHECKED.add(version)
        if hasattr(mmap, "MADV_RANDOM"):  # otherwise the system reads 128 KiB around every row
            buffer.madvise(mmap.MADV_RANDOM)
    return ShardMap(buffer, flat.data)


def take_lock(folder: Path, rank: int) -> FileLock:
    """Lock the store for this rank; prints a message and waits if it is already locked."""
    lock = _rank_lock(folder, rank)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that is writing features to {folder}", file=sys.stderr)
        lock.acquire()
    return lock


def _rank_lock(folder: Path, rank: int) -> FileLock:
    return FileLock(folder / f".rank-{rank:03d}.lock")


def _map_file(number: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(number, 0, access=mmap.ACCESS_READ, trackfd=False)
    return mmap.mmap(number, 0, access=mmap.ACCESS_READ)
