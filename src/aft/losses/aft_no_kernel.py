"""Adaptive feature transfer without a kernel: predict the student's features from the teachers'."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from aft import functional as AF
from aft.losses.checks import (
    check_batch,
    check_count,
    check_finite,
    check_teacher_dims,
    gather_batch,
)
from aft.losses.linear import Linear
from aft.losses.standardize import Normalize, Standardize


class NoKernelAFTLoss(nn.Module):
    """Mean squared error of the student's features predicted from the teachers' features.

    A learned linear layer maps the concatenated features of the teachers to the student's width.
    Both sides are centred over the batch. The loss is the mean squared error over samples and
    dimensions. The weights of the layer select teacher dimensions, as the gates of ``AFTLoss`` do;
    gates in front of a linear layer would be redundant.

    References:
        Qiu et al., "Transferring Knowledge from Large Foundation Models to Small Downstream
        Models", ICML 2024, arXiv 2406.07337: an ablation.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, student_dim)``: the input of the student's last linear layer
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor per teacher
        ==================  ==================================================================

        ``B`` is at least 2. See :mod:`aft.losses` for precision and several processes.

    Relations:
        An ablation of ``AFTLoss`` that compares features instead of kernels and so shows what the
        kernel contributes. The loss is near 0 if all student features are equal, so only the task
        loss keeps the student from collapsing. ``KDLoss`` predicts in the opposite direction and
        does not have this problem.

    Args:
        student_dim: Width of the student's features.
        teacher_dims: Feature width of each teacher.
        normalize: ``standardize``, or ``none`` as published; see :mod:`aft.losses`.
        statistics: Mean and standard deviation for each teacher; see :mod:`aft.losses`.

    Attributes:
        projection: The linear layer. It has no bias, since centring would remove it. Use a
            separate learning rate, such as 1e-2, as for the gates of ``AFTLoss``.

    Raises:
        InputError: If an argument is invalid, shapes do not match the dimensions, the batch has
            fewer than 2 rows, or features are NaN or infinite.

    Example::

        loss_fn = NoKernelAFTLoss(student_dim=384, teacher_dims=[1280, 1408])
        optimizer = torch.optim.AdamW([
            {"params": student.parameters(), "lr": 1e-4},
            {"params": loss_fn.parameters(), "lr": 1e-2},
        ])
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
        self.projection = Linear(sum(self.teacher_dims), self.student_dim, bias=False)

    def forward(
        self, student_features: Tensor, teacher_features: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Return the loss of one batch, a scalar; see the class for shapes and errors."""
        student, teacher = gather_batch(
            student_features, teacher_features, self.teacher_dims, self.student_dim
        )
        check_batch(len(student))
        predicted = AF.centre(self.projection(self.standardize(teacher)))
        loss = F.mse_loss(AF.centre(student), predicted)
        check_finite(loss, student, teacher, self.teacher_dims, self)
        return loss

    def extra_repr(self) -> str:
        """Dimensions, for ``print(loss_fn)``."""
        return f"student_dim={self.student_dim}, teacher_dims={list(self.teacher_dims)}"
