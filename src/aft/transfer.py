"""The transfer loss that a run's options name, fitted to stored features where it has to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aft.config import LossOptions
from aft.data import Samples
from aft.errors import ConfigError
from aft.extract import StoredFeatures
from aft.inference import run_student
from aft.labels import Task
from aft.losses import (
    AFTLoss,
    BTuningLoss,
    CKALoss,
    FTLoss,
    KDEPLoss,
    KDLoss,
    KernelKDLoss,
    LogitKDLoss,
    NoKernelAFTLoss,
    RKDLoss,
    fit_autoencoder,
)
from aft.model import Student
from aft.sampling import Transform

MOST_FITTED_ROWS = 20_000
"""Losses that are fitted before training see so many rows of the stored features at most."""
FACTOR_DIM = 128


def make_loss(
    options: LossOptions,
    teachers: Sequence[StoredFeatures],
    student: Student,
    inputs: Samples,
    transform: Transform,
    task: Task,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> nn.Module | None:
    """The loss of a run; None without teachers.

    What is fitted here depends on the seed, the student's starting weights and the stored features
    alone, so that a resumed run makes the same.

    Args:
        options: Which loss, and how.
        teachers: Stored features of the training samples.
        student: With the weights that it starts from.
        inputs: The training samples, with the columns that the student takes.
        transform: From a sample's input to the student's, without augmentation.
        task: What the student learns.
        seed: Of what is drawn at random.
        device: Where the student is run, for losses that need its starting features.

    Raises:
        ConfigError: If the loss does not fit the task.
    """
    if not teachers:
        return None
    check_loss(options.loss, task)
    dims = [features.dim for features in teachers]
    scale: dict[str, Any] = {"normalize": options.normalize, "statistics": None}
    if options.normalize == "standardize":
        scale["statistics"] = [features.statistics() for features in teachers]
    match options.loss:
        case "aft":
            return AFTLoss(
                dims,
                kernel=options.kernel,
                weights=options.weights,
                combine=options.combine,
                **scale,
            )
        case "aft-no-kernel":
            return NoKernelAFTLoss(student.dim, dims, **scale)
        case "kd":
            return KDLoss(student.dim, dims, **scale)
        case "kernel-kd":
            return KernelKDLoss(student.dim, dims, **scale)
        case "rkd":
            return RKDLoss(**scale)
        case "cka":
            return CKALoss(**scale)
    rows = _some_rows(len(inputs), seed)
    features = [one.gather(rows) for one in teachers]
    if options.loss == "ft":
        joined = torch.cat(features, dim=1)
        factor_dim = min(FACTOR_DIM, joined.shape[1])
        encoder = fit_autoencoder(joined, factor_dim, seed=seed, normalize=options.normalize)
        return FTLoss(student.dim, factor_dim, encoder=encoder)
    if options.loss == "kdep":
        return KDEPLoss.fit(student.dim, features, normalize=options.normalize)
    labels = torch.from_numpy(np.asarray(inputs.labels)[rows])
    if options.loss == "logit-kd":
        return LogitKDLoss.fit(features, labels, num_classes=task.num_outputs, seed=seed)
    batches = run_student(
        student.to(device), transform, inputs.subset(rows), device=torch.device(device)
    )
    start = torch.cat([features.float().cpu() for _, features in batches])
    classes = task.num_outputs if task.kind == "classification" else None
    return BTuningLoss.fit(start, features, labels, num_classes=classes)


def check_loss(loss: str, task: Task) -> None:
    """See that a loss is for such a task.

    Raises:
        ConfigError: If it is not.
    """
    if loss == "logit-kd" and task.kind != "classification":
        raise ConfigError(f"logit-kd is for classification, the task is {task.kind}")
    if loss == "b-tuning" and task.kind == "multilabel":
        raise ConfigError("b-tuning is for classification and regression, the task is multilabel")


def _some_rows(number: int, seed: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).permutation(number)[:MOST_FITTED_ROWS])
