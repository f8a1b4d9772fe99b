"""The command `predict`: predict labels of new inputs with a trained student."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np

from aft.commands.checks import check
from aft.config.commands import PredictConfig
from aft.config.typed import command
from aft.data.loading import load_inputs
from aft.data.options import asked_columns
from aft.data.samples import match_columns
from aft.devices import choose_device
from aft.errors import ConfigError
from aft.files import no_formula, write_whole, writing
from aft.students.predictions import prediction_columns
from aft.students.run_student import compute_logits
from aft.students.saved import SavedStudent


@command(PredictConfig)
def predict(config: PredictConfig) -> dict[str, Any]:
    """Write predictions.

    Returns:
        ``out``, ``rows``, ``skipped`` (file and fault of each unreadable input) and ``missing``
        (number of rows without a value, per column).

    Raises:
        AftError: If the run cannot be loaded, the data does not match it, or the output path is
            invalid.
    """
    check(config)
    student = SavedStudent.load(config.run, config.trust_remote_code)
    samples, report = load_inputs(
        config.data,
        asked_columns(config, student.columns),
        on_bad_input=config.on_bad_input,
        progress=config.progress,
    )
    for line in report.notes:
        print(line, file=sys.stderr)
    samples = match_columns(samples, student.columns)
    device = choose_device(config.device)
    logits = compute_logits(
        student.module.to(device),
        student.inputs(samples),
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        device=device,
        progress=config.progress,
    )
    table = {"file": list(samples.files)}
    table |= prediction_columns(logits, student.task, config.all_probabilities)
    _write(config.out, table)
    missing = zip(samples.columns, (~samples.present).sum(0), strict=True)
    return {
        "out": str(config.out),
        "rows": len(samples),
        "skipped": report.bad_inputs,
        "missing": {column.name: int(count) for column, count in missing if count},
    }


def _write(out: Path, columns: dict[str, list[Any]]) -> None:
    if out.suffix == ".csv":
        content = _as_csv(columns)
    else:
        import pyarrow
        import pyarrow.parquet

        stream = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(columns), stream)
        content = stream.getvalue()
    with writing(out, ConfigError, "Free some space, or use another --out"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, content)


def _as_csv(columns: dict[str, list[Any]]) -> bytes:
    """A CSV file as pyarrow writes it, whose import takes too long for one row."""
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    text = "".join(",".join(map(_cell, row)) + "\n" for row in rows)
    return text.encode("utf-8", "backslashreplace")


def _cell(value: Any) -> str:
    if isinstance(value, str):
        quoted = no_formula(value).replace('"', '""')
        return f'"{quoted}"'
    return np.format_float_positional(value, trim="-")
