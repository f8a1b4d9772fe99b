"""Transfer losses of the trials: those of the library, and variants of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from aft.losses import AFTLoss, AFTSoftLoss, SoftLabelLoss
from aft.training.sampling import ViewBatch
from trial_tasks import Bench, features_of

Plan = Callable[[float, float], tuple[float, float]]
"""Function from the fraction of steps done and the task loss relative to its initial value to two
weights: of the task loss, and of the transfer loss as a multiple of BETA."""


@dataclass(frozen=True)
class Idea:
    """The settings of a trial; the defaults are those of the idea "joint".

    Attributes:
        words: The change in words, for the table.
        against: The idea that this one changes and is compared with.
        parts: The transfer losses to sum; empty: labels only.
        plan: Weights of the task loss and the transfer loss over the steps.
        steps: Number of steps, as a multiple of the task's.
        rows: Number of unlabelled rows per step, as a multiple of the task's.
        temperature: Temperature of the soft labels; for classification only.
        loss_lr: Learning rate of the gates.
        gate_steps: Gate-only steps before each step of the student; 0: both are trained together.
        kernel: Input of the kernel: ``both`` features and the linear model's scores, or only
            ``scores``, or only ``features`` with learned gates; ``equal``: features without gates;
            ``head``: features with the fixed gates of :func:`gates_of_head`.
        scale: Standardization of the teachers' features: per dimension, per teacher, or none.
        queue: Number of rows from earlier steps that the kernel sees in addition to the batch.
        teachers: Number of teachers.
        apart: Whether each teacher has separate losses.
        drop: Which of two teachers' losses to drop in half of the steps.
    """

    words: str
    against: str = "joint"
    parts: tuple[str, ...] = ("kernel", "labels")
    plan: Plan = lambda done, loss: (1, 1)
    steps: int = 1
    rows: int = 1
    temperature: float = 1.0
    loss_lr: float = 1e-2
    gate_steps: int = 0
    kernel: Literal["both", "scores", "features", "equal", "head"] = "both"
    scale: Literal["dimension", "teacher", "none"] = "dimension"
    queue: int = 0
    teachers: int = 1
    apart: bool = False
    drop: Literal["larger", "smaller"] | None = None


class Transfer(nn.Module):
    """The sum of a kernel loss and a soft-label loss.

    Args:
        kernel: Loss on features, or None.
        labels: Loss on outputs, or None.
    """

    needs = "both"

    def __init__(self, kernel: nn.Module | None, labels: SoftLabelLoss | None) -> None:
        super().__init__()
        self.kernel, self.labels = kernel, labels

    def forward(self, outputs: tuple[Tensor, Tensor], teachers: list[Tensor]) -> Tensor:
        logits, features = outputs
        found = [] if self.kernel is None else [self.kernel(features, teachers)]
        found += [] if self.labels is None else [self.labels(logits, teachers)]
        return torch.stack(found).sum()


class Both(nn.Module):
    """The kernel part of the library's default loss."""

    def __init__(self, labels: SoftLabelLoss, known: list[Tensor]) -> None:
        super().__init__()
        # A list, so that the kernel is registered once.
        self.whole = [AFTSoftLoss.fit(labels, known)]
        self.kernel = self.whole[0].kernel

    def forward(self, features: Tensor, teachers: Tensor | list[Tensor]) -> Tensor:
        loss: Tensor = self.kernel(features, self.whole[0].with_scores(teachers))
        return loss


class Scores(nn.Module):
    """A kernel loss on the linear model's scores only."""

    def __init__(self, labels: SoftLabelLoss, known: list[Tensor]) -> None:
        super().__init__()
        self.labels = [labels]  # a list, since the other loss registers it
        scores = labels.teacher_logits(known)
        statistics = [(scores.mean(0), scores.std(0, correction=0))]
        self.kernel = AFTLoss([scores.shape[1]], weights="fixed", statistics=statistics)

    def forward(self, features: Tensor, teachers: Tensor | list[Tensor]) -> Tensor:
        loss: Tensor = self.kernel(features, self.labels[0].teacher_logits(teachers))
        return loss


class Apart(nn.Module):
    """The mean of separate losses per teacher; optionally drops one of two in half of the steps.

    Args:
        losses: One loss per teacher.
        drop: Which of two losses to drop.
    """

    needs = "both"

    def __init__(self, losses: Sequence[Transfer], drop: str | None) -> None:
        super().__init__()
        self.losses, self.drop = nn.ModuleList(losses), drop

    def forward(self, outputs: tuple[Tensor, Tensor], teachers: list[Tensor]) -> Tensor:
        pairs = zip(self.losses, teachers, strict=True)
        found = torch.stack([loss(outputs, [teacher]) for loss, teacher in pairs])
        if self.drop and torch.rand(()) < 0.5:
            return found.min() if self.drop == "larger" else found.max()
        return found.mean()


