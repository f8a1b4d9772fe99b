"""What grows with the samples: reading the table, and opening its features for training.

Each size runs in a process of its own, on a table of short texts and made-up features of width 64.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from aft.data.loading import load_data
from aft.features.store import FeatureStore, FeatureWriter
from aft.features.stored import StoredFeatures
from speed_parts.timing import MiB, curve, forget_peak, in_child, peak_bytes, row, write_texts

SIZES = (10_000, 100_000, 1_000_000)
DIM = 64
READING, OPENING, LOOKING_UP = "reading the table", "opening the store", "looking samples up"
LOADING, STATISTICS = "loading features", "statistics"


def measure(quick: bool) -> dict[str, Any]:
    found = {}
    for size in (100, 1000) if quick else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            file = str(write_texts(Path(folder), size))
            in_child(fill, file=file, store=f"{folder}/store")
            found[size] = in_child(open_all, file=file, store=f"{folder}/store")
    few, many = list(found.values())[-2:]
    less, more = list(found)[-2:]
    rows = [
        row(f"{name}, {more:,} samples, per sample", "µs", [many[name] / more], scale=1e6)
        for name in (READING, OPENING, LOOKING_UP, LOADING, STATISTICS)
    ]
    rows.append(  # of each more sample: what libraries take does not count
        row(
            "memory per sample, without features",
            "bytes",
            [(many["peak"] - few["peak"]) / (more - less)],
        )
    )
    lines = {
        name: [[size, max(one[name], 1e-4)] for size, one in found.items()]
        for name in (READING, OPENING, LOOKING_UP, LOADING, STATISTICS)
    }
    memory = {"memory": [[size, one["peak"] / MiB] for size, one in found.items()]}
    return {
        "rows": rows,
        "curves": [
            curve("Opening data and features, once a run", "samples", "CPU seconds", lines),
            curve("Memory of a table without its features", "samples", "MiB", memory),
        ],
    }


def fill(file: str, store: str) -> None:
    """Write made-up features of every sample of a table."""
    ids = _read(file).ids
    features = np.random.default_rng(0).standard_normal((1024, DIM), np.float32)
    with FeatureWriter(FeatureStore.open(Path(store), {"spec": "made up", "dim": DIM})) as writer:
        for start in range(0, len(ids), len(features)):
            part = ids[start : start + len(features)]
            writer.add(part, features[: len(part)])


def open_all(file: str, store: str) -> dict[str, float]:
    """CPU seconds of everything that is done once a run, and what it adds to peak memory."""
    seconds: dict[str, float] = {}

    @contextmanager
    def clock(name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        seconds[name] = time.process_time() - started

    with tempfile.TemporaryDirectory() as folder:
        _read(str(write_texts(Path(folder), 100)))  # libraries are loaded
    before = forget_peak()
    with clock(READING):
        samples = _read(file)
    peak = peak_bytes() - before
    (place,) = (path.parent for path in Path(store).rglob("teacher.json"))
    with clock(OPENING):
        opened = FeatureStore.at(place)
    with clock(LOOKING_UP):
        opened.locate(samples.ids)
    features = StoredFeatures("made up", opened, samples, [])
    with clock(LOADING):
        features.keep(2**40)
    with clock(STATISTICS):
        opened.statistics(samples.ids)
    return {**seconds, "peak": peak}


def _read(file: str) -> Any:
    return load_data(file, validation_fraction=0.0, progress=False).splits["train"]
