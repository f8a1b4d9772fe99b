"""How good a student is: metrics for every kind of task, and the verb `evaluate`."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torchmetrics.functional import accuracy, f1_score, mean_absolute_error, r2_score
from torchmetrics.functional.classification import binary_average_precision

from aft.columns import asked_columns
from aft.config import EvaluateConfig, ScoreConfig, TrainConfig, read_config_file, resolve
from aft.data import DataSet, Samples, load_data, match_columns
from aft.devices import choose_device, choose_num_workers
from aft.errors import ConfigError, DataError
from aft.inference import compute_logits
from aft.labels import Task
from aft.model import SavedStudent

ORDER = ("test", "validation", "all", "train")
"""Which split is scored where none is named."""

MAIN_METRIC = {
    "classification": "accuracy",
    "multilabel": "mean_average_precision",
    "regression": "r2",
}
"""The metric that chooses the checkpoint and that reports show first; higher is better."""


def compute_metrics(logits: NDArray[Any], labels: NDArray[Any], task: Task) -> dict[str, float]:
    """Score outputs against labels.

    Args:
        logits: ``(n, num_outputs)``; for regression the predictions in the targets' units.
        labels: As in :class:`aft.data.Samples`.
        task: What the outputs mean.

    Returns:
        classification: ``accuracy``, ``balanced_accuracy`` (mean over the classes present),
        ``macro_f1``, ``nll`` (nats). multilabel: ``mean_average_precision``, ``micro_f1`` (at
        probability 0.5), ``bce``. regression: ``r2``, ``rmse``, ``mae`` (in the targets' units).
    """
    predicted, true = torch.from_numpy(logits).float(), torch.from_numpy(labels)
    num = task.num_outputs
    if task.kind == "classification":
        present = torch.bincount(true, minlength=num) > 0
        per_class = accuracy(predicted, true, "multiclass", num_classes=num, average="none")
        f1 = f1_score(predicted, true, "multiclass", num_classes=num, average="none")
        values = {
            "accuracy": (predicted.argmax(1) == true).float().mean(),
            "balanced_accuracy": per_class[present].mean(),
            "macro_f1": f1[present].mean(),
            "nll": torch.nn.functional.cross_entropy(predicted, true),
        }
    elif task.kind == "multilabel":
        wanted = true.long()
        found = [i for i in range(num) if wanted[:, i].any()]  # what nothing has cannot be found
        precisions = [binary_average_precision(predicted[:, i], wanted[:, i]) for i in found]
        values = {
            "mean_average_precision": torch.stack(precisions or [torch.tensor(torch.nan)]).mean(),
            "micro_f1": f1_score(
                predicted.sigmoid(), wanted, "multilabel", num_labels=num, average="micro"
            ),
            "bce": torch.nn.functional.binary_cross_entropy_with_logits(predicted, true),
        }
    else:
        spread = (true - true.mean(0)).square().sum(0)
        defined = len(true) > 1 and bool((spread > 0).all())
        values = {
            "r2": r2_score(predicted, true) if defined else torch.tensor(torch.nan),
            "rmse": (predicted - true).square().mean().sqrt(),
            "mae": mean_absolute_error(predicted, true),
        }
    return {name: float(value) for name, value in values.items()}


def evaluate_samples(
    student: SavedStudent,
    samples: Samples,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    device: torch.device | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """Metrics of a saved student over labelled samples."""
    if samples.labels is None:
        raise DataError("expected labelled samples")
    logits = compute_logits(
        student.module.to(device or "cpu"),
        student.transform,
        match_columns(samples, student.columns),
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
        progress=progress,
    )
    return compute_metrics(logits, samples.labels, student.task)


def evaluate(config: EvaluateConfig | None = None, /, **options: Any) -> dict[str, Any]:
    """Score a trained student; options are those of :class:`aft.config.EvaluateConfig`.

    Returns:
        ``split``, ``rows`` and the metrics of :func:`compute_metrics`.

    Raises:
        AftError: If run, data or labels do not fit.
    """
    config = resolve(EvaluateConfig, config, options)
    student = SavedStudent.load(config.run, config.trust_remote_code)
    data = _load(config, student)
    name: str = config.split or next(s for s in ORDER if s in data.splits)
    if name not in data.splits:
        there = ", ".join(data.splits)
        hint = "its rows are in none; leave --split out" if there == "all" else f"it has {there}"
        raise ConfigError(f"{data.source} has no {name} split; {hint}")
    samples = data.splits[name]
    device = choose_device(config.device)
    metrics = evaluate_samples(
        student,
        samples,
        batch_size=config.batch_size,
        num_workers=choose_num_workers(config.num_workers, device),
        device=device,
        progress=config.progress,
    )
    return {
        "split": name,
        "rows": len(samples),
        "bad_inputs": len(data.report.bad_inputs),
        **metrics,
    }


def _load(config: EvaluateConfig, student: SavedStudent) -> DataSet:
    """The data named, unsplit unless it says so; or the run's own, split as it was in training."""
    if config.data is not None:
        return load_data(
            config.data,
            asked_columns(config, student.columns),
            on_bad_input=config.on_bad_input,
            progress=config.progress,
            known_task=student.task,
            for_training=False,
        )
    if not (config.run / "config.yaml").exists():
        raise ConfigError(f"{config.run} is a student without its run: name labelled --data")
    trained = resolve(TrainConfig, None, read_config_file(config.run / "config.yaml", TrainConfig))
    return load_training_data(trained, student.task, unlabelled=False)


def load_training_data(
    config: TrainConfig | ScoreConfig, task: Task | None = None, *, unlabelled: bool = True
) -> DataSet:
    """The data of a training run, or of scores before one, split by its seed.

    Args:
        config: The options of the run.
        task: Its task, where it is known.
        unlabelled: Whether to read what --unlabelled names, which the splits do not depend on.

    Raises:
        DataError: As :func:`aft.data.load_data` does.
    """
    return load_data(
        config.data,
        asked_columns(config),
        task=config.task,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        train_fraction=config.train_fraction,
        seed=config.seed,
        on_bad_input=config.on_bad_input,
        progress=config.progress,
        known_task=task,
        unlabelled=config.unlabelled if unlabelled else None,
    )
