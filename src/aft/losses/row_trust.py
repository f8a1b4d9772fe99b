"""Row-wise trust: learn from the teachers only where they know more than the student did."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aft.losses.checks import join_teachers
from aft.losses.heads import LinearHead
from aft.losses.soft_labels import HeadLoss, check_temperature, soft_divergence


class RowTrustLoss(HeadLoss):
    """KL divergence between the student and, for each row, the teachers or the student's own start.

    A row's soft labels are those of the teachers if these give the true class a higher probability
    than the start does, and otherwise those of the start, which keeps what the student knows. For a
    row without a label, the highest probability of each decides. The loss is the mean over rows of
    ``KL(softmax(chosen) || softmax(student))`` at a temperature, multiplied by its square.

    The selection is the data partitioning of the paper, in both of its forms. What differs: there,
    teacher and student are whole networks with heads for the same classes, trained on the same
    data. Here, a linear head on the features of all teachers gives the teachers' probabilities, and
    the start is the student before training with a linear head on its features. Both heads are
    fitted on the labelled rows, so their probabilities there are higher than on new rows. The loss
    is added to the loss on the labels with the weight ``beta``. For classification only, as in the
    paper.

    References:
        Roth et al., "Fantastic Gains and Where to Find Them: On the Existence and Prospect of
        General Knowledge Transfer between Any Pretrained Model", ICLR 2024, arXiv 2310.17653.

    Inputs:
        ==================  ==================================================================
        student_logits      ``(B, C)``: the output of the student's last layer
        teacher_features    the result of :meth:`with_start`, ``(B, sum of teacher_dims + C + 1)``
        ==================  ==================================================================

        ``B`` is at least 1. Returns a scalar, 0 if the student predicts as the chosen ones.
        Gradients reach the student only. :class:`aft.TransferModel` calls :meth:`with_start` with
        the batch, which costs one more forward pass of the start for each row. See
        :mod:`aft.losses` for precision and several processes.

    Relations:
        ``SoftLabelLoss`` trusts the teachers in every row. It serves better if they know more than
        the student nearly everywhere.

    Args:
        teacher_dims: Feature width of each teacher.
        head: ``(C, sum of teacher_dims)`` weights and ``(C,)`` bias, see
            :func:`aft.losses.heads.fit_head`.
        start: The student before training, with a head; returns its logits first. It is frozen,
            and stays in evaluation mode.
        temperature: Temperature of the soft labels; the selection does not depend on it.

    Raises:
        InputError: If shapes do not match, the batch is empty, or inputs are NaN or infinite.

    Example::

        loss_fn = RowTrustLoss([384], fit_head(stored, labels), start)
        teacher_features = loss_fn.with_start(teacher_features, inputs, labels)
        loss = F.cross_entropy(logits, labels) + beta * loss_fn(logits, teacher_features)
    """

    def __init__(
        self,
        teacher_dims: Sequence[int],
        head: LinearHead,
        start: nn.Module,
        *,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(teacher_dims, head, classes=True)
        self.own_dims = self.teacher_dims
        self.teacher_dims = (*self.own_dims, len(self.weight) + 1)
        self.temperature = check_temperature(temperature)
        self.start = start.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> RowTrustLoss:
        """Set the mode, but not that of the start."""
        super().train(mode)
        self.start.eval()
        return self

    @torch.no_grad()
    def with_start(
        self,
        teacher_features: Tensor | Sequence[Tensor],
        inputs: object,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The teachers' features, the logits of the start and the label of each row.

        Args:
            teacher_features: ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor per teacher.
            inputs: The student's inputs.
            labels: ``(B,)``, class indices; None for rows without labels, stored as -1.
        """
        logits = self.start(inputs)[0].float()
        row = logits.new_full((len(logits),), -1) if labels is None else labels.to(logits)
        known = join_teachers(teacher_features, self.own_dims, len(logits))
        return torch.cat([known.to(logits), logits, row[:, None]], dim=1)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss from the logits of the student and the chosen ones, ``(B, C)`` each."""
        return soft_divergence(student, teacher, self.temperature)

    def _logits(self, teacher: Tensor) -> Tensor:
        outputs = len(self.weight)
        features, start, label = teacher.split([sum(self.own_dims), outputs, 1], dim=1)
        own = super()._logits(features)
        sure = torch.stack([own, start]).softmax(dim=2)
        true = sure.gather(2, label.long().clamp(min=0).expand(2, -1, 1))
        trust = torch.where(label >= 0, true, sure.amax(dim=2, keepdim=True))
        return torch.where(trust[0] > trust[1], own, start)