class Queue(nn.Module):
    """A kernel over the batch and rows of earlier steps, with the student's features from then."""

    def __init__(self, kernel: nn.Module, rows: int) -> None:
        super().__init__()
        self.kernel, self.rows = kernel, rows
        self.earlier: list[Tensor] | None = None

    def forward(self, features: Tensor, teachers: list[Tensor]) -> Tensor:
        sides = [features, torch.cat(teachers, dim=1)]
        if self.earlier is not None:
            sides = [torch.cat(pair) for pair in zip(sides, self.earlier, strict=True)]
        self.earlier = [side.detach()[: self.rows] for side in sides]
        loss: Tensor = self.kernel(*sides)
        return loss


class GateSteps:
    """Trains only the gates, on separate batches, with the student frozen.

    Args:
        transfer: The loss with the gates.
        times: Number of gate steps per step of the student.
        lr: Learning rate of the gates.
        bench: The task, with the teachers' features.
        fresh: Batches for the gate steps.
    """

    def __init__(
        self, transfer: nn.Module, times: int, lr: float, bench: Bench, fresh: Iterator[ViewBatch]
    ) -> None:
        self.kernel, self.times, self.bench, self.fresh = transfer.kernel, times, bench, fresh
        self.optimizer = torch.optim.Adam(transfer.parameters(), lr=lr)

    def learn(self, student: nn.Module) -> None:
        for _ in range(self.times):
            inputs, rows = next(self.fresh)
            with torch.no_grad():
                features = student(inputs).features
            self.optimizer.zero_grad()
            self.kernel(features, features_of(self.bench, "pool", rows, 1)).backward()
            self.optimizer.step()


def make_transfer(bench: Bench, idea: Idea, seed: int) -> Transfer | Apart:
    """Build the transfer loss of an idea."""
    teachers = tuple(range(len(bench.features) - 2 + idea.teachers))
    if not idea.apart:
        return make_losses(bench, idea, teachers, seed)
    return Apart([make_losses(bench, idea, (one,), seed) for one in teachers], idea.drop)


def make_losses(bench: Bench, idea: Idea, teachers: tuple[int, ...], seed: int) -> Transfer:
    """Build the losses of an idea for the given teachers together."""
    known = [bench.features[one]["train"] for one in teachers]
    task = bench.task
    if teachers not in bench.heads:
        bench.heads[teachers] = SoftLabelLoss.fit(
            known, bench.labels["train"], kind=task.kind, num_outputs=task.num_outputs, seed=seed
        )
    labels = copy.copy(bench.heads[teachers])
    labels.temperature = idea.temperature
    kernel: nn.Module = make_kernel(idea, known, labels)
    if idea.queue:
        kernel = Queue(kernel, idea.queue)
    return Transfer(
        kernel if "kernel" in idea.parts else None, labels if "labels" in idea.parts else None
    )


def make_kernel(idea: Idea, known: list[Tensor], labels: SoftLabelLoss) -> nn.Module:
    """Build the kernel loss of an idea from the teachers' features of the training rows."""
    if idea.kernel in ("both", "scores"):
        return (Both if idea.kernel == "both" else Scores)(labels, known)
    statistics = [(one.mean(0), one.std(0, correction=0)) for one in known]
    if idea.scale == "teacher":
        statistics = [(mean, std.square().mean().sqrt().expand_as(std)) for mean, std in statistics]
    kernel = AFTLoss(
        [one.shape[1] for one in known],
        weights="diagonal" if idea.kernel == "features" else "fixed",
        normalize="none" if idea.scale == "none" else "standardize",
        statistics=None if idea.scale == "none" else statistics,
    )
    if idea.kernel == "head":
        kernel.feature_weights.copy_(gates_of_head(labels, torch.cat(known, dim=1)).logit(1e-4))
    return kernel


def gates_of_head(labels: SoftLabelLoss, known: Tensor) -> Tensor:
    """Weight of each standardized dimension in the linear model, relative to the largest."""
    length = torch.linalg.vector_norm(labels.weight, dim=0) * known.std(0, correction=0)
    gates: Tensor = length / length.max()
    return gates
