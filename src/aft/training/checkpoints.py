"""Where a run is, which of its weights are the best, and both on disk, whole or not at all."""

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
        step: The step whose weights are kept; -1 before the first evaluation.
        score: The highest score.
        stale: Evaluations since there was a higher one.
        error: Standard error of the highest score.
    """

    step: int = -1
    score: float = -math.inf
    stale: int = 0
    error: float = 0.0

    def update(self, step: int, score: float, error: float = 0.0) -> bool:
        """Record an evaluation; returns whether its weights are the ones to keep.

        Of the checkpoints that the validation split cannot tell from the best, the latest is kept
        (the one-standard-error rule of Breiman et al., 1984): its learning rate is the lowest.

        Args:
            step: Its step.
            score: Higher is better; NaN counts as no score.
            error: The standard error of the score.
        """
        self.stale += 1
        if score > self.score:
            self.score, self.error, self.stale = score, error, 0
        keep = self.step < 0 or score >= self.score - self.error
        if keep:
            self.step = step
        return keep


@dataclass
class Progress:
    """Where a run is; goes into the checkpoint.

    Attributes:
        step: Steps made.
        best: Of the student.
        alone: Of the student beside it that learns from the labels alone.
        finished: Whether the run came to its end.
        seconds: Spent in :meth:`aft.training.trainer.Trainer.fit`, looks at validation among them.
    """

    step: int = 0
    best: Best = field(default_factory=Best)
    alone: Best = field(default_factory=Best)
    finished: bool = False
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """The inverse of :meth:`as_dict`."""
        return cls(**{**values, "best": Best(**values["best"]), "alone": Best(**values["alone"])})


def weights_on_cpu(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module, to be written."""
    return {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file that is there whole, or not at all.

    Args:
        path: The file.
        write: Writes it at the path that it is given.

    Raises:
        StudentError: If it cannot be written, for example because the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors tell a full disk in words of their own
        reason = error.strerror if isinstance(error, OSError) else "writing broke off"
        free = shutil.disk_usage(path.parent).free
        raise StudentError(
            f"cannot write {path}: {reason} ({free:,} bytes are free there). The last whole "
            "checkpoint is kept; make room and run again with --resume"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
