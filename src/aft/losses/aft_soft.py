"""AFT with soft labels: what the teachers find alike, and what they say of the task."""

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

    The kernel tells the student which samples the teachers find alike, the soft labels tell it
    what follows for the task. Both need no labels, so that rows without labels and views of rows
    join them. The linear model that soft labels come from helps the kernel too: its scores stand
    beside the teachers' features like one more teacher, under gates of their own, and begin with
    as much weight as all features together. So what matters for the task has a large part in what
    makes two samples alike, however few of the features tell it.

    References:
        Qiu et al., ICML 2024, arXiv 2406.07337, for the kernel; Chen et al., "Big Self-Supervised
        Models are Strong Semi-Supervised Learners", NeurIPS 2020, arXiv 2006.10029, for soft
        labels of unlabelled rows. Their sum and the kernel's scores are of this library;
        `benchmarks/trials.py` compares them with either alone.

    Inputs:
        ==================  ==================================================================
        student_outputs     logits ``(B, C)`` and features ``(B, S)`` of the student, a pair
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor a teacher
        ==================  ==================================================================

        ``B`` is at least 2. Its ``needs`` is ``both``, which tells :class:`aft.TransferModel` to
        pass both. Processes share a batch as in the two losses.

    Args:
        kernel: The first; for the teachers of the second, and one more of width C if there is a
            ``score_scale``.
        labels: The second.
        score_scale: ``(C,)``, what the scores are multiplied by before the kernel sees them;
            without it the kernel sees the teachers' features alone. :meth:`fit` finds it.

    Raises:
        InputError: If the two are for other teachers, and as the two do.

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
                f"Expected the kernel's `teacher_dims` to be {wanted}, those of the soft labels"
                f"{'' if score_scale is None else ' and one for their scores'}, but got "
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
        """The loss for a training set, from the soft labels for it.

        Args:
            labels: What :meth:`SoftLabelLoss.fit` makes.
            teacher_features: The features that it was made of.
            statistics: As in :class:`AFTLoss`; those of ``teacher_features`` where not given. By
                these features the scores are scaled, too: on rows without labels, which the
                linear model was not fitted to, they may vary less.
            kernel: Further options of :class:`AFTLoss`. With ``combine="product"``, where
                teachers do not stand side by side, the kernel sees their features alone.

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
        # Each score the same part, all of them together as much as the features.
        deviation = scores.std(0, correction=0)
        varies = deviation > 1e-6 * scores.mean(0).abs() + 1e-12  # and is not a rounding error
        energy = known.var(0, correction=0).sum() / varies.sum().clamp_min(1)
        score_scale = varies * energy.sqrt() / torch.where(varies, deviation, 1.0)
        both = AFTLoss([*dims, outputs], **kernel, statistics=statistics)
        return cls(both, labels, score_scale)

    def forward(
        self,
        student_outputs: tuple[Tensor, Tensor],
        teacher_features: Tensor | Sequence[Tensor],
    ) -> Tensor:
        """The loss of one batch, a scalar; see the class for shapes and errors."""
        logits, features = student_outputs
        labels: Tensor = self.labels(logits, teacher_features)
        kernel: Tensor = self.kernel(features, self.with_scores(teacher_features))
        return kernel + labels

    def gates(self) -> list[Tensor]:
        """As :meth:`AFTLoss.gates`, of the teachers alone."""
        gates = self.kernel.gates()[: len(self.teacher_dims)]
        if self.kernel.weights != "dense":
            return gates
        largest = torch.cat(gates).max().clamp_min(torch.finfo(gates[0].dtype).tiny)
        return [gate / largest for gate in gates]

    @torch.no_grad()
    def kernel_shares(self, teacher_features: Tensor | Sequence[Tensor]) -> list[float]:
        """As :meth:`AFTLoss.kernel_shares`, of the part that features have; scores are left out.

        Args:
            teacher_features: As in the loss; rows of this process only.
        """
        known = self.with_scores(teacher_features)
        known[:, sum(self.teacher_dims) :] = 0
        return self.kernel.kernel_shares(known)[: len(self.teacher_dims)]

    @torch.no_grad()
    def with_scores(self, teacher_features: Tensor | Sequence[Tensor]) -> Tensor:
        """What the kernel compares the student with: teachers' features, and scores beside them.

        Args:
            teacher_features: As in the loss; rows of this process only.
        """
        known = join_teachers(teacher_features, self.teacher_dims)
        if self.score_scale is None:
            return known
        scores = self.labels.teacher_logits(known) * self.score_scale
        return torch.cat([known.to(scores.dtype), scores], dim=1)
