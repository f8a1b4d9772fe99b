"""The command `predict`: predict labels of new inputs with a trained student."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from aft.commands.checks import check
from aft.commands.prediction_files import write_predictions
from aft.config.commands import PredictConfig
from aft.config.typed import command
from aft.data.loading import load_table
from aft.data.options import asked_columns
from aft.data.samples import match_columns
from aft.devices import choose_device
from aft.paths import JSON_LINES, STDIO
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
    samples, report, kept = load_table(
        config.data,
        asked_columns(config, student.columns),
        on_bad_input=config.on_bad_input,
        progress=config.progress,
    )
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
    new = prediction_columns(logits, student.task, config.probabilities)
    if kept is None:
        new = {"file": list(samples.files), **new}
    notes = write_predictions(config.out, _format(config, samples.files[0]), kept, new)
    for line in [*report.notes, *notes]:
        print(line, file=sys.stderr)
    missing = zip(samples.columns, (~samples.present).sum(0), strict=True)
    return {
        "out": str(config.out),
        "rows": len(samples),
        "skipped": report.bad_inputs,
        "missing": {column.name: int(count) for column, count in missing if count},
    }


def _format(config: PredictConfig, row: str) -> str:
    """The suffix of --out; on the standard output JSON lines for JSON objects, else CSV."""
    if str(config.out) != STDIO:
        return Path(config.out).suffix
    is_file = isinstance(config.data, str) and config.data != STDIO
    source = config.data if is_file else row.rpartition("[")[0]
    return ".jsonl" if Path(source).suffix.lower() in (".json", *JSON_LINES) else ".csv"
