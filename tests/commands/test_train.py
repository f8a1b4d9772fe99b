from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest
import torch
from safetensors.torch import load_file

import aft
from aft.commands.prediction_files import _as_csv
from aft.config.commands import TrainConfig, read_config_file
from aft.errors import ConfigError, StudentError
from aft.training.run_folder import read_metrics
from helpers.errors import says
from helpers.training import TEACHER, assert_same, flags, weights

Folder = Callable[..., Path]


@pytest.fixture
def options(picture_folder: Folder, tmp_path: Path) -> dict[str, Any]:
    """A small run with a teacher."""
    teacher = tmp_path / "teacher.py"
    teacher.write_text(TEACHER)
    return {
        "data": str(picture_folder(train=16, test=6, size=32)),
        "teachers": (f"python:{teacher}:colours",),
        "student": "small:cnn-tiny?size=32",
        "out": tmp_path / "run",
        "features": tmp_path / "features",
        "steps": 40,
        "eval_every": 10,
        "batch_size": 16,
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
    }


@pytest.mark.usefixtures("run_pages")
def test_a_run_from_end_to_end(options: dict[str, Any]) -> None:
    result = aft.train(**options)
    out = options["out"]
    assert result.split == "test" and result.metrics["accuracy"] > 0.8
    for name in (
        "config.yaml",
        "data.json",
        "metrics.jsonl",
        "result.json",
        "report.html",
        "evaluation.parquet",
        "feature_weights.safetensors",
        "checkpoints/last.pt",
        "checkpoints/best.safetensors",
        "student/model.safetensors",
        "student/student.json",
    ):
        assert (out / name).stat().st_size > 0, name
    assert list((out / "tensorboard").glob("events*"))
    lines = read_metrics(out)
    assert {line["split"] for line in lines} == {"train", "validation", "validation_alone"}
    assert all("transfer_loss" in line for line in lines if line["split"] == "train")
    gates = load_file(out / "feature_weights.safetensors")["0"]
    assert gates.shape == (51,) and gates.std() > 0  # they have learned something
    assert json.loads((out / "result.json").read_text())["teacher_shares"] == [1.0]

    scored = aft.evaluate(run=out, progress=False)
    assert scored["accuracy"] == result.metrics["accuracy"] and scored["rows"] == 18
    other = aft.evaluate(run=out, data=options["data"], split="train", progress=False)
    assert other["rows"] == 48


def test_predictions_need_the_student_alone(options: dict[str, Any], tmp_path: Path) -> None:
    aft.train(**options)
    Path(options["teachers"][0].split(":")[1]).unlink()
    found = aft.predict(
        run=options["out"],
        data=f"{options['data']}/test",
        out=tmp_path / "labels.csv",
        probabilities=True,
        progress=False,
    )
    assert found["rows"] == 18
    import pyarrow.csv

    table = pyarrow.csv.read_csv(tmp_path / "labels.csv").to_pylist()
    names = [f"probability_{name}" for name in ("circle", "square", "triangle")]
    for row in table:
        assert sum(row[name] for name in names) == pytest.approx(1, abs=1e-5)
        assert (
            row[f"probability_{row['label']}"] == row["probability"] == max(row[n] for n in names)
        )
    right = [Path(row["file"]).parent.name == row["label"] for row in table]
    assert np.mean(right) == aft.evaluate(run=options["out"], progress=False)["accuracy"]
    with pytest.raises(ConfigError) as error:
        aft.predict(run=options["out"], data=options["data"], out=tmp_path / "labels.csv")
    assert says(error.value, tmp_path / "labels.csv", "--overwrite")
    aft.predict(
        run=options["out"] / "student",
        data=f"{options['data']}/test/circle/000.png",
        out=tmp_path / "one.parquet",
        progress=False,
    )


