"""Wrong labels: `aft inspect --labels`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aft.config.commands import InspectConfig
from aft.data.loading import DataSet
from aft.data.samples import Samples
from aft.devices import choose_device
from aft.errors import AftError, ConfigError, DataError, InputError
from aft.features.stored import extract_teachers
from aft.files import write_csv, writing
from aft.report import write_label_report
from aft.report.cards import excerpt
from aft.scoring.label_errors import LabelError, find_label_errors
from aft.scoring.measures import join_features, predict_out_of_fold
from aft.tasks import Task

COLUMNS = (
    *("file", "target", "given", "predicted", "probability_given", "probability_predicted"),
    *("score", "text"),
)
MOST_LINES, MOST_CHARACTERS = 10, 60


def judge_labels(config: InspectConfig, data: DataSet, path: Path) -> dict[str, Any]:
    """Find the training rows whose label is probably wrong; write them to a table and a page.

    Args:
        config: The teachers and their options.
        data: The data set.
        path: The .csv to write. The page has the same name and ends in .html.

    Returns:
        ``rows``, the number of rows; ``errors``, the values of :data:`COLUMNS` of each label that
        is probably wrong, the most certain ones first; ``csv`` and ``page``, the files (None
        without jinja2 or matplotlib); ``lines``, the result as text.

    Raises:
        DataError: If no linear model can be fitted to the labels.
        AftError: If the teachers are invalid, or the file cannot be written.
    """
    train, task = data.splits["train"], data.task
    (stored,) = extract_teachers(config, [train], choose_device(config.device))
    everything = np.arange(len(train))
    features = join_features([one.gather(everything) for one in stored])
    labels = torch.from_numpy(np.asarray(train.labels))
    try:
        outputs = predict_out_of_fold(features, labels, task, logits=True)
    except InputError as error:
        raise DataError(f"cannot judge these labels: {error}") from None
    found = find_label_errors(outputs, labels, task)
    samples = train.subset([error.row for error in found])
    rows = [
        _describe(error, file, text, task)
        for error, file, text in zip(found, samples.files, _texts(samples), strict=True)
    ]
    with writing(path, ConfigError, "Use another --labels"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_csv(path, [COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])
    wrong = len({error.row for error in found})
    title = f"{wrong:,} of {len(train):,} training rows may have a wrong label"
    words = [_words(row, task) for row in rows]
    lines = [title + (", the most certain ones first:" if rows else "")]
    for row, (given, predicted) in list(zip(rows, words, strict=True))[:MOST_LINES]:
        text = " ".join(row["text"].split())
        short = text[:MOST_CHARACTERS] + "\N{HORIZONTAL ELLIPSIS}" * (len(text) > MOST_CHARACTERS)
        lines.append(f"  {row['file']}: {given}, {predicted}" + f"  {short}" * bool(short))
    lines.append(f"all of them: {path}")
    page: Path | None = None
    try:
        errors = [(row["file"], *said) for row, said in zip(rows, words, strict=True)]
        page = write_label_report(path.with_suffix(".html"), title, data, errors, samples)
        lines.append(f"with their inputs: {page}")
    except AftError as error:  # no jinja2 or matplotlib
        lines.append(f"no page: {error}")
    return {
        "rows": len(train),
        "errors": rows,
        "csv": str(path),
        "page": page and str(page),
        "lines": lines,
    }


def _describe(error: LabelError, file: str, text: str, task: Task) -> dict[str, Any]:
    """The values of COLUMNS; undefined ones are None."""

    def name(value: float) -> str | float:
        if task.kind == "classification":
            return task.names[int(value)]
        return int(value) if task.kind == "multilabel" else float(f"{value:.6g}")

    target = None if error.output is None else task.names[error.output]
    chances = (error.probability_given, error.probability_predicted, error.score)
    numbers = [round(value, 4) if math.isfinite(value) else None for value in chances]
    given, predicted = name(error.given), name(error.predicted)
    return dict(zip(COLUMNS, (file, target, given, predicted, *numbers, text), strict=True))


def _words(row: Mapping[str, Any], task: Task) -> tuple[str, str]:
    """The given and the predicted label, with their probabilities."""
    target = "label" if row["target"] is None else row["target"]
    given, predicted = f"{target}: {row['given']}", f"predicted: {row['predicted']}"
    if task.kind == "regression":
        return given, f"{predicted} ({row['score']:.1f} standard deviations)"
    chances = row["probability_given"], row["probability_predicted"]
    return f"{given} ({chances[0]:.0%})", f"{predicted} ({chances[1]:.0%})"


def _texts(samples: Samples) -> list[str]:
    """The start of each row's texts; empty for images."""
    names = [column.name for column in samples.columns if column.modality == "text"]
    if not names:
        return [""] * len(samples)
    some, found = samples.only(*names), []
    for row in range(len(some)):
        value = some.input(row)
        parts = value.values() if isinstance(value, dict) else [value]
        found.append(excerpt("\n".join(part for part in parts if isinstance(part, str))))
    return found
