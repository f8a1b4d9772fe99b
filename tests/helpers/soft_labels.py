"""Stored features and labels for every kind of task."""

from __future__ import annotations

import torch
from torch import Tensor

from aft.losses import SoftLabelLoss
from aft.tasks import TaskKind

KINDS: tuple[TaskKind, ...] = ("classification", "multilabel", "regression")


def stored(kind: TaskKind, n: int = 120, noise: float = 0.3) -> tuple[list[Tensor], Tensor]:
    """Features of two teachers for labelled rows, and the labels, which the features predict."""
    classes = torch.arange(n) % 3
    joined = 3 * torch.eye(3, 7)[classes] + noise * torch.randn(n, 7) + 2
    labels = classes
    if kind == "multilabel":
        labels = torch.stack([classes == 0, classes != 1, classes == 2], dim=1).float()
    elif kind == "regression":
        labels = joined[:, :3] @ torch.tensor([[1.0, 0, 40], [0, 2, 0], [0, -1, 5]]) + 100
    return list(joined.split([4, 3], dim=1)), labels


def outputs(loss_fn: SoftLabelLoss, teachers: list[Tensor]) -> Tensor:
    return torch.cat(teachers, dim=1) @ loss_fn.weight.T + loss_fn.bias
