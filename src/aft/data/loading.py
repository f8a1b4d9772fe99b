"""Load a labelled data set as splits of samples; each has a content id, an input and a label."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aft.config.class_names import ClassNames
from aft.config.groups import (
    CLASS_TEXTS,
    LEFT_OUT,
    NOTHING,
    UNLABELLED,
    as_source,
    check_left_out,
)
from aft.data.checking import check_inputs
from aft.data.findings import DataReport, OnBadInput
from aft.data.readers.find_columns import Columns
from aft.data.readers.reading import read_source
from aft.data.samples import Samples
from aft.data.splits import (
    by_split,
    check_classes,
    drop_unlabelled_splits,
    find_copies,
    hold_out,
    thin_out,
)
from aft.data.unlabelled import join_unlabelled, read_named, read_own
from aft.errors import DataError
from aft.tasks import Task, encode_labels, explain_guess, infer_task, missing_labels

if TYPE_CHECKING:
    import pyarrow

FEWEST_HELD_OUT = 30
"""Fewest labelled rows to hold out if the classes have names; with fewer, all of them train. Fewer
would choose a checkpoint by chance: the standard error of an accuracy on 30 rows is up to .09."""


@dataclass
class DataSet:
    """A labelled data set, or one with the names of its classes and few or no labels.

    Attributes:
        source: The value of ``--data``.
        task: The prediction task.
        splits: ``train``, ``validation`` and optionally ``test``. With the names of the classes,
            those of train and validation may have no labels.
        report: Problems and counts found while reading.
        held_out: Splits that were held out of train because the source does not have them.
        train_fraction: The requested share of the training rows.
        train_rows: Number of training rows used and number available, before validation is held
            out; None if all are used.
        unlabelled: Unlabelled training inputs, with the columns of train; None if there are none.
            Their contents are in no split.
        unlabelled_source: The value of ``--unlabelled``: a source, ``left-out``, ``none`` or None.
        content: Number of rows of each split of the source, and of the unlabelled inputs unless
            they are not used, with a hash of their ids and labels; the names of the outputs; and
            the fingerprint of `classes`.
        classes: The names of the classes, if they are given.
    """

    source: str
    task: Task
    splits: dict[str, Samples]
    report: DataReport
    held_out: tuple[str, ...] = ()
    train_fraction: float = 1.0
    train_rows: tuple[int, int] | None = None
    unlabelled: Samples | None = None
    unlabelled_source: str | None = None
    content: dict[str, str] = field(default_factory=dict)
    classes: ClassNames | None = None

    def origin(self) -> dict[str, Any]:
        """``name`` of the source, without its folder or address, ``on_hub`` and ``content``."""
        is_name = re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", self.source)
        on_hub = bool(is_name) and not Path(self.source).exists()
        name = self.source if on_hub else Path(self.source.partition("?")[0]).name
        return {"name": name, "on_hub": on_hub, "content": self.content}

    def lines(self) -> list[str]:
        """Readable messages about the rows that are used, and the problems found."""
        found = self.report.lines()
        if self.train_rows is not None:
            used, whole = self.train_rows
            share = f"--train-fraction {self.train_fraction:g}"
            rest = {
                LEFT_OUT: ", the rest as unlabelled rows",
                None: "; --unlabelled left-out uses the rest without labels",
            }.get(self.unlabelled_source, "")
            found.insert(0, f"{used:,} of {whole:,} training rows are used ({share}){rest}")
        return found

    def describe(self) -> dict[str, Any]:
        """Counts and findings as plain JSON values."""
        return {
            "source": self.source,
            "content": self.content,
            "columns": {c.name: c.modality for c in next(iter(self.splits.values())).columns},
            "task": self.task.describe(),
            "rows": {name: len(split) for name, split in self.splits.items()},
            "held_out_of_train": list(self.held_out),
            "train_fraction": self.train_fraction,
            "train_rows_not_used": self.train_rows[1] - self.train_rows[0]
            if self.train_rows
            else 0,
            "rows_per_class": {
                name: self.task.counts(split.labels) for name, split in self.splits.items()
            },
            "bad_inputs": len(self.report.bad_inputs),
            "unlabelled": self.report.unlabelled,
            "unlabelled_source": self.unlabelled_source,
            "unlabelled_used": self.report.unlabelled_used,
            "unlabelled_left_out": self.report.unlabelled_left_out,
            "same_content_in_unlabelled_and_labelled": self.report.unlabelled_seen,
            "duplicates_in_unlabelled": self.report.unlabelled_copies,
            "unlabelled_splits": list(self.report.unlabelled_splits),
            "missing": dict(self.report.missing),
            "unused_columns": list(self.report.unused),
            "duplicates_in_train": self.report.duplicates,
            "same_content_in_train_and_held_out": [list(pair) for pair in self.report.leaks],
            "same_content_different_labels": [list(files) for files in self.report.conflicts],
        }


def load_data(
    source: Any,
    columns: Columns | None = None,
    *,
    task: str = "auto",
    validation_fraction: float = 0.1,
    test_fraction: float = 0.0,
    train_fraction: float = 1.0,
    seed: int = 0,
    on_bad_input: OnBadInput = "skip",
    cache_dir: Path | None = None,
    progress: bool = True,
    known_task: Task | None = None,
    for_training: bool = True,
    unlabelled: Any = None,
    classes: ClassNames | None = None,
) -> DataSet:
    """Read a labelled data set and split it.

    Args:
        source: A folder of images or texts, a table (CSV, JSON lines, Parquet), a Hugging Face
            data set, or data in memory, see :func:`aft.data.readers.in_memory.read_in_memory`.
        columns: Names of the columns; without them the usual names are searched.
        task: ``classification``, ``multilabel``, ``regression`` or ``auto``.
        validation_fraction: Share of train held out if there is no validation split.
        test_fraction: Share of train held out if there is no test split.
        train_fraction: Share of the training rows to use, applied after a test split is held out
            and before a validation split is held out. Every class keeps at least one row.
        seed: Random seed of the held-out splits and of `train_fraction`. Both are stratified by
            class, and rows with the same content stay together.
        on_bad_input: ``skip`` or ``fail`` on inputs that cannot be read.
        cache_dir: Folder of the cache that stores the ids of unchanged files.
        progress: Whether to show a progress bar.
        known_task: The task of a trained student; labels outside its classes are an error.
        for_training: Whether a train split with every class is required, from which missing
            splits are held out. Otherwise the splits are those of the source, or ``all``, and
            unlabelled rows are left out.
        unlabelled: Additional unlabelled training inputs: any source that :func:`load_inputs`
            reads, or ``left-out`` for the rows that `train_fraction` leaves out. Unlabelled rows
            of train are always used, except with ``none``.
        classes: The names of the classes. Then rows need no labels. Without any in train, its
            unlabelled rows are the train split. With too few to hold out
            :data:`FEWEST_HELD_OUT`, the validation split is held out of its unlabelled rows.

    Raises:
        DataError: If the data set is missing, empty or unusable for training, if the unlabelled
            inputs have none of its columns, or if ``left-out`` is given but no rows are left out.
    """
    source, unlabelled = as_source(source), as_source(unlabelled)
    if for_training:
        check_left_out(unlabelled, train_fraction)
    columns = columns or Columns()
    rows = read_source(source, replace(columns, label_optional=classes is not None))
    if not len(rows):
        raise DataError(f"{source} has no rows")
    report = DataReport()
    empty = missing_labels(rows.labels, len(rows)) if rows.labels else np.ones(len(rows), bool)
    report.unlabelled = int(empty.sum())
    report.unused = rows.unused
    report.unlabelled_splits = drop_unlabelled_splits(rows, empty)
    optional = classes is not None and bool(empty.all())
    kept, samples = check_inputs(rows, ~empty, report, on_bad_input, cache_dir, progress, optional)
    labels = {name: [values[i] for i in kept] for name, values in rows.labels.items()}
    if classes is not None:
        known_task = Task("classification", classes.names)
    found = known_task or infer_task(labels, rows.class_names, task, samples.files)
    if not optional:
        samples.labels = encode_labels(labels, found, rows.class_names, samples.files)
    if known_task is None and rows.class_names is None:
        report.notes += explain_guess(rows.labels, found, task)
    splits = by_split(samples, rows, source, for_training, may_lack_train=classes is not None)
    if not for_training or unlabelled == NOTHING:
        report.unlabelled_left_out = report.unlabelled
    content = {name: describe_content([split]) for name, split in splits.items()}
    content["outputs"] = ", ".join(found.names) or found.outputs
    if classes is not None:
        content[CLASS_TEXTS] = classes.fingerprint
    if not for_training:
        return DataSet(str(source), found, splits, report, content=content)
    if classes is None:
        check_classes(splits, found, report)
    given = (on_bad_input, cache_dir, progress)
    own = None if unlabelled == NOTHING else read_own(rows, empty, report, *given)
    if not len(splits["train"]):
        if own is None:
            raise DataError(f"{source} has no rows for training")
        splits["train"], own = own, None
        content["train"] = describe_content([splits["train"]])
    find_copies(splits, report)
    parts = [] if own is None else [own]
    held_out = []
    train_rows = None
    rng = np.random.default_rng(seed)
    for name, fraction in (("test", test_fraction), ("validation", validation_fraction)):
        if name == "validation" and train_fraction < 1:
            # A separate generator, so the held-out test split does not depend on the share.
            whole, drawn = splits["train"], np.random.default_rng([seed, 1])
            used = thin_out(whole, found, train_fraction, drawn)
            splits["train"] = whole.subset(used)
            if unlabelled == LEFT_OUT:
                parts.append(whole.subset(np.setdiff1d(np.arange(len(whole)), used)))
            if classes is None:
                check_classes(splits, found, report)
            train_rows = (len(splits["train"]), len(whole))
        train = splits["train"]
        if name == "test" and fraction > 0 and train.labels is None:
            raise DataError("--test-fraction holds out labelled rows, but no row of train has one")
        few = classes is not None and 0 < fraction * len(train) < FEWEST_HELD_OUT
        if name == "validation" and name not in splits and few and own and len(own) > 1:
            # Of the data's own rows, so that the split does not depend on further sources.
            keep, out = hold_out(own, found, fraction, rng)
            parts[0], splits[name] = own.subset(keep), own.subset(out)
            held_out.append(name)
        if name not in splits and fraction > 0:
            keep, out = hold_out(splits["train"], found, fraction, rng)
            splits["train"], splits[name] = (
                splits["train"].subset(keep),
                splits["train"].subset(out),
            )
            held_out.append(name)
    if unlabelled not in (None, LEFT_OUT, NOTHING):
        wanted = samples.columns
        parts.append(read_named(unlabelled, columns, wanted, report, *given))
    if unlabelled != NOTHING:  # the rows that are left out are part of train
        given_rows = parts if unlabelled != LEFT_OUT else [] if own is None else [own]
        content[UNLABELLED] = describe_content(given_rows)
    return DataSet(
        str(source),
        found,
        splits,
        report,
        tuple(held_out),
        train_fraction,
        train_rows,
        join_unlabelled(parts, list(splits.values()), report),
        None if unlabelled is None else str(unlabelled),
        content,
        classes,
    )


def describe_content(parts: Sequence[Samples]) -> str:
    """Number of rows of some samples, and a hash of their ids and labels, 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(np.ascontiguousarray(part.ids).tobytes())
        if part.labels is not None:
            digest.update(np.ascontiguousarray(part.labels).tobytes())
    return f"{sum(map(len, parts)):,} rows ({digest.hexdigest()})"


