"""Logit distillation: teach the class probabilities of a linear head on the teachers' features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aft import functional as AF
from aft.errors import InputError
from aft.losses.inputs import (
    check_batch,
    check_teacher_dims,
    describe,
    explain_non_finite,
    gather_batch,
    infer_teacher_dims,
    join_teachers,
)

# From strong to weak; each fit starts where the one before ended.
_STRENGTHS = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
_STRENGTH_UNCHOSEN = 0.1
_HELD_OUT = 0.1
_ABSENT = -1e4  # the logit of a class without samples: probability 0, but no infinity


class LinearHead(NamedTuple):
    """A linear classifier, ``logits = features @ weight.T + bias``.

    Attributes:
        weight: ``(C, D)``, for features in their own units.
        bias: ``(C,)``
        l2: The regularization it was fitted with.
    """

    weight: Tensor
    bias: Tensor
    l2: float


class LogitKDLoss(nn.Module):
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
        ``AFTLoss`` the features themselves.

    Args:
        teacher_dims: Feature width of each teacher.
        head: ``(C, sum of teacher_dims)`` weights and ``(C,)`` bias, see :func:`fit_head`.
        temperature: How soft the labels are; 1 leaves the head's probabilities as they are.

    Raises:
        InputError: If shapes do not fit, or the batch is empty, or inputs are NaN or infinite.

    Example::

        loss_fn = LogitKDLoss.fit([stored_a, stored_b], labels)
        loss = F.cross_entropy(logits, labels) + beta * loss_fn(logits, teacher_features)
    """

    needs: ClassVar[Literal["logits"]] = "logits"
    weight: Tensor
    bias: Tensor

    def __init__(
        self, teacher_dims: Sequence[int], head: LinearHead, *, temperature: float = 4.0
    ) -> None:
        super().__init__()
        self.teacher_dims = check_teacher_dims(teacher_dims)
        weight, bias = head.weight, head.bias
        if weight.ndim != 2 or weight.shape[1] != sum(self.teacher_dims) or len(weight) < 2:
            raise InputError(
                f"Expected the head's weight to have shape (classes, {sum(self.teacher_dims)}) "
                f"with 2 or more classes, but got {describe(weight)}; `teacher_dims` is "
                f"{list(self.teacher_dims)}."
            )
        if bias.shape != (len(weight),):
            raise InputError(
                f"Expected the head's bias to have shape ({len(weight)},), but got "
                f"{describe(bias)}."
            )
        if not temperature > 0:
            raise InputError(f"Expected `temperature` to be above 0, but got {temperature!r}.")
        self.temperature = temperature
        self.register_buffer("weight", weight.detach().float())
        self.register_buffer("bias", bias.detach().float())

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
            num_classes: See :func:`fit_head`.
            l2: See :func:`fit_head`.
            temperature: See the class.
            seed: See :func:`fit_head`.

        Raises:
            InputError: As :func:`fit_head`.
        """
        dims = infer_teacher_dims(teacher_features)
        features = join_teachers(teacher_features, dims)
        head = fit_head(features, labels, num_classes=num_classes, l2=l2, seed=seed)
        return cls(dims, head, temperature=temperature)

    def forward(
        self, student_logits: Tensor, teacher_features: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """The loss of one batch, a scalar; see the class for shapes and errors."""
        classes = len(self.weight)
        if student_logits.ndim != 2 or student_logits.shape[1] != classes:
            raise InputError(
                f"Expected `student_logits` to have shape (batch, {classes}), one logit a class, "
                f"but got {describe(student_logits)}. This loss takes the student's logits, not "
                "its features."
            )
        student, teacher = gather_batch(student_logits, teacher_features, self.teacher_dims)
        check_batch(len(student), compares=False)
        target = F.log_softmax(self._logits(teacher) / self.temperature, dim=1)
        predicted = F.log_softmax(student / self.temperature, dim=1)
        divergence = F.kl_div(predicted, target, reduction="batchmean", log_target=True)
        loss = divergence * self.temperature**2
        if not loss.isfinite():
            if bad := int((~student.isfinite()).any(dim=1).sum()):
                raise InputError(
                    f"Expected finite `student_logits`, but {bad} of {len(student)} rows hold NaN "
                    "or infinity: training has diverged. Lower the student's learning rate, clip "
                    "its gradients, or check its inputs."
                )
            raise explain_non_finite(student, teacher, self.teacher_dims, self)
        return loss

    @torch.no_grad()
    def teacher_logits(self, teacher_features: Tensor | Sequence[Tensor]) -> Tensor:
        """What the head says of the teachers' features, ``(B, C)``.

        Args:
            teacher_features: As in the loss; rows of this process only.
        """
        return self._logits(AF.full_precision(join_teachers(teacher_features, self.teacher_dims)))

    def extra_repr(self) -> str:
        """The widths and the temperature, for ``print(loss_fn)``."""
        return (
            f"teacher_dims={list(self.teacher_dims)}, num_classes={len(self.weight)}, "
            f"temperature={self.temperature}"
        )

    def _logits(self, teacher: Tensor) -> Tensor:
        weight, bias = self.weight.to(teacher.dtype), self.bias.to(teacher.dtype)
        return AF.matmul(teacher.detach(), weight.T) + bias


def fit_head(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int | None = None,
    l2: float | None = None,
    seed: int = 0,
) -> LinearHead:
    """Multinomial logistic regression on stored features: a linear probe.

    Minimises ``mean(cross entropy) + l2 / 2 * sum(weight²)`` by L-BFGS from zero, with every
    dimension standardized and the bias free. The same arguments give the same head.

    Args:
        features: ``(n, D)``; float64 is computed in float64, all else in float32.
        labels: ``(n,)``, class numbers from 0.
        num_classes: C, where ``labels`` may lack the last ones. A class without samples gets
            probability 0.
        l2: Strength of the regularization. Without it, that of 10, 1, … 1e-5 is taken which
            predicts a held-out tenth of each class best (0.1 if no class has two samples); the
            head is then fitted on all samples.
        seed: Of the choice of held-out samples.

    Raises:
        InputError: If shapes or types do not fit, features are NaN or infinite, ``l2`` is not
            above 0, or there is but one class.
    """
    x, classes, present = _check_fit(features, labels, num_classes, l2)
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    varies = std > 1e-6 * mean.abs() + 1e-12  # else it is rounding error, as in AF.standardize
    scale = varies / torch.where(varies, std, 1.0)
    x = (x - mean) * scale
    if l2 is None:
        l2 = _choose_strength(x, classes, len(present), seed)
    found = _minimize(x, classes, x.new_zeros((len(present), x.shape[1] + 1)), l2)
    # Back to the features' own units, in float64: the shift may be much larger than the result.
    weight = found[:, :-1].double() * scale.double()
    bias = found[:, -1].double() - weight @ mean.double()
    total = num_classes or int(present.max()) + 1
    head_weight = weight.new_zeros((total, x.shape[1])).index_copy(0, present, weight)
    head_bias = bias.new_full((total,), _ABSENT).index_copy(0, present, bias)
    return LinearHead(head_weight.to(x.dtype), head_bias.to(x.dtype), l2)


def _choose_strength(x: Tensor, classes: Tensor, count: int, seed: int) -> float:
    """The strength that predicts held-out samples best, going from strong to weak until worse."""
    held_out = _hold_out(classes.cpu(), count, seed).to(x.device)
    if not held_out.any():
        return _STRENGTH_UNCHOSEN
    kept, best, chosen = ~held_out, float("inf"), _STRENGTHS[0]
    found = x.new_zeros((count, x.shape[1] + 1))
    for strength in _STRENGTHS:
        found = _minimize(x[kept], classes[kept], found, strength)
        logits = x[held_out] @ found[:, :-1].T + found[:, -1]
        loss = float(F.cross_entropy(logits, classes[held_out]))
        if loss >= best:
            break
        best, chosen = loss, strength
    return chosen


def _hold_out(classes: Tensor, count: int, seed: int) -> Tensor:
    """A mask of a random tenth of each class, one sample at least and one less than all at most."""
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(len(classes), dtype=torch.bool)
    for number in range(count):
        members = order[classes[order] == number]
        if len(members) > 1:
            mask[members[: max(1, round(_HELD_OUT * len(members)))]] = True
    return mask


def _minimize(x: Tensor, classes: Tensor, start: Tensor, l2: float) -> Tensor:
    """Weights and, in the last column, biases ``(C, D + 1)`` at the minimum."""
    found = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [found],
        max_iter=200,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        weight, bias = found[:, :-1], found[:, -1]
        loss = F.cross_entropy(AF.matmul(x, weight.T) + bias, classes)
        loss = loss + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)
    return found.detach()


def _check_fit(
    features: Tensor, labels: Tensor, num_classes: int | None, l2: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels counted over the classes that have samples, and the numbers of these."""
    if features.ndim != 2 or not features.is_floating_point() or 0 in features.shape:
        raise InputError(
            "Expected `features` to be floating point of shape (samples, dim), but got "
            f"{describe(features)}."
        )
    integer = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != (len(features),) or not integer:
        raise InputError(
            f"Expected `labels` to be class numbers, integers of shape ({len(features)},), but got "
            f"{describe(labels)}. For regression or several labels a sample, use another loss."
        )
    if l2 is not None and not l2 > 0:
        raise InputError(f"Expected `l2` to be above 0, but got {l2!r}.")
    present, classes = labels.to(features.device).long().unique(return_inverse=True)
    lowest, highest = int(present[0]), int(present[-1])
    if lowest < 0 or (num_classes is not None and highest >= num_classes):
        allowed = "up" if num_classes is None else f"to {num_classes - 1}"
        raise InputError(
            f"Expected `labels` to be class numbers from 0 {allowed}, but got {lowest} to "
            f"{highest}."
        )
    if len(present) < 2:
        raise InputError(
            f"Expected `labels` of at least 2 classes, but all {len(labels)} are class {highest}: "
            "there is nothing to tell apart."
        )
    x = AF.full_precision(features)
    if bad := int((~x.isfinite()).any(dim=1).sum()):
        raise InputError(
            f"Expected finite `features`, but {bad} of {len(x)} rows hold NaN or infinity. Leave "
            "those samples out or compute them anew."
        )
    return x, classes, present
