"""B-Tuning: let the student's features score the classes as the teachers' features do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aft import functional as AF
from aft.errors import InputError
from aft.losses.checks import check_batch, describe, explain_non_finite, gather_batch
from aft.losses.logme import log_me


class BTuningLoss(nn.Module):
    """How far the class scores of the student's features are from those of the teachers'.

    LogME's posterior mean weights turn features into one score a class, ``features @ weights.T``.
    Each teacher has its own and so has the student: found once, before training, from the
    features that the pre-trained student has by then. All weights stay as they are; what learns is
    the student, whose scores shall become the mean of the teachers' scores. In this mean a
    teacher's share is ``softmax(LogME / temperature)``. The loss is the mean squared error over
    samples and classes. Gradients reach the student's features only.

    References:
        You et al., "Ranking and Tuning Pre-trained Models: A New Paradigm for Exploiting Model
        Hubs", JMLR 2022, arXiv 2110.10545, and the authors' code.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, S)``: what enters the student's last linear layer
        teacher_features    ``(B, sum of D_t)``, or one ``(B, D_t)`` tensor a teacher
        ==================  ==================================================================

        ``B`` is at least 1. Any floating-point type; all is computed in float32 (float64 where
        ``student_features`` are), under autocast too. Returns a scalar.

        Within a ``torch.distributed`` process group the batch is that of all ranks together. So
        every rank has to call the loss equally often, and value and gradients (after
        DistributedDataParallel) are those of a single process with the whole batch.

    Relations:
        What it asks of the student lies in as many directions as there are classes, and depends
        on the student's first features: use it for pre-trained students and many classes.
        ``LogitKDLoss`` matches class probabilities and suits students with random weights;
        ``AFTLoss`` transfers more than the labels show. Teachers are not standardized here: the
        weights fit whatever units the features have.

    Args:
        student_mean_weights: ``(C, S)``, ``log_me(student_features, labels).mean_weights``.
        teacher_mean_weights: One ``(C, D_t)`` tensor a teacher, likewise.
        log_me_scores: One LogME score a teacher.
        temperature: How evenly teachers share: high is all alike, low is the best alone.

    Attributes:
        shares: ``(T,)``, each teacher's part in the scores to match; they add up to 1.

    Raises:
        InputError: If shapes do not fit each other, or the batch is empty, or features or weights
            are NaN or infinite.

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
                f"Expected `log_me_scores` to hold {len(teachers)} numbers, one per teacher, but "
                f"got {len(log_me_scores)}."
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
        # Each teacher's, times its share: the shared scores are one product with all features.
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
        """The loss for these training samples; runs LogME on the student and on every teacher.

        Args:
            student_features: ``(n, S)``, of the student as it is before training.
            teacher_features: ``(n, D_t)``, one tensor a teacher.
            labels: ``(n,)`` class numbers, or ``(n, T)`` floating-point targets; see
                :func:`aft.losses.logme.log_me`.
            num_classes: C, where ``labels`` may lack the last ones.
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
        """The loss of one batch, a scalar; see the class for shapes and errors."""
        student, teacher = gather_batch(
            student_features, teacher_features, self.teacher_dims, self.student_dim
        )
        check_batch(len(student), compares=False)
        dtype = student.dtype
        scores = AF.matmul(student, self.student_mean_weights.to(dtype).T)
        targets = AF.matmul(teacher.detach(), self.teacher_mean_weights.to(dtype).T)
        loss = F.mse_loss(scores, targets)
        if not loss.isfinite():
            raise explain_non_finite(student, teacher, self.teacher_dims, self)
        return loss

    def extra_repr(self) -> str:
        """The widths and shares, for ``print(loss_fn)``."""
        shares = ", ".join(f"{share:.3g}" for share in self.shares.tolist())
        return (
            f"student_dim={self.student_dim}, teacher_dims={list(self.teacher_dims)}, "
            f"num_classes={len(self.student_mean_weights)}, shares=[{shares}]"
        )


def _check_weights(student: Tensor, teachers: Sequence[Tensor]) -> None:
    if not teachers:
        raise InputError("Expected the weights of at least one teacher, but got none.")
    named = {f"`teacher_mean_weights[{t}]`": weights for t, weights in enumerate(teachers)}
    for name, weights in {"`student_mean_weights`": student, **named}.items():
        if weights.ndim != 2 or len(weights) != len(student) or not weights.is_floating_point():
            raise InputError(
                f"Expected {name} to be floating point of shape (classes, dim), with as many "
                f"classes as the student's weights have, but got {describe(weights)}; the "
                f"student's are {describe(student)}."
            )
        if not weights.isfinite().all():
            raise InputError(f"Expected {name} to be finite, but it holds NaN or infinity.")
