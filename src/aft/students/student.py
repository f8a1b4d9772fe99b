"""The student: a backbone with one linear layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from aft.backbones.batches import Inputs
from aft.students.backbone import Backbone
from aft.tasks import Task


class StudentOutput(NamedTuple):
    """What a student returns.

    Attributes:
        logits: ``(B, num_outputs)``; for regression the predicted values in their own units.
        features: ``(B, dim)``, what enters the last linear layer.
    """

    logits: Tensor
    features: Tensor


class Rescale(nn.Module):
    """``x * scale + offset``, so that a regression head works on standardized targets."""

    scale: Tensor
    offset: Tensor

    def __init__(self, scale: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        """Values of shape ``(B, num_targets)`` in the targets' units."""
        return x * self.scale + self.offset


class Student(nn.Module):
    """A small network: backbone, then one linear layer.

    Args:
        backbone: Inputs to features ``(B, dim)``.
        dim: Width of the features.
        num_outputs: Number of classes or regression targets.
        target_mean: For regression, the mean of each target, ``(num_outputs,)``.
        target_std: For regression, the standard deviation of each target, ``(num_outputs,)``.

    Attributes:
        untrained: Names of parameters that start from random weights: those of the head, and of
            the backbone where it has such beside pre-trained ones.
    """

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        num_outputs: int,
        target_mean: Tensor | None = None,
        target_std: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.backbone = backbone
        self.head = nn.Linear(dim, num_outputs)
        self.untrained = frozenset({"head.weight", "head.bias"})
        self.rescale: nn.Module = nn.Identity()
        if target_mean is not None and target_std is not None:
            self.rescale = Rescale(target_std, target_mean)

    def forward(self, inputs: Inputs) -> StudentOutput:
        """Logits and features of a batch."""
        features = self.backbone(inputs)
        return StudentOutput(self.rescale(self.head(features)), features)


def new_student(
    backbone: Backbone,
    task: Task,
    target_mean: Tensor | None = None,
    target_std: Tensor | None = None,
) -> Student:
    """A backbone with a fresh head for the task."""
    if task.kind == "regression" and target_mean is None:
        target_mean, target_std = torch.zeros(task.num_outputs), torch.ones(task.num_outputs)
    student = Student(backbone.module, backbone.dim, task.num_outputs, target_mean, target_std)
    student.untrained |= {f"backbone.{name}" for name in backbone.untrained}
    return student
