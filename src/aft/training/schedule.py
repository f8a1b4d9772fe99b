"""Training schedule: hyperparameters, optimizer and learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from aft.backbones.ngrams import NgramNetwork
from aft.backbones.small_texts import StaticNetwork
from aft.backbones.specs import Spec, split_column
from aft.config.commands import TrainConfig
from aft.errors import ConfigError
from aft.students.student import Student
from aft.training.row_adam import RowAdam, RowAdamW
from aft.training.transfer_model import TransferModel

LOOKS = 20
Effort = Literal["quick", "standard", "long"]
EFFORT: dict[Effort, tuple[int, int, int]] = {
    "quick": (10, 100, 3_000),
    "standard": (30, 300, 10_000),
    "long": (100, 1_000, 30_000),
}
"""Passes over the labelled rows, and the fewest and the most steps."""
Start = Literal["pretrained", "linear", "random"]
"""What a student starts from: pre-trained weights, a linear model, or random weights."""
LR: dict[Start, float] = {"pretrained": 3e-4, "linear": 3e-4, "random": 2e-3}
HEAD_FACTOR: dict[Start, int] = {"pretrained": 10, "linear": 1, "random": 1}
FEW_UNLABELLED, MANY_UNLABELLED = 0.5, 2.0
"""Rows without labels per labelled row of a step: few for a student that starts from a linear
model, which was fitted to the soft labels of all rows already; many for others."""
SGD_FACTOR = 30


@dataclass(frozen=True)
class Schedule:
    """Hyperparameters of training.

    Attributes:
        steps: Number of optimizer steps.
        batch_size: Labelled samples per step, over all processes.
        unlabelled_batch_size: Unlabelled samples per step, over all processes.
        optimizer: ``adamw``, ``adam`` or ``sgd``.
        lr: Peak learning rate of the student's backbone.
        head_lr: Peak learning rate of its last layer and of parts with random weights.
        loss_lr: Peak learning rate of the transfer loss's parameters.
        weight_decay: Weight decay of matrices and kernels; biases and norms have none.
        warmup: Share of the steps with linear warmup.
        clip_norm: Maximum gradient norm of each student; 0 disables clipping.
        eval_every: Steps between evaluations on the validation split.
        patience: Evaluations without a better score before stopping; None disables early stopping.
        seed: Random seed.
    """

    steps: int
    batch_size: int = 64
    unlabelled_batch_size: int = 64
    optimizer: str = "adamw"
    lr: float = 3e-4
    head_lr: float = 3e-3
    loss_lr: float = 1e-2
    weight_decay: float = 0.02
    warmup: float = 0.1
    clip_norm: float = 1.0
    eval_every: int = 100
    patience: int | None = None
    seed: int = 0

    def inputs_per_step(self, rows: int, pool: int = 0) -> int:
        """Number of inputs of the student in a step.

        Args:
            rows: Number of labelled training rows.
            pool: Number of unlabelled rows, or stored views, that join the transfer loss.
        """
        return min(self.batch_size, rows) + min(self.unlabelled_batch_size, pool)


def make_optimizer(
    model: TransferModel, schedule: Schedule, *, sparse: bool = False, device: str = "cpu"
) -> torch.optim.Optimizer:
    """The optimizer, with parameter groups by learning rate and weight decay.

    Args:
        model: The students and the transfer loss.
        schedule: The hyperparameters.
        sparse: Whether word vectors get sparse gradients; other processes cannot add to them.
        device: Type of the device.
    """
    named, words = [], set()
    for student in (model.student, model.alone):
        if student is None:
            continue
        untrained = student.untrained if isinstance(student, Student) else frozenset()
        parameters = student.named_parameters()
        named += [(name in untrained, p) for name, p in parameters if p.requires_grad]
        for module in student.modules() if schedule.optimizer != "sgd" else ():
            if isinstance(module, StaticNetwork | NgramNetwork):
                module.embedding.sparse = sparse
                words.add(module.embedding.weight)
    groups: list[dict[str, Any]] = []
    for lr, is_new in ((schedule.lr, False), (schedule.head_lr, True)):
        part = [p for new, p in named if new == is_new]
        matrices = [p for p in part if p.ndim > 1]
        for decay, chosen, rows in (
            (schedule.weight_decay, [p for p in matrices if p not in words], False),
            (schedule.weight_decay, [p for p in matrices if p in words], True),
            (0.0, [p for p in part if p.ndim <= 1], False),
        ):
            if chosen:
                groups.append({"params": chosen, "lr": lr, "weight_decay": decay, "rows": rows})
    loss = model.transfer_loss
    own = [] if loss is None else [p for p in loss.parameters() if p.requires_grad]
    if own:
        groups.append({"params": own, "lr": schedule.loss_lr, "weight_decay": 0.0})
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.lr, momentum=0.9, nesterov=True)
    kind = RowAdamW if schedule.optimizer == "adamw" else RowAdam
    return kind(groups, lr=schedule.lr, fused=device in ("cpu", "cuda"))


def warmup_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """Learning rate factor per step: linear warmup, then cosine decay to zero."""
    rise = round(steps * warmup)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))

    return factor


def unlabelled_rows(config: TrainConfig) -> int:
    """Rows without labels, or stored views, of a step."""
    if config.unlabelled_batch_size is not None:
        return config.unlabelled_batch_size
    specs = [Spec.parse(split_column(text)[1]) for text in config.student]
    linear = [(spec.source, spec.name) for spec in specs] == [("small", "ngrams")]
    return math.ceil((FEW_UNLABELLED if linear else MANY_UNLABELLED) * config.batch_size)


def make_schedule(config: TrainConfig, num_samples: int, start: Start) -> Schedule:
    """The schedule for a run's options.

    Args:
        config: Options of the run.
        num_samples: Number of labelled training rows.
        start: What the student starts from.

    Raises:
        ConfigError: If both ``steps`` and ``epochs`` are set.
    """
    per_epoch = max(1, num_samples // config.batch_size)
    if config.steps is not None and config.epochs is not None:
        raise ConfigError(
            f"expected --steps or --epochs, got both ({config.steps}, {config.epochs})"
        )
    if config.steps is not None:
        steps = config.steps
    elif config.epochs is not None:
        steps = max(1, math.ceil(config.epochs * per_epoch))
    else:
        epochs, fewest, most = EFFORT[config.effort]
        steps = min(most, max(fewest, epochs * per_epoch))
    lr = config.lr or LR[start] * (SGD_FACTOR if config.optimizer == "sgd" else 1)
    return Schedule(
        steps=steps,
        batch_size=config.batch_size,
        unlabelled_batch_size=unlabelled_rows(config),
        optimizer=config.optimizer,
        lr=lr,
        head_lr=config.head_lr or float(f"{lr * HEAD_FACTOR[start]:.6g}"),
        loss_lr=config.loss_lr,
        weight_decay=config.weight_decay,
        warmup=config.warmup,
        clip_norm=config.clip_norm,
        eval_every=config.eval_every or max(1, math.ceil(steps / LOOKS)),
        patience=config.patience,
        seed=config.seed,
    )
