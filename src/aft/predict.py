"""The verb `predict`: label new inputs with the student alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aft.columns import asked_columns
from aft.config import PredictConfig, resolve
from aft.data import load_inputs, match_columns
from aft.devices import choose_device, choose_num_workers
from aft.errors import ConfigError
from aft.inference import compute_logits
from aft.labels import Task
from aft.model import SavedStudent


def predict(config: PredictConfig | None = None, /, **options: Any) -> dict[str, Any]:
    """Write labels and probabilities; options are those of :class:`aft.config.PredictConfig`.

    Returns:
        ``out``, ``rows``, ``skipped`` (file and fault of each unreadable input) and ``missing``
        (for each of several columns the rows that lack it).

    Raises:
        AftError: If the run, the data or the output path do not fit.
    """
    config = resolve(PredictConfig, config, options)
    _check_out(config.out, config.overwrite)
    student = SavedStudent.load(config.run, config.trust_remote_code)
    samples, report = load_inputs(
        config.data,
        asked_columns(config, student.columns),
        on_bad_input=config.on_bad_input,
        progress=config.progress,
    )
    samples = match_columns(samples, student.columns)
    device = choose_device(config.device)
    logits = compute_logits(
        student.module.to(device),
        student.transform,
        samples,
        batch_size=config.batch_size,
        num_workers=choose_num_workers(config.num_workers, device),
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


def prediction_columns(
    logits: NDArray[np.float32], task: Task, all_probabilities: bool = False
) -> dict[str, list[Any]]:
    """Columns of a prediction table.

    Args:
        logits: ``(n, num_outputs)``.
        task: What the outputs mean.
        all_probabilities: Also one column a class.

    Returns:
        ``label`` and ``probability``; for several labels a row both hold the labels above
        probability 0.5 joined by ``|``. For regression one column a target.
    """
    if task.kind == "regression":
        return {name: logits[:, i].tolist() for i, name in enumerate(task.names)}
    wide = logits.astype(np.float64)
    if task.kind == "classification":
        shifted = np.exp(wide - wide.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        best = probabilities.argmax(axis=1)
        columns: dict[str, list[Any]] = {
            "label": [task.names[i] for i in best],
            "probability": [round(float(p), 6) for p in probabilities.max(axis=1)],
        }
    else:
        probabilities = 1 / (1 + np.exp(-wide))
        chosen = [np.flatnonzero(row > 0.5) for row in probabilities]
        columns = {
            "label": ["|".join(task.names[i] for i in some) for some in chosen],
            "probability": [
                "|".join(f"{row[i]:.6f}" for i in some)
                for row, some in zip(probabilities, chosen, strict=True)
            ],
        }
    if all_probabilities:
        columns |= {
            f"probability_{name}": [round(float(p), 6) for p in probabilities[:, i]]
            for i, name in enumerate(task.names)
        }
    return columns


def _check_out(out: Path, overwrite: bool) -> None:
    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"expected --out to end in .csv or .parquet, got {out}")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists; name another --out or pass --overwrite")


def _write(out: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    out.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns)
    if out.suffix == ".csv":
        pyarrow.csv.write_csv(table, out)
    else:
        pyarrow.parquet.write_table(table, out)
