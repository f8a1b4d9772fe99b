"""Logit distillation: match the class probabilities of a linear head on the teachers' features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from aft.losses.checks import infer_teacher_dims, join_teachers
from aft.losses.heads import LinearHead, fit_head
from aft.losses.soft_labels import HeadLoss, check_temperature, soft_divergence


class LogitKDLoss(HeadLoss):
    """KL divergence between the student's class probabilities and the teachers' soft labels.

    Teachers return features, not class scores. A linear head, fitted on the concatenated stored
    features of all teachers, provides class logits. The logits of teachers and student are divided
    by the temperature. The loss is the mean over samples of
    ``KL(softmax(teacher) || softmax(student))``, multiplied by the squared temperature to keep the
    scale of the gradients.

    References:
        Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531.

    Inputs:
        ==================  ==================================================================
        student_logits      ``(B, C)``: the output of the student's last layer
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor per teacher
        ==================  ==================================================================

        ``B`` is at least 1. Returns a scalar, 0 for equal probabilities. Gradients reach the
        student only. See :mod:`aft.losses` for precision and several processes.

        This loss takes the student's logits, not its features; its ``needs`` is ``logits``. A
        training loop that has a dictionary with ``logits`` and ``features``, such as the output of
        :class:`aft.TransferModel`, passes ``outputs[loss_fn.needs]``.

    Relations:
        Transfers only what the teachers represent about these classes, for classification only.
        ``BTuningLoss`` matches class scores through the student's features; ``KDLoss`` and
        ``AFTLoss`` match the features themselves. ``SoftLabelLoss`` supports all kinds of tasks
        and uses the head's probabilities without a higher temperature.

    Args:
        teacher_dims: Feature width of each teacher.
        head: ``(C, sum of teacher_dims)`` weights and ``(C,)`` bias, see
            :func:`aft.losses.heads.fit_head`.
        temperature: Temperature of the soft labels; 1 uses the head's probabilities unchanged.

    Raises:
        InputError: If shapes do not match, the batch is empty, or inputs are NaN or infinite.

    Example::

        loss_fn = LogitKDLoss.fit([stored_a, stored_b], labels)
        loss = F.cross_entropy(logits, labels) + beta * loss_fn(logits, teacher_features)
    """

    def __init__(
        self, teacher_dims: Sequence[int], head: LinearHead, *, temperature: float = 4.0
    ) -> None:
        super().__init__(teacher_dims, head, classes=True)
        self.temperature = check_temperature(temperature)

    @classmethod
    def fit(
        cls,
        teacher_features: Tensor | Sequence[Tensor],
        labels: Tensor,
        *,
        num_classes: int | None = None,
        l2: float | None = None,
        temperature: float = 4.0,
        seed: int = 0,
    ) -> LogitKDLoss:
        """Build the loss for a training set; fits one head on all teachers' stored features.

        Args:
            teacher_features: ``(n, D)``, or one ``(n, D_t)`` tensor per teacher.
            labels: ``(n,)``, class indices from 0.
            num_classes: See :func:`aft.losses.heads.fit_head`.
            l2: See :func:`aft.losses.heads.fit_head`.
            temperature: See the class.
            seed: See :func:`aft.losses.heads.fit_head`.

        Raises:
            InputError: As :func:`aft.losses.heads.fit_head`.
        """
        dims = infer_teacher_dims(teacher_features)
        features = join_teachers(teacher_features, dims)
        head = fit_head(features, labels, num_classes=num_classes, l2=l2, seed=seed)
        return cls(dims, head, temperature=temperature)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss from the logits of student and head for the batch, ``(B, C)`` each."""
        return soft_divergence(student, teacher, self.temperature)

    def extra_repr(self) -> str:
        """Options, for ``print(loss_fn)``."""
        return f"teacher_dims={list(self.teacher_dims)}, temperature={self.temperature}"
