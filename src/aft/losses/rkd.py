"""Relational distillation: match the distances and angles between samples."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from aft import functional as AF
from aft.losses.checks import check_batch, check_finite, gather_batch, infer_teacher_dims
from aft.losses.standardize import Normalize, Standardize

# Number of angles computed at a time; 4 MiB in float32.
ANGLES_AT_ONCE = 2**20


class RKDLoss(nn.Module):
    """Difference between the pairwise distances and angles of the student's and teachers' features.

    The distances of all pairs of samples are divided by their mean and compared with a smooth L1
    loss, and so are the cosines of the angles of all triples of samples. The loss is
    ``(distance + 2 * angle) / 2``. It has no parameters.

    References:
        Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068, and the
        authors' code.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, S)``, any ``S``: the input of the student's last linear layer
        teacher_features    ``(B, D)``, any ``D``, or one ``(B, D_t)`` tensor per teacher
        ==================  ==================================================================

        ``B`` is at least 2; angles need at least 3 rows. Returns a scalar, usually below 0.5. See
        :mod:`aft.losses` for precision and several processes.

        There are ``B³`` angles. They are computed from inner products in blocks, and again in the
        backward pass, so time grows with ``B³`` but memory does not.

        Two rows that are equal up to rounding have a distance of 1e-6 and angles of cosine 0, as
        in the authors' code, but no gradient; in the authors' code it is of the order of 1e10.

    Relations:
        Like ``AFTLoss``, invariant to rotation, translation and scale of the features of either
        side. The student must match all distances and angles of the teachers' features, whether
        they are useful for the task or not; ``AFTLoss`` learns which dimensions are useful.

    Args:
        normalize: ``standardize``, or ``none`` as published; see :mod:`aft.losses`.
        statistics: Mean and standard deviation for each teacher; see :mod:`aft.losses`.

    Raises:
        InputError: If an argument is invalid, shapes do not match each other or ``statistics``,
            the batch has fewer than 2 rows, or features are NaN or infinite.

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
        """Return the loss of one batch, a scalar; see the class for shapes and errors."""
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
        # Any NaN or infinity in an input makes the loss NaN, so checking one scalar is enough.
        check_finite(loss, student, teacher, dims, self)
        return loss


def _angle_loss(*grams_and_squared: Tensor) -> Tensor:
    """Mean smooth L1 difference of all cosines, recomputed in the backward pass to save memory."""
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
