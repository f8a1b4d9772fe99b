"""Extract and store teacher features; features already in the store are not recomputed."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from aft.data.samples import Samples
from aft.devices import worker_errors
from aft.errors import TeacherError
from aft.features.run_teacher import (
    Compute,
    Positions,
    Precision,
    RunTeacher,
    compute_features,
    compute_together,
)
from aft.features.shards import as_keys
from aft.features.store import FeatureStore, FeatureWriter
from aft.files import format_bytes, format_seconds
from aft.teachers.feature_table import FeatureTable
from aft.teachers.teacher import Teacher

if TYPE_CHECKING:
    from pathlib import Path


_TIMED_BATCHES = 3
_SHOWN = 3


class Verification(NamedTuple):
    """Positions of the verified samples, and the cosine of stored and recomputed features."""

    positions: Positions
    cosines: NDArray[np.float32]


def store_identity(
    teacher: Teacher | FeatureTable, dtype: str = "fp16", precision: Precision = "fp32"
) -> dict[str, Any]:
    """The content of ``teacher.json`` for a teacher with this dtype and precision.

    Values of targets are stored in fp32: fp16 rounds years to whole ones.
    """
    if teacher.identity.get("soft") == "values":
        dtype = "fp32"
    identity = {**teacher.identity, "dim": teacher.dim, "dtype": dtype}
    if precision != "fp32" and not isinstance(teacher, FeatureTable):
        identity["precision"] = precision
    return identity


@worker_errors()
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
    beside: Sequence[Teacher] = (),
    compute: RunTeacher = compute_features,
) -> FeatureStore:
    """Compute the features that are missing from the teacher's store, and return the store.

    Duplicate samples are computed once; samples without an input get no features. After an
    interruption, run it again to resume. With several ranks, each rank computes and writes its
    share; wait for all ranks, then call ``store.refresh()`` to see all rows.

    Args:
        teacher: A model, or a table of precomputed features, which is copied to the store.
        samples: The samples, with the teacher's input columns.
        features_dir: Folder of the feature stores, one per teacher.
        dtype: Data type of stored features: ``fp16``, ``fp32`` or ``bf16``.
        batch_size: Number of images per batch.
        batch_tokens: Number of text tokens per batch.
        num_workers: Number of data-loading processes; chosen by measurement if None.
        device: Device of the teacher.
        precision: Precision of the teacher's computation; other than ``fp32`` with autocast.
        progress: Whether to print the size of the work and a progress bar to stderr.
        rank: Rank of this process.
        world_size: Number of processes.
        shard_rows: Rows per shard file.
        beside: Further teachers, if :func:`aft.teachers.teacher.share_images` is true for all
            together. Their missing features are stored as well, with one decoding of each image.
        compute: What runs the teacher; :func:`aft.features.cluster.connect` gives another one.

    Raises:
        TeacherError: If an input cannot be preprocessed, or features have the wrong shape or are
            not finite. Finished rows are kept.
        StoreError: If the disk is full, or the store is damaged or not writable.
    """
    teachers = [teacher, *beside]
    stores = [
        FeatureStore.open(features_dir, store_identity(one, dtype, precision)) for one in teachers
    ]
    unique = np.sort(np.unique(as_keys(samples.ids), return_index=True)[1])
    unique = unique[samples.present[unique].any(axis=1)]
    unique, contents = _order(samples, unique)
    ids = samples.ids[unique]
    lacking = [store for store in stores if store.missing(ids).any()]
    if not lacking:
        return stores[0]
    with ExitStack() as stack:
        writers = {  # locked in one order, or two processes could wait for each other
            store.path: stack.enter_context(FeatureWriter(store, rank, shard_rows))
            for store in sorted(lacking, key=lambda store: store.path)
        }
        # Other writers may have added rows while this one waited for the locks.
        missing = np.stack([store.missing(ids) for store in stores])
        # Each rank's share is independent of the progress of the other ranks.
        own = missing & (contents % world_size == rank)
        total = int(own.any(axis=0).sum())
        show = progress and rank == 0 and total > 0
        for one, store, count in zip(teachers, stores, missing.sum(axis=1).tolist(), strict=True):
            store.require_space(count)
            if show and count:
                _announce(one.spec, store, count, len(unique))
        how = Compute(batch_size, batch_tokens, num_workers, torch.device(device), precision)
        name = _shorten(" + ".join(one.spec for one in teachers))
        with tqdm(total=total, desc=name, unit="sample", disable=not show) as bar:
            forecast = _Forecast(total) if show else None
            for which in np.unique(own[:, own.any(axis=0)], axis=1).T:  # which teachers lack a row
                rows = unique[(which == own.T).all(axis=1)]
                some = list(compress(teachers, which))
                paths = [store.path for store in compress(stores, which)]
                for positions, features in compute_together(some, samples, rows, how, compute):
                    for one, path, values in zip(some, paths, features, strict=True):
                        finite = values.isfinite().all(1)
                        keep = finite.numpy()
                        writers[path].add(samples.ids[positions[keep]], values[finite])
                        if not keep.all():
                            raise TeacherError(_explain_not_finite(one, samples, positions, keep))
                    bar.update(len(positions))
                    if forecast:
                        forecast.update(len(positions))
    return stores[0]


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
    """Recompute ``k`` random stored samples and compare by cosine similarity (1 if equal).

    Raises:
        StoreError: If none of the samples is in the store.
    """
    stored = np.flatnonzero(~store.missing(samples.ids))
    if not len(stored):
        store.gather(samples.ids[:1])  # raises the error
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


def _order(samples: Samples, rows: Positions) -> tuple[Positions, Positions]:
    """The rows, the views of one content after each other, and the number of each one's content.

    What was read for a view is at hand for the next one. The order is otherwise kept.
    """
    number = np.arange(len(rows))
    if samples.view is None:
        return rows, number
    contents = np.ascontiguousarray(samples.contents[rows]).reshape(len(rows), -1)
    keys = contents.view(f"V{contents.shape[1]}").ravel()
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    first = first[number]
    order = np.argsort(first, kind="stable")
    return rows[order], np.unique(first[order], return_inverse=True)[1]


class _Forecast:
    """Prints the estimated remaining time once, after a few batches."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = self.batches = 0
        self.first_done = 0
        self.start = 0.0

    def update(self, count: int) -> None:
        self.batches += 1
        self.done += count
        if self.batches == 1:  # the first batch includes the warm-up
            self.first_done, self.start = self.done, time.monotonic()
        elif self.batches == 1 + _TIMED_BATCHES and self.done < self.total:
            rate = (self.done - self.first_done) / max(1e-9, time.monotonic() - self.start)
            left = format_seconds((self.total - self.done) / rate)
            tqdm.write(f"about {left} left at {rate:.3g} samples/s", file=sys.stderr)


def _announce(spec: str, store: FeatureStore, rows: int, unique: int) -> None:
    print(
        f"{spec}: {rows} of {unique} samples to compute, "
        f"{format_bytes(rows * store.row_bytes)} in {store.path}",
        file=sys.stderr,
    )


def _shorten(name: str) -> str:
    return name if len(name) <= 40 else name[:39] + "…"


def _explain_not_finite(
    teacher: Teacher | FeatureTable, samples: Samples, positions: Positions, keep: NDArray[np.bool_]
) -> str:
    bad = positions[~keep]
    names = ", ".join(samples.files[int(row)] for row in bad[:_SHOWN])
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return (
        f"{teacher.spec} returned NaN or infinite features for {len(bad)} of {len(positions)} "
        f"samples in a batch: {names}{more}. Check these inputs, or compute with precision fp32"
    )
