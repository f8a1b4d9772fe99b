"""Centred kernel alignment: make the student's samples alike where the teachers' are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from aft import functional as AF
from aft.losses.checks import check_batch, explain_non_finite, gather_batch, infer_teacher_dims
from aft.losses.standardize import Normalize, Standardize


class CKALoss(nn.Module):
    """One less the linear centred kernel alignment of student and teachers over the batch.

    The alignment is the cosine between the two ``B x B`` matrices of inner products of centred
    features, see :func:`aft.functional.cka`. It has nothing to learn.

    References:
        Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019,
        arXiv 1905.00414.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, S)``, any ``S``: what enters the student's last linear layer
        teacher_features    ``(B, D)``, any ``D``, or one ``(B, D_t)`` tensor a teacher
        ==================  ==================================================================

        ``B`` is at least 2. Any floating-point type; all is computed in float32 (float64 where
        ``student_features`` are), under autocast too. Returns a scalar from 0 (equal up to
        rotation and scale) to 1 (unrelated, or constant features). Unrelated features of a batch
        that is small beside their width seem related; the loss then starts far below 1.

        Within a ``torch.distributed`` process group the samples of all ranks are compared with
        each other. So every rank has to call the loss equally often, and value and gradients
        (after DistributedDataParallel) are those of a single process with the whole batch.

    Relations:
        ``AFTLoss`` with fixed gates compares the same inner products, of rows brought to length 1,
        by their difference. Here samples far from the mean count most, and the directions that
        vary most rule.

    Args:
        normalize: ``standardize`` brings every teacher dimension to mean 0 and deviation 1, so
            that no teacher rules by the size of its numbers; ``none`` is the published alignment.
        statistics: One ``(mean, std)`` per teacher, each ``(D_t,)``, over the training set, for
            ``normalize="standardize"``. Without them each batch is standardized by its own.

    Raises:
        InputError: If an argument is none of these, or shapes do not fit each other or the
            ``statistics``, or the batch has one row, or features are NaN or infinite.

    Example::

        loss_fn = CKALoss()
        loss = F.cross_entropy(logits, labels) + beta * loss_fn(student_features, teacher_features)
    """

    def __init__(
        self,
        *,
        normalize: Normalize = "standardize",
        statistics: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.standardize = Standardize(None, normalize, statistics)

    def forward(
        self, student_features: Tensor, teacher_features: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """The loss of one batch, a scalar; see the class for shapes and errors."""
        dims = self.standardize.teacher_dims or infer_teacher_dims(teacher_features)
        student, teacher = gather_batch(student_features, teacher_features, dims)
        check_batch(len(student))
        loss = 1 - _alignment(student, self.standardize(teacher))
        # Any NaN or infinity in an input makes the loss NaN, so one scalar tells.
        if not loss.isfinite():
            raise explain_non_finite(student, teacher, dims, self)
        return loss


def _alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """The alignment, with a gradient of 0 instead of 0 / 0 where the student is constant."""
    centred = AF.centre(student)
    largest = centred.detach().abs().max()
    if largest <= 1e-6 * student.detach().abs().max():  # nothing but rounding error
        nothing: Tensor = 0 * (centred.sum() + teacher.sum())
        return nothing
    # The scale does not matter to the alignment, but fourth powers would leave float32's range.
    return AF.cka(centred / largest, teacher)
