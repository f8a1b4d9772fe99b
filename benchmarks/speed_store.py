"""How fast features are read: by position as in training, next to a raw memory map and an array.

    python benchmarks/speed_store.py

Every side returns the same float32 tensor for random rows, in alternating rounds, in processor
time; a ratio is the median over the rounds of one side's time divided by that of the raw memory
map in the same round, with the quartiles. "Stored" is the raw memory map without the conversion
to float32. Also opening, looking up, loading and statistics by number of rows, and what checksums
add to opening. Results go to results/speed_store.json, a table to docs/store.md. Takes about six
minutes on two cores and 2 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

import aft
import tables
from aft.features import shards
from aft.features.store import FeatureStore, FeatureWriter
from aft.features.stored import StoredFeatures

RESULTS = Path(__file__).parent / "results" / "speed_store.json"
DIM = 384
BATCHES = (128, 1024)
CALLS = 20
"""Calls per round, each with other rows."""
LOADS = 5
RAW = "raw memory map"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**4, 10**5, 3 * 10**5, 10**6])
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    gather: list[dict[str, Any]] = []
    growth: list[dict[str, Any]] = []
    for rows in options.rows:
        for dtype in ("fp16", "fp32") if rows == 300_000 else ("fp16",):
            with tempfile.TemporaryDirectory() as folder:
                store, ids = fill(Path(folder), rows, dtype)
                gather += compare_gathers(Path(folder), store, ids, options.rounds)
                if dtype == "fp16":
                    growth.append(time_growth(store, ids))
            print(*gather[-len(BATCHES) :], sep="\n", flush=True)
    print(*growth, sep="\n")
    document = {
        "command": "python benchmarks/speed_store.py",
        "version": aft.__version__,
        "machine": tables.machine(),
        "dim": DIM,
        "rounds": options.rounds,
        "gather": gather,
        "growth": growth,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    tables.put("store speed", as_table(document), ["docs/store.md"])


def fill(folder: Path, rows: int, dtype: str) -> tuple[FeatureStore, Any]:
    """A store of random features and ids."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 256, (rows, 16), dtype=np.uint8)
    store = FeatureStore.open(folder, {"spec": "made up", "dim": DIM, "dtype": dtype})
    with FeatureWriter(store) as writer:
        for start in range(0, rows, 1024):
            part = ids[start : start + 1024]
            writer.add(part, rng.standard_normal((len(part), DIM), np.float32))
    return store, ids


def in_training(store: FeatureStore, ids: Any) -> StoredFeatures:
    samples: Any = SimpleNamespace(ids=ids, present=np.ones((len(ids), 1), bool))
    return StoredFeatures("made up", store, samples, [])


