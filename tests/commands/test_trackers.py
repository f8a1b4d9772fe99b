from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import aft
from aft.commands.trackers import start_trackers
from aft.config.commands import TrainConfig
from aft.errors import ConfigError
from aft.training.run_folder import RunLog, read_metrics
from aft.training.trainer import make_accelerator
from helpers.errors import says

OPTIONS = {"student": ["small:cnn"], "seed": 3, "lr": None, "progress": False}


def options(*trackers: str) -> TrainConfig:
    return TrainConfig(data="none", log_to=trackers, **OPTIONS)


BLOCK = 32768


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may reach a network, and the tracking store is a folder."""
    monkeypatch.delenv("WANDB_MODE", raising=False)  # offline without it
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no other
    monkeypatch.chdir(tmp_path)
    make_accelerator(torch.device("cpu"))


def offline_records(folder: Path) -> Iterator[Any]:
    """The records of the newest offline run of W&B in a run folder, framed as in LevelDB logs."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("wandb/latest-run/run-*.wandb")
    data, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def wandb_values(folder: Path) -> tuple[dict[str, Any], dict[tuple[str, int], float]]:
    """The options, and the values by name and step."""
    given: dict[str, Any] = {}
    values: dict[tuple[str, int], float] = {}
    records: list[Any] = []
    deadline = time.monotonic() + 60  # the service of W&B writes a little later
    while not records or not records[-1].HasField("exit"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        records = list(offline_records(folder))
    for record in records:
        for item in record.run.config.update:
            given[item.key] = json.loads(item.value_json)
        found = {
            one.key or "/".join(one.nested_key): json.loads(one.value_json)
            for one in record.history.item
        }
        step = found.get("_step")
        values |= {(n, step): value for n, value in found.items() if not n.startswith("_")}
    return given, values


def mlflow_runs(folder: Path) -> list[Any]:
    """The runs of a run folder, oldest first."""
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("aft")
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    return [run for run in runs if run.info.run_name == folder.as_posix()]


def mlflow_values(run: Any) -> dict[tuple[str, int], float]:
    import mlflow

    client = mlflow.MlflowClient()
    return {
        (name, one.step): one.value
        for name in run.data.metrics
        for one in client.get_metric_history(run.info.run_id, name)
    }


def log_some(folder: Path, tracker: str, start: int, stop: int) -> dict[tuple[str, int], float]:
    """Log a few steps; returns what must have been logged."""
    folder.mkdir(exist_ok=True)
    with RunLog(folder, start, True, start_trackers(options(tracker), folder, start)) as log:
        for step in range(start + 1, stop + 1):
            log.write(step, "train", {"loss": 1 / step})
            log.write(step, "validation", {"accuracy": step / 10})
        log.track(stop, "final", {"accuracy": 0.9})
    earlier = {("train/loss", step): 1 / step for step in range(1, stop + 1)}
    earlier |= {("validation/accuracy", step): step / 10 for step in range(1, stop + 1)}
    return earlier | {("final/accuracy", stop): 0.9}


def test_weights_and_biases_offline(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    wanted = log_some(run, "wandb", 0, 3)
    given, values = wandb_values(run)
    assert values == wanted
    assert {name: given[name] for name in OPTIONS} == OPTIONS
    assert len(read_metrics(run)) == 6
    wanted = log_some(run, "wandb", 2, 4)  # resumed after step 2: a new run with all values
    assert wandb_values(run)[1] == wanted
    assert len(list((run / "wandb").glob("offline-run-*"))) == 2
    assert capfd.readouterr() == ("", "")


def test_mlflow_in_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    run = tmp_path / "run"
    wanted = log_some(run, "mlflow", 0, 3)
    (found,) = mlflow_runs(run)
    assert mlflow_values(found) == wanted and found.info.status == "FINISHED"
    assert {name: found.data.params[name] for name in OPTIONS} == {
        name: str(value) for name, value in OPTIONS.items()
    }
    wanted = log_some(run, "mlflow", 2, 4)
    assert mlflow_values(mlflow_runs(run)[-1]) == wanted


@pytest.mark.parametrize("found", [None, False])
def test_without_tensorboard_nothing_is_tracked(
    found: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerate says None or False of a package that is not installed."""
    monkeypatch.setattr("aft.commands.trackers.is_tensorboard_available", lambda: found)
    assert start_trackers(options(), tmp_path) == []


def test_tensorboard_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    log_some(run, "tensorboard", 0, 3)
    wanted = log_some(run, "tensorboard", 2, 4)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    values = {(n, e.step): e.value for n in events.Tags()["scalars"] for e in events.Scalars(n)}
    assert values == pytest.approx(wanted)


def test_a_run_logs_to_several_trackers(tmp_path: Path) -> None:
    for library in ("wandb", "mlflow", "tensorboard"):
        pytest.importorskip(library)
    texts = [f"a {word} film, number {i}" for i in range(20) for word in ("good", "bad")]
    result = aft.train(
        data=(texts, ["good", "bad"] * 20),
        student="small:ngrams",
        log_to=("wandb", "mlflow", "tensorboard"),
        steps=4,
        baselines=False,
        out=tmp_path / "run",
        progress=False,
        device="cpu",
    )
    given, values = wandb_values(tmp_path / "run")
    (run,) = mlflow_runs(tmp_path / "run")
    assert values == mlflow_values(run)
    for line in read_metrics(tmp_path / "run"):
        step, split = line.pop("step"), line.pop("split")
        assert {values[f"{split}/{name}", step] for name in line} == set(line.values())
    assert values["final/accuracy", 4] == result.metrics["accuracy"]
    assert given["steps"] == 4 and run.data.params["student"] == "['small:ngrams']"
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError) as error:
        aft.train(data=(["a", "b"], ["x", "y"]), student="small:ngrams", log_to=name)
    assert says(error.value, "--log-to", f"pip install 'adaptive-feature-transfer[{name}]'")


def test_unknown_trackers_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        aft.train(data=(["a", "b"], ["x", "y"]), student="small:ngrams", log_to="visdom")
    assert says(error.value, "log_to", "visdom", "wandb")


def test_a_tracker_that_cannot_start_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://x")
    with pytest.raises(ConfigError) as error:
        start_trackers(options("mlflow"), tmp_path)
    assert says(error.value, "--log-to mlflow", "nowhere")
