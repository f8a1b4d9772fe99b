"""AFT with soft labels: what the teachers find alike, and what they say of the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from aft.errors import InputError
from aft.losses.aft import AFTLoss
from aft.losses.soft_labels import SoftLabelLoss


class AFTSoftLoss(nn.Module):
    """The sum of :class:`AFTLoss` on features and :class:`SoftLabelLoss` on outputs.

    The kernel tells the student which samples the teachers find alike, whatever that means for
    the task; the soft labels tell it what follows for the task. Both need no labels, so that rows
    without labels and views of rows join them.

    References:
        Qiu et al., ICML 2024, arXiv 2406.07337, for the kernel; Chen et al., "Big Self-Supervised
        Models are Strong Semi-Supervised Learners", NeurIPS 2020, arXiv 2006.10029, for soft
        labels of unlabelled rows. Their sum is of this library; `benchmarks/` compares it with
        either alone.

    Inputs:
        ==================  ==================================================================
        student_outputs     logits ``(B, C)`` and features ``(B, S)`` of the student, a pair
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor a teacher
        ==================  ==================================================================

        ``B`` is at least 2. Its ``needs`` is ``both``, which tells :class:`aft.TransferModel` to
        pass both. Processes share a batch as in the two losses.

    Args:
        kernel: The first.
        labels: The second, for the same teachers.

    Raises:
        InputError: If the two are for other teachers, and as the two do.

    Example::

        loss_fn = AFTSoftLoss(AFTLoss([1280]), SoftLabelLoss.fit(stored, labels))
        logits, features = student(images)
        loss = F.cross_entropy(logits[:n], labels) + 3 * loss_fn((logits, features), teacher)
    """

    needs: ClassVar[Literal["both"]] = "both"

    def __init__(self, kernel: AFTLoss, labels: SoftLabelLoss) -> None:
        super().__init__()
        if kernel.teacher_dims != labels.teacher_dims:
            raise InputError(
                "Expected both losses to be for the same teachers, but their `teacher_dims` are "
                f"{list(kernel.teacher_dims)} and {list(labels.teacher_dims)}."
            )
        self.kernel = kernel
        self.labels = labels

    def forward(
        self,
        student_outputs: tuple[Tensor, Tensor],
        teacher_features: Tensor | Sequence[Tensor],
    ) -> Tensor:
        """The loss of one batch, a scalar; see the class for shapes and errors."""
        logits, features = student_outputs
        kernel: Tensor = self.kernel(features, teacher_features)
        labels: Tensor = self.labels(logits, teacher_features)
        return kernel + labels
