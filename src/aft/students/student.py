"""The student: a backbone and a linear layer."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aft.backbones.batches import Inputs
from aft.backbones.checks import explain
from aft.errors import StudentError
from aft.students.backbone import Backbone
from aft.tasks import Task


class StudentOutput(NamedTuple):
    """Output of a student.

    Attributes:
        logits: Shape ``(B, num_outputs)``; for regression the predictions in the targets' units.
        features: Shape ``(B, dim)``, the input of the last linear layer.
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
    """A backbone followed by a linear layer.

    Args:
        backbone: Maps inputs to features ``(B, dim)``.
        dim: Feature dimension.
        num_outputs: Number of classes or regression targets.
        target_mean: For regression, the mean of each target, ``(num_outputs,)``.
        target_std: For regression, the standard deviation of each target, ``(num_outputs,)``.

    Attributes:
        untrained: Names of randomly initialised parameters: those of the head, and any in an
            otherwise pre-trained backbone.
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
        try:
            features = self.backbone(inputs)
        except SystemExit as stop:
            raise StudentError(f"the student's network ended with {explain(stop)}") from stop
        return StudentOutput(self.rescale(self.head(features)), features)


def copy_student(student: Student) -> Student:
    """A second student with the same weights.

    Raises:
        StudentError: If the network cannot be copied.
    """
    try:
        return copy.deepcopy(student)
    except Exception as error:
        raise StudentError(
            f"cannot copy the student: {error}. Use --no-safety-net, and another loss than "
            "row-trust, to train without a second one"
        ) from None


def new_student(
    backbone: Backbone,
    task: Task,
    target_mean: Tensor | None = None,
    target_std: Tensor | None = None,
) -> Student:
    """A student with a new head for the task."""
    if task.kind == "regression" and target_mean is None:
        target_mean, target_std = torch.zeros(task.num_outputs), torch.ones(task.num_outputs)
    student = Student(backbone.module, backbone.dim, task.num_outputs, target_mean, target_std)
    student.untrained |= {f"backbone.{name}" for name in backbone.untrained}
    return student
