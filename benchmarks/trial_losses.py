"""The transfer losses of the trials: those of the library, and the changes that are tried."""

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
"""From the share of steps done and the task loss over its first value to the weights of the task
loss and, times BETA, of the transfer loss."""


@dataclass(frozen=True)
class Idea:
    """What a trial does; without changes it is "joint".

    Attributes:
        words: What it changes, for the table.
        against: The idea that it is a change of.
        parts: The transfer losses that are summed; none for the labels alone.
        plan: Weights of both losses over the steps.
        steps: How many times the steps of the task.
        rows: How many times the rows without labels a step.
        temperature: Of the soft labels; for classes alone.
        loss_lr: Learning rate of the gates.
        gate_steps: Steps of the gates alone before each of the student; 0 learns both at once.
        kernel: ``both`` sees features and the linear model's scores of the task, ``scores`` and
            ``features`` see these only. Features without gates are ``equal``, with those of
            :func:`gates_of_head` ``head``.
        scale: Of teachers' features: each dimension, each teacher as a whole, or none.
        queue: Rows of earlier steps that the kernel sees beside the batch.
        teachers: How many.
        apart: Whether each teacher has losses of its own.
        drop: Which of two teachers' losses half of the steps are without.
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
    """The losses of some teachers, summed.

    Args:
        kernel: On features, or None.
        labels: On outputs, or None.
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
    """The kernel of the library's loss."""

    def __init__(self, labels: SoftLabelLoss, known: list[Tensor]) -> None:
        super().__init__()
        self.whole = [AFTSoftLoss.fit(labels, known)]  # a list, to have its kernel once
        self.kernel = self.whole[0].kernel

    def forward(self, features: Tensor, teachers: Tensor | list[Tensor]) -> Tensor:
        loss: Tensor = self.kernel(features, self.whole[0].with_scores(teachers))
        return loss


class Scores(nn.Module):
    """A kernel of the linear model's scores alone."""

    def __init__(self, labels: SoftLabelLoss, known: list[Tensor]) -> None:
        super().__init__()
        self.labels = [labels]  # a list, since the other loss holds its state
        scores = labels.teacher_logits(known)
        statistics = [(scores.mean(0), scores.std(0, correction=0))]
        self.kernel = AFTLoss([scores.shape[1]], weights="fixed", statistics=statistics)

    def forward(self, features: Tensor, teachers: Tensor | list[Tensor]) -> Tensor:
        loss: Tensor = self.kernel(features, self.labels[0].teacher_logits(teachers))
        return loss


class Apart(nn.Module):
    """The mean of each teacher's own loss; of two, half of the steps may be without one.

    Args:
        losses: One a teacher.
        drop: Which one those steps are without.
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
    """A kernel of the batch and of the rows of earlier steps, as the student saw them then."""

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
    """Steps of the gates alone, on other batches than the student's, which stays as it is.

    Args:
        transfer: The loss that has the gates.
        times: How many of these steps there are a step of the student.
        lr: Their learning rate.
        bench: Has the teachers' features.
        fresh: The batches.
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
    """The transfer loss of an idea."""
    teachers = tuple(range(len(bench.features) - 2 + idea.teachers))
    if not idea.apart:
        return make_losses(bench, idea, teachers, seed)
    return Apart([make_losses(bench, idea, (one,), seed) for one in teachers], idea.drop)


def make_losses(bench: Bench, idea: Idea, teachers: tuple[int, ...], seed: int) -> Transfer:
    """The losses that an idea sums, for the teachers of these numbers together."""
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
    """AFT as an idea has it, from the teachers' features of the training rows."""
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
    """How much the linear model makes of each standardized dimension, the most being 1."""
    length = torch.linalg.vector_norm(labels.weight, dim=0) * known.std(0, correction=0)
    gates: Tensor = length / length.max()
    return gates
