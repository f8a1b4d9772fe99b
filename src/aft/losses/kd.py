"""Feature distillation: predict the teachers' features from the student's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from aft.losses.checks import (
    check_batch,
    check_count,
    check_finite,
    check_teacher_dims,
    gather_batch,
)
from aft.losses.linear import Linear
from aft.losses.standardize import Normalize, Standardize


class KDLoss(nn.Module):
    """Mean squared error of the teachers' features predicted from the student's features.

    A learned linear layer maps the student's features to the width of the concatenated features of
    the teachers. The loss is the mean squared error over samples and dimensions.

    References:
        Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, student_dim)``: the input of the student's last linear layer
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor per teacher
        ==================  ==================================================================

        ``B`` is at least 1, or 2 if each batch is standardized by its own statistics. Returns a
        scalar; with ``normalize="standardize"``, predicting the mean gives about 1. See
        :mod:`aft.losses` for precision and several processes.

    Relations:
        All teacher dimensions have equal weight, whether they are useful for the task or not.
        ``AFTLoss`` learns which ones are useful. ``RKDLoss`` compares pairs of samples instead and
        has no parameters.

    Args:
        student_dim: Width of the student's features.
        teacher_dims: Feature width of each teacher.
        normalize: ``standardize``, or ``none`` as published; see :mod:`aft.losses`.
        statistics: Mean and standard deviation for each teacher; see :mod:`aft.losses`.

    Attributes:
        projection: The linear layer. Train it with the student.

    Raises:
        InputError: If an argument is invalid, shapes do not match the dimensions, the batch has
            too few rows, or features are NaN or infinite.

    Example::

        loss_fn = KDLoss(student_dim=384, teacher_dims=[1280, 1408])
        optimizer = torch.optim.AdamW([*student.parameters(), *loss_fn.parameters()], lr=1e-4)
        loss = F.cross_entropy(logits, labels) + beta * loss_fn(student_features, teacher_features)
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dims: Sequence[int],
        *,
        normalize: Normalize = "standardize",
        statistics: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.student_dim = check_count("student_dim", student_dim)
        self.teacher_dims = check_teacher_dims(teacher_dims)
        self.standardize = Standardize(self.teacher_dims, normalize, statistics)
        self.projection = Linear(self.student_dim, sum(self.teacher_dims))

    def forward(
        self, student_features: Tensor, teacher_features: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Return the loss of one batch, a scalar; see the class for shapes and errors."""
        student, teacher = gather_batch(
            student_features, teacher_features, self.teacher_dims, self.student_dim
        )
        check_batch(len(student), compares=self.standardize.uses_batch)
        loss = F.mse_loss(self.projection(student), self.standardize(teacher))
        check_finite(loss, student, teacher, self.teacher_dims, self)
        return loss

    def extra_repr(self) -> str:
        """Dimensions, for ``print(loss_fn)``."""
        return f"student_dim={self.student_dim}, teacher_dims={list(self.teacher_dims)}"
