"""Teacher features on disk: one folder per teacher, one row per sample, keyed by sample id.

    <features_dir>/<slug of the spec>-<16 hex digits of the fingerprint>/
        teacher.json                         everything that determines the features
        shards/part-<rank>-<n>.safetensors   features (n, dim), sample_ids (n, 16)
        statistics-<hash>.bin                mean and std (dim,) of a set of samples; the hash is
                                             of their ids and of the shards they lie in

Files are written whole, see :mod:`aft.files`. Shards are read through memory maps, so a store can
be much larger than the memory. Each shard names its store and holds checksums: layout, store and
ids are checked when the store is opened, features when the shard is first mapped.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aft.errors import InputError, StoreError
from aft.features.shards import (
    FORMATS,
    Ids,
    Keys,
    Shard,
    as_floats,
    as_keys,
    map_shard,
    read_shard,
    shard_bytes,
    take_lock,
)
from aft.features.teacher_identity import (
    as_json,
    check_same,
    explain_missing,
    fingerprint,
    read_identity,
    teacher_name,
)
from aft.files import (
    Damaged,
    format_bytes,
    free_bytes,
    read_sealed,
    remove_leftovers,
    write_sealed,
    write_whole,
    writing,
)
from aft.ids import ID_BYTES

Rows = NDArray[np.int64]

FLUSH_SECONDS = 120.0  # at most two minutes of work are lost when a run is killed
KEPT = "Finished shards are kept: free some space and run the same command again to resume"
CHUNK_VALUES = 2**20  # feature values per read when computing statistics


class Statistics(NamedTuple):
    """Mean and population standard deviation of each feature dimension, float32, shape (dim,)."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class StoreSummary:
    """Summary of a store: samples, dimension, dtype, size on disk and teacher."""

    path: Path
    rows: int
    dim: int
    dtype: str
    bytes: int
    shards: int
    identity: dict[str, Any]


class _Index(NamedTuple):
    shards: tuple[Shard, ...]
    starts: Rows  # first row number of each shard, counted over all shards
    keys: Keys  # the distinct sample ids, sorted
    rows: Rows  # the row number of each key


_EMPTY = _Index((), np.zeros(0, np.int64), np.zeros(0, f"S{ID_BYTES}"), np.zeros(0, np.int64))


def find_stores(features_dir: str | Path) -> list[FeatureStore]:
    """All stores directly under ``features_dir``, sorted by name."""
    files = sorted(Path(features_dir).glob("*/teacher.json"))
    return [FeatureStore.at(file.parent) for file in files]


