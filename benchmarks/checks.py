"""What checksums cost: opening a large store, extracting, and training, with and without them.

    python benchmarks/checks.py

Both sides alternate, in processor time; the ratio is that of the medians. Without
checksums, the function that computes them is replaced by one that does nothing. Results go to
results/checks.json, the table to docs/promises.md. Takes about three minutes on two cores and
400 MB of disk.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

import aft
import tables
from aft.features import shards
from aft.features.store import FeatureStore, FeatureWriter

RESULTS = Path(__file__).parent / "results" / "checks.json"
DIM = 64
"""Feature dimension of the large store."""
TRAINED, WIDTH, BATCH = 50_000, 384, 128
"""Rows, feature dimension and batch size of the epoch of training."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the large store")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        stores = {
            checked: {
                "large": fill(Path(folder) / str(checked) / "large", options.rows, DIM, checked),
                "trained": fill(Path(folder) / str(checked) / "some", TRAINED, WIDTH, checked),
            }
            for checked in (True, False)
        }
        works: dict[str, Callable[[bool, int], object]] = {
            f"opening a store of {options.rows:,} rows": lambda c, _: reopen(stores[c]["large"], c),
            f"writing {TRAINED:,} rows": lambda c, number: fill(
                Path(folder) / f"written-{c}-{number}", TRAINED, WIDTH, c
            ),
            f"an epoch of {TRAINED:,} rows, with the first reading": lambda c, _: train(
                stores[c]["trained"], c
            ),
        }
        for number in range(options.rounds):
            for name, work in works.items():
                for checked in (True, False) if number % 2 else (False, True):
                    started = time.process_time()
                    work(checked, number)
                    side = seconds.setdefault(name, {"with": [], "without": []})
                    taken = round(time.process_time() - started, 4)
                    side["with" if checked else "without"].append(taken)
    document = {
        "command": f"python benchmarks/checks.py --rows {options.rows} --rounds {options.rounds}",
        "version": aft.__version__,
        "machine": tables.machine(),
        "seconds": seconds,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    tables.put("checks", as_table(document), ["docs/promises.md"])
    print(as_table(document))


def ids_of(count: int) -> Any:
    numbers = np.arange(count, dtype=np.uint64)
    return np.stack([numbers, numbers], axis=1).view(np.uint8)


def without(checked: bool) -> Any:
    return mock.patch.object(shards, "checksum", shards.checksum if checked else lambda data: "0")


def fill(folder: Path, rows: int, dim: int, checked: bool) -> FeatureStore:
    """A store of random features."""
    store = FeatureStore.open(folder, {"spec": "made up", "dim": dim})
    features = torch.randn(1024, dim, generator=torch.Generator().manual_seed(0))
    ids = ids_of(rows)
    with without(checked), FeatureWriter(store) as writer:
        for start in range(0, rows, len(features)):
            part = ids[start : start + len(features)]
            writer.add(part, features[: len(part)])
    return store


def reopen(store: FeatureStore, checked: bool) -> FeatureStore:
    with without(checked):
        return FeatureStore.at(store.path)


def train(store: FeatureStore, checked: bool) -> None:
    """An epoch with AFT's loss and a small student."""
    shards.map_shard.cache_clear()
    shards._CHECKED.clear()
    ids = ids_of(TRAINED)
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 128))
    loss = aft.losses.AFTLoss([WIDTH])
    optimizer = torch.optim.AdamW([*student.parameters(), *loss.parameters()])
    inputs = torch.randn(BATCH, 256)
    order = np.random.default_rng(0).permutation(TRAINED)
    with without(checked):
        for start in range(0, TRAINED - BATCH + 1, BATCH):
            features = store.gather(ids[order[start : start + BATCH]])
            optimizer.zero_grad()
            loss(student(inputs), [features]).backward()
            optimizer.step()


def as_table(document: dict[str, Any]) -> str:
    lines = ["| | with checksums | without | ratio |", "|---|---|---|---|"]
    for name, sides in document["seconds"].items():
        with_, bare = (float(np.median(sides[side])) for side in ("with", "without"))
        lines.append(f"| {name} | {with_:.3f} s | {bare:.3f} s | {with_ / bare:.3f} |")
    return "\n".join(lines) + (
        f"\n\nMedian processor time of {len(sides['with'])} rounds, one thread.\n"
        f"Made by `{document['command']}` ({document['machine']}).\n"
    )


if __name__ == "__main__":
    main()
