"""Any labelled data set as splits of samples, each with a content id, an input and a label."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aft.errors import DataError
from aft.identity import ID_BYTES, content_id, default_cache_dir, identify
from aft.images import find_fault, open_image
from aft.labels import Task, encode_labels, infer_task, missing_labels
from aft.sources import Columns, Rows, read_source

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "Columns",
    "DataReport",
    "DataSet",
    "Samples",
    "Task",
    "content_id",
    "default_cache_dir",
    "load_data",
    "load_inputs",
    "open_image",
]

OnBadInput = Literal["skip", "fail"]
SHOWN = 3


class Samples:
    """One split: a sequence of samples, each an id, an input and (perhaps) a label.

    Attributes:
        ids: Content ids, shape ``(n, 16)``, uint8.
        labels: Class indices ``(n,)`` int64; for multi-label ``(n, num_classes)`` and for
            regression ``(n, num_targets)`` float32; None without labels.
    """

    def __init__(
        self, rows: Dataset, ids: NDArray[np.uint8], labels: NDArray[Any] | None = None
    ) -> None:
        self.rows = rows
        self.ids = ids
        self.labels = labels

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def files(self) -> Sequence[str]:
        """A name of each sample for people: its path inside the data set, or its row."""
        return self.rows["file"]  # type: ignore[no-any-return]

    def input(self, index: int) -> Image.Image:
        """The decoded RGB image of a sample."""
        source = self.rows[index]["input"]
        if isinstance(source, dict):
            source = source["bytes"] or source["path"]
        return open_image(source)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Samples:
        """The samples at these positions, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        labels = None if self.labels is None else self.labels[chosen]
        return Samples(self.rows.select(chosen), self.ids[chosen], labels)


@dataclass
class DataReport:
    """What was noticed while a data set was read.

    Attributes:
        bad_inputs: File and fault of inputs that cannot be read and were left out.
        unlabelled: Number of rows left out because they have no label.
        leaks: Pairs of files with the same content in train and in a held-out split.
        conflicts: Files with the same content in train but different labels.
        duplicates: Number of further copies of contents in train.
    """

    bad_inputs: list[tuple[str, str]] = field(default_factory=list)
    unlabelled: int = 0
    leaks: list[tuple[str, str]] = field(default_factory=list)
    conflicts: list[tuple[str, ...]] = field(default_factory=list)
    duplicates: int = 0

    def lines(self) -> list[str]:
        """Sentences for people, each with a count and the first few files."""

        def some(items: Sequence[str]) -> str:
            more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
            return "; ".join(items[:SHOWN]) + more

        found = []
        if self.bad_inputs:
            names = some([f"{file} ({fault})" for file, fault in self.bad_inputs])
            found.append(f"{len(self.bad_inputs)} unreadable inputs skipped: {names}")
        if self.unlabelled:
            found.append(f"{self.unlabelled} rows without a label left out")
        if self.leaks:
            names = some([f"{a} = {b}" for a, b in self.leaks])
            found.append(
                f"{len(self.leaks)} held-out inputs are also in train, so the score on them is "
                f"too good: {names}"
            )
        if self.conflicts:
            names = some([" = ".join(files) for files in self.conflicts])
            found.append(
                f"{len(self.conflicts)} inputs are in train with different labels: {names}"
            )
        if self.duplicates:
            found.append(f"{self.duplicates} further copies of the same inputs in train")
        return found


