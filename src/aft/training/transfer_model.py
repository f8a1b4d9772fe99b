"""A student and its transfer loss in one module."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aft.backbones.batches import Inputs
from aft.errors import InputError
from aft.losses.checks import join_teachers
from aft.losses.standardize import Normalize, Standardize
from aft.students.student import Rescale, StudentOutput


class TeacherHead(nn.Module):
    """A linear layer on the frozen teachers' features, beside a student's head.

    The outputs of both are added, which is one linear layer on the student's and the teachers'
    features side by side: Residual Feature Integration (ReFine),
    https://arxiv.org/abs/2505.11771. It needs the teachers at every prediction. The bias is that
    of the student's head.

    Args:
        teacher_dims: Feature width of each teacher.
        num_outputs: Number of classes or regression targets.
        normalize: ``standardize`` brings every teacher dimension to mean 0 and deviation 1;
            ``none`` leaves the features as they are.
        statistics: One ``(mean, std)`` per teacher, each ``(D_t,)``, over the training set;
            ``standardize`` needs them.

    Raises:
        InputError: If the statistics do not fit or are missing.
    """

    def __init__(
        self,
        teacher_dims: Sequence[int],
        num_outputs: int,
        normalize: Normalize = "standardize",
        statistics: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.standardize = Standardize(teacher_dims, normalize, statistics)
        if self.standardize.uses_batch:
            raise InputError("Expected `statistics` with normalize='standardize', but got none.")
        self.teacher_dims = tuple(teacher_dims)
        self.linear = nn.Linear(sum(teacher_dims), num_outputs, bias=False)

    def forward(self, teacher_features: Tensor | Sequence[Tensor]) -> Tensor:
        """What is added to the student's outputs, ``(B, num_outputs)``.

        For regression in units of the targets' deviations.

        Args:
            teacher_features: ``(B, sum of dims)``, or one ``(B, dim)`` a teacher.
        """
        joined = join_teachers(teacher_features, self.teacher_dims)
        out: Tensor = self.linear(self.standardize(joined))
        return out


class TransferModel(nn.Module):
    """A student and its transfer loss in one module, for any training loop.

    The loss lives inside so that data-parallel training synchronises its parameters and
    checkpoints hold them.

    Args:
        student: Returns ``(logits, features)``.
        transfer_loss: Called with student features and teacher features; None trains on the
            labels alone. Its attribute ``needs`` may ask for ``logits`` in place of the first, or
            for ``both``, a pair of logits and features.
        beta: Weight of the transfer loss.
        task: ``classification``, ``multilabel`` or ``regression``; picks the task loss.
        label_smoothing: For classification, see :func:`torch.nn.functional.cross_entropy`.
        teacher_head: Adds what the teachers' features say to the student's outputs; then every
            batch needs them.
        alone: A second student, trained beside the first on the labels alone, to see whether the
            transfer pays. Neither changes what the other learns.
    """

    def __init__(
        self,
        student: nn.Module,
        transfer_loss: nn.Module | None = None,
        beta: float = 1.0,
        task: str = "classification",
        label_smoothing: float = 0.0,
        teacher_head: TeacherHead | None = None,
        alone: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.transfer_loss = transfer_loss
        self.teacher_head = teacher_head
        self.alone = alone
        self.beta = beta
        self.task = task
        self.label_smoothing = label_smoothing

    def forward(
        self,
        inputs: Inputs,
        teacher_features: Tensor | list[Tensor] | None = None,
        labels: Tensor | None = None,
        unlabelled: Inputs | None = None,
        unlabelled_features: Tensor | list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """One batch.

        Args:
            inputs: The student's inputs, see :func:`aft.backbones.batches.collate`.
            teacher_features: ``(B, sum of dims)``, or one ``(B, dim)`` a teacher; without them
                there is no transfer loss. A model with a teacher head needs them.
            labels: As in :class:`aft.data.Samples`; without them there is no task loss.
            unlabelled: Inputs of ``U`` rows without labels, which join the transfer loss.
            unlabelled_features: The teachers' features of these, as `teacher_features`.

        Returns:
            ``logits``, ``features`` and, as far as they are known, ``task_loss``,
            ``transfer_loss`` and ``loss`` (task loss + beta * transfer loss); ``alone_loss``, the
            task loss of the student that learns from the labels alone, where there is one.

        Raises:
            InputError: If a model with a teacher head gets no teacher features.
        """
        out: dict[str, Tensor] = {}
        if self.alone is not None and labels is not None:
            with _fork_random(self.alone):  # both students draw the same dropout masks
                out["alone_loss"] = self._task_loss(self.alone(inputs).logits.float(), labels)
        output = self.predict(inputs, teacher_features)
        out |= output._asdict()
        if labels is not None:
            out["task_loss"] = out["loss"] = self._task_loss(output.logits.float(), labels)
        if teacher_features is not None and self.transfer_loss is not None:
            if unlabelled is not None and unlabelled_features is not None:
                others = self.predict(unlabelled, unlabelled_features)
                output = StudentOutput(*map(torch.cat, zip(output, others, strict=True)))
                teacher_features = _join_rows(teacher_features, unlabelled_features)
            needs = getattr(self.transfer_loss, "needs", "features")
            student_side = output if needs == "both" else getattr(output, needs)
            out["transfer_loss"] = self.transfer_loss(student_side, teacher_features)
            weighted = self.beta * out["transfer_loss"]
            out["loss"] = out["loss"] + weighted if "loss" in out else weighted
        return out

    def predict(
        self, inputs: Inputs, teacher_features: Tensor | Sequence[Tensor] | None = None
    ) -> StudentOutput:
        """The student's outputs, with those of the teacher head where there is one.

        Raises:
            InputError: If there is one and it gets no teacher features.
        """
        logits, features = self.student(inputs)
        if self.teacher_head is not None:
            if teacher_features is None:
                raise InputError(
                    "Expected `teacher_features`: this model has a teacher head, which needs them "
                    "at every prediction."
                )
            logits = logits + self.teacher_head(teacher_features) * self._scale()
        return StudentOutput(logits, features)

    def _scale(self) -> Tensor | float:
        """The size of a standardized output, in the units of the student's."""
        rescale = getattr(self.student, "rescale", None)
        return rescale.scale if isinstance(rescale, Rescale) else 1.0

    def _task_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.task == "multilabel":
            return F.binary_cross_entropy_with_logits(logits, labels)
        if self.task == "regression":
            scale = self._scale()
            return F.mse_loss(logits / scale, labels / scale)
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


def _fork_random(module: nn.Module) -> AbstractContextManager[None]:
    """Whatever is drawn at random inside leaves no trace, on the CPU and on a module's CUDA GPU."""
    device = next(module.parameters()).device
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _join_rows(
    first: Tensor | Sequence[Tensor], second: Tensor | Sequence[Tensor]
) -> Tensor | list[Tensor]:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    return [torch.cat(rows) for rows in zip(first, second, strict=True)]
