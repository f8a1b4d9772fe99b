"""Read Hugging Face data sets: from the hub, or from folders saved by `datasets`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aft.data.readers.rows import SPLIT_NAMES, Request, Rows, join_rows, rows_of_table
from aft.errors import DataError
from aft.hub import NO_DATA_SET, check_data_set


def read_hub(name: str, request: Request) -> Rows:
    """Read a data set of the hub; ``owner/name:configuration`` selects a configuration.

    Raises:
        DataError: If it cannot be downloaded, or lacks a column or split.
    """
    check_data_set(name)
    import datasets

    repository, _, configuration = name.partition(":")
    try:
        loaded = datasets.load_dataset(repository, configuration or None)
    except Exception as error:  # the client of the hub raises many types of errors
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{NO_DATA_SET.format(name)}{first}") from None
    return rows_of_splits(loaded if isinstance(loaded, dict) else {"": loaded}, request, name)


def read_saved(root: Path, request: Request) -> Rows:
    """Read a folder written by `save_to_disk`.

    Raises:
        DataError: If it lacks a column or split.
    """
    import datasets

    loaded = datasets.load_from_disk(str(root))
    parts = loaded if isinstance(loaded, dict) else {"": loaded}
    return rows_of_splits(parts, request, str(root), root)


def rows_of_splits(
    parts: Mapping[str, Any],
    request: Request,
    name: str,
    root: Path | None = None,
    read: Callable[..., Rows] = rows_of_table,
) -> Rows:
    """The rows of tables by split; one without splits has an empty name.

    Args:
        parts: The tables.
        request: What to read.
        name: The name of the data in error messages.
        root: The folder of the data.
        read: Reads a table; its arguments are those of :func:`rows_of_table`.

    Raises:
        DataError: If no split is known, or a column is missing.
    """
    rows, notes = [], []
    for part, table in parts.items():
        split = SPLIT_NAMES.get(part.lower(), "")
        if part and not split:  # e.g. "unsupervised"
            notes.append(f"the split {part!r} of {name} is not used ({len(table):,} rows)")
            continue
        row_name = part or "row"
        rows.append(read(table, request, name, row_name=row_name, path=root, split=split))
    if not rows:
        raise DataError(f"{name} has the splits {', '.join(parts)}; expected train and test")
    joined = join_rows(rows, name)
    joined.notes += notes
    return joined
