"""Splits: those of the source, those held out of train, and what they have in common."""

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
    """Forget the held-out splits of which no row has a label, and name them."""
    dropped = []
    for name in rows.split_names:
        members = rows.splits == name
        if name != "train" and members.any() and empty[members].all():
            dropped.append(name)
    rows.split_names = tuple(name for name in rows.split_names if name not in dropped)
    return dropped


def by_split(samples: Samples, rows: Rows, source: str, for_training: bool) -> dict[str, Samples]:
    """The samples of each split; without splits all of them as ``train``, or as ``all``.

    Raises:
        DataError: If a split of the source, or train, has no rows.
    """
    if not rows.split_names:
        return {"train" if for_training else "all": samples}
    splits = {}
    for name in dict.fromkeys((*(("train",) if for_training else ()), *rows.split_names)):
        chosen = np.flatnonzero(samples.splits == name)
        if not len(chosen):
            raise DataError(
                f"the {name} split of {source} has no usable rows; fill it"
                + ("" if name == "train" else " or remove it")
            )
        splits[name] = samples.subset(chosen)
    left_over = int((samples.splits == "").sum())
    if left_over:
        print(f"{left_over} rows belong to no split and are not used", file=sys.stderr)
    return splits


def check_classes(splits: dict[str, Samples], task: Task) -> None:
    """See that there are classes to tell apart, and that train has those of every split.

    Raises:
        DataError: If not.
    """
    if task.kind != "classification":
        return
    seen = set(np.unique(_labels(splits["train"])).tolist())
    for name, split in splits.items():
        counts = Counter(_labels(split).tolist())
        missing = [task.names[c] for c in sorted(counts.keys() - seen)]
        if missing:
            rows = sum(counts[c] for c in counts.keys() - seen)
            raise DataError(
                f"{len(missing)} classes of the {name} split ({rows} rows) are not in train: "
                f"{', '.join(missing[:SHOWN])}{' …' if len(missing) > SHOWN else ''}. "
                "Add training rows for them or remove them"
            )
    if len(seen) < 2:
        raise DataError(
            f"classification needs at least 2 classes, train has {len(seen)}: "
            f"{', '.join(task.names[c] for c in seen)}"
        )


def hold_out(
    train: Samples, task: Task, fraction: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to keep and to hold out: by class, and all copies of a content together.

    Raises:
        DataError: If there is none to hold out.
    """
    group, strata = _group(train, task)
    out = _draw(strata, fraction, rng)
    if not out.any():
        if len(strata) < 2 * max(1, len(np.unique(strata))):
            raise DataError(
                f"train has only {len(strata)} different inputs: too few to hold out any. Add rows "
                "or give a validation split"
            )
        crowded = np.bincount(np.unique(strata, return_inverse=True)[1]).argmax()
        out[rng.choice(np.flatnonzero(strata == np.unique(strata)[crowded]))] = True
    return np.flatnonzero(~out[group]), np.flatnonzero(out[group])


def thin_out(
    train: Samples, task: Task, fraction: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Positions of a share of the rows, drawn as :func:`hold_out` does; perhaps all of them.

    With the same generator a smaller share is a part of a larger one.
    """
    group, strata = _group(train, task)
    return np.flatnonzero(~_draw(strata, 1 - fraction, rng)[group])


def find_copies(splits: dict[str, Samples], report: DataReport) -> None:
    """Note the contents that are in several rows."""
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
    labels = _labels(train)
    order = np.argsort(keys, kind="stable")
    starts = np.cumsum(counts) - counts
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        members = order[start : start + count]
        if (labels[members] != labels[members[0]]).any():
            report.conflicts.append(tuple(train.files[int(i)] for i in members))


def _group(train: Samples, task: Task) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The content of each row by number, and the class of each content (0 without classes)."""
    keys, group = np.unique(train.keys, return_inverse=True)
    first = np.full(len(keys), len(train))
    np.minimum.at(first, group, np.arange(len(train)))
    if task.kind == "classification":
        return group, _labels(train)[first]
    return group, np.zeros(len(keys), np.int64)


def _draw(
    strata: NDArray[np.int64], fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw a share of each stratum, but never the whole of it."""
    out = np.zeros(len(strata), dtype=bool)
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        count = int(np.floor(fraction * len(members) + rng.random()))
        out[members[: min(count, len(members) - 1)]] = True
    return out


def _labels(samples: Samples) -> NDArray[Any]:
    assert samples.labels is not None
    return samples.labels
