"""Rows of a run, and their targets for a linear model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aft.data.samples import Samples
from aft.features.stored import StoredFeatures
from aft.losses.aft_soft import AFTSoftLoss
from aft.losses.soft_labels import SoftLabelLoss
from aft.students.inputs import StudentInputs, Transform
from aft.students.student import Rescale
from aft.tasks import Task


@dataclass(frozen=True)
class PreparedRows:
    """Samples with their transform and teacher features.

    Attributes:
        samples: The samples, with the columns that the student takes.
        transform: Maps a sample's input to the student's input.
        teachers: The stored features of each teacher for these samples.
    """

    samples: Samples
    transform: Transform
    teachers: Sequence[StoredFeatures] = ()

    @cached_property
    def inputs(self) -> StudentInputs:
        """The student's inputs."""
        return StudentInputs(self.samples, self.transform)

    def draw(self, number: int) -> PreparedRows:
        """At most so many random rows."""
        if number >= len(self.samples):
            return self
        rows = np.sort(np.random.default_rng(0).permutation(len(self.samples))[:number])
        teachers = [replace(one, samples=one.samples.subset(rows)) for one in self.teachers]
        return replace(self, samples=self.samples.subset(rows), teachers=teachers)


def soft_labels_of(loss: nn.Module | None) -> SoftLabelLoss | None:
    """The soft labels of a transfer loss, if it has any."""
    if isinstance(loss, AFTSoftLoss):
        return loss.labels
    return loss if isinstance(loss, SoftLabelLoss) else None


def label_targets(samples: Samples, task: Task, rescale: nn.Module) -> Tensor:
    """The labels as targets of a linear model, ``(n, C)``; for regression standardized."""
    labels = torch.from_numpy(np.asarray(samples.labels))
    if task.kind == "classification" and labels.ndim == 2:  # soft labels
        return labels.float()
    if task.kind == "classification":
        return F.one_hot(labels.long(), task.num_outputs).float()
    if task.kind == "multilabel":
        return labels.float()
    return _standardize(labels.reshape(len(labels), -1), rescale)


def soft_targets(soft: SoftLabelLoss, rows: PreparedRows, rescale: nn.Module) -> Tensor:
    """The soft labels of rows as targets of a linear model, ``(n, C)``."""
    everything = np.arange(len(rows.samples))
    logits = soft.teacher_logits([one.gather(everything).float() for one in rows.teachers])
    if soft.kind == "classification":
        return logits.softmax(1).float()
    return logits.sigmoid().float() if soft.kind == "multilabel" else _standardize(logits, rescale)


def _standardize(values: Tensor, rescale: nn.Module) -> Tensor:
    assert isinstance(rescale, Rescale)
    return ((values - rescale.offset) / rescale.scale).float()
