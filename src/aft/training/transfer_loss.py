"""Builds the transfer loss for a run's options; some losses are fitted to stored features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aft.backbones.specs import split_column
from aft.config.commands import TrainConfig
from aft.config.groups import SOFT, LossOptions
from aft.data.samples import Samples
from aft.errors import ConfigError, InputError
from aft.features.stored import StoredFeatures
from aft.losses.aft import AFTLoss
from aft.losses.aft_no_kernel import NoKernelAFTLoss
from aft.losses.aft_soft import AFTSoftLoss
from aft.losses.btuning import BTuningLoss
from aft.losses.cka import CKALoss
from aft.losses.class_names import ClassNameLoss, EmbeddedClasses
from aft.losses.distill_weighted import POWER, DistillWeightedLoss
from aft.losses.ft import FTLoss, fit_autoencoder
from aft.losses.given_labels import Given, GivenLabelLoss, check_scale
from aft.losses.heads import fit_head
from aft.losses.kd import KDLoss
from aft.losses.kdep import KDEPLoss
from aft.losses.kernel_kd import KernelKDLoss
from aft.losses.logit_kd import LogitKDLoss
from aft.losses.rkd import RKDLoss
from aft.losses.row_trust import RowTrustLoss
from aft.losses.soft_labels import SoftLabelLoss, target_std
from aft.students.inputs import StudentInputs, Transform
from aft.students.run_student import run_student
from aft.students.student import Student, copy_student
from aft.tasks import Task
from aft.training.schedule import Schedule

MOST_FITTED_ROWS = 20_000
"""Maximum number of rows for losses that are fitted to stored features before training."""
FACTOR_DIM = 128
WITH_SOFT_LABELS = (*SOFT, "distill-nearest", "distill-weighted", "row-trust")
"""Losses with soft labels; these use unlabelled rows and stored views by default."""
CLASSES_ONLY = ("logit-kd", "distill-nearest", "distill-weighted", "row-trust")
AUTO_VIEWS = 4
AUTO_BETA = {
    **{"aft": 3.0, "aft-no-kernel": 1.0, "kd": 1.0, "kernel-kd": 1.0, "rkd": 1.0, "ft": 1.0},
    **{"b-tuning": 1.0, "logit-kd": 1.0, "kdep": 1.0, "cka": 1.0},
}


def make_loss(
    options: LossOptions,
    teachers: Sequence[StoredFeatures],
    student: Student,
    inputs: Samples,
    transform: Transform,
    task: Task,
    *,
    classes: Sequence[EmbeddedClasses | None] = (),
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> nn.Module | None:
    """The transfer loss of a run; None without teachers.

    Fitted losses depend only on the seed, the student's initial weights and the stored features,
    so a resumed run gets the same loss.

    Args:
        options: Name and options of the loss.
        teachers: Stored features of the training samples.
        student: The student with its initial weights.
        inputs: The training samples, with the columns that the student takes.
        transform: Maps a sample's input to the student's input, without augmentation.
        task: The task.
        classes: For each teacher the classes in its space; empty without names of classes.
        seed: Random seed.
        device: Device to run the student on, for losses that need its initial features.
        progress: Whether to show a progress bar if fitting the loss takes more than two seconds.

    Raises:
        ConfigError: If the loss does not support the task.
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
            return AFTLoss(dims, **_kernel_options(options), **scale)
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
    known = inputs.labels is not None
    labels = torch.from_numpy(np.asarray(inputs.labels)[rows]) if known else torch.empty(0)
    if options.loss == "logit-kd":
        return LogitKDLoss.fit(features, labels, num_classes=task.num_outputs, seed=seed)
    fitting: dict[str, Any] = {"num_classes": task.num_outputs, "seed": seed, "progress": progress}
    if options.loss in ("distill-nearest", "distill-weighted"):
        power = math.inf if options.loss == "distill-nearest" else POWER
        return DistillWeightedLoss.fit(features, labels, power=power, **fitting)
    if options.loss in SOFT:
        soft = _given_labels(teachers, labels, task)
        if soft is None and classes:
            soft = ClassNameLoss(dims, classes)
            if known:
                soft = ClassNameLoss.fit_few(
                    features, labels, classes, seed=seed, progress=progress
                )
        soft = soft or SoftLabelLoss.fit(
            features,
            labels,
            kind=task.kind,
            num_outputs=task.num_outputs,
            seed=seed,
            progress=progress,
        )
        if options.loss == "soft-labels":
            return soft
        return AFTSoftLoss.fit(soft, features, **_kernel_options(options), **scale)
    batches = run_student(
        student.to(device),
        StudentInputs(inputs.subset(rows), transform),
        device=torch.device(device),
    )
    start = torch.cat([features.float().cpu() for _, features in batches])
    if options.loss == "row-trust":
        own = copy_student(student)
        if not own.head.weight.any():  # it predicts nothing yet
            own.head.weight.data, own.head.bias.data = fit_head(start, labels, **fitting)[:2]
        return RowTrustLoss(dims, fit_head(torch.cat(features, dim=1), labels, **fitting), own)
    number = task.num_outputs if task.kind == "classification" else None
    return BTuningLoss.fit(start, features, labels, num_classes=number)


