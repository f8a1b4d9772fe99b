"""Metrics of every kind of task, and their names."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torchmetrics.functional import accuracy, f1_score, mean_absolute_error, r2_score
from torchmetrics.functional.classification import binary_average_precision

from aft.tasks import Task

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
