"""Adaptive feature transfer without a kernel: regress the student on the teachers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from aft import functional as AF
from aft.losses.checks import (
    check_batch,
    check_count,
    check_teacher_dims,
    explain_non_finite,
    gather_batch,
)
from aft.losses.linear import Linear
from aft.losses.standardize import Normalize, Standardize


class NoKernelAFTLoss(nn.Module):
    """How badly a linear map of the teachers' features predicts the student's features.

    One learned linear layer maps the teachers' features side by side to the student's width. Both
    are centred over the batch; the loss is the mean squared error over samples and dimensions. The
    layer's weights decide which of the teachers' dimensions count, as the gates in ``AFTLoss`` do:
    a gate a dimension before a linear layer would add nothing.

    References:
        Qiu et al., "Transferring Knowledge from Large Foundation Models to Small Downstream
        Models", ICML 2024, arXiv 2406.07337: an ablation.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, student_dim)``: what enters the student's last linear layer
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor a teacher
        ==================  ==================================================================

        ``B`` is at least 2. Any floating-point type; all is computed in float32 (float64 where
        ``student_features`` are), under autocast too. Returns a scalar.

        Within a ``torch.distributed`` process group the batch is that of all ranks together. So
        every rank has to call the loss equally often, and value and gradients (after
        DistributedDataParallel) are those of a single process with the whole batch.

    Relations:
        What is left of ``AFTLoss`` if features are compared instead of kernels, for showing what
        the kernel brings. A student whose features are all alike has a loss near 0, so nothing
        but the task keeps it from shrinking them; ``KDLoss`` maps the other way and has no such
        escape.

    Args:
        student_dim: Width of the student's features.
        teacher_dims: Feature width of each teacher.
        normalize: ``standardize`` brings every teacher dimension to mean 0 and deviation 1, so
            that no teacher rules by the size of its numbers; ``none`` is the published loss.
        statistics: One ``(mean, std)`` per teacher, each ``(D_t,)``, over the training set, for
            ``normalize="standardize"``. Without them each batch is standardized by its own.

    Attributes:
        projection: The linear layer, without a bias since centring would remove it. Give it a
            learning rate of its own, such as 1e-2, as the gates of ``AFTLoss``.

    Raises:
        InputError: If an argument is none of these, or shapes do not fit the dimensions, or the
            batch has one row, or features are NaN or infinite.

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
        """The loss of one batch, a scalar; see the class for shapes and errors."""
        student, teacher = gather_batch(
            student_features, teacher_features, self.teacher_dims, self.student_dim
        )
        check_batch(len(student))
        predicted = AF.centre(self.projection(self.standardize(teacher)))
        loss = F.mse_loss(AF.centre(student), predicted)
        if not loss.isfinite():
            raise explain_non_finite(student, teacher, self.teacher_dims, self)
        return loss

    def extra_repr(self) -> str:
        """The widths, for ``print(loss_fn)``."""
        return f"student_dim={self.student_dim}, teacher_dims={list(self.teacher_dims)}"
