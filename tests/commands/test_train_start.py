"""The initial weights are evaluated before the first step, and may be the best."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import aft
from aft.config.commands import TrainConfig, resolve
from aft.data.options import load_training_data
from aft.training.prepare import make_student
from aft.training.run_folder import read_metrics
from aft.training.trainer import Interrupted, Trainer
from aft.training.transfer_model import TransferModel
from helpers.report_pages import Page
from helpers.text_data import FILLERS, TOPICS
from helpers.training import TEACHERS, assert_same, read_state, weights


def write_numbers(path: Path, sign: float) -> Path:
    """Texts with a number each that their words tell; held-out numbers have this sign."""
    generator = np.random.default_rng(0)
    first, second = (list(words) for words in list(TOPICS.values())[:2])
    rows = []
    for i in range(90):
        split = ("train", "validation", "test")[i % 3]
        words = [*generator.choice(first if i % 2 else second, 3), *generator.choice(FILLERS, 3)]
        number = (1.0 if i % 2 else -1.0) + 0.1 * generator.normal()
        label = 20 + (1.0 if split == "train" else sign) * number
        rows.append({"text": f"{' '.join(words)} {i}", "label": label, "split": split})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """A run whose held-out numbers are the opposite of what it learns."""
    (tmp_path / "teachers.py").write_text(TEACHERS)
    return {
        "data": str(write_numbers(tmp_path / "numbers.jsonl", -1.0)),
        "teachers": (f"python:{tmp_path / 'teachers.py'}:words",),
        "student": "small:static?dim=16",
        "features": tmp_path / "features",
        "out": tmp_path / "run",
        "steps": 12,
        "eval_every": 4,
        "batch_size": 10,
        "lr": 0.05,
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
    }


def rows_of(options: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(options["data"]).read_text().splitlines()]


def evaluations(out: Path, split: str) -> list[dict[str, Any]]:
    return [line for line in read_metrics(out) if line["split"] == split]


def test_a_student_that_only_gets_worse_stays_as_it_was(options: dict[str, Any]) -> None:
    result = aft.train(**options)
    found = result.summary
    assert found["best_step"] == found["safety_net"]["alone"]["best_step"] == 0
    for split in ("validation", "validation_alone"):
        lines = evaluations(result.out, split)
        assert [line["step"] for line in lines] == [0, 4, 8, 12]
        assert lines[0]["r2"] > lines[-1]["r2"]
    assert found["validation"]["r2"] == evaluations(result.out, "validation")[0]["r2"]
    both = (
        load_file(result.out / f"checkpoints/best{name}.safetensors") for name in ("", "-alone")
    )
    with_transfer, alone = both
    for name, value in alone.items():  # neither has moved
        assert torch.equal(value, with_transfer[f"student.{name}"])


@pytest.mark.usefixtures("run_pages")
def test_a_student_no_better_than_the_mean_is_told(
    options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    result = aft.train(**options)
    trivial = result.summary["trivial"]
    assert trivial["metric"] == "r2" and trivial["score"] <= 0
    assert trivial["score"] == pytest.approx(result.metrics["r2"], abs=1e-5)
    assert trivial["sentence"] in result.summary["notes"]
    assert trivial["sentence"] in capsys.readouterr().err
    page = Page(result.out / "report.html")
    (warning,) = (text for text in page.by_class["caution"] if trivial["sentence"][1:] in text)
    assert "--lr" in warning and page.text.count(trivial["sentence"][1:]) == 1


def test_a_student_that_learns_is_kept_later(options: dict[str, Any], tmp_path: Path) -> None:
    options["data"] = str(write_numbers(tmp_path / "same.jsonl", 1.0))
    summary = aft.train(**options).summary
    assert summary["best_step"] > 0
    assert set(summary["trivial"]) == {"metric", "score"}


def test_steps_are_those_of_a_run_without_the_evaluation(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aft.train(**options)
    evaluate = Trainer._evaluate
    monkeypatch.setattr(
        Trainer, "_evaluate", lambda self, log: evaluate(self, log) if self.progress.step else 0.0
    )
    other = tmp_path / "other"
    aft.train(**{**options, "out": other})
    states = [read_state(out / "checkpoints/last.pt") for out in (options["out"], other)]
    assert_same(states[0]["model"], states[1]["model"])
    for split in ("train", "validation", "validation_alone"):
        lines = [line for line in evaluations(options["out"], split) if line["step"] > 0]
        assert lines == evaluations(other, split)


def test_numbers_start_at_their_mean(options: dict[str, Any]) -> None:
    """Though the student has random weights; and after two steps all of it has learned."""
    targets = {
        split: np.array([r["label"] for r in rows_of(options) if r["split"] == split])
        for split in ("train", "validation")
    }
    options |= {"teachers": (), "steps": 2}
    result = aft.train(**options)
    start = evaluations(result.out, "validation")[0]
    error = targets["validation"] - targets["train"].mean()
    assert start["rmse"] == pytest.approx(float(np.sqrt((error**2).mean())), rel=1e-5)
    assert start["r2"] <= 0
    initial = load_file(result.out / "checkpoints/best.safetensors")
    last = read_state(result.out / "checkpoints/last.pt")["model"]
    assert result.summary["best_step"] == 0
    assert not any(initial[f"student.head.{name}"].any() for name in ("weight", "bias"))
    backbone = {name for name in initial if name.startswith("student.backbone.")}
    assert backbone and any(not torch.equal(initial[name], last[name]) for name in backbone)


def test_gradients_reach_the_backbone_from_the_second_step_on(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = resolve(TrainConfig, None, {**options, "teachers": ()})
    student = make_student(config, load_training_data(config), False).module
    model = TransferModel(student, task="regression")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    tokens, labels = torch.arange(12).reshape(4, 3), torch.tensor([[19.0], [21], [20], [22]])
    norms = []
    for _ in range(2):
        optimizer.zero_grad()
        model(tokens, labels=labels)["loss"].backward()
        gradients = [p.grad.norm() for p in student.backbone.parameters() if p.grad is not None]
        norms.append(float(torch.stack(gradients).norm()))
        optimizer.step()
    assert norms[0] == 0 < norms[1]


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_interrupted_before_the_first_evaluation(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: float
) -> None:
    options["data"] = str(write_numbers(tmp_path / "signed.jsonl", sign))
    whole = aft.train(**options)
    step = Trainer._step

    def stopped(self: Trainer, *args: Any) -> Any:
        if self.progress.step == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, *args)

    broken = {**options, "out": tmp_path / "broken"}
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stopped)
        with pytest.raises(Interrupted):
            aft.train(**broken)
    assert [line["step"] for line in evaluations(broken["out"], "validation")] == [0]
    resumed = aft.train(**broken, resume=True)
    assert_same(weights(whole.out), weights(resumed.out))
    assert resumed.metrics == whole.metrics
    assert resumed.summary["best_step"] == whole.summary["best_step"]
    assert read_metrics(whole.out) == read_metrics(resumed.out)
