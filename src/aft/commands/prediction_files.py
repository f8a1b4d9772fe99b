"""Write predictions as CSV, JSON lines or Parquet, beside the columns of the input."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aft.data.readers.find_columns import read_values
from aft.errors import ConfigError
from aft.files import no_formula, strict_json, write_whole, writing
from aft.paths import JSON_LINES, STDIO

if TYPE_CHECKING:
    import pyarrow

Table = Mapping[str, Sequence[Any]]


def write_predictions(out: Path, end: str, kept: pyarrow.Table | None, new: Table) -> list[str]:
    """Write a table of predictions.

    Args:
        out: The file, or ``-``.
        end: The format, one of `PREDICTIONS`.
        kept: The columns of the input.
        new: The predictions. A column whose name the input has becomes ``predicted_NAME``.

    Returns:
        Messages about columns that were renamed or left out.

    Raises:
        ConfigError: If the file cannot be written.
    """
    names = [] if kept is None else kept.column_names
    renamed = {name: _free_name(name, names) for name in new}
    notes = [
        f"the input has a column {name!r}: the prediction is in {other!r}"
        for name, other in renamed.items()
        if name != other
    ]
    new = {renamed[name]: values for name, values in new.items()}
    if end == ".parquet":
        content = _as_parquet(kept, new)
    else:
        own = {} if kept is None else {name: read_values(kept.column(name)) for name in names}
        raw = [name for name, values in own.items() if any(map(_has_bytes, values))]
        if raw:
            notes.append(f"columns with bytes are left out, use .parquet: {', '.join(raw)}")
        table = {**{name: own[name] for name in own if name not in raw}, **new}
        content = (_as_json_lines if end in JSON_LINES else _as_csv)(table)
    if str(out) == STDIO:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return notes
    with writing(out, ConfigError, "Free some space, or use another --out"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, content)
    return notes


def _free_name(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name = f"predicted_{name}"
    return name


def _has_bytes(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else [value]
    return any(isinstance(part, bytes) for part in parts)


def _as_parquet(kept: pyarrow.Table | None, new: Table) -> bytes:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(dict(new))
    if kept is not None:
        columns = [*kept.columns, *table.columns]
        table = pyarrow.table(columns, names=[*kept.column_names, *table.column_names])
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue()


def _as_json_lines(columns: Mapping[str, Sequence[Any]]) -> bytes:
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    lines = (json.dumps(strict_json(row), ensure_ascii=False, default=str) + "\n" for row in rows)
    return "".join(lines).encode("utf-8", "backslashreplace")


def _as_csv(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """A CSV file as pyarrow writes it, whose import takes too long for one row."""
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    text = "".join(",".join(map(_cell, row)) + "\n" for row in rows)
    return text.encode("utf-8", "backslashreplace")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | int):
        return str(value).lower()
    if isinstance(value, float):
        return np.format_float_positional(value, trim="-")
    if isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False, default=str)
    quoted = no_formula(str(value)).replace('"', '""')
    return f'"{quoted}"'
