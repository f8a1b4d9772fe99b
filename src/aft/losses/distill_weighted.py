"""DistillWeighted and DistillNearest: soft labels of the teachers whose task is most similar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aft import functional as AF
from aft.errors import InputError
from aft.losses.checks import infer_teacher_dims, join_teachers
from aft.losses.heads import LinearHead, fit_head
from aft.losses.soft_labels import SoftLabelLoss

MOST_COMPARED = 1_000
"""Rows that the similarity compares in pairs."""
POWER = 12.0


class DistillWeightedLoss(SoftLabelLoss):
    """KL divergence between the student and the teachers' soft labels, weighted by task similarity.

    Each teacher has its own linear head, fitted on its stored features of the labelled rows. A
    teacher's weight is the similarity of its features to the labels, to a power, divided by the sum
    over the teachers. The similarity is PARC, see :func:`parc`; negative ones count as 0, and if
    none is above 0 all teachers have the same weight. The soft labels are the weighted mean of the
    heads' probabilities; the loss is the mean over rows of ``KL(soft labels || student)``. With an
    infinite power only the most similar teacher counts: DistillNearest. With power 0 all count
    alike.

    As in the paper, the gradient is that of the weighted sum of one divergence per teacher. What
    differs: the sources are the run's teachers, and their heads are chosen by cross-validation. The
    divergence has temperature 1 and is added to the loss on the labels with the weight ``beta``.
    The default power of 12 and the number of compared rows are choices of this library. For
    classification only, as in the paper.

    References:
        Borup et al., "Distilling from Similar Tasks for Transfer Learning on a Budget", ICCV 2023,
        arXiv 2304.12314; for the similarity Bolya et al., "Scalable Diverse Model Selection for
        Accessible Transfer Learning", NeurIPS 2021.

    Inputs:
        ==================  ==================================================================
        student_logits      ``(B, C)``: the output of the student's last layer
        teacher_features    ``(B, sum of teacher_dims)``, or one ``(B, D_t)`` tensor per teacher
        ==================  ==================================================================

        ``B`` is at least 1. Returns a scalar, 0 for equal probabilities. Gradients reach the
        student only. Like ``SoftLabelLoss`` it ``needs`` the student's logits and can be used for
        rows without labels. See :mod:`aft.losses` for precision and several processes.

    Relations:
        ``SoftLabelLoss`` fits one head on the features of all teachers together, which can use
        what they say jointly. With one teacher the two are the same.

    Args:
        teacher_dims: Feature width of each teacher.
        heads: For each teacher ``(C, D_t)`` weights and ``(C,)`` bias.
        shares: Weight of each teacher; they sum to 1.

    Raises:
        InputError: If shapes do not match, shares are negative or do not sum to 1, the batch is
            empty, or inputs are NaN or infinite.

    Example::

        loss_fn = DistillWeightedLoss.fit([stored_a, stored_b], labels)
        loss = F.cross_entropy(logits[labelled], labels) + loss_fn(logits, teacher_features)
    """

    biases: Tensor
    shares: Tensor

    def __init__(
        self, teacher_dims: Sequence[int], heads: Sequence[LinearHead], shares: Sequence[float]
    ) -> None:
        if not len(heads) == len(shares) == len(teacher_dims) or not (
            min(shares) >= 0 and math.isclose(sum(shares), 1, abs_tol=1e-5)
        ):
            raise InputError(
                f"Expected a head and a share for each of {len(teacher_dims)} teachers, with "
                f"`shares` that sum to 1, but got {len(heads)} heads and {list(shares)}."
            )
        joined = torch.cat([head.weight.float() for head in heads], dim=1)
        first = LinearHead(joined, heads[0].bias, heads[0].l2)
        super().__init__(teacher_dims, first, kind="classification")
        self.register_buffer("biases", torch.stack([head.bias.float() for head in heads]))
        self.register_buffer("shares", torch.tensor(shares))

    @classmethod
    def fit(  # type: ignore[override]  # for classification only
        cls,
        teacher_features: Tensor | Sequence[Tensor],
        labels: Tensor,
        *,
        num_classes: int | None = None,
        power: float = POWER,
        seed: int = 0,
        progress: bool = False,
    ) -> DistillWeightedLoss:
        """Build the loss for a training set; fits one head per teacher and compares the teachers.

        Args:
            teacher_features: ``(n, D)``, or one ``(n, D_t)`` tensor per teacher; labelled rows.
            labels: ``(n,)``, class indices from 0.
            num_classes: See :func:`aft.losses.heads.fit_head`.
            power: Power of the similarities, at least 0; ``math.inf`` for DistillNearest.
            seed: Seed of the cross-validation folds, and of the rows that are compared.
            progress: See :func:`aft.losses.heads.fit_head`.

        Raises:
            InputError: If ``power`` is below 0, and as :func:`aft.losses.heads.fit_head`.
        """
        if not power >= 0:
            raise InputError(f"Expected `power` to be at least 0, but got {power!r}.")
        dims = infer_teacher_dims(teacher_features)
        parts = join_teachers(teacher_features, dims).split(dims, dim=1)
        options: dict[str, Any] = {"num_classes": num_classes, "seed": seed, "progress": progress}
        heads = [fit_head(part, labels, **options) for part in parts]
        drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        rows = drawn[:MOST_COMPARED]
        found = torch.tensor([parc(part[rows], labels[rows]) for part in parts]).clamp(min=0)
        shares = (found / found.max() if found.any() else torch.ones_like(found)) ** power
        return cls(dims, heads, (shares / shares.sum()).tolist())

    def _logits(self, teacher: Tensor) -> Tensor:
        parts = teacher.detach().split(list(self.teacher_dims), dim=1)
        weights = self.weight.to(teacher.dtype).split(list(self.teacher_dims), dim=1)
        logits = torch.stack([AF.matmul(x, w.T) for x, w in zip(parts, weights, strict=True)])
        known = (logits + self.biases[:, None].to(teacher.dtype)).log_softmax(dim=2)
        return (known + self.shares.to(teacher.dtype).log()[:, None, None]).logsumexp(dim=0)


def parc(features: Tensor, labels: Tensor) -> float:
    """Pairwise annotation representation comparison: similarity of features and labels, -1 to 1.

    The Spearman correlation, over all pairs of rows, of the correlation between two rows'
    standardized features and of whether they have the same class (which ranks the pairs as the
    correlation of their one-hot labels does). 0 if it is undefined, as for constant features.

    Args:
        features: ``(n, D)``; the published code reduces them to fewer dimensions first, if asked.
        labels: ``(n,)``, class indices.
    """
    from scipy.stats import spearmanr

    rows = AF.normalize_rows(AF.centre(AF.standardize(features.double()).T).T)
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    alike, same = (rows @ rows.T)[first, second], labels[first] == labels[second]
    if len(alike.unique()) < 2 or len(same.unique()) < 2:
        return 0.0
    return float(spearmanr(alike.cpu(), same.cpu()).statistic)