@dataclass
class DataSet:
    """A labelled data set.

    Attributes:
        source: What the user named.
        task: What is to be predicted.
        splits: ``train``, ``validation`` and perhaps ``test``.
        report: What was noticed while reading.
        held_out: Splits that were cut from train because the source has none of that name.
    """

    source: str
    task: Task
    splits: dict[str, Samples]
    report: DataReport
    held_out: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Counts and findings as plain JSON values."""
        return {
            "source": self.source,
            "task": self.task.describe(),
            "rows": {name: len(split) for name, split in self.splits.items()},
            "held_out_of_train": list(self.held_out),
            "rows_per_class": {
                name: self.task.counts(split.labels) for name, split in self.splits.items()
            },
            "bad_inputs": len(self.report.bad_inputs),
            "unlabelled": self.report.unlabelled,
            "duplicates_in_train": self.report.duplicates,
            "same_content_in_train_and_held_out": [list(pair) for pair in self.report.leaks],
            "same_content_different_labels": [list(files) for files in self.report.conflicts],
        }


def load_data(
    source: str,
    columns: Columns | None = None,
    *,
    task: str = "auto",
    validation_fraction: float = 0.1,
    test_fraction: float = 0.0,
    seed: int = 0,
    on_bad_input: OnBadInput = "skip",
    cache_dir: Path | None = None,
    progress: bool = True,
    known_task: Task | None = None,
    for_training: bool = True,
) -> DataSet:
    """Read a labelled data set and split it.

    Args:
        source: An image folder, a table (CSV, JSON lines, Parquet), or a Hugging Face data set.
        columns: Names of the columns, where they are not the usual ones.
        task: ``classification``, ``multilabel``, ``regression`` or ``auto``.
        validation_fraction: Share of train held out where there is no validation split.
        test_fraction: Share of train held out where there is no test split.
        seed: Draws what is held out; stratified by class, copies of a content stay together.
        on_bad_input: Leave out inputs that cannot be read, or stop.
        cache_dir: Where ids of unchanged files are remembered.
        progress: Whether to show a progress bar.
        known_task: The task of a trained student, whose classes the labels must be among.
        for_training: Whether there must be a train split with every class, from which the missing
            splits are held out. Otherwise the splits are those of the source, or ``all``.

    Raises:
        DataError: If the data set is missing, empty or unusable for training.
    """
    rows = read_source(source, columns or Columns())
    if not len(rows.table):
        raise DataError(f"{source} has no rows")
    report = DataReport()
    empty = missing_labels(rows.table, rows.label_columns)
    report.unlabelled = int(empty.sum())
    samples = _identify(rows, ~empty, report, on_bad_input, cache_dir, progress)
    found = known_task or infer_task(samples.rows, rows.label_columns, rows.class_names, task)
    samples.labels = encode_labels(samples.rows, rows.label_columns, found)
    splits = _by_split(samples, rows, source, for_training)
    if not for_training:
        return DataSet(source, found, splits, report)
    _check_classes(splits, found)
    _find_copies(splits, report)
    held_out = []
    rng = np.random.default_rng(seed)
    for name, fraction in (("test", test_fraction), ("validation", validation_fraction)):
        if name not in splits and fraction > 0:
            keep, out = _hold_out(splits["train"], found, fraction, rng)
            splits["train"], splits[name] = (
                splits["train"].subset(keep),
                splits["train"].subset(out),
            )
            held_out.append(name)
    return DataSet(source, found, splits, report, tuple(held_out))


def load_inputs(
    source: str,
    columns: Columns | None = None,
    *,
    on_bad_input: OnBadInput = "skip",
    cache_dir: Path | None = None,
    progress: bool = True,
) -> tuple[Samples, DataReport]:
    """Read inputs that need no labels: a folder of pictures, one picture, or a table.

    Raises:
        DataError: If there is nothing to read.
    """
    rows = read_source(source, columns or Columns(), labelled=False)
    report = DataReport()
    everything = np.ones(len(rows.table), dtype=bool)
    return _identify(rows, everything, report, on_bad_input, cache_dir, progress), report


def _identify(
    rows: Rows,
    wanted: NDArray[np.bool_],
    report: DataReport,
    on_bad_input: OnBadInput,
    cache_dir: Path | None,
    progress: bool,
) -> Samples:
    """Give every wanted row its id; leave out what cannot be read."""
    from tqdm import tqdm

    table = rows.table if wanted.all() else rows.table.select(np.flatnonzero(wanted))
    ids = np.zeros((len(table), ID_BYTES), dtype=np.uint8)
    sound = np.ones(len(table), dtype=bool)

    def contents() -> Any:
        for source in table["input"]:
            yield (source["bytes"] or source["path"]) if isinstance(source, dict) else source

    found = identify(contents(), find_fault, cache_dir)
    bar = tqdm(found, "checking inputs", len(table), leave=False, delay=1, disable=not progress)
    for i, (sample_id, fault) in enumerate(bar):
        ids[i] = np.frombuffer(sample_id, dtype=np.uint8)
        if fault is not None:
            sound[i] = False
            report.bad_inputs.append((table[i]["file"], fault))
            if on_bad_input == "fail":
                bar.close()
                raise DataError(
                    f"cannot read {table[i]['file']}: {fault}. Mend or remove it, or pass "
                    "--on-bad-input skip to leave such inputs out"
                )
    if not sound.any():
        first = f", e.g. {' - '.join(report.bad_inputs[0])}" if report.bad_inputs else ""
        raise DataError(f"none of the {len(table)} inputs can be read{first}")
    if not sound.all():
        table, ids = table.select(np.flatnonzero(sound)), ids[sound]
    return Samples(table, ids)


def _by_split(samples: Samples, rows: Rows, source: str, for_training: bool) -> dict[str, Samples]:
    names = np.asarray(samples.rows["split"][:], dtype=str)
    if not rows.splits:
        return {"train" if for_training else "all": samples}
    splits = {}
    for name in dict.fromkeys((*(("train",) if for_training else ()), *rows.splits)):
        chosen = np.flatnonzero(names == name)
        if not len(chosen):
            raise DataError(
                f"the {name} split of {source} has no usable rows; fill it"
                + ("" if name == "train" else " or remove it")
            )
        splits[name] = samples.subset(chosen)
    left_over = int((names == "").sum())
    if left_over:
        print(f"{left_over} rows belong to no split and are not used", file=sys.stderr)
    return splits


def _check_classes(splits: dict[str, Samples], task: Task) -> None:
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


def _hold_out(
    train: Samples, task: Task, fraction: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to keep and to hold out: by class, and all copies of a content together."""
    keys, group = np.unique(_keys(train), return_inverse=True)
    first = np.full(len(keys), len(train))
    np.minimum.at(first, group, np.arange(len(train)))
    strata = _labels(train)[first] if task.kind == "classification" else np.zeros(len(keys), int)
    out = np.zeros(len(keys), dtype=bool)
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        count = int(np.floor(fraction * len(members) + rng.random()))
        out[members[: min(count, len(members) - 1)]] = True
    if not out.any():
        if len(keys) < 2 * max(1, len(np.unique(strata))):
            raise DataError(
                f"train has only {len(keys)} different inputs: too few to hold out any. Add rows "
                "or give a validation split"
            )
        crowded = np.bincount(np.unique(strata, return_inverse=True)[1]).argmax()
        out[rng.choice(np.flatnonzero(strata == np.unique(strata)[crowded]))] = True
    return np.flatnonzero(~out[group]), np.flatnonzero(out[group])


def _find_copies(splits: dict[str, Samples], report: DataReport) -> None:
    train = splits["train"]
    keys = _keys(train)
    unique, first, counts = np.unique(keys, return_index=True, return_counts=True)
    report.duplicates = len(keys) - len(unique)
    for name, split in splits.items():
        if name == "train":
            continue
        others = _keys(split)
        for i in np.flatnonzero(np.isin(others, unique)):
            twin = first[np.searchsorted(unique, others[i])]
            report.leaks.append((train.files[int(twin)], split.files[int(i)]))
    labels = _labels(train)
    order = np.argsort(keys, kind="stable")
    for start, count in zip(np.cumsum(counts) - counts, counts, strict=True):
        members = order[start : start + count]
        if count > 1 and (labels[members] != labels[members[0]]).any():
            report.conflicts.append(tuple(train.files[int(i)] for i in members))


def _keys(samples: Samples) -> NDArray[Any]:
    """The ids as one sortable value a row."""
    return np.ascontiguousarray(samples.ids).view(f"S{ID_BYTES}").ravel()


def _labels(samples: Samples) -> NDArray[Any]:
    assert samples.labels is not None
    return samples.labels
