"""Splits: use those of the source, hold out missing ones, and find content shared by splits."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aft.data.findings import SHOWN, DataReport
from aft.data.readers.rows import Rows
from aft.data.samples import Samples
from aft.errors import DataError
from aft.tasks import Task


def drop_unlabelled_splits(rows: Rows, empty: NDArray[np.bool_]) -> list[str]:
    """Drop the held-out splits in which no row has a label; return their names."""
    dropped = []
    for name in rows.split_names:
        members = rows.splits == name
        if name != "train" and members.any() and empty[members].all():
            dropped.append(name)
    rows.split_names = tuple(name for name in rows.split_names if name not in dropped)
    return dropped


def by_split(
    samples: Samples, rows: Rows, source: str, for_training: bool, may_lack_train: bool = False
) -> dict[str, Samples]:
    """The samples of each split; without splits, all samples as ``train`` or ``all``.

    Raises:
        DataError: If train, unless it `may_lack_train` rows, or another split has no rows.
    """
    if not rows.split_names:
        return {"train" if for_training else "all": samples}
    splits = {}
    for name in dict.fromkeys((*(("train",) if for_training else ()), *rows.split_names)):
        chosen = np.flatnonzero(samples.splits == name)
        if not len(chosen) and not (name == "train" and may_lack_train):
            raise DataError(
                f"the {name} split of {source} has no usable rows; add rows"
                + ("" if name == "train" else " or remove the split")
            )
        splits[name] = samples.subset(chosen)
    left_over = int((samples.splits == "").sum())
    if left_over:
        print(f"{left_over} rows belong to no split and are not used", file=sys.stderr)
    return splits


def check_classes(splits: dict[str, Samples], task: Task, report: DataReport) -> None:
    """Check that train has at least two classes, and the classes of all other splits.

    Classes without rows in train are recorded in `report`.

    Raises:
        DataError: If it does not.
    """
    counts = task.counts(splits["train"].labels)
    report.empty_classes = [name for name, count in counts.items() if not count]
    if task.kind != "classification":
        return
    seen = set(np.unique(_labels(splits["train"])).tolist())
    for name, split in splits.items():
        rows_of = Counter(_labels(split).tolist())
        missing = [task.names[c] for c in sorted(rows_of.keys() - seen)]
        if missing:
            rows = sum(rows_of[c] for c in rows_of.keys() - seen)
            raise DataError(
                f"{len(missing)} classes of the {name} split ({rows} rows) are not in train: "
                f"{', '.join(missing[:SHOWN])}{' …' if len(missing) > SHOWN else ''}. "
                "Add training rows of these classes, or remove their rows"
            )
    if len(seen) < 2:
        raise DataError(
            f"classification needs at least 2 classes, train has {len(seen)}: "
            f"{', '.join(task.names[c] for c in seen)}"
        )


def hold_out(
    train: Samples, task: Task, fraction: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to keep and to hold out, stratified by class; duplicates stay together.

    Raises:
        DataError: If train is too small to hold out any row.
    """
    group, strata = _group(train, task)
    out = _draw(strata, fraction, rng)
    if not out.any():
        if len(strata) < 2 * max(1, len(np.unique(strata))):
            raise DataError(
                f"train has only {len(strata)} distinct inputs, too few to hold out any. Add rows "
                "or provide a validation split"
            )
        crowded = np.bincount(np.unique(strata, return_inverse=True)[1]).argmax()
        out[rng.choice(np.flatnonzero(strata == np.unique(strata)[crowded]))] = True
    return np.flatnonzero(~out[group]), np.flatnonzero(out[group])


def thin_out(
    train: Samples, task: Task, fraction: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Positions of a random share of the rows, stratified as in :func:`hold_out`.

    With the same generator, a smaller share is a subset of a larger one.
    """
    group, strata = _group(train, task)
    return np.flatnonzero(~_draw(strata, 1 - fraction, rng)[group])


def find_copies(splits: dict[str, Samples], report: DataReport) -> None:
    """Record in `report` the contents that occur in several rows."""
    train = splits["train"]
    keys = train.keys
    unique, first, counts = np.unique(keys, return_index=True, return_counts=True)
    report.duplicates = len(keys) - len(unique)
    for name, split in splits.items():
        if name == "train":
            continue
        others = split.keys
        for i in np.flatnonzero(np.isin(others, unique)):
            twin = first[np.searchsorted(unique, others[i])]
            report.leaks.append((train.files[int(twin)], split.files[int(i)]))
    if (labels := train.labels) is None:
        return
    order = np.argsort(keys, kind="stable")
    starts = np.cumsum(counts) - counts
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        members = order[start : start + count]
        if (labels[members] != labels[members[0]]).any():
            report.conflicts.append(tuple(train.files[int(i)] for i in members))


def _group(train: Samples, task: Task) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The content index of each row, and the class of each content (0 without classes)."""
    keys, group = np.unique(train.keys, return_inverse=True)
    first = np.full(len(keys), len(train))
    np.minimum.at(first, group, np.arange(len(train)))
    if task.kind == "classification" and train.labels is not None:
        return group, train.labels[first]
    return group, np.zeros(len(keys), np.int64)


def _draw(
    strata: NDArray[np.int64], fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw a random share of each stratum, always leaving at least one member."""
    out = np.zeros(len(strata), dtype=bool)
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        count = int(np.floor(fraction * len(members) + rng.random()))
        out[members[: min(count, len(members) - 1)]] = True
    return out


def _labels(samples: Samples) -> NDArray[Any]:
    assert samples.labels is not None
    return samples.labels