class FeatureStore:
    """The stored features of one teacher; open it with :meth:`open` or :meth:`at`.

    Reading needs no lock and is safe while writers add shards; call :meth:`refresh` to see their
    rows.

    Attributes:
        path: Folder of the store.
        identity: Content of ``teacher.json``.
        dim: Feature dimension.
        dtype: Data type on disk: ``fp16``, ``fp32`` or ``bf16``.
        generation: Number of times that rows were found or lost; row numbers belong to one of them.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.identity = identity
        self.dim, self.dtype = _checked_format(identity)
        self.generation = 0
        self._index = _EMPTY
        self.refresh()

    @classmethod
    def open(
        cls, features_dir: str | Path, identity: Mapping[str, Any], create: bool = True
    ) -> FeatureStore:
        """Open the store of a teacher.

        Args:
            features_dir: Folder of the feature stores.
            identity: JSON values that describe the teacher; ``dim`` is required, ``dtype``
                defaults to ``fp16``.
            create: Whether to create the store if it does not exist.

        Raises:
            StoreError: If the store does not exist and ``create`` is false, if its
                ``teacher.json`` differs from ``identity``, or if a shard is damaged.
        """
        values = as_json({"dtype": "fp16", **identity})
        _checked_format(values)
        path = cls.place(features_dir, values)
        file = path / "teacher.json"
        if file.exists():
            check_same(file, values)
        elif not create:
            raise StoreError(explain_missing(path, path.name.rpartition("-")[0], values))
        else:
            text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
            with writing(path, StoreError, KEPT, len(text)):
                (path / "shards").mkdir(parents=True, exist_ok=True)
                write_whole(file, text)
        return cls(path, values)

    @staticmethod
    def place(features_dir: str | Path, identity: Mapping[str, Any]) -> Path:
        """Folder of the store of a teacher, which need not exist."""
        values = as_json({"dtype": "fp16", **identity})
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", teacher_name(values))[:60].strip("-.") or "teacher"
        return Path(features_dir) / f"{slug}-{fingerprint(values)[:16]}"

    @classmethod
    def at(cls, path: str | Path) -> FeatureStore:
        """Open the store in a folder, for any teacher."""
        file = Path(path) / "teacher.json"
        if not file.exists():
            raise StoreError(f"{path} is not a feature store: expected a teacher.json, got none")
        return cls(Path(path), read_identity(file))

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureStore.at, (self.path,)  # memory maps cannot be pickled

    def __len__(self) -> int:
        return len(self._index.keys)

    @property
    def row_bytes(self) -> int:
        """Bytes on disk per sample."""
        return self.dim * FORMATS[self.dtype].numpy.itemsize + ID_BYTES

    def refresh(self) -> None:
        """Load the shards that writers, in this or other processes, have finished since."""
        files = sorted((self.path / "shards").glob("part-*.safetensors"))
        index = self._index
        if not {shard.path for shard in index.shards} <= set(files):  # some were deleted
            index = _EMPTY
            map_shard.cache_clear()
        known = {shard.path for shard in index.shards}
        new = [path for path in files if path not in known]
        own = fingerprint(self.identity)
        read = [read_shard(path, self.dim, FORMATS[self.dtype], own) for path in new]
        if not read and index is self._index:
            return
        shards = index.shards + tuple(shard for shard, _ in read)
        ends = np.cumsum([shard.rows for shard in shards], dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends])[: len(shards)]
        first_new = int(starts[len(known)]) if read else 0
        keys = np.concatenate([index.keys, *(keys for _, keys in read)])
        new_rows = np.arange(len(keys) - len(index.keys), dtype=np.int64) + first_new
        rows = np.concatenate([index.rows, new_rows])
        order = np.argsort(keys, kind="stable")
        keys, rows = keys[order], rows[order]
        first = np.ones(len(keys), bool)
        first[1:] = keys[1:] != keys[:-1]  # two ranks may have computed the same sample
        self._index = _Index(shards, starts, keys[first], rows[first])
        self.generation += 1

    def missing(self, ids: Ids) -> NDArray[np.bool_]:
        """Boolean mask (n,): which of ``ids``, shape (n, 16), have no row."""
        return self.locate(ids) < 0

    def locate(self, ids: Ids) -> Rows:
        """Row numbers (n,) of samples, ids of shape (n, 16), for :meth:`read_stored`; -1 without.

        They are valid until :attr:`generation` changes.
        """
        keys, index = as_keys(ids), self._index
        rows = np.full(len(keys), -1, np.int64)
        if len(index.keys):
            order = np.argsort(keys, kind="stable")  # many keys are found faster in their order
            keys = keys[order]
            places = np.minimum(np.searchsorted(index.keys, keys), len(index.keys) - 1)
            rows[order] = np.where(index.keys[places] == keys, index.rows[places], -1)
        return rows

    def gather(self, ids: Ids) -> Tensor:
        """Read the features of samples, in the given order.

        Args:
            ids: Sample ids, shape (B, 16), uint8; may contain duplicates.

        Returns:
            float32, shape (B, dim).

        Raises:
            StoreError: If some samples have no row.
        """
        return as_floats(self.read_stored(self._rows_of(ids)), self.dtype)

    def statistics(self, ids: Ids) -> Statistics:
        """Mean and standard deviation over the distinct samples among ``ids``, shape (n, 16).

        Computed in float64 in one pass over the rows, then saved beside the shards.

        Raises:
            StoreError: If some samples have no row, or ``ids`` is empty.
        """
        keys = np.unique(as_keys(ids))
        if not len(keys):
            raise StoreError("expected at least one sample for statistics, got 0")
        rows = np.sort(self._rows_of(keys.view(np.uint8).reshape(-1, ID_BYTES)))
        digest = self._digest(keys, rows)
        file = self.path / f"statistics-{digest}.bin"
        with suppress(OSError, Damaged, ValueError):
            owner, values = np.split(np.frombuffer(read_sealed(file), np.uint8), [len(digest)])
            if owner.tobytes() == digest.encode():
                kept = values.view("<f4").reshape(2, self.dim)
                return Statistics(*torch.from_numpy(kept.copy()))
        statistics = self._compute_statistics(rows)
        with suppress(OSError):  # on a full or read-only disk, they are recomputed next time
            values = torch.stack(statistics).numpy().astype("<f4")
            write_sealed(file, digest.encode() + values.tobytes())
        return statistics

    def verify(self) -> list[str]:
        """Check the features of every shard; returns one line for each damaged one."""
        faults = []
        map_shard.cache_clear()
        for shard in self._index.shards:
            try:
                map_shard(shard, self.row_bytes - ID_BYTES)
            except StoreError as error:
                faults.append(str(error))
        return faults

    def summary(self) -> StoreSummary:
        """Summary of the store's content."""
        shards = self._index.shards
        size = sum(shard.bytes for shard in shards)
        return StoreSummary(
            self.path, len(self), self.dim, self.dtype, size, len(shards), self.identity
        )

    def require_space(self, rows: int) -> None:
        """Raise StoreError if ``rows`` more samples do not fit on the disk."""
        needed, free = rows * self.row_bytes, free_bytes(self.path)
        if needed > free:
            raise StoreError(
                f"the features of {rows} samples need {format_bytes(needed)} in {self.path}, but "
                f"only {format_bytes(free)} are free: free some space or use another features "
                "folder"
            )

    def _rows_of(self, ids: Ids) -> Rows:
        rows = self.locate(ids)
        if lacking := int((rows < 0).sum()):
            raise StoreError(
                f"{lacking} of {len(ids)} samples have no features in {self.path}: run "
                f"`aft extract` with the same data and teacher {teacher_name(self.identity)}"
            )
        return rows

    def _digest(self, keys: Keys, rows: Rows) -> str:
        """Hash of samples, ids (n,) and sorted row numbers (n,), and of the shards they lie in."""
        used = np.unique(np.searchsorted(self._index.starts, rows, side="right") - 1)
        digest = hashlib.blake2b(keys.tobytes(), digest_size=16)
        for shard in (self._index.shards[i] for i in used):
            digest.update((shard.checksum or f"{shard.path.name} {shard.rows}").encode())
        return digest.hexdigest()

    def read_stored(self, rows: Rows, ahead: bool = False) -> NDArray[Any]:
        """Read features by row number (B,), as they are stored (B, dim); bfloat16 as bits.

        Consecutive rows of a shard are copied at once.

        Args:
            rows: Row numbers, see :meth:`locate`.
            ahead: Whether to ask the system to read the shards ahead, because most rows are read.
        """
        assert rows.min(initial=0) >= 0, "rows of samples without features"
        index, width = self._index, self.row_bytes - ID_BYTES
        shards = np.searchsorted(index.starts, rows, side="right") - 1
        first = np.flatnonzero((np.diff(rows, prepend=-2) != 1) | np.diff(shards, prepend=-1))
        begins = (rows - index.starts[shards])[first] * width
        ends = np.append(first[1:], len(rows)) * width
        if ahead:
            for shard in np.unique(shards):
                map_shard(index.shards[shard], width).read_ahead()
        out = np.empty(len(rows) * width, np.uint8)
        target, done, mapped = out.data, 0, -1
        pieces = zip(shards[first].tolist(), begins.tolist(), ends.tolist(), strict=False)
        for shard, begin, end in pieces:
            if shard != mapped:
                features, mapped = map_shard(index.shards[shard], width).features, shard
            target[done:end] = features[begin : begin + end - done]
            done = end
        return out.view(FORMATS[self.dtype].numpy).reshape(len(rows), self.dim)

    def _compute_statistics(self, rows: Rows) -> Statistics:
        count, mean = 0, torch.zeros(self.dim, dtype=torch.float64)
        squares = torch.zeros_like(mean)  # sum of squared deviations, merged as in Chan et al.
        size = max(1, CHUNK_VALUES // self.dim)
        for start in range(0, len(rows), size):
            stored = self.read_stored(rows[start : start + size], ahead=True)
            block = as_floats(stored, self.dtype).double()
            block_mean = block.mean(0)
            gap, total = block_mean - mean, count + len(block)
            deviations = block.sub_(block_mean).square_().sum(0)
            squares += deviations + gap**2 * (count * len(block) / total)
            mean += gap * (len(block) / total)
            count = total
        return Statistics(mean.float(), (squares / count).sqrt().float())


class FeatureWriter:
    """Writes rows to a store. Each rank has one writer at a time; others wait until it is closed.

    Rows are written in complete shards. Rows added before an error in the ``with`` block are kept.

    Args:
        store: The store; it is refreshed when the writer is closed.
        rank: Rank of this process; each rank writes its own files.
        shard_rows: Rows per shard.
    """

    def __init__(self, store: FeatureStore, rank: int = 0, shard_rows: int = 1024) -> None:
        self._store = store
        self._rank = rank
        self._ids = np.empty((shard_rows, ID_BYTES), np.uint8)
        self._features = torch.empty(shard_rows, store.dim, dtype=FORMATS[store.dtype].torch)
        self._filled = 0
        self._next = 0
        self._flushed = time.monotonic()
        with writing(store.path, StoreError, KEPT):
            (store.path / "shards").mkdir(exist_ok=True)
            self._lock = take_lock(store.path, rank)
        try:
            for folder in (store.path, store.path / "shards"):
                remove_leftovers(folder)
            store.refresh()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except StoreError:
            if error is None:  # do not hide the first error
                raise

    def add(self, ids: Ids, features: Tensor | NDArray[np.floating[Any]]) -> None:
        """Add the features (n, dim) of samples with ids (n, 16).

        Raises:
            InputError: If ``features`` has the wrong shape.
            StoreError: If a value is not finite or too large for the store's dtype, or the disk
                is full.
        """
        values = torch.as_tensor(features).detach().cpu()
        expected = (len(as_keys(ids)), self._store.dim)
        if values.shape != expected:
            raise InputError(f"expected features {expected}, got {tuple(values.shape)}")
        rounded = values.to(self._features.dtype)
        if not rounded.isfinite().all():
            raise StoreError(self._explain_not_finite(values))
        done = 0
        while done < len(rounded):
            count = min(len(rounded) - done, len(self._ids) - self._filled)
            end = self._filled + count
            self._ids[self._filled : end] = ids[done : done + count]
            self._features[self._filled : end] = rounded[done : done + count]
            self._filled, done = end, done + count
            if end == len(self._ids) or time.monotonic() - self._flushed > FLUSH_SECONDS:
                self.flush()

    def flush(self) -> None:
        """Write the pending rows as a shard."""
        if self._filled:
            ids = torch.from_numpy(self._ids[: self._filled])
            features = self._features[: self._filled]
            data = shard_bytes(fingerprint(self._store.identity), features, ids)
            shards = self._store.path / "shards"
            while (file := shards / f"part-{self._rank:03d}-{self._next:06d}.safetensors").exists():
                self._next += 1
            with writing(shards, StoreError, KEPT, len(data)):
                write_whole(file, data)
            self._filled = 0
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Write the pending rows, release the lock and refresh the store."""
        try:
            self.flush()
        finally:
            self._lock.release()
        self._store.refresh()

    def _explain_not_finite(self, values: Tensor) -> str:
        bad = int((~values.isfinite()).any(1).sum())
        if bad:
            return f"{bad} of {len(values)} feature rows contain NaN or infinite values"
        dtype = self._store.dtype
        largest, limit = values.abs().max().item(), torch.finfo(self._features.dtype).max
        others = "fp32 or bf16" if dtype == "fp16" else "fp32"
        name = teacher_name(self._store.identity)
        return (
            f"a feature of {name} has the absolute value {largest:.6g}, but the maximum of {dtype} "
            f"is {limit:.6g}: use --features-dtype {others}"
        )


def _checked_format(identity: Mapping[str, Any]) -> tuple[int, str]:
    dim, dtype = identity.get("dim"), identity.get("dtype", "fp16")
    if not isinstance(dim, int) or dim < 1:
        raise StoreError(f"expected a positive integer dim in the teacher's identity, got {dim!r}")
    if dtype not in FORMATS:
        raise StoreError(f"expected features dtype {', '.join(FORMATS)}, got {dtype!r}")
    return dim, dtype
