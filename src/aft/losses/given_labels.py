"""Soft labels that were made elsewhere, in place of those of a linear head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from aft import functional as AF
from aft.errors import InputError
from aft.losses.heads import LinearHead
from aft.losses.soft_labels import SoftLabelLoss
from aft.tasks import TaskKind

Scale = Literal["probabilities", "logits", "values"]
SMALLEST = 1e-6
"""Probabilities below it count as this, so that logits are finite."""


class Given(NamedTuple):
    """The soft labels that one teacher's columns are.

    Attributes:
        scale: What the columns hold: probabilities or logits of classes or labels, or values of
            regression targets.
        order: The column of each of the C outputs.
    """

    scale: Scale
    order: Sequence[int]


class GivenLabelLoss(SoftLabelLoss):
    """Difference between the student's outputs and soft labels from elsewhere, e.g. a larger model.

    As :class:`SoftLabelLoss`, but the soft labels are among the teachers' features and nothing is
    fitted. Several teachers' soft labels are averaged as logits. Columns of the other teachers have
    no part in them.

    Args:
        teacher_dims: Feature width of each teacher.
        given: For each teacher its soft labels, or None.
        kind: ``classification``, ``multilabel`` or ``regression``.
        target_std: As in :class:`SoftLabelLoss`.
        temperature: As in :class:`SoftLabelLoss`.

    Raises:
        InputError: As :class:`SoftLabelLoss`; or if no teacher has soft labels, a teacher has
            another number of columns than outputs, or their scale does not fit the kind.

    Example::

        loss_fn = GivenLabelLoss([3], [Given("probabilities", (0, 1, 2))], kind="classification")
        loss = F.cross_entropy(logits[labelled], labels) + loss_fn(logits, probabilities)
    """

    def __init__(
        self,
        teacher_dims: Sequence[int],
        given: Sequence[Given | None],
        *,
        kind: TaskKind,
        target_std: Tensor | None = None,
        temperature: float = 1.0,
    ) -> None:
        self.scales = [one.scale if one else None for one in given]
        known = [one for one in given if one is not None]
        if not known or len(given) != len(teacher_dims):
            raise InputError(
                f"Expected soft labels or None for each of {len(teacher_dims)} teachers, and soft "
                f"labels for at least one, but got {list(given)}."
            )
        outputs = len(known[0].order)
        weight = torch.zeros(outputs, sum(teacher_dims))
        parts = weight.split(list(teacher_dims), dim=1)
        for part, one in zip(parts, given, strict=True):
            if one is None:
                continue
            check_scale(one.scale, kind)
            if sorted(one.order) != list(range(part.shape[1])) or len(one.order) != outputs:
                raise InputError(
                    f"Expected an order of {outputs} columns, but got {list(one.order)} for a "
                    f"teacher with {part.shape[1]}."
                )
            part[torch.arange(outputs), list(one.order)] = 1 / len(known)
        head = LinearHead(weight, torch.zeros(outputs), 0.0)
        super().__init__(
            teacher_dims, head, kind=kind, target_std=target_std, temperature=temperature
        )

    def _logits(self, teacher: Tensor) -> Tensor:
        parts = teacher.detach().split(list(self.teacher_dims), dim=1)
        logits = [
            self._as_logits(part) if scale == "probabilities" else part
            for part, scale in zip(parts, self.scales, strict=True)
        ]
        return AF.matmul(torch.cat(logits, dim=1), self.weight.to(teacher.dtype).T)

    def _as_logits(self, probabilities: Tensor) -> Tensor:
        if self.kind == "classification":
            return probabilities.clamp_min(SMALLEST).log()
        return probabilities.logit(eps=SMALLEST)


def check_scale(scale: Scale, kind: TaskKind) -> None:
    """Check that soft labels of a scale fit a kind of task.

    Raises:
        InputError: If they do not.
    """
    if (scale == "values") != (kind == "regression"):
        wanted = "values" if kind == "regression" else "probabilities or logits"
        raise InputError(f"Expected soft labels of {kind} as {wanted}, but got {scale}.")
