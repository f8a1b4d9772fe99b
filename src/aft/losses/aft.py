"""Adaptive feature transfer: match the kernel of the student's features to the teachers'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from aft import functional as AF
from aft.losses.checks import (
    check_batch,
    check_choice,
    check_finite,
    check_teacher_dims,
    explain_non_finite,
    gather_batch,
    join_teachers,
)
from aft.losses.standardize import Normalize, join_statistics

Kernel = Literal["linear", "rbf"]
Weights = Literal["diagonal", "dense", "fixed"]
Combine = Literal["concat", "product"]


class AFTLoss(nn.Module):
    """Kernel distance between the student's features and the gated features of the teachers.

    Learned gates, one per dimension, scale the teachers' features. The features of both sides are
    centred and every row is divided by its L2 norm. The loss compares the ``B x B`` inner products
    of all pairs of rows: ``sqrt(mean((K_student - K_teachers)²) + 1e-8)``. Gradients reach the
    student and the gates, so teacher dimensions that do not help the student's task lose weight.

    References:
        Qiu et al., "Transferring Knowledge from Large Foundation Models to Small Downstream
        Models", ICML 2024, arXiv 2406.07337.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, S)``, any ``S``: the input of the student's last linear layer
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor per teacher
        ==================  ==================================================================

        ``B`` is at least 2. Returns a scalar between 0 and about 1. See :mod:`aft.losses` for
        precision and several processes.

    Relations:
        The loss is invariant to rotations of the features of either side, so the widths need not
        match and no projection is learned. Prefer a regression loss only if the student's
        features themselves must resemble those of a teacher.

    Args:
        teacher_dims: Feature width of each teacher.
        kernel: ``linear``, or ``rbf`` for ``exp(-||a_i - a_j||²)`` of the normalized rows.
        weights: ``diagonal`` learns one gate per dimension, ``sigmoid(feature_weights)``,
            initially 0.5; ``dense`` learns a matrix over the dimensions of all teachers,
            initialized from N(0, 1/D); ``fixed`` learns nothing.
        combine: ``concat`` concatenates the teachers' features; ``product`` takes their outer
            product, for teachers of different modalities such as image and text. The cost is the
            same, since only the ``B x B`` inner products are multiplied.
        normalize: ``standardize``, or ``none`` as in the paper; see :mod:`aft.losses`.
        statistics: Mean and standard deviation for each teacher; see :mod:`aft.losses`.

    Attributes:
        feature_weights: ``(D,)``, or ``(D, D)`` for ``dense``. Use a separate learning rate, such
            as 1e-2, and no weight decay.

    Raises:
        InputError: If an argument is invalid, shapes do not match ``teacher_dims``, the batch has
            fewer than 2 rows, or features are NaN or infinite.

    Example::

        loss_fn = AFTLoss(teacher_dims=[1280, 1408])
        optimizer = torch.optim.AdamW([
            {"params": student.parameters(), "lr": 1e-4},
            {"params": loss_fn.parameters(), "lr": 1e-2, "weight_decay": 0.0},
        ])
        loss = F.cross_entropy(logits, labels) + beta * loss_fn(student_features, teacher_features)
    """

    feature_weights: Tensor
    feature_mean: Tensor | None
    feature_std: Tensor | None

    def __init__(
        self,
        teacher_dims: Sequence[int],
        *,
        kernel: Kernel = "linear",
        weights: Weights = "diagonal",
        combine: Combine = "concat",
        normalize: Normalize = "standardize",
        statistics: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        check_choice("kernel", kernel, Kernel)
        check_choice("weights", weights, Weights)
        check_choice("combine", combine, Combine)
        check_choice("normalize", normalize, Normalize)
        self.teacher_dims = check_teacher_dims(teacher_dims)
        self.kernel = kernel
        self.weights = weights
        self.combine = combine
        self.normalize = normalize
        dim = sum(self.teacher_dims)
        if weights == "dense":
            self.feature_weights = nn.Parameter(torch.randn(dim, dim) / dim**0.5)
        elif weights == "diagonal":
            self.feature_weights = nn.Parameter(torch.zeros(dim))
        else:
            self.register_buffer("feature_weights", torch.zeros(dim))
        self.register_buffer("feature_mean", None)
        self.register_buffer("feature_std", None)
        if statistics is not None:
            self.set_statistics(statistics)

    def set_statistics(self, statistics: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Standardize with these statistics instead of those of each batch.

        They are saved in the state dict. A loss that loads this state dict needs statistics, too.

        Args:
            statistics: One ``(mean, std)`` pair per teacher, each ``(D_t,)``.

        Raises:
            InputError: If the number of pairs or a shape does not match the teachers, or values
                are not finite.
        """
        mean, std = join_statistics(statistics, self.teacher_dims, self.normalize)
        self.feature_mean = mean.to(self.feature_weights)
        self.feature_std = std.to(self.feature_weights)

    def forward(
        self, student_features: Tensor, teacher_features: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Return the loss of one batch, a scalar; see the class for shapes and errors."""
        student, teacher = gather_batch(student_features, teacher_features, self.teacher_dims)
        check_batch(len(student))
        weights = self.feature_weights.to(teacher.dtype)
        loss = self._distance(student, self._gated(self._standardized(teacher), weights))
        # Any NaN or infinity in an input makes the loss NaN, so checking one scalar is enough.
        check_finite(loss, student, teacher, self.teacher_dims, self)
        return loss

    def gates(self) -> list[Tensor]:
        """Return the gates from 0 (ignored) to 1, one ``(D_t,)`` tensor per teacher.

        ``weights="dense"`` has no gates. Its values are the L2 norms of the matrix's rows, one per
        dimension, divided by the largest norm.
        """
        weights = self.feature_weights.detach()
        if self.weights == "dense":
            length: Tensor = torch.linalg.vector_norm(weights, dim=1)
            gates = length / length.max()
        else:
            gates = weights.sigmoid()
        return list(gates.split(self.teacher_dims))

    @torch.no_grad()
    def kernel_shares(self, teacher_features: Tensor | Sequence[Tensor]) -> list[float]:
        """Share of each teacher in the teachers' kernel; the shares sum to 1.

        The share is the squared norm of a teacher's gated, centred features divided by that of all
        teachers together, averaged over rows. With ``combine="product"`` every teacher is a factor
        of the whole kernel, so all shares are equal.

        Args:
            teacher_features: As in :meth:`forward`; rows of this process only.
        """
        if self.combine == "product":
            return [1 / len(self.teacher_dims)] * len(self.teacher_dims)
        teacher = AF.full_precision(join_teachers(teacher_features, self.teacher_dims))
        check_batch(len(teacher))
        squares = []
        parts = self._standardized(teacher).split(self.teacher_dims, dim=1)
        weights = self.feature_weights.to(teacher.dtype).split(self.teacher_dims)
        for part, weight in zip(parts, weights, strict=True):
            squares.append(AF.centre(self._gated(part, weight)).square().sum(dim=1))
        energy = torch.stack(squares)
        total = energy.sum(dim=0)
        if not total.isfinite().all():
            raise explain_non_finite(teacher, teacher, self.teacher_dims, self)
        shares = energy / total.clamp_min(torch.finfo(total.dtype).tiny)
        return [float(share) for share in shares.mean(dim=1)]

    def extra_repr(self) -> str:
        """Options, for ``print(loss_fn)``."""
        return (
            f"teacher_dims={list(self.teacher_dims)}, kernel={self.kernel!r}, "
            f"weights={self.weights!r}, combine={self.combine!r}, normalize={self.normalize!r}"
        )

    def _standardized(self, teacher: Tensor) -> Tensor:
        if self.normalize == "none":
            return teacher
        return AF.standardize(teacher, self.feature_mean, self.feature_std)

    def _gated(self, teacher: Tensor, weights: Tensor) -> Tensor:
        if self.weights == "dense":
            return AF.matmul(teacher, weights)
        return teacher * weights.sigmoid()

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        product, rbf = self.combine == "product", self.kernel == "rbf"
        student = AF.normalize_rows(AF.centre(student))
        parts = teacher.split(self.teacher_dims, dim=1)
        teacher = teacher if product else AF.normalize_rows(AF.centre(teacher))
        if not product and not rbf:
            return AF.gram_distance(student, teacher)
        if len(student) ** 2 > AF.TILE:
            a = AF.linear_kernel(student)
            b = AF.product_kernel(parts) if product else AF.linear_kernel(teacher)
            return AF.tiled_distance(*((AF.rbf_kernel(a), AF.rbf_kernel(b)) if rbf else (a, b)))
        c = AF.gram(student)
        d = AF.normalize_gram(AF.product_gram(parts)) if product else AF.gram(teacher)
        return AF.kernel_distance(*((AF.rbf_from_gram(c), AF.rbf_from_gram(d)) if rbf else (c, d)))
