"""Progress of a run, selection of the best checkpoint, and the files of checkpoints."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor, nn

from aft.errors import StudentError
from aft.files import Damaged, reading, write_whole, writing

START_AGAIN = "Use --overwrite instead of --resume to train again from the start"


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
        sha256: SHA-256 of the file of the weights that are kept.
    """

    step: int = -1
    score: float = -math.inf
    stale: int = 0
    error: float = 0.0
    trained: float = -math.inf
    sha256: str = ""

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


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Make the folder of a checkpoint, and convert what writing it raises to StudentError."""
    cure = "The last complete checkpoint is kept; free some space and run again with --resume"
    with writing(path, StudentError, cure):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> str:
    """Write the state dict of a module; returns the SHA-256 of the file.

    Raises:
        StudentError: If the file cannot be written, for example because the disk is full.
    """
    with saving(path):
        data = save({k: v.detach().cpu().contiguous() for k, v in weights.items()})
        write_whole(path, data)
    return hashlib.sha256(data).hexdigest()


def read_weights(path: Path, module: nn.Module, sha256: str, cure: str = START_AGAIN) -> None:
    """Load the weights of :func:`write_weights` into a module.

    Args:
        path: The file.
        module: The module.
        sha256: SHA-256 of the file; empty if it is not known.
        cure: What to do about a damaged file, as a sentence without its full stop.

    Raises:
        StudentError: If the file is damaged, cannot be read or belongs to another model.
    """
    with reading(path, StudentError, cure):
        data = path.read_bytes()
        if sha256 not in ("", hashlib.sha256(data).hexdigest()):
            raise Damaged("the checksum does not match")
        module.load_state_dict(load(data))
