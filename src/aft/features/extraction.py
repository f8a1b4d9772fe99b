"""Run teachers over samples and keep their features; nothing is computed twice."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from aft.data.samples import Samples
from aft.errors import TeacherError
from aft.features.run_teacher import Compute, Positions, Precision, compute_features
from aft.features.shards import as_keys, format_bytes
from aft.features.store import FeatureStore, FeatureWriter
from aft.teachers.feature_table import FeatureTable
from aft.teachers.teacher import Teacher

if TYPE_CHECKING:
    from pathlib import Path


_TIMED_BATCHES = 3


_SHOWN = 3


class Verification(NamedTuple):
    """Stored against recomputed features: the positions of the samples, and a cosine for each."""

    positions: Positions
    cosines: NDArray[np.float32]


def store_identity(
    teacher: Teacher | FeatureTable, dtype: str = "fp16", precision: Precision = "fp32"
) -> dict[str, Any]:
    """What ``teacher.json`` says of the features of ``teacher`` computed and stored like this."""
    identity = {**teacher.identity, "dim": teacher.dim, "dtype": dtype}
    if precision != "fp32" and not isinstance(teacher, FeatureTable):
        identity["precision"] = precision
    return identity


def extract_features(
    teacher: Teacher | FeatureTable,
    samples: Samples,
    features_dir: str | Path,
    *,
    dtype: str = "fp16",
    batch_size: int = 64,
    batch_tokens: int = 1024,
    num_workers: int | None = None,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    progress: bool = True,
    rank: int = 0,
    world_size: int = 1,
    shard_rows: int = 1024,
) -> FeatureStore:
    """Compute the features that the teacher's store lacks, and return the store.

    The same content is computed once, however often it is among the samples; samples whose input
    is missing have no features. A run that is killed goes on where it stopped. With several ranks
    each computes and writes its share; wait for all of them, then call ``store.refresh()`` to see
    every row.

    Args:
        teacher: A model, or a table of features made elsewhere, which is copied.
        samples: The samples, with the columns that the teacher takes.
        features_dir: The folder that holds the stores, one a teacher.
        dtype: Number format of stored features: ``fp16``, ``fp32`` or ``bf16``.
        batch_size: Images that the teacher sees at once.
        batch_tokens: Tokens of text that the teacher sees at once.
        num_workers: Processes that read inputs; chosen by size and machine if None.
        device: Where the teacher runs.
        precision: Arithmetic of the teacher; other than ``fp32`` under autocast.
        progress: Say what it will cost and show a bar, on the error stream.
        rank: Number of this process among those that extract together.
        world_size: How many they are.
        shard_rows: Rows of a file of features.

    Raises:
        TeacherError: If an input cannot be prepared, or features have the wrong shape or are not
            finite. Rows finished before are kept.
        StoreError: If the store does not fit, is damaged or cannot be written.
    """
    store = FeatureStore.open(features_dir, store_identity(teacher, dtype, precision))
    unique = np.sort(np.unique(as_keys(samples.ids), return_index=True)[1])
    unique = unique[samples.present[unique].any(axis=1)]
    if not store.missing(samples.ids[unique]).any():
        return store
    show = progress and rank == 0
    with FeatureWriter(store, rank, shard_rows) as writer:  # waits while another writes; then look
        all_missing = store.missing(samples.ids[unique])
        store.require_space(int(all_missing.sum()))
        # Each rank's share does not depend on how far the others are already.
        share = np.arange(len(unique)) % world_size == rank
        rows = unique[all_missing & share]
        show = show and len(rows) > 0
        if show:
            _announce(teacher.spec, store, int(all_missing.sum()), len(unique))
        how = Compute(batch_size, batch_tokens, num_workers, torch.device(device), precision)
        with tqdm(total=len(rows), desc=_name(teacher), unit="sample", disable=not show) as bar:
            forecast = _Forecast(len(rows)) if show else None
            done = 0
            for positions, values in compute_features(teacher, samples, rows, how):
                finite = values.isfinite().all(1)
                keep = finite.numpy()
                writer.add(samples.ids[positions[keep]], values[finite])
                if not keep.all():
                    raise TeacherError(_explain_not_finite(teacher, samples, positions, keep))
                bar.update(len(positions))
                done += len(positions)
                if forecast:
                    forecast.update(done)
    return store


def verify_features(
    store: FeatureStore,
    teacher: Teacher | FeatureTable,
    samples: Samples,
    k: int = 16,
    seed: int = 0,
    *,
    batch_size: int = 64,
    batch_tokens: int = 1024,
    device: str | torch.device = "cpu",
) -> Verification:
    """Recompute ``k`` stored samples, drawn with ``seed``, and compare (cosine, 1 is the same).

    Raises:
        StoreError: If none of the samples is in the store.
    """
    stored = np.flatnonzero(~store.missing(samples.ids))
    if not len(stored):
        store.gather(samples.ids[:1])  # says what to do
    drawn = np.sort(np.random.default_rng(seed).permutation(stored)[:k])
    precision = store.identity.get("precision", "fp32")
    how = Compute(batch_size, batch_tokens, 0, torch.device(device), precision)
    batches = list(compute_features(teacher, samples, drawn, how))
    positions = np.concatenate([rows for rows, _ in batches])
    recomputed = torch.cat([values for _, values in batches]).double()
    kept = store.gather(samples.ids[positions]).double()
    cosines = nn.functional.cosine_similarity(recomputed, kept, eps=1e-300)
    cosines[(recomputed == kept).all(1)] = 1.0  # two zero vectors too
    return Verification(positions, cosines.float().numpy())


class _Forecast:
    """Says once, after a few batches, how long the rest will take."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.batches = 0
        self.first_done = 0
        self.start = 0.0

    def update(self, done: int) -> None:
        self.batches += 1
        if self.batches == 1:  # the first batch pays for warming up
            self.first_done, self.start = done, time.monotonic()
        elif self.batches == 1 + _TIMED_BATCHES and done < self.total:
            rate = (done - self.first_done) / max(1e-9, time.monotonic() - self.start)
            left = format_seconds((self.total - done) / rate)
            tqdm.write(f"about {left} to go at {rate:.3g} samples a second", file=sys.stderr)


def format_seconds(seconds: float) -> str:
    """``4000`` as ``1 h 7 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _announce(spec: str, store: FeatureStore, rows: int, unique: int) -> None:
    print(
        f"{spec}: {rows} of {unique} samples to compute, "
        f"{format_bytes(rows * store.row_bytes)} in {store.path}",
        file=sys.stderr,
    )


def _name(teacher: Teacher | FeatureTable) -> str:
    return teacher.spec if len(teacher.spec) <= 40 else teacher.spec[:39] + "…"


def _explain_not_finite(
    teacher: Teacher | FeatureTable, samples: Samples, positions: Positions, keep: NDArray[np.bool_]
) -> str:
    bad = positions[~keep]
    names = ", ".join(samples.files[int(row)] for row in bad[:_SHOWN])
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return (
        f"{teacher.spec} gives NaN or infinite features for {len(bad)} of {len(positions)} samples "
        f"of a batch: {names}{more}. Look at these inputs, or compute with precision fp32"
    )