def test_same_seed_same_weights(options: dict[str, Any], tmp_path: Path) -> None:
    options |= {"steps": 8, "eval_every": 4}
    aft.train(**options)
    aft.train(**{**options, "out": tmp_path / "again", "num_workers": 2})
    assert_same(weights(options["out"]), weights(tmp_path / "again"))
    aft.train(**{**options, "out": tmp_path / "other", "seed": 1})
    other = weights(tmp_path / "other")
    assert any(not torch.equal(v, other[k]) for k, v in weights(options["out"]).items())


def test_features_in_memory_and_in_memory_maps_give_the_same_weights(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options |= {"steps": 8, "eval_every": 4}
    aft.train(**options)
    monkeypatch.setattr("aft.features.stored.MOST_KEPT_BYTES", 0)
    aft.train(**{**options, "out": tmp_path / "mapped"})
    assert_same(weights(options["out"]), weights(tmp_path / "mapped"))


def test_killed_and_resumed_equals_uninterrupted(options: dict[str, Any], tmp_path: Path) -> None:
    options |= {"steps": 50, "eval_every": 5}
    whole = aft.train(**options)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "aft", "train", *flags({**options, "out": out})]
    for kill, after in ((signal.SIGKILL, 10), (signal.SIGINT, 30)):
        run = subprocess.Popen(
            [*command, "--resume"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        deadline = time.monotonic() + 120
        while (read_metrics(out) or [{"step": 0}])[-1]["step"] < after:
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        run.send_signal(kill)
        _, complaint = run.communicate(timeout=60)
        assert run.returncode == (-signal.SIGKILL if kill == signal.SIGKILL else 130)
        assert not (out / "result.json").exists()
        if kill == signal.SIGINT:
            assert "--resume" in complaint and "Traceback" not in complaint
    resumed = aft.train(**{**options, "out": out, "resume": True})
    assert_same(weights(options["out"]), weights(out))
    assert resumed.metrics == whole.metrics
    assert read_metrics(out) == read_metrics(options["out"])


def test_nothing_is_overwritten_unasked(options: dict[str, Any], tmp_path: Path) -> None:
    options |= {"steps": 4}
    aft.train(**options)
    with pytest.raises(ConfigError) as error:
        aft.train(**options)
    assert says(error.value, options["out"], "--out", "--overwrite")
    before = weights(options["out"])
    assert_same(before, weights(aft.train(**options, resume=True).out))
    (options["out"] / "result.json").unlink()
    with pytest.raises(ConfigError) as error:
        aft.train(**options)
    assert says(error.value, options["out"], "--resume")
    with pytest.raises(ConfigError) as error:
        aft.train(**options, beta=7.0, resume=True)
    assert says(error.value, "beta", "auto", 7.0)
    aft.train(**options, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError) as error:
        aft.train(**{**options, "out": tmp_path / "mine", "overwrite": True})
    assert says(error.value, tmp_path / "mine")
    (tmp_path / "mine" / "config.yaml").write_text("a: 1\n")  # a common name
    with pytest.raises(ConfigError) as error:
        aft.train(**{**options, "out": tmp_path / "mine", "overwrite": True})
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_patience_stops_early(options: dict[str, Any]) -> None:
    result = aft.train(**{**options, "steps": 200, "eval_every": 2}, patience=2)
    assert result.summary["steps"] < 200


def test_divergence_is_said(options: dict[str, Any]) -> None:
    with pytest.raises(aft.AftError) as error:
        aft.train(**options, lr=1e30, clip_norm=0, warmup=0)
    assert says(error.value, "NaN", "48 of 48")


def test_divergence_in_numbers_is_said(options: dict[str, Any], tmp_path: Path) -> None:
    """A student whose outputs are NaN at an evaluation has no score, and no traceback."""
    files = sorted(Path(options["data"]).rglob("*.png"))
    rows = [json.dumps({"path": str(file), "label": 0.5 + i}) for i, file in enumerate(files)]
    (tmp_path / "numbers.jsonl").write_text("\n".join(rows))
    numbers = {"data": str(tmp_path / "numbers.jsonl"), "teachers": (), "eval_every": 1}
    with pytest.raises(aft.AftError):
        aft.train(**{**options, **numbers}, lr=1e30, clip_norm=0, warmup=0)


def test_old_options_that_change_nothing_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("keep_teachers: false\ngradient_accumulation: 1\nviews: 0\n")
    assert read_config_file(file, TrainConfig) == {"views": "clean"}
    file.write_text("keep_teachers: true\n")
    with pytest.raises(ConfigError) as error:
        read_config_file(file, TrainConfig)
    assert says(error.value, file, "keep_teachers")


def test_full_disk(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    options |= {"views": "clean"}  # so that no features are left to write
    aft.extract(
        data=options["data"],
        teachers=options["teachers"],
        features=options["features"],
        progress=False,
    )
    import errno

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("aft.files.os.fsync", full)
    with pytest.raises(StudentError) as error:
        aft.train(**options)
    assert says(error.value, options["out"], os.strerror(errno.ENOSPC))
    monkeypatch.undo()
    assert aft.train(**options, resume=True).metrics["accuracy"] > 0.8


@pytest.mark.parametrize(("optimizer", "precision"), [("adam", "fp32"), ("sgd", "bf16")])
def test_other_optimizers_and_bf16(options: dict[str, Any], optimizer: str, precision: str) -> None:
    options |= {"steps": 25, "eval_every": 5}
    result = aft.train(**options, optimizer=optimizer, precision=precision)
    assert result.metrics["accuracy"] > 0.6


def test_without_teachers(options: dict[str, Any]) -> None:
    result = aft.train(**{**options, "teachers": ()})
    assert result.summary["loss"] is None
    assert not (options["out"] / "feature_weights.safetensors").exists()


def test_regression(options: dict[str, Any], tmp_path: Path) -> None:
    """How red a picture is, in units far from 0 and 1."""
    from PIL import Image

    rows = []
    for picture in sorted(Path(options["data"]).rglob("*.png")):
        mean = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3).mean(0)
        rows.append({"path": str(picture), "label": 1000 + 50 * float(mean[0] - mean[2])})
    file = tmp_path / "redness.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options |= {"data": str(file), "steps": 80, "augment": "none"}
    result = aft.train(**options, test_fraction=0.3)
    assert result.metrics["r2"] > 0.5 and result.metrics["rmse"] > 1
    assert aft.evaluate(run=options["out"], progress=False)["r2"] == result.metrics["r2"]
    found = aft.predict(run=options["out"], data=str(file), out=tmp_path / "p.csv", progress=False)
    assert found["rows"] == len(rows)


def test_multilabel(options: dict[str, Any], tmp_path: Path) -> None:
    kinds = {"circle": ["round", "red"], "square": ["blue"], "triangle": []}
    rows = [
        {"path": str(p), "labels": kinds[p.parent.name]}
        for p in sorted(Path(options["data"]).rglob("*.png"))
    ]
    file = tmp_path / "kinds.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options |= {"data": str(file)}
    result = aft.train(**options, test_fraction=0.3)
    assert result.metrics["mean_average_precision"] > 0.8


def test_normalize_kernel_and_weights_reach_the_loss(options: dict[str, Any]) -> None:
    result = aft.train(
        **options, normalize="none", kernel="rbf", weights="dense", beta=1.0, overwrite=True
    )
    assert result.metrics["accuracy"] > 0.6


def test_predictions_are_written_as_pyarrow_writes_them() -> None:
    rng = np.random.default_rng(0)
    columns: dict[str, list[Any]] = {
        "file": ['a "b".png', "c\nd", "é,", "", "1"],
        "probability": [1.0, 0.0, 0.000001, 0.123456, 12345.5],
        "x": rng.normal(size=5).tolist(),
        "y": [float("nan"), float("inf"), -0.5, 1e-5, 3.0],
    }
    expected = io.BytesIO()
    pyarrow.csv.write_csv(pyarrow.table(columns), expected)
    assert _as_csv(columns) == expected.getvalue()
