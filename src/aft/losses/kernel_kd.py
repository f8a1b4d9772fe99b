"""Kernel distillation: the kernel distance of adaptive feature transfer without its gates."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

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


class KernelKDLoss(nn.Module):
    """How differently a linear map of the student and the teachers see which samples are alike.

    One learned linear layer maps the student's features to as many new ones. Both sides are
    centred, every row is divided by its length, and the ``B x B`` inner products of all rows are
    compared: ``sqrt(mean((K_student - K_teachers)²) + 1e-8)``.

    References:
        Qiu et al., "Transferring Knowledge from Large Foundation Models to Small Downstream
        Models", ICML 2024, arXiv 2406.07337: a baseline in the authors' code.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, student_dim)``: what enters the student's last linear layer
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor a teacher
        ==================  ==================================================================

        ``B`` is at least 2. Any floating-point type; all is computed in float32 (float64 where
        ``student_features`` are), under autocast too. Returns a scalar, between 0 and about 1.

        Within a ``torch.distributed`` process group the samples of all ranks are compared with
        each other. So every rank has to call the loss equally often, and value and gradients (after
        DistributedDataParallel) are those of a single process with the whole batch.

    Relations:
        Here a map of the student's features learns what to compare, so the student may keep
        features that no teacher has; but it has to follow all that the teachers know. In
        ``AFTLoss`` gates on the teachers' features learn it, so the student may leave out what its
        task does not need, and its own features are compared as they are.

    Args:
        student_dim: Width of the student's features.
        teacher_dims: Feature width of each teacher.
        normalize: ``standardize`` brings every teacher dimension to mean 0 and deviation 1, so
            that no teacher rules by the size of its numbers; ``none`` is the published loss.
        statistics: One ``(mean, std)`` per teacher, each ``(D_t,)``, over the training set, for
            ``normalize="standardize"``. Without them each batch is standardized by its own.

    Attributes:
        projection: The linear layer, without a bias since centring would remove it. Train it with
            the student.

    Raises:
        InputError: If an argument is none of these, or shapes do not fit the dimensions, or the
            batch has one row, or features are NaN or infinite.

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
        """The loss of one batch, a scalar; see the class for shapes and errors."""
        student, teacher = gather_batch(
            student_features, teacher_features, self.teacher_dims, self.student_dim
        )
        check_batch(len(student))
        student_kernel = _kernel(self.projection(student))
        loss = AF.kernel_distance(student_kernel, _kernel(self.standardize(teacher)))
        if not loss.isfinite():
            raise explain_non_finite(student, teacher, self.teacher_dims, self)
        return loss

    def extra_repr(self) -> str:
        """The widths, for ``print(loss_fn)``."""
        return f"student_dim={self.student_dim}, teacher_dims={list(self.teacher_dims)}"


def _kernel(features: Tensor) -> Tensor:
    return AF.gram(AF.normalize_rows(AF.centre(features)))
