"""AFT with soft labels: match the teachers' kernel and their predictions for the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from aft import functional as AF
from aft.errors import InputError
from aft.losses.aft import AFTLoss
from aft.losses.checks import describe, join_teachers
from aft.losses.soft_labels import SoftLabelLoss
from aft.losses.standardize import join_statistics


class AFTSoftLoss(nn.Module):
    """The sum of :class:`AFTLoss` on features and :class:`SoftLabelLoss` on outputs.

    The kernel transfers which samples are similar for the teachers; the soft labels transfer what
    the teachers predict for the task. Neither term needs labels, so unlabelled rows and augmented
    views can be used, too. The linear head that produces the soft labels also improves the kernel:
    its scores are concatenated with the teachers' features as one more teacher, with gates of
    their own, and initially weigh as much as all features together. As a result, task-relevant
    information has a large share of the kernel even if only few features carry it.

    References:
        Qiu et al., ICML 2024, arXiv 2406.07337, for the kernel; Chen et al., "Big Self-Supervised
        Models are Strong Semi-Supervised Learners", NeurIPS 2020, arXiv 2006.10029, for soft
        labels of unlabelled rows. The sum, and the scores in the kernel, are specific to this
        library; `benchmarks/trials.py` compares the sum with each term alone.

    Inputs:
        ==================  ==================================================================
        student_outputs     pair of the student's logits ``(B, C)`` and features ``(B, S)``
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor per teacher
        ==================  ==================================================================

        ``B`` is at least 2. ``needs`` is ``both``, so :class:`aft.TransferModel` passes logits and
        features. See :mod:`aft.losses` for precision and several processes.

    Args:
        kernel: The kernel loss, for the teachers of ``labels`` and, with ``score_scale``, one more
            teacher of width C.
        labels: The soft label loss.
        score_scale: ``(C,)``, factors for the scores in the kernel; :meth:`fit` computes them.
            Without it, the kernel uses the teachers' features only.

    Raises:
        InputError: If the two losses have different teachers, and as the two losses raise.

    Example::

        soft = SoftLabelLoss.fit(stored, labels, kind="classification", num_outputs=10)
        loss_fn = AFTSoftLoss.fit(soft, stored)
        logits, features = student(images)
        loss = F.cross_entropy(logits[:n], labels) + 3 * loss_fn((logits, features), teacher)
    """

    needs: ClassVar[Literal["both"]] = "both"
    score_scale: Tensor | None

    def __init__(
        self, kernel: AFTLoss, labels: SoftLabelLoss, score_scale: Tensor | None = None
    ) -> None:
        super().__init__()
        self.teacher_dims = labels.teacher_dims
        outputs = len(labels.weight)
        wanted = [*self.teacher_dims, *([] if score_scale is None else [outputs])]
        if list(kernel.teacher_dims) != wanted:
            raise InputError(
                f"Expected `teacher_dims` of `kernel` to be {wanted}, those of `labels`"
                f"{'' if score_scale is None else ' plus the number of scores'}, but got "
                f"{list(kernel.teacher_dims)}."
            )
        if score_scale is not None and score_scale.shape != (outputs,):
            raise InputError(
                f"Expected `score_scale` to have shape ({outputs},), but got "
                f"{describe(score_scale)}."
            )
        self.kernel = kernel
        self.labels = labels
        self.register_buffer("score_scale", score_scale)

    @classmethod
    def fit(
        cls,
        labels: SoftLabelLoss,
        teacher_features: Tensor | Sequence[Tensor],
        *,
        statistics: Sequence[tuple[Tensor, Tensor]] | None = None,
        **kernel: Any,
    ) -> AFTSoftLoss:
        """Build the loss for a training set from its soft label loss.

        Args:
            labels: The result of :meth:`SoftLabelLoss.fit`.
            teacher_features: The features that ``labels`` was fitted on.
            statistics: As in :class:`AFTLoss`; by default those of ``teacher_features``. The
                scores are always scaled with respect to ``teacher_features``. They may vary less
                on unlabelled rows, which the head was not fitted on.
            kernel: Further options of :class:`AFTLoss`. With ``combine="product"`` the features
                are not concatenated, so the kernel uses the teachers' features only.

        Raises:
            InputError: As :class:`AFTLoss`.
        """
        dims, outputs = labels.teacher_dims, len(labels.weight)
        known = AF.full_precision(join_teachers(teacher_features, dims))
        scores = labels.teacher_logits(known)
        normalize = kernel.get("normalize", "standardize")
        if statistics is None and normalize == "standardize":
            parts = known.split(dims, dim=1)
            statistics = [(part.mean(0), part.std(0, correction=0)) for part in parts]
        if statistics is not None:
            known = AF.standardize(known, *join_statistics(statistics, dims, normalize))
        if kernel.get("combine") == "product":
            return cls(AFTLoss(dims, **kernel, statistics=statistics), labels)
        if statistics is not None:
            statistics = [*statistics, (scores.new_zeros(outputs), scores.new_ones(outputs))]
        # All scores have the same variance; together they have as much as the features.
        deviation = scores.std(0, correction=0)
        varies = deviation > 1e-6 * scores.mean(0).abs() + 1e-12  # more than rounding error
        energy = known.var(0, correction=0).sum() / varies.sum().clamp_min(1)
        score_scale = varies * energy.sqrt() / torch.where(varies, deviation, 1.0)
        both = AFTLoss([*dims, outputs], **kernel, statistics=statistics)
        return cls(both, labels, score_scale)

    def forward(
        self,
        student_outputs: tuple[Tensor, Tensor],
        teacher_features: Tensor | Sequence[Tensor],
    ) -> Tensor:
        """Return the loss of one batch, a scalar; see the class for shapes and errors."""
        logits, features = student_outputs
        labels: Tensor = self.labels(logits, teacher_features)
        kernel: Tensor = self.kernel(features, self.with_scores(teacher_features))
        return kernel + labels

    def gates(self) -> list[Tensor]:
        """As :meth:`AFTLoss.gates`, for the teachers only, without the scores."""
        gates = self.kernel.gates()[: len(self.teacher_dims)]
        if self.kernel.weights != "dense":
            return gates
        largest = torch.cat(gates).max().clamp_min(torch.finfo(gates[0].dtype).tiny)
        return [gate / largest for gate in gates]

    @torch.no_grad()
    def kernel_shares(self, teacher_features: Tensor | Sequence[Tensor]) -> list[float]:
        """As :meth:`AFTLoss.kernel_shares`, for the teachers only, without the scores.

        Args:
            teacher_features: As in :meth:`forward`; rows of this process only.
        """
        known = self.with_scores(teacher_features)
        known[:, sum(self.teacher_dims) :] = 0
        return self.kernel.kernel_shares(known)[: len(self.teacher_dims)]

    @torch.no_grad()
    def with_scores(self, teacher_features: Tensor | Sequence[Tensor]) -> Tensor:
        """The teacher input of the kernel: the teachers' features, then the scaled scores.

        Args:
            teacher_features: As in :meth:`forward`; rows of this process only.
        """
        known = join_teachers(teacher_features, self.teacher_dims)
        if self.score_scale is None:
            return known
        scores = self.labels.teacher_logits(known) * self.score_scale
        return torch.cat([known.to(scores.dtype), scores], dim=1)
