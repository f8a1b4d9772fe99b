"""Check every input once: compute its id, or skip it and record the reason."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aft.data.findings import DataReport, OnBadInput
from aft.data.images import find_fault
from aft.data.readers.find_columns import InputColumn
from aft.data.readers.rows import VALUE, Column, Rows
from aft.data.samples import Samples, image_source
from aft.data.texts import NOT_UTF_8, is_empty
from aft.data.texts import find_fault as find_text_fault
from aft.errors import DataError
from aft.ids import ID_BYTES, content_id, identify

if TYPE_CHECKING:
    from datasets import Dataset

_TEXTS_AT_ONCE = 1000
_OTHER_ENCODING = ". Convert the data to UTF-8, or name its encoding with --encoding, e.g. cp1252"
_MOST_NOT_UTF_8 = 0.2
"""Data with a larger share of texts that are not UTF-8 is refused: it has another encoding."""


def check_inputs(
    rows: Rows,
    wanted: NDArray[np.bool_],
    report: DataReport,
    on_bad_input: OnBadInput,
    cache_dir: Path | None,
    progress: bool,
    optional: bool = False,
) -> tuple[NDArray[np.int64], Samples]:
    """Compute the ids of all wanted rows; skip inputs that cannot be read.

    Args:
        rows: All rows.
        wanted: Mask of the rows to check, shape ``(n,)``.
        report: Receives the faults and the counts of missing parts.
        on_bad_input: ``skip`` or ``fail`` on inputs that cannot be read.
        cache_dir: Folder of the cache that stores the ids of unchanged files.
        progress: Whether to show a progress bar.
        optional: Whether the rows are optional. If so, it is not an error if none can be read,
            and rows without any input are skipped silently.

    Returns:
        The positions of the kept rows, and their samples.

    Raises:
        DataError: If no row is wanted or none can be read; with ``on_bad_input="fail"`` also at
            the first input that cannot be read.
    """
    from tqdm import tqdm

    asked = np.flatnonzero(wanted)
    if not len(asked) and not optional:
        raise DataError(f"none of the {len(rows)} rows has a label")
    parts = np.zeros((len(asked), len(rows.columns), ID_BYTES), dtype=np.uint8)
    present = np.zeros((len(asked), len(rows.columns)), dtype=bool)
    faults: dict[int, str] = {}

    def note(i: int, fault: str) -> None:
        if on_bad_input == "fail":
            raise DataError(
                f"cannot read {rows.files[asked[i]]}: {fault}. Repair or remove it, or pass "
                "--on-bad-input skip to skip such inputs"
            )
        faults.setdefault(i, fault)

    total = parts.shape[0] * parts.shape[1]
    with tqdm(
        total=total, desc="checking inputs", leave=False, delay=1, disable=not progress
    ) as bar:
        for i, row in enumerate(asked if rows.faults else ()):
            if int(row) in rows.faults:
                note(i, rows.faults[int(row)])
        for c, column in enumerate(rows.columns):
            values = rows.inputs[c] if wanted.all() else rows.inputs[c].select(asked)
            found = (
                _identify_images(values, cache_dir)
                if column.modality == "image"
                else _identify_texts(values)
            )
            for i, (sample_id, fault) in enumerate(found):
                bar.update()
                if sample_id is not None:
                    parts[i, c] = np.frombuffer(sample_id, dtype=np.uint8)
                    present[i, c] = True
                if fault is not None:
                    note(i, fault)
    sound = np.asarray(present.any(axis=1))
    if not optional:
        for nothing in np.flatnonzero(~sound):
            note(int(nothing), _describe_missing(rows.columns))
    report.notes = list(rows.notes)
    report.bad_inputs = [(rows.files[asked[i]], faults[i]) for i in sorted(faults)]
    if len(faults) == len(asked) and not optional:
        first = f", e.g. {' - '.join(report.bad_inputs[0])}" if report.bad_inputs else ""
        hint = _OTHER_ENCODING if NOT_UTF_8 in first else ""
        raise DataError(f"none of the {len(asked)} inputs can be read{first}{hint}")
    foreign = [i for i, fault in sorted(faults.items()) if fault.startswith(NOT_UTF_8)]
    if len(foreign) > _MOST_NOT_UTF_8 * len(asked):
        raise DataError(
            f"{len(foreign)} of {len(asked)} texts are {faults[foreign[0]]}, e.g. in "
            f"{rows.files[asked[foreign[0]]]}{_OTHER_ENCODING}"
        )
    sound[list(faults)] = False
    kept = asked[sound]
    everything = len(kept) == len(rows)
    samples = Samples(
        rows.columns,
        rows.inputs if everything else [values.select(kept) for values in rows.inputs],
        parts[sound],
        present[sound],
        np.asarray(rows.files, dtype=object)[kept],
        rows.splits[kept],
    )
    if len(rows.columns) > 1:
        counts = (~samples.present).sum(axis=0)
        report.missing = {c.name: int(n) for c, n in zip(rows.columns, counts, strict=True) if n}
    return kept, samples


_Found = Iterator[tuple[bytes | None, str | None]]
"""For each value its id (None if it is missing) and its fault (None if it is readable)."""


def _identify_images(values: Dataset | Column, cache_dir: Path | None) -> _Found:
    absent: deque[bool] = deque()

    def contents() -> Iterator[str | bytes]:
        for value in values[VALUE]:
            source = image_source(value)
            absent.append(source is None)
            yield source or b""

    for sample_id, fault in identify(contents(), find_fault, cache_dir):
        yield (None, None) if absent.popleft() else (sample_id, fault)


def _identify_texts(values: Dataset | Column) -> _Found:
    for content in _contents(values):
        if content is None or is_empty(content):
            yield None, None
        else:
            yield content_id(content), find_text_fault(content)


def _contents(values: Dataset | Column) -> Iterator[bytes | None]:
    if isinstance(values, Column):
        yield from map(values.bytes_of, range(len(values)))
        return
    import pyarrow

    for batch in values.with_format("arrow").iter(_TEXTS_AT_ONCE):
        yield from batch.column(VALUE).cast(pyarrow.large_binary()).to_pylist()


def _describe_missing(columns: Sequence[InputColumn]) -> str:
    if len(columns) > 1:
        return f"it has neither {' nor '.join(column.name for column in columns)}"
    return "the image is missing" if columns[0].modality == "image" else "the text is empty"