def compare_gathers(
    folder: Path, store: FeatureStore, ids: Any, rounds: int
) -> list[dict[str, Any]]:
    """Times of reading a batch of random rows, by batch size.

    What lies in memory is loaded several times, as its speed depends on where the system puts it.
    """
    mapped = in_training(store, ids)
    seconds: dict[int, dict[str, list[float]]] = {size: {} for size in BATCHES}
    rng = np.random.default_rng(1)
    store.read_stored(store.locate(ids)).tofile(folder / "raw")
    dtype = shards.FORMATS[store.dtype].numpy
    for _ in range(LOADS):
        raw = np.memmap(folder / "raw", dtype, "r", shape=(len(ids), DIM))
        array = np.array(raw)
        kept = in_training(store, ids)
        kept.keep(2**40)

        def tensor(values: Any) -> torch.Tensor:
            return torch.from_numpy(values).float()

        sides: dict[str, Callable[[Any], Any]] = {
            RAW: lambda rows, raw=raw: tensor(raw[rows]),
            "stored": lambda rows, raw=raw: raw[rows],
            "array": lambda rows, array=array: tensor(array[rows]),
            "training": kept.gather,
            "training, memory maps": mapped.gather,
            "by ids": lambda rows: store.gather(ids[rows]),
        }
        for size in BATCHES:
            for number in range(-2, rounds // LOADS):  # the first two warm up
                for name in sorted(sides, reverse=number % 2 == 0):
                    # Other rows for every side, as some sides read the same memory.
                    batches = [rng.integers(0, len(ids), size) for _ in range(CALLS)]
                    started = time.process_time()
                    for rows in batches:
                        sides[name](rows)
                    taken = (time.process_time() - started) / CALLS
                    if number >= 0:
                        seconds[size].setdefault(name, []).append(taken)
                assert torch.equal(kept.gather(batches[0]), tensor(array[batches[0]]))
    return [
        {
            "rows": len(ids),
            "dtype": store.dtype,
            "batch": size,
            "microseconds": {
                name: round(float(np.median(side)) * 1e6, 1) for name, side in taken.items()
            },
            "ratios to the raw memory map": {
                name: quartiles(np.asarray(side) / np.asarray(taken[RAW]))
                for name, side in taken.items()
                if name != RAW
            },
        }
        for size, taken in seconds.items()
    ]


def quartiles(values: Any) -> list[float]:
    """The first quartile, the median and the third."""
    return [round(float(one), 3) for one in np.quantile(values, [0.25, 0.5, 0.75])]


def time_growth(store: FeatureStore, ids: Any, rounds: int = 15) -> dict[str, Any]:
    """Seconds of what is done once a run, and the share of checksums in opening."""
    seconds: dict[str, list[float]] = {}
    spent: list[float] = []
    compute = shards.checksum

    def timed(data: Any) -> str:
        started = time.process_time()
        try:
            return compute(data)
        finally:
            spent[-1] += time.process_time() - started

    @contextmanager
    def clock(name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        seconds.setdefault(name, []).append(time.process_time() - started)

    for _ in range(rounds):
        with clock("opening"):
            opened = FeatureStore.at(store.path)
        spent.append(0.0)
        with mock.patch.object(shards, "checksum", timed):
            FeatureStore.at(store.path)
    for _ in range(3):
        one = in_training(opened, ids)
        shards.map_shard.cache_clear()
        shards._CHECKED.clear()
        with clock("first mapping of every shard, with checksums"):
            opened.verify()
        with clock("looking up every sample"):
            opened.locate(ids)
        with clock("loading into memory"):
            one.keep(2**40)
        with clock("statistics"):
            opened.statistics(ids)
        for file in store.path.glob("statistics-*"):
            file.unlink()
    medians = {name: round(float(np.median(values)), 4) for name, values in seconds.items()}
    return {
        "rows": len(ids),
        "seconds": medians,
        "microseconds per row": {k: round(v / len(ids) * 1e6, 3) for k, v in medians.items()},
        "opening with checksums / without": quartiles(
            [1 / (1 - own / whole) for own, whole in zip(spent, seconds["opening"], strict=True)]
        ),
    }


def as_table(document: dict[str, Any]) -> str:
    names = ("array", "training", "training, memory maps", "by ids")
    titles = ("array in memory", "training", "training, does not fit", "`gather` by ids")
    lines = [
        f"| rows | type | batch | raw memory map | {' | '.join(titles)} |",
        "|---" * (4 + len(names)) + "|",
    ]
    for one in document["gather"]:
        ratios = one["ratios to the raw memory map"]
        lines.append(
            f"| {one['rows']:,} | {one['dtype']} | {one['batch']:,} "
            f"| {one['microseconds'][RAW]:.0f} µs | "
            + " | ".join("{1:.2f} ({0:.2f} to {2:.2f})".format(*ratios[name]) for name in names)
            + " |"
        )
    return "\n".join(lines) + (
        "\n\nProcessor time of reading random rows of a store of dimension "
        f"{document['dim']} as float32, one thread; as ratios to a raw memory map, the median and "
        f"quartiles of {document['rounds']} rounds.\n"
        f"Made by `{document['command']}` ({document['machine']}).\n"
    )


if __name__ == "__main__":
    main()
