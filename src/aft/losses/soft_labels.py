"""Soft labels: match the predictions of a linear head on the teachers' features."""

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
    check_finite,
    check_teacher_dims,
    describe,
    gather_batch,
    infer_teacher_dims,
    join_teachers,
)
from aft.losses.heads import LinearHead, fit_task_head
from aft.tasks import TaskKind


class HeadLoss(nn.Module, ABC):
    """Base of losses that compare the student's outputs with a linear head on the teachers.

    Args:
        teacher_dims: Feature width of each teacher.
        head: ``(C, sum of teacher_dims)`` weights and ``(C,)`` bias.
        classes: Whether outputs are classes; then there must be at least two.

    Raises:
        InputError: If the head does not match the teachers.
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
            wanted = (
                f"(classes, {width}) with at least 2 classes" if classes else f"(outputs, {width})"
            )
            raise InputError(
                f"Expected `weight` of the head to have shape {wanted}, but got "
                f"{describe(weight)}; `teacher_dims` is {list(self.teacher_dims)}."
            )
        if bias.shape != (len(weight),):
            raise InputError(
                f"Expected `bias` of the head to have shape ({len(weight)},), but got "
                f"{describe(bias)}."
            )
        self.register_buffer("weight", weight.detach().float())
        self.register_buffer("bias", bias.detach().float())

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss from the outputs of student and head for the batch, ``(B, C)`` each."""

    def forward(
        self, student_logits: Tensor, teacher_features: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Return the loss of one batch, a scalar; see the class for shapes and errors."""
        outputs = len(self.weight)
        if student_logits.ndim != 2 or student_logits.shape[1] != outputs:
            raise InputError(
                f"Expected `student_logits` to have shape (batch, {outputs}), the output of the "
                f"student's last layer, but got {describe(student_logits)}. This loss takes the "
                "student's logits, not its features."
            )
        student, teacher = gather_batch(student_logits, teacher_features, self.teacher_dims)
        check_batch(len(student), compares=False)
        loss = self.compare(student, self._logits(teacher))
        check_finite(loss, student, teacher, self.teacher_dims, self, "student_logits")
        return loss

    @torch.no_grad()
    def teacher_logits(self, teacher_features: Tensor | Sequence[Tensor]) -> Tensor:
        """Outputs of the head for the teachers' features, ``(B, C)``.

        Args:
            teacher_features: As in :meth:`forward`; rows of this process only.
        """
        return self._logits(AF.full_precision(join_teachers(teacher_features, self.teacher_dims)))

    def _logits(self, teacher: Tensor) -> Tensor:
        weight, bias = self.weight.to(teacher.dtype), self.bias.to(teacher.dtype)
        return AF.matmul(teacher.detach(), weight.T) + bias


class SoftLabelLoss(HeadLoss):
    """Difference between the student's outputs and soft labels from the teachers' features.

    A linear head is fitted on the concatenated stored features of the labelled rows. It then
    predicts soft labels for any row from the teachers' features alone, so unlabelled rows can be
    used, too. The loss depends on the kind of task:

    - classification: the mean over rows of ``KL(softmax(teacher) || softmax(student))``, at a
      temperature and multiplied by its square, as in ``LogitKDLoss``;
    - multilabel: the mean over rows and labels of the binary cross entropy between
      ``sigmoid(teacher)`` and the student, minus the entropy of the soft label;
    - regression: the mean over rows and targets of the squared difference, with each target
      divided by its standard deviation over the training set.

    The default temperature is 1. The regularization is chosen by the likelihood of held-out rows,
    so the head's probabilities are approximately calibrated on rows it was not fitted on. On the
    rows it was fitted on they are overconfident.

    References:
        Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531; for
        unlabelled rows Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised
        Learners", NeurIPS 2020, arXiv 2006.10029, where a model fitted on few labels teaches a
        small one on all rows.

    Inputs:
        ==================  ==================================================================
        student_logits      ``(B, C)``: the output of the student's last layer; for regression
                            predictions in the units of the targets
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor per teacher
        ==================  ==================================================================

        ``B`` is at least 1. Returns a scalar, 0 for equal outputs. Gradients reach the student
        only. Like ``LogitKDLoss`` it ``needs`` the student's logits. See :mod:`aft.losses` for
        precision and several processes.

    Relations:
        Transfers what the teachers represent about these labels to any number of rows. Its scale
        is that of the loss on the labels, so use a ``beta`` of about 1. ``LogitKDLoss`` is the
        published loss for classes, with a temperature of 4; ``AFTLoss`` transfers more than the
        labels contain.

    Args:
        teacher_dims: Feature width of each teacher.
        head: ``(C, sum of teacher_dims)`` weights and ``(C,)`` bias, see
            :func:`aft.losses.heads.fit_task_head`.
        kind: ``classification``, ``multilabel`` or ``regression``.
        target_std: ``(C,)``, standard deviation of each target; for regression only.
        temperature: Temperature of the soft labels; for classification only.

    Raises:
        InputError: If shapes or options do not match, the batch is empty, or inputs are NaN or
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
                f"Expected `temperature` to be 1 for {kind}, but got {temperature!r}. Other values "
                "are for classification only."
            )
        self.register_buffer("target_std", None)
        if kind == "regression":
            self.target_std = _check_target_std(target_std, len(self.weight))
        elif target_std is not None:
            raise InputError(f"Expected no `target_std` for {kind}; it is for regression only.")

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
        progress: bool = False,
    ) -> SoftLabelLoss:
        """Build the loss for a training set; fits one head on all teachers' stored features.

        Args:
            teacher_features: ``(n, D)``, or one ``(n, D_t)`` tensor per teacher; labelled rows.
            labels: As in :func:`aft.losses.heads.fit_task_head`.
            kind: See the class.
            num_outputs: C, the number of classes, labels or targets.
            temperature: See the class.
            seed: Seed of the cross-validation folds that choose the regularization.
            progress: As in :func:`aft.losses.heads.fit_task_head`.

        Raises:
            InputError: As :func:`aft.losses.heads.fit_task_head`.
        """
        dims = infer_teacher_dims(teacher_features)
        features = join_teachers(teacher_features, dims)
        head = fit_task_head(features, labels, kind, num_outputs, seed, progress=progress)
        std = target_std(labels, num_outputs) if kind == "regression" else None
        return cls(dims, head, kind=kind, target_std=std, temperature=temperature)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss from the outputs of student and head for the batch, ``(B, C)`` each."""
        if self.kind == "classification":
            return soft_divergence(student, teacher, self.temperature)
        if self.kind == "multilabel":
            soft = teacher.sigmoid()
            cross_entropy = F.binary_cross_entropy_with_logits(student, soft)
            return cross_entropy - F.binary_cross_entropy_with_logits(teacher, soft)
        assert self.target_std is not None
        return ((student - teacher) / self.target_std.to(student.dtype)).square().mean()

    def extra_repr(self) -> str:
        """Options, for ``print(loss_fn)``."""
        return (
            f"teacher_dims={list(self.teacher_dims)}, kind={self.kind!r}, "
            f"num_outputs={len(self.weight)}, temperature={self.temperature}"
        )


def target_std(labels: Tensor, num_outputs: int) -> Tensor:
    """Standard deviation of each regression target, ``(C,)``; 1 for a constant one.

    Args:
        labels: ``(n,)`` or ``(n, C)``.
        num_outputs: C, the number of targets.
    """
    targets = labels.float().reshape(len(labels), num_outputs)
    std = targets.std(dim=0, correction=0)
    # The bias alone predicts a constant target, so its scale does not matter.
    return torch.where(std > 1e-6 * targets.mean(dim=0).abs() + 1e-12, std, 1.0)


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean over rows of ``KL(softmax(teacher / T) || softmax(student / T)) * T²``."""
    target = F.log_softmax(teacher / temperature, dim=1)
    predicted = F.log_softmax(student / temperature, dim=1)
    divergence = F.kl_div(predicted, target, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def check_temperature(temperature: float) -> float:
    """Return the temperature.

    Raises:
        InputError: If it is not above 0.
    """
    if not temperature > 0:
        raise InputError(f"Expected `temperature` to be above 0, but got {temperature!r}.")
    return temperature


def _check_target_std(std: Tensor | None, targets: int) -> Tensor:
    if std is None or std.shape != (targets,):
        raise InputError(
            f"Expected `target_std` to have shape ({targets},), the standard deviation of each "
            f"target over the training set, but got {describe(std)}."
        )
    if not (std.isfinite() & (std > 0)).all():
        raise InputError(f"Expected `target_std` to be finite and above 0, but got {std.tolist()}.")
    return std.detach().float()
