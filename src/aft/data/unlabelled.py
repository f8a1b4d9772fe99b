"""Training inputs without labels: what may join the transfer, and what must stay unseen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aft.data.checking import check_inputs
from aft.data.findings import DataReport, OnBadInput
from aft.data.readers.find_columns import Columns, InputColumn
from aft.data.readers.reading import read_source
from aft.data.readers.rows import VALUE, Rows
from aft.data.samples import Samples, match_columns
from aft.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

LEFT_OUT = "left-out"
"""The word that stands for the training rows that --train-fraction leaves out."""
NOTHING = "none"
"""The word for no rows without labels at all, not even those of the labelled data set."""
_OWN = ("", "train")


def read_own(
    rows: Rows,
    empty: NDArray[np.bool_],
    report: DataReport,
    on_bad_input: OnBadInput,
    cache_dir: Path | None,
    progress: bool,
) -> Samples | None:
    """The rows of a labelled data set's train split, or without a split, that have no label.

    Rows of held-out splits and rows without any input are counted as left out.

    Args:
        rows: All rows.
        empty: Which of them have no label, shape ``(n,)``.
        report: Where counts and faults are added.
        on_bad_input: As in :func:`aft.data.load_data`, and so are the others.
        cache_dir: Where ids of unchanged files are remembered.
        progress: Whether to show a progress bar.
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
    source: str,
    columns: Columns,
    wanted: Sequence[InputColumn],
    report: DataReport,
    on_bad_input: OnBadInput,
    cache_dir: Path | None,
    progress: bool,
) -> Samples:
    """The inputs of another source, with the columns of the labelled data in their order.

    Labels are not read. Rows of its validation and test splits are left out.

    Raises:
        DataError: If there is nothing to read, or no column fits.
    """
    own = DataReport()
    try:
        names = " or ".join(repr(column.name) for column in wanted)
        hint = f"Call it {names}, as in the labelled data"
        columns = Columns(usual=tuple(wanted), label=columns.label, hint=hint)
        rows = read_source(source, columns, labelled=False)
        chosen = np.isin(rows.splits, _OWN)
        if not chosen.any():
            has = f"only {' and '.join(rows.split_names)}" if len(rows) else "no rows"
            raise DataError(f"expected rows of train or without a split, it has {has}")
        samples = check_inputs(rows, chosen, own, on_bad_input, cache_dir, progress)[1]
        samples = match_columns(samples, wanted)
    except DataError as error:
        raise DataError(f"--unlabelled {source}: {error}") from None
    report.bad_inputs += [(f"{source}: {file}", fault) for file, fault in own.bad_inputs]
    report.unlabelled_left_out += int((~chosen).sum())
    return samples


def join_unlabelled(
    parts: Sequence[Samples], labelled: Sequence[Samples], report: DataReport
) -> Samples | None:
    """Inputs without labels in one, each content once and none that labelled rows have.

    A row is left out if a labelled row, of train or of a held-out split, has all of its parts, or
    if it has all parts of a labelled row. So held-out inputs stay unseen also where rows lack
    parts.

    Args:
        parts: Samples with the same columns; their labels are dropped.
        labelled: Samples with the same columns.
        report: Where counts are noted.

    Returns:
        The samples, with labels None, or None if there are none.
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
    """Which samples have all parts of another, or only parts that another has, shape ``(n,)``."""
    shares = np.zeros(len(samples), dtype=bool)
    for there, own in _by_presence(samples):
        for there_too, theirs in _by_presence(others):
            both = there & there_too
            if both.any() and ((both == there).all() or (both == there_too).all()):
                known = _part_keys(others.parts[theirs][:, both])
                shares[own] |= np.isin(_part_keys(samples.parts[own][:, both]), known)
    return shares


def _by_presence(samples: Samples) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
    """Which columns are there, shape ``(num_columns,)``, and the positions of all such rows."""
    for there in np.unique(samples.present, axis=0):
        yield there, np.flatnonzero((samples.present == there).all(axis=1))


def _part_keys(parts: NDArray[np.uint8]) -> NDArray[Any]:
    """Ids of shape ``(n, k, 16)`` as one sortable value a row."""
    rows = np.ascontiguousarray(parts).reshape(len(parts), -1)
    return rows.view(f"S{rows.shape[1]}").ravel()


def concatenate(parts: Sequence[Samples]) -> Samples:
    """The samples of all parts without their labels, one after the other.

    Args:
        parts: Samples with the same columns; not views.
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
    )


def _values(samples: Samples, place: int) -> Dataset:
    """The values of a column; where all are missing it may hold anything, so nulls."""
    import pyarrow
    from datasets import Dataset

    if samples.present[:, place].any():
        return samples.values[place]
    return Dataset(pyarrow.table({VALUE: pyarrow.nulls(len(samples), pyarrow.large_string())}))


def _alike(tables: list[Dataset], modality: str) -> list[Dataset]:
    """With the same type: texts as bytes, images as ``bytes`` and ``path``, if kept differently."""
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
