"""`compare`, `score` and `extract` in two processes: the same results, from shared work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import aft
from aft.devices import Processes, choose_device, separate_processes
from aft.errors import ConfigError
from helpers.errors import says
from helpers.text_data import make_text_table
from helpers.training import TEACHERS

# Notes which process trained a run; one run fails.
SCRIPT = """
import importlib, os, pathlib, sys
import aft
from aft.config.commands import read_config_file, CompareConfig, ExtractConfig, ScoreConfig
compare = importlib.import_module("aft.commands.compare")
train = importlib.import_module("aft.commands.train")
train.write_run_report = lambda out, _: out
folder, rank = pathlib.Path(sys.argv[1]), os.environ["RANK"]
own = compare.train

def noted(config):
    with (folder / f"log{rank}").open("a") as log:
        log.write(f"{config.out.name}\\n")
    if config.out.name.startswith("aft-") and config.seed == 1:
        raise RuntimeError(f"broken in {rank}")
    return own(config)

compare.train = noted
found = aft.compare(**read_config_file(folder / "compare.yaml", CompareConfig))
assert found["errors"] and os.environ["RANK"] == rank
aft.extract(**read_config_file(folder / "extract.yaml", ExtractConfig))
aft.score(**read_config_file(folder / "score.yaml", ScoreConfig))
"""


def torchrun(processes: int, script: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), str(script), *arguments]
    paths = os.pathsep.join(path for path in sys.path if path)  # with the modules of the tests
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr


def timeless(values: Any) -> Any:
    """A result without times and places."""
    if isinstance(values, dict):
        out = {"json", "markdown", "report", "errors", "folder"}
        return {k: timeless(v) for k, v in values.items() if "seconds" not in k and k not in out}
    return [timeless(one) for one in values] if isinstance(values, list) else values


def test_two_processes_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "teachers.py").write_text(TEACHERS)
    (tmp_path / "script.py").write_text(SCRIPT)
    common = {
        "data": str(make_text_table(tmp_path / "texts.jsonl")),
        "teachers": [f"python:{tmp_path / 'teachers.py'}:words"],
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
    }
    student = {"student": ["small:static?dim=16"]}
    more: dict[str, Any] = {"methods": ["aft"], "seeds": 2, "betas": [1.0, 0.1], "steps": 4}
    options = {
        "compare": {**common, **student, **more, "batch_size": 16},
        "extract": common,
        "score": {**common, **student},
    }
    for name, values in options.items():
        two = {**values, "features": str(tmp_path / f"{name}-features")}
        if name != "extract":
            two["out"] = str(tmp_path / name)
        (tmp_path / f"{name}.yaml").write_text(json.dumps(two))
    torchrun(2, tmp_path / "script.py", str(tmp_path))

    logs = [(tmp_path / f"log{rank}").read_text().split() for rank in (0, 1)]
    assert all(logs) and len(set(logs[0] + logs[1])) == len(logs[0] + logs[1]) == 5
    for name in options:  # both wrote shards
        shards = [one.name for one in (tmp_path / f"{name}-features").rglob("part-*")]
        assert {one.split("-")[1].lstrip("0") for one in shards} == {"", "1"}

    document = json.loads((tmp_path / "compare" / "compare.json").read_text())
    ((name, error),) = document["errors"].items()
    (rank,) = (rank for rank in (0, 1) if name.removeprefix("runs/") in logs[rank])
    assert name.startswith("runs/aft-") and error == f"broken in {rank}"
    monkeypatch.setattr("aft.commands.compare.write_methods_report", lambda *_: Path())
    again = aft.compare(**options["compare"], features=tmp_path / "1", out=tmp_path / "compare")
    one = aft.compare(**options["compare"], features=tmp_path / "1", out=tmp_path / "one")
    assert timeless(again) == timeless(one)
    assert not again["errors"]
    aft.score(**options["score"], features=tmp_path / "2", out=tmp_path / "score of one")
    two, one = (
        json.loads((tmp_path / name / "score.json").read_text())
        for name in ("score", "score of one")
    )
    for name in ("rows", "teachers", "table", "student", "similarity"):
        assert timeless(two[name]) == timeless(one[name])


def test_one_process_waits_for_nothing() -> None:
    processes = Processes()
    assert [processes.claim(work) for work in "aba"] == [True, True, False]
    processes.wait()
    with separate_processes("cpu") as alone:
        assert (alone.rank, alone.size) == (0, 1)


def test_a_process_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(ConfigError) as error, separate_processes("cpu"):
        pass
    assert says(error.value, "process group", "aft.train")


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, processes in (("cuda", "2"), ("auto", "1"), ("cpu", "3")):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        choose_device(name)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    for name in ("cuda", "auto"):
        with pytest.raises(ConfigError) as error:
            choose_device(name)
        assert says(error.value, "3 processes", "2 GPUs", "--nproc-per-node 2", "--device cpu")
