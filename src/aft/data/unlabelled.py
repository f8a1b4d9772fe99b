"""Unlabelled training inputs: where they come from, and which are left out to avoid leaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aft.config.groups import InMemory
from aft.data.checking import check_inputs
from aft.data.findings import DataReport, OnBadInput
from aft.data.readers.find_columns import Columns, InputColumn
from aft.data.readers.reading import read_source
from aft.data.readers.rows import VALUE, Rows, as_dataset, column_of
from aft.data.samples import Samples, match_columns
from aft.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

_OWN = ("", "train")


def read_own(
    rows: Rows,
    empty: NDArray[np.bool_],
    report: DataReport,
    on_bad_input: OnBadInput,
    cache_dir: Path | None,
    progress: bool,
) -> Samples | None:
    """The unlabelled rows of a labelled data set that are in train or in no split.

    Rows of held-out splits and rows without any input are counted as left out.

    Args:
        rows: All rows.
        empty: Mask of the rows without a label, shape ``(n,)``.
        report: Receives the counts and faults.
        on_bad_input: ``skip`` or ``fail`` on inputs that cannot be read.
        cache_dir: Folder of the cache that stores the ids of unchanged files.
        progress: Whether to show a progress bar.

    Returns:
        The samples, or None if there are none.
    """
    wanted = empty & np.isin(rows.splits, _OWN)
    own = DataReport()
    samples = None
    if wanted.any():
        kept, samples = check_inputs(
            rows, wanted, own, on_bad_input, cache_dir, progress, optional=True
        )
        samples = samples if len(kept) else None
    report.bad_inputs += own.bad_inputs
    report.unlabelled_left_out += int(empty.sum()) - len(samples or ()) - len(own.bad_inputs)
    return samples


def read_named(
    source: str | InMemory,
    columns: Columns,
    wanted: Sequence[InputColumn],
    report: DataReport,
    on_bad_input: OnBadInput,
    cache_dir: Path | None,
    progress: bool,
) -> Samples:
    """The inputs of another source, with the columns of the labelled data.

    Labels are not read. Rows of validation and test splits are left out.

    Raises:
        DataError: If the source has no readable inputs, or no column matches.
    """
    own = DataReport()
    try:
        names = " or ".join(repr(column.name) for column in wanted)
        hint = f"Rename the input column to {names}, as in the labelled data"
        columns = replace(columns, image=None, text=(), split=None, usual=tuple(wanted), hint=hint)
        rows = read_source(source, columns, labelled=False)
        chosen = np.isin(rows.splits, _OWN)
        if not chosen.any():
            has = f"only {' and '.join(rows.split_names)}" if len(rows) else "no rows"
            raise DataError(f"expected rows of train or without a split, but the source has {has}")
        samples = check_inputs(rows, chosen, own, on_bad_input, cache_dir, progress)[1]
        samples = match_columns(samples, wanted)
    except DataError as error:
        raise DataError(f"--unlabelled {source}: {error}") from None
    report.bad_inputs += [(f"{source}: {file}", fault) for file, fault in own.bad_inputs]
    report.notes += [f"{source}: {note}" for note in rows.notes]
    report.unlabelled_left_out += int((~chosen).sum())
    return samples


def join_unlabelled(
    parts: Sequence[Samples], labelled: Sequence[Samples], report: DataReport
) -> Samples | None:
    """Join unlabelled inputs; drop duplicates and contents of labelled rows.

    A row is dropped if a labelled row of any split has all of its parts, or if it has all parts of
    a labelled row. So held-out inputs stay unseen even if some parts are missing.

    Args:
        parts: Samples with the same columns; their labels are dropped.
        labelled: The samples of all splits, with the same columns.
        report: Receives the counts.

    Returns:
        The samples, with labels None, or None if no row is left.
    """
    if not parts:
        return None
    samples = concatenate(parts)
    seen = np.zeros(len(samples), dtype=bool)
    for others in labelled:
        seen |= _shares_content(samples, others)
    first = np.zeros(len(samples), dtype=bool)
    first[np.unique(samples.keys, return_index=True)[1]] = True
    kept = np.flatnonzero(first & ~seen)
    report.unlabelled_seen = int(seen.sum())
    report.unlabelled_copies = int((~first & ~seen).sum())
    report.unlabelled_used = len(kept)
    if not len(kept):
        return None
    return samples if len(kept) == len(samples) else samples.subset(kept)


def _shares_content(samples: Samples, others: Samples) -> NDArray[np.bool_]:
    """Mask of samples whose parts contain, or are part of, those of another, shape ``(n,)``."""
    shares = np.zeros(len(samples), dtype=bool)
    for there, own in _by_presence(samples):
        for there_too, theirs in _by_presence(others):
            both = there & there_too
            if both.any() and ((both == there).all() or (both == there_too).all()):
                known = _part_keys(others.parts[theirs][:, both])
                shares[own] |= np.isin(_part_keys(samples.parts[own][:, both]), known)
    return shares


def _by_presence(samples: Samples) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
    """Groups of rows with the same columns present: mask ``(num_columns,)`` and row positions."""
    for there in np.unique(samples.present, axis=0):
        yield there, np.flatnonzero((samples.present == there).all(axis=1))


def _part_keys(parts: NDArray[np.uint8]) -> NDArray[Any]:
    """Ids of shape ``(n, k, 16)`` as one sortable value per row."""
    rows = np.ascontiguousarray(parts).reshape(len(parts), -1)
    return rows.view(f"S{rows.shape[1]}").ravel()


def concatenate(parts: Sequence[Samples]) -> Samples:
    """Concatenate samples and drop their labels.

    Args:
        parts: Samples with the same columns, and views of one kind.
    """
    import datasets

    first = parts[0]
    values = [
        datasets.concatenate_datasets(_alike([_values(part, c) for part in parts], column.modality))
        for c, column in enumerate(first.columns)
    ]
    return Samples(
        first.columns,
        values,
        np.concatenate([part.parts for part in parts]),
        np.concatenate([part.present for part in parts]),
        np.concatenate([np.asarray(part.files, dtype=object) for part in parts]),
        np.concatenate([part.splits for part in parts]),
        view=next((part.view for part in parts if part.view is not None), None),
        contents=np.concatenate([part.contents for part in parts]),
    )


def _values(samples: Samples, place: int) -> Dataset:
    """The values of a column; nulls if all are missing, since their type may be arbitrary."""
    if samples.present[:, place].any():
        return as_dataset(samples.values[place])
    return as_dataset(column_of([None] * len(samples)))


def _alike(tables: list[Dataset], modality: str) -> list[Dataset]:
    """Convert tables to one type: texts to bytes, images to ``bytes`` and ``path``."""
    import pyarrow
    from datasets import Dataset

    if all(table.features == tables[0].features for table in tables):
        return tables
    alike = []
    for table in tables:
        values = table.with_format("arrow")[:].column(VALUE).combine_chunks()
        binary = pyarrow.large_binary()
        if modality == "text":
            values = values.cast(binary)
        else:
            content, path = pyarrow.nulls(len(values), binary), None
            if pyarrow.types.is_struct(values.type):
                names = [field.name for field in values.type]
                content = values.field("bytes") if "bytes" in names else content
                path = values.field("path") if "path" in names else None
            elif values.type in (pyarrow.binary(), binary):
                content = values
            else:
                path = values
            if path is None:
                path = pyarrow.nulls(len(values))
            fields = [content.cast(binary), path.cast(pyarrow.large_string())]
            values = pyarrow.StructArray.from_arrays(fields, ["bytes", "path"])
        alike.append(Dataset(pyarrow.table({VALUE: values})))
    return alike