def load_inputs(
    source: Any,
    columns: Columns | None = None,
    *,
    on_bad_input: OnBadInput = "skip",
    cache_dir: Path | None = None,
    progress: bool = True,
) -> tuple[Samples, DataReport]:
    """Read inputs without labels: a folder of images or texts, one image, or a table.

    A ``.txt`` file has one text per line. Data in memory may be one input, a list, or a table.

    Raises:
        DataError: If the source is missing, or has no readable inputs.
    """
    found = load_table(
        source,
        columns,
        on_bad_input=on_bad_input,
        cache_dir=cache_dir,
        progress=progress,
        keep=False,
    )
    return found[:2]


def sample_ids(inputs: Any, columns: Columns | None = None) -> NDArray[np.uint8]:
    """The content id of each input, by which stored features are found.

    Equal inputs have equal ids, whatever their order, file or split.

    Args:
        inputs: As in :func:`load_inputs`, e.g. a list of texts, of image paths or of images, or a
            data frame.
        columns: Names of the columns; without them the usual names are searched.

    Returns:
        Shape ``(n, 16)``, uint8: one id per input, in their order.

    Raises:
        DataError: If an input cannot be read.
    """
    return load_inputs(inputs, columns, on_bad_input="fail", progress=False)[0].ids


def load_table(
    source: Any,
    columns: Columns | None = None,
    *,
    on_bad_input: OnBadInput = "skip",
    cache_dir: Path | None = None,
    progress: bool = True,
    keep: bool = True,
) -> tuple[Samples, DataReport, pyarrow.Table | None]:
    """As :func:`load_inputs`, with all columns of the readable rows, if the source is a table.

    Raises:
        DataError: If the source is missing, or has no readable inputs.
    """
    source = as_source(source)
    rows = read_source(source, columns or Columns(), labelled=False, keep=keep)
    if not len(rows):
        raise DataError(f"{source} has no rows")
    report = DataReport()
    everything = np.ones(len(rows), dtype=bool)
    places, samples = check_inputs(rows, everything, report, on_bad_input, cache_dir, progress)
    return samples, report, None if rows.kept is None else rows.kept.take(places)
