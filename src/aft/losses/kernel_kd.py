"""Kernel distillation: the kernel distance of adaptive feature transfer without its gates."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

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


class KernelKDLoss(nn.Module):
    """Kernel distance between a linear map of the student's features and the teachers' features.

    A learned linear layer maps the student's features to the same width. The features of both
    sides are centred and every row is divided by its L2 norm. The loss compares the ``B x B`` inner
    products of all pairs of rows: ``sqrt(mean((K_student - K_teachers)²) + 1e-8)``.

    References:
        Qiu et al., "Transferring Knowledge from Large Foundation Models to Small Downstream
        Models", ICML 2024, arXiv 2406.07337: a baseline in the authors' code.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, student_dim)``: the input of the student's last linear layer
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor per teacher
        ==================  ==================================================================

        ``B`` is at least 2. Returns a scalar between 0 and about 1. See :mod:`aft.losses` for
        precision and several processes.

    Relations:
        This loss learns a map of the student's features, so the student may have features that no
        teacher has, but it must match everything that the teachers represent. ``AFTLoss`` learns
        gates on the teachers' features instead: the student may ignore what its task does not
        need, and its own features are compared without a map.

    Args:
        student_dim: Width of the student's features.
        teacher_dims: Feature width of each teacher.
        normalize: ``standardize``, or ``none`` as published; see :mod:`aft.losses`.
        statistics: Mean and standard deviation for each teacher; see :mod:`aft.losses`.

    Attributes:
        projection: The linear layer. It has no bias, since centring would remove it. Train it with
            the student.

    Raises:
        InputError: If an argument is invalid, shapes do not match the dimensions, the batch has
            fewer than 2 rows, or features are NaN or infinite.

    Example::

        loss_fn = KernelKDLoss(student_dim=384, teacher_dims=[1280, 1408])
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
        self.projection = Linear(self.student_dim, self.student_dim, bias=False)

    def forward(
        self, student_features: Tensor, teacher_features: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Return the loss of one batch, a scalar; see the class for shapes and errors."""
        student, teacher = gather_batch(
            student_features, teacher_features, self.teacher_dims, self.student_dim
        )
        check_batch(len(student))
        mapped = AF.normalize_rows(AF.centre(self.projection(student)))
        targets = AF.normalize_rows(AF.centre(self.standardize(teacher)))
        loss = AF.gram_distance(mapped, targets)
        check_finite(loss, student, teacher, self.teacher_dims, self)
        return loss

    def extra_repr(self) -> str:
        """Dimensions, for ``print(loss_fn)``."""
        return f"student_dim={self.student_dim}, teacher_dims={list(self.teacher_dims)}"