def _given_labels(
    teachers: Sequence[StoredFeatures], labels: Tensor, task: Task
) -> SoftLabelLoss | None:
    """The loss of soft labels that are among the teachers; None if there are none.

    Raises:
        ConfigError: If their columns are not the classes, labels or targets of the task, or their
            scale is not one for the task.
    """
    given = [_find_given(one, task) for one in teachers]
    if not any(given):
        return None
    dims = [one.dim for one in teachers]
    std = target_std(labels, task.num_outputs) if task.kind == "regression" else None
    return GivenLabelLoss(dims, given, kind=task.kind, target_std=std)


def _find_given(teacher: StoredFeatures, task: Task) -> Given | None:
    found = teacher.store.identity
    if "soft" not in found:
        return None
    columns, names = found["columns"], list(task.names)
    if sorted(columns) != sorted(names):
        raise ConfigError(
            f"expected soft labels for {', '.join(names)} from {teacher.spec}, got columns "
            f"{', '.join(columns)}; name the columns like the classes, labels or targets, or like "
            "them after a prefix: ?soft=…&prefix=PREFIX"
        )
    try:
        check_scale(found["soft"], task.kind)
    except InputError as error:
        raise ConfigError(f"{teacher.spec}: {error}") from None
    one_class = task.kind == "classification" and found["soft"] == "probabilities"
    if one_class and not found["rows_sum_to_1"]:
        raise ConfigError(
            f"expected probabilities that sum to 1 in each row of {teacher.spec}, since each row "
            "has one class; for outputs before the softmax use soft=logits"
        )
    return Given(found["soft"], [columns.index(name) for name in names])


def count_views(config: TrainConfig, unlabelled: bool) -> int:
    """Number of stored views per training row in the transfer loss.

    Args:
        config: Options of the run.
        unlabelled: Whether there are unlabelled rows.
    """
    if config.views == "auto":
        wanted = config.loss in WITH_SOFT_LABELS and not unlabelled and config.augment != "none"
        tables = any(split_column(one)[1].startswith("features:") for one in config.teachers)
        return AUTO_VIEWS if wanted and not tables else 0  # a table of features has no views
    return 0 if config.views == "clean" else config.views


def weight_of_transfer(config: TrainConfig, schedule: Schedule, rows: int, pool: int) -> float:
    """The weight of the transfer loss, beta.

    With ``auto``, a loss with soft labels needs no search, since it has the units of the task
    loss: one soft label weighs as much as one label. The task loss is a mean over the labelled
    rows of a step and the transfer loss a mean over all rows, so beta is the number of all rows
    divided by the number of labelled rows. The other losses have other units; ``auto`` is the
    weight that was chosen most often in the benchmarks.

    Args:
        config: Options of the run.
        schedule: The training schedule.
        rows: Number of labelled training rows.
        pool: Number of unlabelled rows, or stored views, that join the transfer loss.
    """
    if config.beta != "auto":
        return config.beta
    if config.loss not in WITH_SOFT_LABELS:
        return AUTO_BETA[config.loss]
    return schedule.inputs_per_step(rows, pool) / schedule.inputs_per_step(rows)


def _kernel_options(options: LossOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("kernel", "weights", "combine")}


def check_loss(loss: str, task: Task) -> None:
    """Check that a loss supports a task.

    Raises:
        ConfigError: If it does not.
    """
    if loss in CLASSES_ONLY and task.kind != "classification":
        raise ConfigError(f"{loss} needs a classification task, got {task.kind}")
    if loss == "b-tuning" and task.kind == "multilabel":
        raise ConfigError("b-tuning needs a classification or regression task, got multilabel")


def _some_rows(number: int, seed: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).permutation(number)[:MOST_FITTED_ROWS])
