"""Relational distillation: match the distances and angles between samples."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from aft import functional as AF
from aft.losses.checks import check_batch, explain_non_finite, gather_batch, infer_teacher_dims
from aft.losses.standardize import Normalize, Standardize

# How many angles are computed at a time; as float32 they take 4 MiB.
ANGLES_AT_ONCE = 2**20


class RKDLoss(nn.Module):
    """How much the figure that the student's features form differs from the teachers' one.

    Distances of all pairs of samples are divided by their mean and compared by a smooth L1 loss,
    and so are the cosines of the angles that any two samples make at a third. The loss is
    ``(distance + 2 * angle) / 2``. It has nothing to learn.

    References:
        Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068, and the
        authors' code.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, S)``, any ``S``: what enters the student's last linear layer
        teacher_features    ``(B, D)``, any ``D``, or one ``(B, D_t)`` tensor a teacher
        ==================  ==================================================================

        ``B`` is at least 2, and 3 for there to be angles. Any floating-point type; all is computed
        in float32 (float64 where ``student_features`` are), under autocast too. Returns a scalar,
        usually below 0.5.

        There are ``B³`` angles. They are made from inner products, a few samples' at a time and
        once more for the gradient, so memory does not grow with ``B³``, but time does.

        Two rows that coincide, up to rounding, have a distance of 1e-6 and angles of cosine 0, as
        in the authors' code, but no gradient: there it is of the order of 1e10.

        Within a ``torch.distributed`` process group the samples of all ranks are compared with
        each other. So every rank has to call the loss equally often, and value and gradients
        (after DistributedDataParallel) are those of a single process with the whole batch.

    Relations:
        Does not see rotation, translation or scale of either side's features, as ``AFTLoss``. All
        that distances and angles of the teachers' features show has to be followed, useful for
        the task or not; ``AFTLoss`` learns which dimensions count.

    Args:
        normalize: ``standardize`` brings every teacher dimension to mean 0 and deviation 1, so
            that no teacher rules by the size of its numbers; ``none`` is the published loss.
        statistics: One ``(mean, std)`` per teacher, each ``(D_t,)``, over the training set, for
            ``normalize="standardize"``. Without them each batch is standardized by its own.

    Raises:
        InputError: If an argument is none of these, or shapes do not fit each other or the
            ``statistics``, or the batch has one row, or features are NaN or infinite.

    Example::

        loss_fn = RKDLoss()
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
        student_gram = AF.gram(AF.centre(student))
        teacher_gram = AF.gram(AF.centre(self.standardize(teacher)))
        student_squared = AF.squared_distances(student_gram)
        teacher_squared = AF.squared_distances(teacher_gram)
        distance = F.smooth_l1_loss(
            AF.relative_distances(student_squared), AF.relative_distances(teacher_squared)
        )
        angle = _angle_loss(student_gram, student_squared, teacher_gram, teacher_squared)
        loss = (distance + 2 * angle) / 2
        # Any NaN or infinity in an input makes the loss NaN, so one scalar tells.
        if not loss.isfinite():
            raise explain_non_finite(student, teacher, dims, self)
        return loss


def _angle_loss(*grams_and_squared: Tensor) -> Tensor:
    """Mean smooth L1 difference of all cosines, without keeping them all for the gradient."""
    rows = len(grams_and_squared[0])
    step = max(1, ANGLES_AT_ONCE // rows**2)
    total = grams_and_squared[0].new_zeros(())
    for start in range(0, rows, step):
        corners = slice(start, min(start + step, rows))
        part = checkpoint(
            _angle_loss_at,
            corners,
            *grams_and_squared,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        total = total + part
    return total / rows**3


def _angle_loss_at(
    corners: slice,
    student_gram: Tensor,
    student_squared: Tensor,
    teacher_gram: Tensor,
    teacher_squared: Tensor,
) -> Tensor:
    student = AF.angle_cosines(student_gram, student_squared, corners)
    teacher = AF.angle_cosines(teacher_gram, teacher_squared, corners)
    return F.smooth_l1_loss(student, teacher, reduction="sum")
