"""KDEP: predict the teachers' principal components, compressed in scale, with the student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aft import functional as AF
from aft.errors import InputError
from aft.losses.checks import (
    check_batch,
    check_choice,
    check_count,
    check_finite,
    check_teacher_dims,
    describe,
    gather_batch,
    infer_teacher_dims,
    join_teachers,
)
from aft.losses.standardize import Normalize

_CHUNK = 8192


class KDEPLoss(nn.Module):
    """Mean squared error between the student's features and the teachers' principal components.

    The concatenated features of the teachers are centred and projected onto the leading right
    singular vectors of the training set's features, as many as the student has dimensions. The
    first components would dominate, so power temperature scaling compresses each value:
    ``sign(x) * |x / temperature|^(1 / power)``. The loss is the mean squared error over samples
    and dimensions. It has no parameters, so no knowledge is lost in a projection that is discarded
    after training.

    References:
        He et al., "Knowledge Distillation as Efficient Pre-training: Faster Convergence, Higher
        Data-efficiency, and Better Transferability", CVPR 2022, arXiv 2203.05180, and the authors'
        code, whose temperature and power are the defaults.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, student_dim)``: the input of the student's last linear layer
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor per teacher
        ==================  ==================================================================

        ``B`` is at least 1. Gradients reach the student only. See :mod:`aft.losses` for precision
        and several processes.

        The target values are positive and negative. Take the student's features before a final
        ReLU, as in the paper, or use a student without one.

    Relations:
        ``KDLoss`` learns a map between the widths instead. ``AFTLoss`` needs no map and is
        invariant to rotations of the student's features, which helps pre-trained students. This
        loss was designed for randomly initialized students.

    Args:
        student_dim: Width of the student's features.
        teacher_dims: Feature width of each teacher.
        mean: ``(sum of teacher_dims,)``, subtracted from the teachers' features.
        components: ``(sum of teacher_dims, k)``, the projection of the centred features. If the
            teachers have fewer than ``student_dim`` components, only the first ``k`` dimensions of
            the student are matched.
        temperature: Scale of the values, in the units of the teachers' features; a smaller value
            gives larger targets.
        power: Root applied to the values: 1 is the identity, larger values compress more.

    Raises:
        InputError: If an argument is out of range, shapes do not match the dimensions, the batch
            is empty, or features are NaN or infinite.

    Example::

        loss_fn = KDEPLoss.fit(student_dim=384, teacher_features=[stored_a, stored_b])
        loss = F.cross_entropy(logits, labels) + beta * loss_fn(student_features, teacher_features)
    """

    feature_mean: Tensor
    components: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dims: Sequence[int],
        *,
        mean: Tensor,
        components: Tensor,
        temperature: float = 0.1,
        power: float = 3.0,
    ) -> None:
        super().__init__()
        self.student_dim = check_count("student_dim", student_dim)
        self.teacher_dims = check_teacher_dims(teacher_dims)
        dim = sum(self.teacher_dims)
        if mean.shape != (dim,):
            raise InputError(f"Expected `mean` to have shape ({dim},), but got {describe(mean)}.")
        shape = tuple(components.shape)
        if len(shape) != 2 or shape[0] != dim or not 1 <= shape[1] <= self.student_dim:
            raise InputError(
                f"Expected `components` to have shape ({dim}, k) with k from 1 to `student_dim`, "
                f"{self.student_dim}, but got {describe(components)}."
            )
        for name, value in (("temperature", temperature), ("power", power)):
            if not value > 0:
                raise InputError(f"Expected `{name}` to be above 0, but got {value!r}.")
        self.temperature = temperature
        self.power = power
        self.register_buffer("feature_mean", mean.detach().float())
        self.register_buffer("components", components.detach().float())

    @classmethod
    def fit(
        cls,
        student_dim: int,
        teacher_features: Tensor | Sequence[Tensor],
        *,
        normalize: Normalize = "standardize",
        temperature: float = 0.1,
        power: float = 3.0,
    ) -> KDEPLoss:
        """Build the loss for a training set from its stored features.

        Args:
            student_dim: Width of the student's features.
            teacher_features: ``(n, D)``, or one ``(n, D_t)`` tensor per teacher.
            normalize: ``standardize`` scales every dimension to mean 0 and standard deviation
                ``1 / sqrt(sum of D_t)``, so that teachers with large values do not dominate and
                the default temperature suits all teachers; ``none`` only centres, as the paper.
            temperature: See the class.
            power: See the class.

        Raises:
            InputError: If shapes do not match, values are NaN or infinite, or all rows are equal.
        """
        check_choice("normalize", normalize, Normalize)
        check_count("student_dim", student_dim)
        dims = infer_teacher_dims(teacher_features)
        mean, std = _statistics(teacher_features, dims)
        scale = torch.ones_like(mean)
        if normalize == "standardize":
            varies = std > 1e-6 * mean.abs() + 1e-12
            scale = varies / (torch.where(varies, std, 1.0) * len(mean) ** 0.5)
        basis = _strongest(teacher_features, dims, mean, scale, student_dim)
        return cls(
            student_dim,
            dims,
            mean=mean,
            components=scale[:, None] * basis,
            temperature=temperature,
            power=power,
        )

    def forward(
        self, student_features: Tensor, teacher_features: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Return the loss of one batch, a scalar; see the class for shapes and errors."""
        student, teacher = gather_batch(
            student_features, teacher_features, self.teacher_dims, self.student_dim
        )
        check_batch(len(student), compares=False)
        loss = F.mse_loss(student[:, : self.components.shape[1]], self._targets(teacher))
        check_finite(loss, student, teacher, self.teacher_dims, self)
        return loss

    @torch.no_grad()
    def targets(self, teacher_features: Tensor | Sequence[Tensor]) -> Tensor:
        """Target values of the student's first k features, ``(B, k)``.

        Args:
            teacher_features: As in :meth:`forward`; rows of this process only.
        """
        return self._targets(AF.full_precision(join_teachers(teacher_features, self.teacher_dims)))

    def extra_repr(self) -> str:
        """Options, for ``print(loss_fn)``."""
        return f"student_dim={self.student_dim}, teacher_dims={list(self.teacher_dims)}"

    def _targets(self, teacher: Tensor) -> Tensor:
        centred = teacher.detach() - self.feature_mean.to(teacher.dtype)
        reduced = AF.matmul(centred, self.components.to(teacher.dtype))
        return reduced.sign() * (reduced.abs() / self.temperature).pow(1 / self.power)


