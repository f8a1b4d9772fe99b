"""Logit distillation: teach the class probabilities of a linear head on the teachers' features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from aft.losses.checks import infer_teacher_dims, join_teachers
from aft.losses.heads import LinearHead, fit_head
from aft.losses.soft_labels import HeadLoss, check_temperature, soft_divergence


class LogitKDLoss(HeadLoss):
    """How far the student's class probabilities are from the teachers' soft labels.

    Teachers that return features have no classes; a linear head fitted on their stored features,
    all teachers' side by side, gives them some. Both logits are divided by the temperature, and
    the loss is the mean over samples of ``KL(softmax(teacher) || softmax(student))``, times the
    temperature's square, so that gradients keep their size.

    References:
        Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531.

    Inputs:
        ==================  ==================================================================
        student_logits      ``(B, C)``: what the student's last layer returns
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor a teacher
        ==================  ==================================================================

        ``B`` is at least 1. Any floating-point type; all is computed in float32 (float64 where
        ``student_logits`` are), under autocast too. Returns a scalar, 0 for equal probabilities.
        Gradients reach the student only.

        The student's part is logits here, where all other losses take features. Its ``needs``
        says so: a training loop that has a dictionary with ``logits`` and ``features``, such as
        what :class:`aft.TransferModel` returns, passes ``outputs[loss_fn.needs]``.

        Within a ``torch.distributed`` process group the batch is that of all ranks together. So
        every rank has to call the loss equally often, and value and gradients (after
        DistributedDataParallel) are those of a single process with the whole batch.

    Relations:
        Carries over what the teachers know of these classes and nothing else, for classification
        only. ``BTuningLoss`` matches class scores through the student's features, ``KDLoss`` and
        ``AFTLoss`` the features themselves. ``SoftLabelLoss`` is for all kinds of tasks and
        leaves the head's probabilities as they are.

    Args:
        teacher_dims: Feature width of each teacher.
        head: ``(C, sum of teacher_dims)`` weights and ``(C,)`` bias, see
            :func:`aft.losses.heads.fit_head`.
        temperature: How soft the labels are; 1 leaves the head's probabilities as they are.

    Raises:
        InputError: If shapes do not fit, or the batch is empty, or inputs are NaN or infinite.

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
        """The loss for a training set; fits one head on all teachers' stored features.

        Args:
            teacher_features: ``(n, D)``, or one ``(n, D_t)`` tensor a teacher.
            labels: ``(n,)``, class numbers from 0.
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
        """The loss, from the logits of both for the whole batch, ``(B, C)`` each."""
        return soft_divergence(student, teacher, self.temperature)

    def extra_repr(self) -> str:
        """The widths and the temperature, for ``print(loss_fn)``."""
        return (
            f"teacher_dims={list(self.teacher_dims)}, num_classes={len(self.weight)}, "
            f"temperature={self.temperature}"
        )
