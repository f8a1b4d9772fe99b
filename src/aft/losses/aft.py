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
    """How differently student and teachers see which samples of a batch are alike.

    The teachers' features are scaled by learned gates, one per dimension. Both sides are centred,
    every row is divided by its length, and the ``B x B`` inner products of all rows are compared:
    ``sqrt(mean((K_student - K_teachers)²) + 1e-8)``. Gradients reach student and gates, so the
    teachers' dimensions that the student cannot use for its task lose weight.

    References:
        Qiu et al., "Transferring Knowledge from Large Foundation Models to Small Downstream
        Models", ICML 2024, arXiv 2406.07337.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, S)``, any ``S``: what enters the student's last linear layer
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor a teacher
        ==================  ==================================================================

        ``B`` is at least 2. Any floating-point type; all is computed in float32 (float64 where
        ``student_features`` are), under autocast too. Returns a scalar, between 0 and about 1.

        Within a ``torch.distributed`` process group the samples of all ranks are compared with
        each other. So every rank has to call the loss equally often, and value and gradients
        (after DistributedDataParallel) are those of a single process with the whole batch.

    Relations:
        The comparison does not see rotations of either side's features, so the widths need not
        agree and no projection has to be learned; prefer a regression loss only when the
        student's features themselves must resemble a teacher's.

    Args:
        teacher_dims: Feature width of each teacher.
        kernel: ``linear``, or ``rbf`` for ``exp(-||a_i - a_j||²)`` of the normalised rows.
        weights: ``diagonal`` learns one gate a dimension, ``sigmoid(feature_weights)``, 0.5 at
            the start; ``dense`` learns a matrix over all teachers' dimensions, drawn from
            N(0, 1/D); ``fixed`` learns nothing.
        combine: ``concat`` lays teachers side by side; ``product`` takes the outer product of
            their features (teachers of different modalities, say image and text). It costs no
            more: only the ``B x B`` inner products are multiplied.
        normalize: ``standardize`` brings every teacher dimension to mean 0 and deviation 1, so
            that no teacher rules by the size of its numbers; ``none`` is the paper's.
        statistics: One ``(mean, std)`` per teacher, each ``(D_t,)``, over the training set, for
            ``normalize="standardize"``. Without them each batch is standardized by its own.

    Attributes:
        feature_weights: ``(D,)``, for ``dense`` ``(D, D)``. Give it a learning rate of its own,
            such as 1e-2, and no weight decay.

    Raises:
        InputError: If an argument is none of these, or shapes do not fit ``teacher_dims``, or the
            batch has one row, or features are NaN or infinite.

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
        """Standardize by these instead of by each batch's own.

        They are saved in the state dict; a loss that loads it has to have statistics too.

        Args:
            statistics: One ``(mean, std)`` per teacher, each ``(D_t,)``.

        Raises:
            InputError: If numbers or shapes do not fit the teachers, or values are not finite.
        """
        mean, std = join_statistics(statistics, self.teacher_dims, self.normalize)
        self.feature_mean = mean.to(self.feature_weights)
        self.feature_std = std.to(self.feature_weights)

    def forward(
        self, student_features: Tensor, teacher_features: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """The loss of one batch, a scalar; see the class for shapes and errors."""
        student, teacher = gather_batch(student_features, teacher_features, self.teacher_dims)
        check_batch(len(student))
        student_gram = AF.gram(AF.normalize_rows(AF.centre(student)))
        teacher_gram = self._teacher_gram(self._standardized(teacher))
        if self.kernel == "rbf":
            student_gram = AF.rbf_from_gram(student_gram)
            teacher_gram = AF.rbf_from_gram(teacher_gram)
        loss = AF.kernel_distance(student_gram, teacher_gram)
        # Any NaN or infinity in an input makes the loss NaN, so one scalar tells.
        if not loss.isfinite():
            raise explain_non_finite(student, teacher, self.teacher_dims, self)
        return loss

    def gates(self) -> list[Tensor]:
        """How open each teacher's dimensions are, from 0 (ignored) to 1: one ``(D_t,)`` a teacher.

        For ``weights="dense"``, which has no gates, the length of each dimension's row in the
        matrix, the longest being 1.
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
        """What part of the teachers' kernel each teacher makes up; they add up to 1.

        A teacher's part is the squared length of its gated, centred features in that of all
        teachers' together, averaged over rows. With ``combine="product"`` each teacher is a
        factor of everything, so all have the same.

        Args:
            teacher_features: As in the loss; rows of this process only.
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
        """The options, for ``print(loss_fn)``."""
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

    def _teacher_gram(self, teacher: Tensor) -> Tensor:
        gated = self._gated(teacher, self.feature_weights.to(teacher.dtype))
        if self.combine == "product":
            return AF.normalize_gram(AF.product_gram(gated.split(self.teacher_dims, dim=1)))
        return AF.gram(AF.normalize_rows(AF.centre(gated)))
