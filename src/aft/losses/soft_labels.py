"""Soft labels: what a linear model on the teachers' features says, of rows without labels too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aft import functional as AF
from aft.errors import InputError
from aft.losses.checks import (
    check_batch,
    check_choice,
    check_teacher_dims,
    describe,
    explain_non_finite,
    gather_batch,
    infer_teacher_dims,
    join_teachers,
)
from aft.losses.heads import LinearHead, fit_task_head
from aft.tasks import TaskKind


class HeadLoss(nn.Module, ABC):
    """What losses share that compare the student's outputs with those of a head of the teachers.

    Args:
        teacher_dims: Feature width of each teacher.
        head: ``(C, sum of teacher_dims)`` weights and ``(C,)`` bias.
        classes: Whether outputs are classes, of which there are two or more.

    Raises:
        InputError: If the head does not fit the teachers.
    """

    needs: ClassVar[Literal["logits"]] = "logits"
    weight: Tensor
    bias: Tensor

    def __init__(self, teacher_dims: Sequence[int], head: LinearHead, classes: bool) -> None:
        super().__init__()
        self.teacher_dims = check_teacher_dims(teacher_dims)
        weight, bias = head.weight, head.bias
        width, least = sum(self.teacher_dims), 2 if classes else 1
        if weight.ndim != 2 or weight.shape[1] != width or len(weight) < least:
            raise InputError(
                f"Expected the head's weight to have shape ({'classes' if classes else 'outputs'}, "
                f"{width}){' with 2 or more classes' if classes else ''}, but got "
                f"{describe(weight)}; `teacher_dims` is {list(self.teacher_dims)}."
            )
        if bias.shape != (len(weight),):
            raise InputError(
                f"Expected the head's bias to have shape ({len(weight)},), but got "
                f"{describe(bias)}."
            )
        self.register_buffer("weight", weight.detach().float())
        self.register_buffer("bias", bias.detach().float())

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss, from the outputs of both for the whole batch, ``(B, C)`` each."""

    def forward(
        self, student_logits: Tensor, teacher_features: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """The loss of one batch, a scalar; see the class for shapes and errors."""
        outputs = len(self.weight)
        if student_logits.ndim != 2 or student_logits.shape[1] != outputs:
            raise InputError(
                f"Expected `student_logits` to have shape (batch, {outputs}), what the student's "
                f"last layer returns, but got {describe(student_logits)}. This loss takes the "
                "student's logits, not its features."
            )
        student, teacher = gather_batch(student_logits, teacher_features, self.teacher_dims)
        check_batch(len(student), compares=False)
        loss = self.compare(student, self._logits(teacher))
        if not loss.isfinite():
            if bad := int((~student.isfinite()).any(dim=1).sum()):
                raise InputError(
                    f"Expected finite `student_logits`, but {bad} of {len(student)} rows hold NaN "
                    "or infinity: training has diverged. Lower the student's learning rate, clip "
                    "its gradients, or check its inputs."
                )
            raise explain_non_finite(student, teacher, self.teacher_dims, self)
        return loss

    @torch.no_grad()
    def teacher_logits(self, teacher_features: Tensor | Sequence[Tensor]) -> Tensor:
        """What the head says of the teachers' features, ``(B, C)``.

        Args:
            teacher_features: As in the loss; rows of this process only.
        """
        return self._logits(AF.full_precision(join_teachers(teacher_features, self.teacher_dims)))

    def _logits(self, teacher: Tensor) -> Tensor:
        weight, bias = self.weight.to(teacher.dtype), self.bias.to(teacher.dtype)
        return AF.matmul(teacher.detach(), weight.T) + bias


class SoftLabelLoss(HeadLoss):
    """How far the student's outputs are from what the teachers' features say of the labels.

    A linear head is fitted on the stored features of the rows with labels, all teachers' side by
    side. From then on it gives any row soft labels, so rows without labels can join: ``loss_fn``
    asks for their teacher features only. For each kind of task the loss is

    - classification: the mean over rows of ``KL(softmax(teacher) || softmax(student))``, at a
      temperature and times its square, as in ``LogitKDLoss``;
    - multilabel: the mean over rows and labels of the binary cross entropy between
      ``sigmoid(teacher)`` and the student, less the entropy of the soft label;
    - regression: the mean over rows and targets of the squared difference, each target divided by
      its deviation over the training set.

    The temperature is 1 by default: regularization is chosen by the likelihood of held-out rows,
    so the head's probabilities for rows it was not fitted on are about as sure as they are right.
    For the rows it was fitted on they are surer.

    References:
        Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531; for
        rows without labels Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised
        Learners", NeurIPS 2020, arXiv 2006.10029, where a model fitted on few labels teaches a
        small one on all rows.

    Inputs:
        ==================  ==================================================================
        student_logits      ``(B, C)``: what the student's last layer returns; for regression
                            numbers in the targets' units
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor a teacher
        ==================  ==================================================================

        ``B`` is at least 1. Any floating-point type; all is computed in float32 (float64 where
        ``student_logits`` are), under autocast too. Returns a scalar, 0 for equal outputs.
        Gradients reach the student only. Like ``LogitKDLoss`` it ``needs`` the student's logits.

        Within a ``torch.distributed`` process group the batch is that of all ranks together. So
        every rank has to call the loss equally often, and value and gradients (after
        DistributedDataParallel) are those of a single process with the whole batch.

    Relations:
        Brings what the teachers know of these labels to as many rows as there are. Its size is
        that of the loss on the labels, so ``beta`` is about 1. ``LogitKDLoss`` is the published
        loss for classes, with a temperature of 4; ``AFTLoss`` transfers more than labels show.

    Args:
        teacher_dims: Feature width of each teacher.
        head: ``(C, sum of teacher_dims)`` weights and ``(C,)`` bias, see
            :func:`aft.losses.heads.fit_task_head`.
        kind: ``classification``, ``multilabel`` or ``regression``.
        target_std: ``(C,)``, deviation of each target; for regression, and for it alone.
        temperature: How soft the labels are; for classification alone.

    Raises:
        InputError: If shapes or options do not fit, or the batch is empty, or inputs are NaN or
            infinite.

    Example::

        loss_fn = SoftLabelLoss.fit(
            [stored_a, stored_b], labels, kind="classification", num_outputs=10
        )
        loss = F.cross_entropy(logits[labelled], labels) + loss_fn(logits, teacher_features)
    """

    target_std: Tensor | None

    def __init__(
        self,
        teacher_dims: Sequence[int],
        head: LinearHead,
        *,
        kind: TaskKind,
        target_std: Tensor | None = None,
        temperature: float = 1.0,
    ) -> None:
        check_choice("kind", kind, TaskKind)
        super().__init__(teacher_dims, head, classes=kind == "classification")
        self.kind = kind
        self.temperature = check_temperature(temperature)
        if kind != "classification" and temperature != 1:
            raise InputError(
                f"Expected `temperature` to be 1 for {kind}, but got {temperature!r}: it is for "
                "classification."
            )
        self.register_buffer("target_std", None)
        if kind == "regression":
            self.target_std = _check_target_std(target_std, len(self.weight))
        elif target_std is not None:
            raise InputError(f"Expected no `target_std` for {kind}: it is for regression.")

    @classmethod
    def fit(
        cls,
        teacher_features: Tensor | Sequence[Tensor],
        labels: Tensor,
        *,
        kind: TaskKind,
        num_outputs: int,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> SoftLabelLoss:
        """The loss for a training set; fits one head on all teachers' stored features.

        Args:
            teacher_features: ``(n, D)``, or one ``(n, D_t)`` tensor a teacher; rows with labels.
            labels: As in :func:`aft.losses.heads.fit_task_head`.
            kind: See the class.
            num_outputs: C, the number of classes, labels or targets.
            temperature: See the class.
            seed: Deals the rows that choose the regularization.

        Raises:
            InputError: As :func:`aft.losses.heads.fit_task_head`.
        """
        dims = infer_teacher_dims(teacher_features)
        features = join_teachers(teacher_features, dims)
        head = fit_task_head(features, labels, kind, num_outputs, seed)
        std = None
        if kind == "regression":
            targets = labels.to(head.weight).reshape(len(labels), num_outputs)
            std = targets.std(dim=0, correction=0)
            # A target that does not vary is told right by the bias; its units do not matter.
            std = torch.where(std > 1e-6 * targets.mean(dim=0).abs() + 1e-12, std, 1.0)
        return cls(dims, head, kind=kind, target_std=std, temperature=temperature)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss, from the outputs of both for the whole batch, ``(B, C)`` each."""
        if self.kind == "classification":
            return soft_divergence(student, teacher, self.temperature)
        if self.kind == "multilabel":
            soft = teacher.sigmoid()
            cross_entropy = F.binary_cross_entropy_with_logits(student, soft)
            return cross_entropy - F.binary_cross_entropy_with_logits(teacher, soft)
        assert self.target_std is not None
        return ((student - teacher) / self.target_std.to(student.dtype)).square().mean()

    def extra_repr(self) -> str:
        """The widths and options, for ``print(loss_fn)``."""
        return (
            f"teacher_dims={list(self.teacher_dims)}, kind={self.kind!r}, "
            f"num_outputs={len(self.weight)}, temperature={self.temperature}"
        )


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean over rows of ``KL(softmax(teacher / T) || softmax(student / T)) * T²``."""
    target = F.log_softmax(teacher / temperature, dim=1)
    predicted = F.log_softmax(student / temperature, dim=1)
    divergence = F.kl_div(predicted, target, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def check_temperature(temperature: float) -> float:
    """The temperature itself.

    Raises:
        InputError: Unless it is above 0.
    """
    if not temperature > 0:
        raise InputError(f"Expected `temperature` to be above 0, but got {temperature!r}.")
    return temperature


def _check_target_std(std: Tensor | None, targets: int) -> Tensor:
    if std is None or std.shape != (targets,):
        raise InputError(
            f"Expected `target_std` to have shape ({targets},), the deviation of each target over "
            f"the training set, but got {describe(std)}."
        )
    if not (std.isfinite() & (std > 0)).all():
        raise InputError(f"Expected `target_std` to be finite and above 0, but got {std.tolist()}.")
    return std.detach().float()
