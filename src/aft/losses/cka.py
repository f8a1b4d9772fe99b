"""Centred kernel alignment: match the similarities between samples to the teachers'."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aft import functional as AF
from aft.losses.checks import check_batch, check_finite, gather_batch, infer_teacher_dims
from aft.losses.standardize import Normalize, Standardize


class CKALoss(nn.Module):
    """One minus the linear centred kernel alignment (CKA) of student and teachers over the batch.

    CKA is the cosine similarity of the two ``B x B`` matrices of inner products of centred
    features, see :func:`aft.functional.cka`. The loss has no parameters.

    References:
        Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019,
        arXiv 1905.00414.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, S)``, any ``S``: the input of the student's last linear layer
        teacher_features    ``(B, D)``, any ``D``, or one ``(B, D_t)`` tensor per teacher
        ==================  ==================================================================

        ``B`` is at least 2. Returns a scalar from 0 (equal up to rotation and scale) to 1
        (unrelated, or constant features). If the batch is small compared to the feature widths,
        even unrelated features have a high CKA, so the loss starts far below 1. See
        :mod:`aft.losses` for precision and several processes.

    Relations:
        ``AFTLoss`` with fixed gates compares the same inner products, but of rows with unit norm
        and by their difference. In CKA, samples far from the mean have the largest weight, and the
        directions of largest variance dominate.

    Args:
        normalize: ``standardize``, or ``none`` for the published CKA; see :mod:`aft.losses`.
        statistics: Mean and standard deviation for each teacher; see :mod:`aft.losses`.

    Raises:
        InputError: If an argument is invalid, shapes do not match each other or ``statistics``,
            the batch has fewer than 2 rows, or features are NaN or infinite.

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
        """Return the loss of one batch, a scalar; see the class for shapes and errors."""
        dims = self.standardize.teacher_dims or infer_teacher_dims(teacher_features)
        student, teacher = gather_batch(student_features, teacher_features, dims)
        check_batch(len(student))
        loss = 1 - _alignment(student, self.standardize(teacher))
        # Any NaN or infinity in an input makes the loss NaN, so checking one scalar is enough.
        check_finite(loss, student, teacher, dims, self)
        return loss


def _alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """CKA, with a gradient of 0 instead of 0 / 0 if the student's features are constant."""
    centred = AF.centre(student)
    largest = centred.detach().abs().max()
    constant = largest <= 1e-6 * student.detach().abs().max()  # only rounding error
    # CKA is invariant to scale, but without scaling fourth powers could overflow float32.
    scaled = centred / torch.where(constant, 1.0, largest)
    varying = torch.where(constant, torch.eye(*centred.shape).to(centred), scaled)
    nothing = 0 * (centred.sum() + teacher.sum())
    return torch.where(constant, nothing, AF.cka(varying, teacher))
