"""Progress of a run, selection of the best checkpoint, and atomic writing of files."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from aft.errors import StudentError


@dataclass
class Best:
    """The best evaluation on the validation split so far.

    Attributes:
        step: Step of the checkpoint that is kept, 0 for the initial weights; -1 before the first
            evaluation.
        score: The highest score.
        stale: Number of evaluations since the highest score after step 0.
        error: Standard error of the highest score.
        trained: The highest score after step 0.
    """

    step: int = -1
    score: float = -math.inf
    stale: int = 0
    error: float = 0.0
    trained: float = -math.inf

    def update(self, step: int, score: float, error: float = 0.0) -> bool:
        """Record an evaluation; returns whether to keep the weights of this step.

        Keeps the latest checkpoint whose score is within one standard error of the best (the
        one-standard-error rule of Breiman et al., 1984): later checkpoints have a lower learning
        rate. The initial weights (step 0) follow the same rule: they are kept only if every later
        score is worse by more than chance explains. They do not count for early stopping, because
        scores may fall below the initial one while the learning rate rises.

        Args:
            step: Step of the evaluation.
            score: Validation score, higher is better; NaN counts as no score. The latest
                checkpoint is kept as long as there is no score.
            error: Standard error of the score.
        """
        if step > 0:
            self.stale += 1
            if score > self.trained:
                self.trained, self.stale = score, 0
        if score > self.score:
            self.score, self.error = score, error
        keep = self.score == -math.inf or score >= self.score - self.error
        if keep:
            self.step = step
        return keep


@dataclass
class Progress:
    """Progress of a run; part of the checkpoint.

    Attributes:
        step: Number of completed steps.
        best: Best evaluation of the student.
        alone: Best evaluation of the second student, which learns from the labels alone.
        finished: Whether training is complete.
        seconds: Time in :meth:`aft.training.trainer.Trainer.fit`, including evaluations.
    """

    step: int = 0
    best: Best = field(default_factory=Best)
    alone: Best = field(default_factory=Best)
    finished: bool = False
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The progress as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """The inverse of :meth:`as_dict`."""
        return cls(**{**values, "best": Best(**values["best"]), "alone": Best(**values["alone"])})


def weights_on_cpu(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of a module as contiguous CPU tensors, ready to be saved."""
    return {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file atomically: to a temporary file, which is synchronised and renamed.

    Args:
        path: The file.
        write: Called with the path of the temporary file; writes its content.

    Raises:
        StudentError: If the file cannot be written, for example because the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors report a full disk with exceptions of their own
        reason = error.strerror if isinstance(error, OSError) else "writing failed"
        free = shutil.disk_usage(path.parent).free
        raise StudentError(
            f"cannot write {path}: {reason} ({free:,} bytes free). The last complete "
            "checkpoint is kept; free some space and run again with --resume"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
