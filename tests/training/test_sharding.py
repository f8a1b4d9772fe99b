"""A student divided among processes trains as a whole one does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import aft
from aft.errors import ConfigError
from aft.training import sharding
from aft.training.transfer_model import TransferModel
from helpers.training import STUDENT, TEACHER, read_state, weights

# Small blocks are divided apart, too; a run ends after some steps, and another process group
# continues it.
SCRIPT = """
import importlib, json, pathlib, sys
import aft
from aft.training import sharding
from aft.training.trainer import Interrupted, Trainer

importlib.import_module("aft.commands.train").write_run_report = lambda out, _: out
sharding.FEWEST = 100
folder, last = pathlib.Path(sys.argv[1]), int(sys.argv[2])
own = Trainer._step

def step(self, *batches):
    if self.progress.step == last:
        self.save()
        raise SystemExit
    losses = own(self, *batches)
    assert type(next(self.module.student.parameters())).__name__ == "DTensor"
    return losses

Trainer._step = step
aft.train(**json.loads((folder / "options.json").read_text()), resume=True)
"""


def weights_near(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-4, atol=1e-5)


def test_two_processes_equal_one(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    for name, text in (("teacher", TEACHER), ("student", STUDENT), ("script", SCRIPT)):
        (tmp_path / f"{name}.py").write_text(text)
    options: dict[str, Any] = {
        "data": str(picture_folder(train=10, test=2, size=32)),
        "teachers": [f"python:{tmp_path / 'teacher.py'}:colours"],
        "student": [f"python:{tmp_path / 'student.py'}:plain"],
        "features": str(tmp_path / "features"),
        "steps": 6,
        "batch_size": 9,
        "eval_every": 3,
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
    }
    one = aft.train(**options, out=tmp_path / "one")
    two = {**options, "out": str(tmp_path / "two"), "shard_student": True}
    (tmp_path / "options.json").write_text(json.dumps(two))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for last in ("4", "-1"):
        arguments = [*command, str(tmp_path / "script.py"), str(tmp_path), last]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    weights_near(one.out, tmp_path / "two")
    gates = [
        load_file(tmp_path / run / "feature_weights.safetensors")["0"] for run in ("one", "two")
    ]
    torch.testing.assert_close(*gates, rtol=1e-4, atol=1e-5)
    states = [read_state(tmp_path / run / "checkpoints" / "last.pt") for run in ("one", "two")]
    moments = [
        {
            (i, key): value
            for i, of_one in state["optimizer"]["state"].items()
            for key, value in of_one.items()
        }
        for state in states
    ]
    assert moments[0].keys() == moments[1].keys()
    for key, value in moments[0].items():  # whole, so one process could continue
        torch.testing.assert_close(moments[1][key], value, rtol=1e-3, atol=1e-6)


def test_word_vectors_are_refused(tmp_path: Path) -> None:
    from aft.backbones.small_texts import StaticNetwork

    network = StaticNetwork.__new__(StaticNetwork)
    torch.nn.Module.__init__(network)
    with pytest.raises(ConfigError):
        sharding.divide(TransferModel(network), torch.device("cpu"), 2)
