"""`--keep-teachers`: the head sees the frozen teachers' features beside the student's (ReFine)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import aft
from aft.errors import ConfigError, InputError, StudentError, TeacherError
from aft.ids import content_id
from aft.students.student import Student
from aft.training.run_folder import read_metrics
from aft.training.trainer import Trainer
from aft.training.transfer_model import TeacherHead, TransferModel
from helpers.text_data import FILLERS, make_picture_text_folder
from helpers.training import STUDENT, TEACHER, TEACHERS, assert_same, flags


def write_riddle(folder: Path, targets: bool = False, rows: int = 150) -> dict[str, Any]:
    """Texts that say nothing of their label, and features that say all of it."""
    generator = np.random.default_rng(0)
    label = np.arange(rows) % 2
    texts = [" ".join(generator.choice(FILLERS, 8)) for _ in range(rows)]
    features = generator.normal(0, 1, (rows, 6)).astype(np.float32)
    features[:, 2] = 50 + 0.2 * (2 * label - 1) + 0.05 * features[:, 2]  # to be standardized
    labels = [1000 + 30 * float(f) for f in features[:, 0]] if targets else ["no", "yes"]
    lines = [
        {
            "text": text,
            "label": labels[i] if targets else labels[label[i]],
            "split": "test" if i % 3 == 0 else "train",
        }
        for i, text in enumerate(texts)
    ]
    (folder / "riddle.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ids = np.stack([np.frombuffer(content_id(text.encode()), np.uint8) for text in texts])
    table = {"features": torch.from_numpy(features), "sample_ids": torch.from_numpy(ids.copy())}
    save_file(table, folder / "known.safetensors")
    return {
        "data": str(folder / "riddle.jsonl"),
        "teachers": (f"features:{folder}/known.safetensors",),
        "student": "small:static?dim=8",
        "features": folder / "features",
        "features_dtype": "fp32",
        "out": folder / "run",
        "steps": 120,
        "lr": 0.02,
        "batch_size": 16,
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
    }


@pytest.fixture
def riddle(tmp_path: Path) -> dict[str, Any]:
    return write_riddle(tmp_path)


def test_it_learns_what_only_the_teachers_know(riddle: dict[str, Any], tmp_path: Path) -> None:
    alone = aft.train(**{**riddle, "teachers": (), "out": tmp_path / "alone"})
    result = aft.train(**riddle, keep_teachers=True)
    assert alone.metrics["accuracy"] < 0.65 and result.metrics["accuracy"] > 0.85
    assert result.summary["keeps_teachers"] is True and not alone.summary["keeps_teachers"]
    assert result.summary["loss"] is None and result.summary["beta"] == 0.0
    assert result.summary["num_parameters"] == alone.summary["num_parameters"]
    for one in (alone, result):
        assert 0 < one.summary["training_seconds"] <= one.summary["seconds"] + 0.1
    assert all("transfer_loss" not in line for line in read_metrics(result.out))
    assert (result.out / "report.html").exists()
    assert (result.out / "evaluation.parquet").exists()
    assert not (result.out / "student").exists()
    assert not (result.out / "feature_weights.safetensors").exists()
    raw = aft.train(
        **{**riddle, "out": tmp_path / "raw"}, keep_teachers=True, normalize="none"
    ).metrics
    assert raw["accuracy"] < result.metrics["accuracy"]  # the feature that tells is hidden at 50


def test_it_cannot_stand_alone_and_says_so(riddle: dict[str, Any], tmp_path: Path) -> None:
    result = aft.train(**{**riddle, "steps": 4}, keep_teachers=True)
    says = r"this run kept its teachers \(--keep-teachers\).*train with a transfer loss"
    with pytest.raises(StudentError, match=says):
        result.student()
    with pytest.raises(StudentError, match=says):
        aft.evaluate(run=riddle["out"], progress=False)
    with pytest.raises(StudentError, match=says):
        aft.predict(run=riddle["out"], data=riddle["data"], out=tmp_path / "labels.csv")
    with pytest.raises(ConfigError, match="--keep-teachers needs --teachers"):
        aft.train(**{**riddle, "teachers": (), "out": tmp_path / "x"}, keep_teachers=True)
    with pytest.raises(StudentError, match="expected a finished run or student folder"):
        aft.evaluate(run=tmp_path / "nothing", progress=False)


def test_held_out_rows_need_features_too(riddle: dict[str, Any], tmp_path: Path) -> None:
    table = load_file(tmp_path / "known.safetensors")
    test = np.arange(len(table["features"])) % 3 == 0
    save_file({k: v[~test].clone() for k, v in table.items()}, tmp_path / "train.safetensors")
    options = {**riddle, "teachers": (f"features:{tmp_path}/train.safetensors",), "steps": 4}
    aft.train(**{**options, "out": tmp_path / "transfer"})
    with pytest.raises(TeacherError, match="has no features for 50 of 50 samples"):
        aft.train(**options, keep_teachers=True)


def test_regression_in_the_units_of_the_targets(tmp_path: Path) -> None:
    options = write_riddle(tmp_path, targets=True)
    result = aft.train(**options, keep_teachers=True)
    assert result.metrics["r2"] > 0.95 and 0.01 < result.metrics["rmse"] < 5


def test_resumed_equals_uninterrupted(
    riddle: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**riddle, "steps": 24, "eval_every": 4, "keep_teachers": True}
    whole = aft.train(**options)
    step, out = Trainer._step, tmp_path / "broken"

    def broken(self: Trainer, *args: Any) -> Any:
        if self.progress.step == 14:
            raise RuntimeError("the power failed")
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", broken)
        with pytest.raises(RuntimeError, match="the power failed"):
            aft.train(**{**options, "out": out})
    before = torch.load(out / "checkpoints" / "last.pt")["progress"]["seconds"]
    resumed = aft.train(**{**options, "out": out}, resume=True)
    best = [load_file(o / "checkpoints" / "best.safetensors") for o in (whole.out, out)]
    assert "teacher_head.linear.weight" in best[0]
    assert_same(*best)
    assert resumed.metrics == whole.metrics and read_metrics(out) == read_metrics(whole.out)
    assert resumed.summary["training_seconds"] > before > 0  # both parts count


@pytest.mark.slow
def test_two_processes_equal_one(
    picture_folder: Callable[..., Path], riddle: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "models.py").write_text(TEACHER + STUDENT)
    options = {
        **riddle,
        "data": str(picture_folder(train=12, test=6, size=32)),
        "teachers": (f"python:{tmp_path}/models.py:colours",),
        "student": f"python:{tmp_path}/models.py:plain",
        "steps": 8,
        "keep_teachers": True,
    }
    one = aft.train(**options)
    two = {**options, "out": tmp_path / "two", "features": tmp_path / "features-two"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "aft", "train", *flags(two)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    first, second = (
        load_file(out / "checkpoints" / "best.safetensors") for out in (one.out, two["out"])
    )
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-5)


def test_missing_inputs_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "teachers.py").write_text(TEACHERS)
    folder = make_picture_text_folder(tmp_path / "pairs", missing=12)  # of 48, in validation too
    result = aft.train(
        data=str(folder),
        teachers=f"text=python:{tmp_path}/teachers.py:words",
        student="image=small:cnn-tiny?size=32",
        keep_teachers=True,
        features=tmp_path / "features",
        out=tmp_path / "run",
        steps=20,
        batch_size=16,
        device="cpu",
        num_workers=0,
        progress=False,
    )
    assert np.isfinite(result.metrics["nll"]) and np.isfinite(result.summary["validation"]["nll"])


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_both_heads_are_one_layer_on_all_features(task: str) -> None:
    scale = (torch.tensor([5.0, -2.0]), torch.tensor([3.0, 0.5])) if task == "regression" else ()
    student = Student(torch.nn.Identity(), 4, 2, *scale)
    statistics = [(torch.ones(3), torch.full((3,), 2.0)), (torch.zeros(2), torch.ones(2))]
    head = TeacherHead([3, 2], 2, statistics=statistics)
    model = TransferModel(student, None, task=task, teacher_head=head)
    own, theirs = torch.randn(6, 4), [torch.randn(6, 3), torch.randn(6, 2)]
    labels = torch.randn(6, 2) if task == "regression" else torch.arange(6) % 2
    out = model(own, theirs, labels)
    joined = torch.cat([own, (theirs[0] - 1) / 2, theirs[1]], 1)
    weight = torch.cat([student.head.weight, head.linear.weight], 1)
    expected = student.rescale(joined @ weight.T + student.head.bias)
    torch.testing.assert_close(out["logits"], expected)
    torch.testing.assert_close(model(own, torch.cat(theirs, 1))["logits"], expected)
    out["loss"].backward()
    assert head.linear.weight.grad is not None and head.linear.weight.grad.isfinite().all()
    with pytest.raises(InputError, match="needs them at every prediction"):
        model(own)
    with pytest.raises(InputError, match="`statistics`"):
        TeacherHead([3], 2)
    assert TeacherHead([3], 2, "none")(theirs[0]).shape == (6, 2)