def _strongest(
    features: Tensor | Sequence[Tensor],
    dims: Sequence[int],
    mean: Tensor,
    scale: Tensor,
    limit: int,
) -> Tensor:
    """Right singular vectors ``(D, k)`` of the largest singular values, at most ``limit``."""
    n = sum(len(rows) for rows in _chunks(features, dims))
    if n > len(mean):
        gram = mean.new_zeros((len(mean), len(mean)))
        for rows in _chunks(features, dims):
            part = (rows - mean) * scale
            gram.addmm_(part.T, part)
        values, basis = torch.linalg.eigh(gram)
        values, basis = values.flip(0), basis.flip(1)
    else:
        part = (torch.cat(list(_chunks(features, dims))) - mean) * scale
        values, left = torch.linalg.eigh(part @ part.T)
        values, left = values.flip(0), left.flip(1)
        basis = part.T @ left
        basis = basis / torch.linalg.vector_norm(basis, dim=0).clamp_min(1e-300)
    # Smaller eigenvalues are rounding error of 0, which the root would amplify.
    rank = int((values > 10 * len(values) * torch.finfo(values.dtype).eps * values[0]).sum())
    if not values[0] > 0 or not rank:
        raise InputError("Expected `teacher_features` to vary, but all rows are equal.")
    basis = basis[:, : min(rank, limit)]
    # The sign of a singular vector is arbitrary: make its largest entry positive.
    largest = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
    oriented: Tensor = basis * largest.sign()
    return oriented


def _statistics(features: Tensor | Sequence[Tensor], dims: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every dimension in float64, each ``(D,)``."""
    n, total = 0, torch.zeros((), dtype=torch.float64)
    for rows in _chunks(features, dims):
        n, total = n + len(rows), total.to(rows.device) + rows.sum(dim=0)
    if n < 2:
        raise InputError(f"Expected `teacher_features` of at least 2 samples, but got {n}.")
    mean = total / n
    if not mean.isfinite().all():
        bad = sum(int((~r.isfinite()).any(dim=1).sum()) for r in _chunks(features, dims))
        raise InputError(
            f"Expected finite `teacher_features`, but {bad} of {n} rows contain NaN or infinity. "
            "Remove these samples or extract their features again."
        )
    squares = sum((r - mean).square().sum(dim=0) for r in _chunks(features, dims))
    assert isinstance(squares, Tensor)
    return mean, (squares / n).sqrt()


def _chunks(features: Tensor | Sequence[Tensor], dims: Sequence[int]) -> Iterator[Tensor]:
    """Concatenated features of all teachers in float64, in chunks of rows."""
    parts = [features] if isinstance(features, Tensor) else list(features)
    rows = len(parts[0])
    for part in parts:
        if len(part) != rows:
            raise InputError(
                "Expected `teacher_features` to have the same number of rows for every teacher, "
                f"but got {[len(each) for each in parts]}."
            )
    for start in range(0, rows, _CHUNK):
        chunk = [part[start : start + _CHUNK] for part in parts]
        yield join_teachers(chunk, dims).double()
