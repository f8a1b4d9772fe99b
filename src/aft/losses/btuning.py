"""B-Tuning: match the class scores of the student's features to those of the teachers'."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aft import functional as AF
from aft.errors import InputError
from aft.losses.checks import check_batch, check_finite, describe, gather_batch
from aft.losses.logme import log_me


class BTuningLoss(nn.Module):
    """Mean squared error between class scores of the student's and the teachers' features.

    The posterior mean weights of LogME map features to one score per class,
    ``features @ weights.T``. Each teacher has its own weights, and so does the student; the
    student's are computed once, from its features before training. All weights are constant. The
    student learns to produce features whose scores equal the weighted mean of the teachers'
    scores, with weights ``softmax(LogME / temperature)``. The loss is the mean squared error over
    samples and classes. Gradients reach the student's features only.

    References:
        You et al., "Ranking and Tuning Pre-trained Models: A New Paradigm for Exploiting Model
        Hubs", JMLR 2022, arXiv 2110.10545, and the authors' code.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, S)``: the input of the student's last linear layer
        teacher_features    ``(B, sum of D_t)``, or one ``(B, D_t)`` tensor per teacher
        ==================  ==================================================================

        ``B`` is at least 1. See :mod:`aft.losses` for precision and several processes.

    Relations:
        The loss constrains as many directions of the student's features as there are classes, and
        depends on the student's initial features. Use it for pre-trained students and many
        classes. ``LogitKDLoss`` matches class probabilities and suits randomly initialized
        students; ``AFTLoss`` transfers more than the labels contain. Teachers are not standardized
        here, because the weights fit features of any scale.

    Args:
        student_mean_weights: ``(C, S)``, ``log_me(student_features, labels).mean_weights``.
        teacher_mean_weights: The same for the teachers, one ``(C, D_t)`` tensor per teacher.
        log_me_scores: One LogME score per teacher.
        temperature: A high temperature gives all teachers equal weight, a low one selects the
            best teacher.

    Attributes:
        shares: ``(T,)``, weight of each teacher in the target scores; they sum to 1.

    Raises:
        InputError: If shapes do not match, the batch is empty, or features or weights are NaN or
            infinite.

    Example::

        loss_fn = BTuningLoss.fit(stored_student_features, [stored_a, stored_b], labels)
        loss = F.cross_entropy(logits, labels) + beta * loss_fn(student_features, teacher_features)
    """

    student_mean_weights: Tensor
    teacher_mean_weights: Tensor
    shares: Tensor

    def __init__(
        self,
        student_mean_weights: Tensor,
        teacher_mean_weights: Sequence[Tensor],
        log_me_scores: Sequence[float],
        *,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        teachers = list(teacher_mean_weights)
        _check_weights(student_mean_weights, teachers)
        if len(log_me_scores) != len(teachers):
            raise InputError(
                f"Expected `log_me_scores` to contain {len(teachers)} numbers, one per teacher, "
                f"but got {len(log_me_scores)}."
            )
        if not temperature > 0:
            raise InputError(f"Expected `temperature` to be above 0, but got {temperature!r}.")
        scores = torch.tensor([float(score) for score in log_me_scores], dtype=torch.float64)
        if not scores.isfinite().all():
            raise InputError(f"Expected finite `log_me_scores`, but got {scores.tolist()}.")
        self.student_dim = student_mean_weights.shape[1]
        self.teacher_dims = tuple(weights.shape[1] for weights in teachers)
        self.temperature = temperature
        shares = torch.softmax(scores / temperature, dim=0)
        self.register_buffer("shares", shares.float())
        self.register_buffer("student_mean_weights", student_mean_weights.detach().float())
        # Scaled by each teacher's share: one product with all features gives the weighted scores.
        pairs = zip(shares.tolist(), teachers, strict=True)
        shared = [share * weights.detach().double() for share, weights in pairs]
        self.register_buffer("teacher_mean_weights", torch.cat(shared, dim=1).float())

    @classmethod
    def fit(
        cls,
        student_features: Tensor,
        teacher_features: Tensor | Sequence[Tensor],
        labels: Tensor,
        *,
        num_classes: int | None = None,
        temperature: float = 0.1,
    ) -> BTuningLoss:
        """Build the loss for a training set; runs LogME on the student and on every teacher.

        Args:
            student_features: ``(n, S)``, features of the student before training.
            teacher_features: ``(n, D_t)``, one tensor per teacher.
            labels: ``(n,)`` class indices, or ``(n, T)`` floating-point targets; see
                :func:`aft.losses.logme.log_me`.
            num_classes: C; needed if the last classes may be missing from ``labels``.
            temperature: See the class.

        Raises:
            InputError: As :func:`aft.losses.logme.log_me`.
        """
        parts = [teacher_features] if isinstance(teacher_features, Tensor) else teacher_features
        student = log_me(student_features, labels, num_classes=num_classes)
        teachers = [log_me(part, labels, num_classes=num_classes) for part in parts]
        return cls(
            student.mean_weights,
            [teacher.mean_weights for teacher in teachers],
            [teacher.score for teacher in teachers],
            temperature=temperature,
        )

    def forward(
        self, student_features: Tensor, teacher_features: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Return the loss of one batch, a scalar; see the class for shapes and errors."""
        student, teacher = gather_batch(
            student_features, teacher_features, self.teacher_dims, self.student_dim
        )
        check_batch(len(student), compares=False)
        dtype = student.dtype
        scores = AF.matmul(student, self.student_mean_weights.to(dtype).T)
        targets = AF.matmul(teacher.detach(), self.teacher_mean_weights.to(dtype).T)
        loss = F.mse_loss(scores, targets)
        check_finite(loss, student, teacher, self.teacher_dims, self)
        return loss

    def extra_repr(self) -> str:
        """Options, for ``print(loss_fn)``."""
        return f"student_dim={self.student_dim}, teacher_dims={list(self.teacher_dims)}"


def _check_weights(student: Tensor, teachers: Sequence[Tensor]) -> None:
    if not teachers:
        raise InputError("Expected `teacher_mean_weights` of at least one teacher, but got none.")
    named = {f"`teacher_mean_weights[{t}]`": weights for t, weights in enumerate(teachers)}
    for name, weights in {"`student_mean_weights`": student, **named}.items():
        if weights.ndim != 2 or len(weights) != len(student) or not weights.is_floating_point():
            raise InputError(
                f"Expected {name} to be a floating-point tensor of shape (classes, dim), with the "
                f"same number of classes for all models, but got {describe(weights)}; "
                f"`student_mean_weights` is {describe(student)}."
            )
        if not weights.isfinite().all():
            raise InputError(f"Expected {name} to be finite, but it contains NaN or infinity.")
