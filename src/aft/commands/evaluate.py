"""The command `evaluate`: score a trained student on labelled data."""

from __future__ import annotations

import sys
from typing import Any

import torch

from aft.commands.checks import check
from aft.config.commands import EvaluateConfig, ExportConfig
from aft.config.groups import IN_MEMORY, UNLABELLED, InMemory
from aft.config.typed import command
from aft.data.loading import DataSet, load_data
from aft.data.options import asked_columns, load_training_data
from aft.data.samples import Samples, match_columns
from aft.devices import choose_device
from aft.errors import ConfigError, DataError
from aft.metrics import compute_metrics
from aft.students.run_student import compute_logits
from aft.students.saved import SavedStudent
from aft.training.run_folder import CONFIG, check_content, has_content, read_options

ORDER = ("test", "validation", "all", "train")
"""Default split: the first of these that the data has."""


def evaluate_samples(
    student: SavedStudent,
    samples: Samples,
    *,
    batch_size: int = 64,
    num_workers: int | None = 0,
    device: torch.device | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """Metrics of a saved student on labelled samples.

    Raises:
        DataError: If the samples have no labels.
    """
    if samples.labels is None:
        raise DataError("expected labelled rows, got unlabelled ones: name others with --data")
    logits = compute_logits(
        student.module.to(device or "cpu"),
        student.inputs(match_columns(samples, student.columns)),
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
        progress=progress,
    )
    return compute_metrics(logits, samples.labels, student.task)


@command(EvaluateConfig)
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score a trained student.

    Returns:
        ``split``, ``rows``, ``bad_inputs`` and the metrics of :func:`compute_metrics`.

    Raises:
        AftError: If the run cannot be loaded, or the data or labels do not match it.
    """
    check(config)
    student = SavedStudent.load(config.run, config.trust_remote_code)
    data = load_for(config, student)
    for note in data.report.notes:
        print(note, file=sys.stderr)
    name: str = config.split or next(s for s in ORDER if s in data.splits)
    if name not in data.splits:
        there = ", ".join(data.splits)
        hint = "it is not split; omit --split" if there == "all" else f"expected one of {there}"
        raise ConfigError(f"{data.source} has no {name} split; {hint}")
    for line in data.report.lines():
        print(line, file=sys.stderr)
    samples = data.splits[name]
    device = choose_device(config.device)
    metrics = evaluate_samples(
        student,
        samples,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        device=device,
        progress=config.progress,
    )
    return {
        "split": name,
        "rows": len(samples),
        "bad_inputs": len(data.report.bad_inputs),
        **metrics,
    }


def load_for(config: EvaluateConfig | ExportConfig, student: SavedStudent) -> DataSet:
    """The data of ``--data`` with its own splits, or the run's data, split as in training.

    Data in memory that are those of the run are split as in training too.
    """
    options = None
    if config.data is None or (
        isinstance(config.data, InMemory) and (config.run / CONFIG).exists()
    ):
        options = read_options(config.run)
    if config.data is not None:
        data = load_data(
            config.data,
            asked_columns(config, student.columns),
            on_bad_input=config.on_bad_input,
            progress=config.progress,
            known_task=student.task,
            for_training=False,
        )
        if options is None or options.data != IN_MEMORY or not has_content(config.run, data):
            return data
        options = options.model_copy(update={"data": config.data})
    assert options is not None
    data = load_training_data(options, student.task, unlabelled=False)
    data.content.pop(UNLABELLED, None)  # without what --unlabelled named
    check_content(config.run, data.content)
    return data
