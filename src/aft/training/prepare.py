"""What a run needs before its first step: features, rows for the transfer loss, the student."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from aft.config.commands import TrainConfig
from aft.data.loading import DataSet
from aft.data.samples import Samples
from aft.data.unlabelled import concatenate
from aft.data.views import make_views
from aft.errors import ConfigError, StudentError
from aft.features.stored import StoredFeatures, extract_teachers
from aft.students.student import Student
from aft.tasks import Task
from aft.training.transfer_loss import count_views
from aft.training.transfer_model import TeacherHead

VIEW_SEED = 0
"""Of stored views: the same for every run's seed, so that teachers see them once."""


def extract_for_run(
    config: TrainConfig,
    samples: Samples,
    accelerator: Accelerator,
    trained: Sequence[StoredFeatures] = (),
) -> list[StoredFeatures]:
    """The stored features of each teacher for these samples, computed where the store lacks them.

    Where a teacher's input is missing in held-out samples, its features are the mean over the
    training samples, of which `trained` are the features.
    """
    found = extract_teachers(
        config,
        samples,
        accelerator.device,
        accelerator.process_index,
        accelerator.num_processes,
        may_lack=bool(trained),
    )
    accelerator.wait_for_everyone()
    for features in found:
        features.store.refresh()
    for features, before in zip(found, trained, strict=False):
        if not features.present.all():
            features.missing = before.statistics().mean
    return found


def transfer_pool(config: TrainConfig, data: DataSet) -> tuple[Samples | None, int]:
    """Rows that join the transfer loss without their labels, and how many views of each.

    Unlabelled rows as they are (0 views), or stored views of these and of the labelled ones.
    """
    if not config.teachers or config.keep_teachers or config.beta == 0:
        return None, 0
    views = count_views(config, data.unlabelled is not None)
    if not views:
        return data.unlabelled, 0
    train = data.splits["train"]
    parts = [train] if data.unlabelled is None else [train, data.unlabelled]
    return make_views(concatenate(parts), views, VIEW_SEED, config.augment), views


def check_shares(
    config: TrainConfig, samples: Samples, pool: Samples | None, processes: int
) -> None:
    """See that every process has a row of every batch."""
    sizes = [(config.batch_size, len(samples), "training rows")]
    if pool is not None:
        size = config.unlabelled_batch_size or 2 * config.batch_size
        sizes.append((size, len(pool), "rows without labels"))
    for size, rows, what in sizes:
        if min(size, rows) < processes:
            raise ConfigError(
                f"{processes} processes share batches of {size} out of {rows} {what}: expected at "
                "least one row for each"
            )


def copy_student(student: Student) -> Student:
    """The second student, with the same weights to start from."""
    try:
        return copy.deepcopy(student)
    except Exception as error:
        raise StudentError(
            f"this student cannot be copied: {error}. --no-safety-net trains without a second one"
        ) from None


def make_teacher_head(
    config: TrainConfig, teachers: Sequence[StoredFeatures], task: Task
) -> TeacherHead | None:
    """The head on the teachers' features, for a student that keeps them."""
    if not config.keep_teachers:
        return None
    standardize = config.normalize == "standardize"
    statistics = [one.statistics() for one in teachers] if standardize else None
    return TeacherHead(
        [one.dim for one in teachers], task.num_outputs, config.normalize, statistics
    )


def target_statistics(samples: Samples, task: Task) -> tuple[Tensor | None, Tensor | None]:
    """Mean and standard deviation of each regression target."""
    if task.kind != "regression":
        return None, None
    targets = torch.from_numpy(np.asarray(samples.labels))
    std = targets.std(0, correction=0)
    return targets.mean(0), torch.where(std > 0, std, torch.ones_like(std))
