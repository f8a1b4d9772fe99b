"""Losses are read in some steps only; a loss that is not finite still names its step."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import aft
from aft.errors import StudentError
from aft.training.trainer import Trainer
from helpers.errors import says


@pytest.mark.parametrize("bad", [1, 3, 12, 16])
def test_the_first_bad_step_is_named(
    bad: int,
    picture_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = []

    def step(self: Trainer, *_: object) -> dict[str, Tensor]:
        steps.append(self.progress.step + 1)
        loss = torch.tensor(math.nan if steps[-1] >= bad else 0.5)
        return {"task_loss": torch.tensor(0.25), "loss": loss}

    monkeypatch.setattr(Trainer, "_step", step)
    options: dict[str, Any] = {"steps": 16, "eval_every": 16, "device": "cpu", "progress": False}
    options |= {"data": str(picture_folder(train=8, size=32)), "student": "small:cnn-tiny?size=32"}
    with pytest.raises(StudentError) as error:
        aft.train(**options, out=tmp_path / "run")
    assert says(error.value, f"step {bad}", "nan")
    assert steps[-1] == {1: 1, 3: 10, 12: 16, 16: 16}[bad]
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()
