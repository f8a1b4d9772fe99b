"""How fast features are read in training, beside a raw memory map and an array.

Every side returns the same float32 tensor for random rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from aft.features import shards
from aft.features.store import FeatureStore, FeatureWriter
from aft.features.stored import StoredFeatures
from speed_parts.timing import alternate, row

DIM = 384
BATCHES = (128, 1024)
CALLS = 20
"""Calls per round, each with other rows."""
LOADS = 5
"""What lies in memory is loaded so many times: its speed depends on where the system puts it."""
LIMITS = ("raw memory map", "array in memory")
OURS = {"training": "features in memory", "maps": "features that do not fit in memory"}


def measure(quick: bool) -> dict[str, Any]:
    total, loads, rounds = (2_000, 1, 1) if quick else (300_000, LOADS, 8)
    with tempfile.TemporaryDirectory() as folder:
        store, ids = fill(Path(folder), total)
        seconds = compare(Path(folder), store, ids, loads, rounds)
    rows = []
    for size in BATCHES:
        for name, words in OURS.items():
            for limit in LIMITS if name == "training" else LIMITS[:1]:
                what = f"gather {size:,} of {total:,} rows, width {DIM}; {words}"
                taken, aim = seconds[size], 1.11 if name == "training" else None
                rows.append(row(what, "µs", taken[name], limit, taken[limit], scale=1e6, aim=aim))
    return {"rows": rows}


def fill(folder: Path, rows: int) -> tuple[FeatureStore, Any]:
    """A store of random features in fp16, and their ids."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 256, (rows, 16), dtype=np.uint8)
    store = FeatureStore.open(folder, {"spec": "made up", "dim": DIM, "dtype": "fp16"})
    with FeatureWriter(store) as writer:
        for start in range(0, rows, 1024):
            part = ids[start : start + 1024]
            writer.add(part, rng.standard_normal((len(part), DIM), np.float32))
    return store, ids


def in_training(store: FeatureStore, ids: Any) -> StoredFeatures:
    samples: Any = SimpleNamespace(ids=ids, present=np.ones((len(ids), 1), bool))
    return StoredFeatures("made up", store, samples, [])


def compare(
    folder: Path, store: FeatureStore, ids: Any, loads: int, rounds: int
) -> dict[int, dict[str, list[float]]]:
    """Seconds of reading a batch of random rows, by batch size and side."""
    mapped = in_training(store, ids)
    seconds: dict[int, dict[str, list[float]]] = {size: {} for size in BATCHES}
    rng = np.random.default_rng(1)
    store.read_stored(store.locate(ids)).tofile(folder / "raw")
    dtype = shards.FORMATS[store.dtype].numpy
    for _ in range(loads):
        raw = np.memmap(folder / "raw", dtype, "r", shape=(len(ids), DIM))
        array = np.array(raw)
        kept = in_training(store, ids)
        kept.keep(2**40)
        reads: dict[str, Callable[[Any], torch.Tensor]] = {
            LIMITS[0]: lambda rows, raw=raw: torch.from_numpy(raw[rows]).float(),
            LIMITS[1]: lambda rows, array=array: torch.from_numpy(array[rows]).float(),
            "training": kept.gather,
            "maps": mapped.gather,
        }
        for size in BATCHES:
            chosen = rng.integers(0, len(ids), size)
            expected = reads[LIMITS[1]](chosen)
            assert all(torch.equal(read(chosen), expected) for read in reads.values())

            def calls(read: Callable[[Any], torch.Tensor], size: int = size) -> None:
                for _ in range(CALLS):  # other rows each time, as some sides read the same memory
                    read(rng.integers(0, len(ids), size))

            sides = {name: lambda read=read: calls(read) for name, read in reads.items()}
            draw = alternate({"draw": lambda size=size: calls(lambda rows: rows, size)}, rounds)
            for name, taken in alternate(sides, rounds).items():
                own = np.subtract(taken, np.median(draw["draw"])) / CALLS
                seconds[size].setdefault(name, []).extend(own.clip(1e-9).tolist())
    return seconds
