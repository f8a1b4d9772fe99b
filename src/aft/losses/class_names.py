"""Soft labels from the names of classes, without a label or with a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aft import functional as AF
from aft.errors import InputError
from aft.losses.checks import describe, infer_teacher_dims, join_teachers
from aft.losses.heads import LinearHead, fit_head
from aft.losses.soft_labels import SoftLabelLoss

SCALE = 20.0
"""Factor of a cosine for teachers without one of their own: the usual one in the contrastive
training of sentence embeddings. Of 5, 10, 20, 40 and 100 it had the lowest log loss, or within .05
of it, on Reuters topics, emoji names and TREC questions."""
ROWS_OF_A_NAME = 3
"""A name counts as so many labelled rows; 1 was worse on Reuters topics with few labels."""


class EmbeddedClasses(NamedTuple):
    """The classes in the space of one teacher.

    Attributes:
        embeddings: ``(C, E)``, one vector per class.
        projection: ``(E, D)``, maps the teacher's features to the space of the embeddings; None if
            they are in it.
        scale: Factor of the cosine of a feature with an embedding.
    """

    embeddings: Tensor
    projection: Tensor | None = None
    scale: float = SCALE


class ClassNameLoss(SoftLabelLoss):
    """Difference between the student's outputs and soft labels from the names of the classes.

    As :class:`SoftLabelLoss` for classification, but no labels are needed. The teacher's logit of a
    class is the scaled cosine of the teacher's features with the embedding of the name. Several
    teachers' logits are averaged; teachers without embeddings have no part in them. With some
    labels, the head is fitted to the labelled rows and to the names, as rows of their classes.

    References:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
        ICML 2021, arXiv 2103.00020; for names as rows Lin et al., "Multimodality Helps Unimodality:
        Cross-Modal Few-Shot Learning with Multimodal Models", CVPR 2023, arXiv 2301.06267.

    Args:
        teacher_dims: Feature width of each teacher.
        classes: For each teacher its embeddings of the C classes, or None.
        head: ``(C, E)`` weights and ``(C,)`` bias for what :meth:`project` returns, in place of the
            scaled embeddings.
        temperature: As in :class:`SoftLabelLoss`.

    Raises:
        InputError: As :class:`SoftLabelLoss`; or if no teacher has embeddings, or their shapes do
            not match.

    Example::

        loss_fn = ClassNameLoss([384], [EmbeddedClasses(names)])
        loss = loss_fn(logits, features)
    """

    def __init__(
        self,
        teacher_dims: Sequence[int],
        classes: Sequence[EmbeddedClasses | None],
        *,
        head: LinearHead | None = None,
        temperature: float = 1.0,
    ) -> None:
        known = [one for one in classes if one is not None]
        if not known or len(classes) != len(teacher_dims):
            raise InputError(
                f"Expected embeddings of the classes or None for each of {len(teacher_dims)} "
                f"teachers, and at least one of them, but got {len(known)} of {len(classes)}."
            )
        outputs = len(known[0].embeddings)
        blank = LinearHead(torch.zeros(outputs, sum(teacher_dims)), torch.zeros(outputs), 0.0)
        super().__init__(teacher_dims, blank, kind="classification", temperature=temperature)
        self.named = [place for place, one in enumerate(classes) if one is not None]
        for place, one in zip(self.named, known, strict=True):
            width = teacher_dims[place] if one.projection is None else one.projection.shape[0]
            maps = one.projection is None or one.projection.shape[1] == teacher_dims[place]
            if one.embeddings.shape != (outputs, width) or not maps:
                raise InputError(
                    f"Expected `embeddings` of shape ({outputs}, {width}) and a `projection` to "
                    f"it from {teacher_dims[place]} features, but got {describe(one.embeddings)}."
                )
            projection = None if one.projection is None else one.projection.detach().float()
            self.register_buffer(f"projection_{place}", projection)
        self.weight = torch.cat(
            [one.scale / len(known) * F.normalize(one.embeddings.float(), dim=1) for one in known],
            dim=1,
        )
        if head is not None:
            self.weight, self.bias = head.weight.detach().float(), head.bias.detach().float()

    @classmethod
    def fit_few(
        cls,
        teacher_features: Tensor | Sequence[Tensor],
        labels: Tensor,
        classes: Sequence[EmbeddedClasses | None],
        *,
        seed: int = 0,
        progress: bool = False,
    ) -> ClassNameLoss:
        """Build the loss for some labelled rows, and the names as rows of their classes.

        Args:
            teacher_features: ``(n, D)``, or one ``(n, D_t)`` tensor per teacher; labelled rows.
            labels: ``(n,)``, class indices.
            classes: See the class.
            seed: Seed of the cross-validation folds that choose the regularization.
            progress: As in :func:`aft.losses.heads.fit_task_head`.

        Raises:
            InputError: As the class and :func:`aft.losses.heads.fit_head`.
        """
        dims = infer_teacher_dims(teacher_features)
        plain = cls(dims, classes)
        rows = plain.project(AF.full_precision(join_teachers(teacher_features, dims)))
        names = [F.normalize(one.embeddings.to(rows), dim=1) for one in classes if one is not None]
        own = torch.arange(len(plain.weight), device=labels.device).repeat(ROWS_OF_A_NAME)
        head = fit_head(
            torch.cat([rows, *[torch.cat(names, dim=1)] * ROWS_OF_A_NAME]),
            torch.cat([labels.long(), own]),
            num_classes=len(plain.weight),
            seed=seed,
            progress=progress,
        )
        return cls(dims, classes, head=head)

    def project(self, teacher: Tensor) -> Tensor:
        """The features of the teachers with names, each in the space of its names with norm 1.

        Args:
            teacher: ``(B, sum of teacher_dims)``.
        """
        parts = teacher.split(list(self.teacher_dims), dim=1)
        found = []
        for place in self.named:
            features, projection = parts[place], getattr(self, f"projection_{place}")
            if projection is not None:
                features = AF.matmul(features, projection.to(features.dtype).T)
            found.append(F.normalize(features, dim=1))
        return torch.cat(found, dim=1)

    def _logits(self, teacher: Tensor) -> Tensor:
        return super()._logits(self.project(teacher.detach()))
