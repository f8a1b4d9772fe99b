"""Preparation of a run: teacher features, rows for the transfer loss, student and model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from aft.backbones.ngrams import NgramNetwork
from aft.config.commands import TrainConfig
from aft.data.loading import DataSet
from aft.data.samples import Samples
from aft.data.unlabelled import concatenate
from aft.data.views import make_views
from aft.errors import ConfigError
from aft.features.stored import StoredFeatures, extract_teachers, note_truncation
from aft.linear.rows import PreparedRows, soft_labels_of, soft_targets
from aft.linear.start import start_linear
from aft.losses.class_names import EmbeddedClasses
from aft.students.backbone import Backbone
from aft.students.build import build_student
from aft.students.saved import SavedStudent
from aft.students.student import copy_student, new_student
from aft.tasks import Task
from aft.training.schedule import Schedule, Start, unlabelled_rows
from aft.training.transfer_loss import count_views, make_loss, weight_of_transfer
from aft.training.transfer_model import TransferModel

VIEW_SEED = 0
"""Seed of stored views: the same for every run, so that teachers process each view only once."""


def extract_for_run(
    config: TrainConfig, parts: Sequence[Samples], accelerator: Accelerator
) -> list[list[StoredFeatures]]:
    """The stored features of each teacher for each part; missing features are computed.

    Args:
        config: Options of the run.
        parts: The labelled rows, and perhaps others. Rows of any part that lack a teacher's input
            get the mean features of the labelled rows.
        accelerator: The work is divided among its processes.
    """
    rank, processes = accelerator.process_index, accelerator.num_processes
    found = extract_teachers(config, parts, accelerator.device, rank, processes)
    accelerator.wait_for_everyone()
    for features in found:
        for one, first in zip(features, found[0], strict=True):
            one.store.refresh()
            one.missing = None if one.present.all() else first.statistics().mean
    return found


def transfer_pool(config: TrainConfig, data: DataSet) -> tuple[Samples | None, int]:
    """Rows that join the transfer loss without labels, and the number of views per row.

    These are the unlabelled rows themselves (0 views), or stored views of the labelled and
    unlabelled rows.
    """
    if not config.teachers or config.beta == 0:
        return None, 0
    some_bare = data.unlabelled is not None or data.splits["train"].labels is None
    views = count_views(config, some_bare)
    if not views:
        return data.unlabelled, 0
    train = data.splits["train"]
    parts = [train] if data.unlabelled is None else [train, data.unlabelled]
    return make_views(concatenate(parts), views, VIEW_SEED, config.augment), views


def check_options(
    config: TrainConfig, samples: Samples, pool: Samples | None, task: Task, processes: int
) -> None:
    """Check options that depend on the data.

    Raises:
        ConfigError: If a batch has fewer rows than there are processes, or class weights are
            asked for without classes or labels.
    """
    if config.class_weights == "balanced" and task.kind != "classification":
        raise ConfigError(f"--class-weights balanced is for classification, got {task.kind}")
    if config.class_weights == "balanced" and samples.labels is None:
        raise ConfigError("--class-weights balanced needs labels, but train has none")
    sizes = [(config.batch_size, len(samples), "training rows")]
    if pool is not None:
        sizes.append((unlabelled_rows(config), len(pool), "unlabelled rows or views"))
    for size, rows, what in sizes:
        if min(size, rows) < processes:
            raise ConfigError(
                f"expected at least one row per process, got {processes} processes for batches of "
                f"{size} out of {rows} {what}"
            )


def _target_statistics(samples: Samples, task: Task) -> tuple[Tensor | None, Tensor | None]:
    if task.kind != "regression":
        return None, None
    targets = torch.from_numpy(np.asarray(samples.labels))
    std = targets.std(0, correction=0)
    return targets.mean(0), torch.where(std > 0, std, torch.ones_like(std))


def make_student(config: TrainConfig, data: DataSet, use_unlabelled: bool) -> SavedStudent:
    """Build the student with its initial weights.

    Args:
        config: Options of the run.
        data: The data set.
        use_unlabelled: Whether to build the vocabulary from unlabelled rows as well.
    """
    train = data.splits["train"]
    torch.manual_seed(config.seed)
    backbone, columns = build_student(
        config.student,
        train,
        data.unlabelled if use_unlabelled else None,
        fusion=config.fusion,
        layers=config.student_layers,
        layers_from=config.from_,
        seed=config.seed,
        trust_remote_code=config.trust_remote_code,
    )
    student = new_student(backbone, data.task, *_target_statistics(train, data.task))
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # A zero head predicts the same for every row, whatever the scale of the features: for
    # regression the mean of the training targets. A random head could be kept by luck as the
    # checkpoint of step 0, and its gradients would harm pre-trained weights (as in Kolesnikov et
    # al., Big Transfer, 2020). The task loss reaches the backbone from the second step on.
    for parameter in student.head.parameters():
        torch.nn.init.zeros_(parameter)
    return SavedStudent(student, data.task, columns, backbone)


def is_pretrained(backbone: Backbone) -> bool:
    """Whether a backbone starts from pre-trained weights."""
    return bool(backbone.info["weights"] != "random")


def start_of(saved: SavedStudent) -> Start:
    """What a student starts from."""
    if isinstance(saved.module.backbone, NgramNetwork):
        return "linear"
    return "pretrained" if is_pretrained(saved.backbone) else "random"


def initial_weights(saved: SavedStudent) -> str:
    """What a student starts from, in words."""
    return "linear model" if start_of(saved) == "linear" else str(saved.backbone.info["weights"])


def make_model(
    config: TrainConfig,
    saved: SavedStudent,
    train: PreparedRows,
    validation: PreparedRows,
    pool: PreparedRows | None,
    schedule: Schedule,
    device: torch.device,
    classes: Sequence[EmbeddedClasses | None] = (),
    log_prior: Tensor | None = None,
) -> TransferModel:
    """Build the student with its transfer loss and the second student of the safety net.

    Validation rows without labels get soft labels. Without labels in train or validation there is
    no second student.

    Args:
        config: Options of the run.
        saved: The student.
        train: The labelled rows.
        validation: Held-out rows.
        pool: Rows that join the transfer loss without labels.
        schedule: The training schedule.
        device: Device on which losses that need the student's initial features run the student.
        classes: For each teacher the classes in its space; empty without names of classes.
        log_prior: The result of :func:`choose_prior`.
    """
    rows = len(train.samples)
    class_weights = _class_weights(config, train.samples, saved.task)
    start = partial(
        start_linear,
        task=saved.task,
        train=train,
        validation=validation,
        class_weights=class_weights,
        progress=config.progress,
    )
    if config.loss == "row-trust":  # compares with what the student starts from
        start(saved.module)
    loss = make_loss(
        config,
        train.teachers,
        saved.module,
        train.samples,
        saved.transform,
        saved.task,
        classes=classes,
        seed=config.seed,
        device=device,
        progress=config.progress,
    )
    beta, auto, unlabelled = 0.0, 1.0, 0 if pool is None else len(pool.samples)
    if loss is not None:
        beta = weight_of_transfer(config, schedule, rows, unlabelled)
        auto = weight_of_transfer(
            config.model_copy(update={"beta": "auto"}), schedule, rows, unlabelled
        )
    judged = validation.samples.labels is not None
    learns = judged and train.samples.labels is not None  # otherwise nothing trains it
    alone = copy_student(saved.module) if config.safety_net and beta > 0 and learns else None
    if config.loss != "row-trust":
        if alone is not None:
            start(alone)
        soft = soft_labels_of(loss) if beta > 0 else None
        if not judged and soft is not None:
            probabilities = soft_targets(soft, validation, saved.module.rescale)
            validation.samples.labels = probabilities.numpy()
        start(saved.module, pool=pool, soft=soft, soft_weight=beta / auto)
    if log_prior is not None and start_of(saved) == "linear":  # as frequent as in training
        for student in (saved.module, alone):
            if student is not None:
                student.head.bias.data -= log_prior.to(student.head.bias.device)
    return TransferModel(
        saved.module,
        loss,
        beta,
        saved.task.kind,
        config.label_smoothing,
        alone,
        class_weights,
        log_prior,
    )


def choose_prior(config: TrainConfig, samples: Samples, task: Task, metric: str) -> Tensor | None:
    """Log frequencies of the classes, ``(C,)``, if outputs are to be for equally frequent classes.

    A class without rows gets 0: nothing is known about it. None if the outputs are to be for the
    frequencies of the training rows.

    Args:
        config: Options of the run.
        samples: The labelled training rows.
        task: The task.
        metric: The metric of the run.
    """
    if config.class_weights != "auto" or metric != "balanced_accuracy" or samples.labels is None:
        return None
    counts = np.bincount(np.asarray(samples.labels), minlength=task.num_outputs)
    shares = np.where(counts > 0, counts, len(samples)) / len(samples)
    return torch.from_numpy(np.log(shares).astype(np.float32))


def _class_weights(config: TrainConfig, samples: Samples, task: Task) -> Tensor | None:
    """Class weights of the task loss, shape (num_classes,); their mean over training rows is 1."""
    if config.class_weights != "balanced":
        return None
    counts = np.bincount(np.asarray(samples.labels), minlength=task.num_outputs)
    weights = len(samples) / (max(1, int((counts > 0).sum())) * np.maximum(counts, 1))
    return torch.from_numpy(weights.astype(np.float32))


def list_notes(config: TrainConfig, saved: SavedStudent, train: PreparedRows) -> list[str]:
    """Sentences for the user about the inputs of the teachers and the student."""
    notes = [note for features in train.teachers for note in features.notes]
    notes += note_truncation("the student", saved.backbone.preprocessing, train.samples)
    backbone = saved.module.backbone
    if isinstance(backbone, NgramNetwork) and saved.module.dim < saved.task.num_outputs:
        notes.append(
            f"the linear model that the student starts from is only approximated, since it has "
            f"{saved.task.num_outputs} outputs and the student {saved.module.dim} features: use "
            f"small:ngrams?dim={saved.task.num_outputs} or more"
        )
    lacking = ~np.all([features.present for features in train.teachers], axis=0)
    if config.combine == "product" and lacking.any():
        notes.append(
            f"{lacking.sum()} training rows lack an input of a teacher; --combine product ignores "
            "them, --combine concat does not"
        )
    return notes
