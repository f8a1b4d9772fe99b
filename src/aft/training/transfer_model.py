"""A student and its transfer loss in one module."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aft.backbones.batches import Inputs
from aft.students.student import Rescale, StudentOutput


class TransferModel(nn.Module):
    """A student and its transfer loss in one module, for any training loop.

    The loss is a submodule, so that data-parallel training synchronises its parameters and
    checkpoints contain them.

    Args:
        student: Returns ``(logits, features)``.
        transfer_loss: Called with student features and teacher features; None trains on the
            labels alone. With the attribute ``needs = "logits"`` the first argument is the
            logits, with ``needs = "both"`` a pair of logits and features. With a method
            ``with_start`` the second argument is what that makes of the batch.
        beta: Weight of the transfer loss.
        task: ``classification``, ``multilabel`` or ``regression``; determines the task loss.
        label_smoothing: For classification, see :func:`torch.nn.functional.cross_entropy`.
        alone: A second student, trained in parallel on the labels alone, to measure whether the
            transfer helps. The two students do not influence each other.
        class_weights: For classification, the weight of each class in the task loss, shape
            ``(num_classes,)``.
        log_prior: For classification, log frequencies of the classes, ``(num_classes,)``. They are
            added to the students' logits in the losses, so that the students themselves learn
            logits for equally frequent classes: logit adjustment (Menon et al., ICLR 2021, arXiv
            2007.07314).
    """

    class_weights: Tensor | None
    log_prior: Tensor | None

    def __init__(
        self,
        student: nn.Module,
        transfer_loss: nn.Module | None = None,
        beta: float = 1.0,
        task: str = "classification",
        label_smoothing: float = 0.0,
        alone: nn.Module | None = None,
        class_weights: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.transfer_loss = transfer_loss
        self.alone = alone
        self.beta = beta
        self.task = task
        self.label_smoothing = label_smoothing
        # Not part of checkpoints: computed from the data.
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.register_buffer("log_prior", log_prior, persistent=False)

    def forward(
        self,
        inputs: Inputs,
        teacher_features: Tensor | list[Tensor] | None = None,
        labels: Tensor | None = None,
        extra_inputs: Inputs | None = None,
        extra_features: Tensor | list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Outputs and losses of one batch.

        Args:
            inputs: The student's inputs, see :func:`aft.backbones.batches.collate`.
            teacher_features: Shape ``(B, sum of dims)``, or a list with one ``(B, dim)`` per
                teacher; if None, there is no transfer loss.
            labels: As in :class:`aft.data.Samples`; if None, there is no task loss.
            extra_inputs: Inputs of further rows without labels, which join the transfer loss.
            extra_features: Teacher features of these rows, in the form of `teacher_features`.

        Returns:
            ``logits`` (with ``log_prior``), ``features`` and, if they are defined, ``task_loss``,
            ``transfer_loss``, ``loss`` (task loss + beta * transfer loss) and ``alone_loss``, the
            task loss of the second student.
        """
        out: dict[str, Tensor] = {}
        if self.alone is not None and labels is not None:
            with _fork_random(self.alone):  # both students draw the same dropout masks
                logits = self._run(self.alone, inputs).logits
                out["alone_loss"] = self._task_loss(logits.float(), labels)
        output = self._run(self.student, inputs)
        out = output._asdict() | out
        if labels is not None:
            out["task_loss"] = out["loss"] = self._task_loss(output.logits.float(), labels)
        if teacher_features is not None and self.transfer_loss is not None:
            with_start = getattr(self.transfer_loss, "with_start", None)
            if with_start is not None:
                teacher_features = with_start(teacher_features, inputs, labels)
            if extra_inputs is not None and extra_features is not None:
                if with_start is not None:
                    extra_features = with_start(extra_features, extra_inputs)
                others = self._run(self.student, extra_inputs)
                output = StudentOutput(*map(torch.cat, zip(output, others, strict=True)))
                teacher_features = _join_rows(teacher_features, extra_features)
            needs = getattr(self.transfer_loss, "needs", "features")
            student_side = output if needs == "both" else getattr(output, needs)
            out["transfer_loss"] = self.transfer_loss(student_side, teacher_features)
            weighted = self.beta * out["transfer_loss"]
            out["loss"] = out["loss"] + weighted if "loss" in out else weighted
        return out

    def _scale(self) -> Tensor | float:
        """The scale of the student's outputs: the targets' standard deviation, or 1."""
        rescale = getattr(self.student, "rescale", None)
        return rescale.scale if isinstance(rescale, Rescale) else 1.0

    def _run(self, student: nn.Module, inputs: Inputs) -> StudentOutput:
        """The output of a student, with logits for classes as frequent as in training."""
        logits, features = student(inputs)
        return StudentOutput(
            logits if self.log_prior is None else logits + self.log_prior, features
        )

    def _task_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.task == "multilabel":
            return F.binary_cross_entropy_with_logits(logits, labels)
        if self.task == "regression":
            scale = self._scale()
            return F.mse_loss(logits / scale, labels / scale)
        weights = self.class_weights
        reduction = "mean" if weights is None else "none"
        loss = F.cross_entropy(
            logits, labels, label_smoothing=self.label_smoothing, reduction=reduction
        )
        # Not the option `weight` of this function: it divides by the sum of the weights of a
        # batch, and weights the classes to which smoothing gives probability.
        return loss if weights is None else (weights[labels] * loss).mean()


def _fork_random(module: nn.Module) -> AbstractContextManager[None]:
    """Restores the random state of the CPU and of the module's CUDA GPU on exit."""
    device = next(module.parameters()).device
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _join_rows(
    first: Tensor | Sequence[Tensor], second: Tensor | Sequence[Tensor]
) -> Tensor | list[Tensor]:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    return [torch.cat(rows) for rows in zip(first, second, strict=True)]
