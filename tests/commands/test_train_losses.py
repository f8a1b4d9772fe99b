"""Every transfer loss in a run: it trains, is said in the results, and resumes as it was."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

import aft
from aft.config.commands import TrainConfig
from aft.config.groups import LossOptions
from aft.errors import ConfigError, StudentError
from aft.training.run_folder import FREE_TO_CHANGE, options_hash, read_metrics
from aft.training.trainer import Trainer
from helpers.errors import says
from helpers.text_data import make_text_table
from helpers.training import TEACHERS, assert_same, read_state, weights


class PowerFailure(Exception):
    """Ends a run in the middle."""


LOSSES = get_args(LossOptions.model_fields["loss"].annotation)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small run over texts with two teachers, whose features are computed once."""
    folder = tmp_path_factory.mktemp("losses")
    (folder / "teachers.py").write_text(TEACHERS)
    teacher = f"python:{folder / 'teachers.py'}:words"
    return {
        "data": str(make_text_table(folder / "texts.jsonl")),
        "teachers": (teacher, teacher),
        "student": "small:static?dim=16",
        "features": folder / "features",
        "steps": 40,
        "batch_size": 16,
        "beta": 0.1,
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
    }


@pytest.mark.usefixtures("run_pages")
@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_with_each_loss(loss: str, run: dict[str, Any], tmp_path: Path) -> None:
    beta = {"rkd": 10.0, "b-tuning": 3.0}.get(loss, 0.1)
    result = aft.train(**{**run, "beta": beta}, loss=loss, out=tmp_path / "run")
    assert result.metrics["accuracy"] > 0.7 and result.summary["loss"] == loss
    values = [
        line["transfer_loss"] for line in read_metrics(result.out) if line["split"] == "train"
    ]
    assert values[-1] < values[0]
    assert (result.out / "feature_weights.safetensors").exists() == (loss in ("aft", "aft-soft"))
    assert (result.out / "report.html").exists()


@pytest.mark.parametrize(
    "loss",
    [
        *("ft", "b-tuning", "logit-kd", "kdep", "soft-labels", "aft-soft"),
        *("distill-nearest", "distill-weighted", "row-trust"),
    ],
)
def test_losses_that_are_fitted_resume_as_they_were(
    loss: str, run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**run, "loss": loss, "steps": 12, "eval_every": 4}
    whole = aft.train(**options, out=tmp_path / "whole")
    interrupt(options | {"out": tmp_path / "broken"}, monkeypatch)
    resumed = aft.train(**options, out=tmp_path / "broken", resume=True)
    assert_same(weights(whole.out), weights(resumed.out))


def interrupt(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a run that stops after six steps."""
    step = Trainer._step

    def broken(self: Trainer, *args: Any) -> Any:
        if self.progress.step == 6:
            raise PowerFailure
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", broken)
        with pytest.raises(PowerFailure):
            aft.train(**options)


def test_the_start_of_row_trust_is_the_student_s(run: dict[str, Any], tmp_path: Path) -> None:
    for student, is_linear in (("small:ngrams?dim=8", True), ("small:static?dim=8", False)):
        out = tmp_path / student[6:12]
        options = {**run, "student": student, "steps": 1, "lr": 1e-9, "safety_net": False}
        aft.train(**options, loss="row-trust", out=out)
        state = load_file(out / "checkpoints/best.safetensors")
        head, start = (state[f"{name}.head.weight"] for name in ("student", "transfer_loss.start"))
        embedding = "backbone.embedding.weight"
        own, first = state[f"student.{embedding}"], state[f"transfer_loss.start.{embedding}"]
        torch.testing.assert_close(own, first)
        assert start.any() and torch.allclose(head, start, atol=1e-4) == is_linear


def test_checkpoints_of_earlier_versions_go_on(run: dict[str, Any]) -> None:
    before = TrainConfig(**run)
    values = before.model_dump(mode="json")
    new = {"from_", "classes", "class_template", "effort"}
    known = {name: values[name] for name in sorted(values.keys() - FREE_TO_CHANGE - new)}
    assert options_hash(before) == sha256(json.dumps(known).encode()).hexdigest()
    spaced = before.model_copy(update={"from_": "spaced"})
    assert options_hash(spaced) != options_hash(before)


def test_a_checkpoint_of_another_version_is_told(
    run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**run, "steps": 12, "eval_every": 4, "out": tmp_path / "run"}
    interrupt(options, monkeypatch)
    last = tmp_path / "run/checkpoints/last.pt"
    state = read_state(last)
    del state["model"]["transfer_loss.score_scale"]
    torch.save(state, last)  # without a checksum, as older versions did
    with pytest.raises(StudentError) as error:
        aft.train(**options, resume=True)
    assert says(error.value, "last.pt", "--overwrite", "score_scale")


@pytest.mark.usefixtures("run_pages")
@pytest.mark.parametrize("loss", ["aft", "aft-soft"])
def test_the_page_says_what_weighs_the_features(
    loss: str, run: dict[str, Any], tmp_path: Path
) -> None:
    options = {**run, "loss": loss, "steps": 2, "safety_net": False}
    told = {"diagonal": "has a gate, learned", "dense": "A matrix that was", "fixed": "fixed gates"}
    for form, words in told.items():
        result = aft.train(**options, weights=form, out=tmp_path / form)
        page = (result.out / "report.html").read_text()
        assert words in page
        assert page.count("learned together with the student") == (form != "fixed")
        assert ("mean gate" in page) == (form != "dense")
        assert ("scores of the task" in page) == (loss == "aft-soft")
        gates = load_file(result.out / "feature_weights.safetensors")
        teachers = result.summary["teachers"]
        assert [len(gate) for gate in gates.values()] == [one["dim"] for one in teachers]


def test_options_that_do_not_fit_are_said(run: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        aft.train(**run, loss="kd", combine="product", out=tmp_path / "a")
    assert says(error.value, "--combine", "aft-soft", "--loss kd")
    rows = [f'{{"text": "text {i}", "label": ["a", "b"]}}\n' for i in range(20)]
    (tmp_path / "tags.jsonl").write_text("".join(rows))
    tags = {**run, "data": str(tmp_path / "tags.jsonl")}
    for loss in ("logit-kd", "b-tuning", "distill-nearest", "distill-weighted", "row-trust"):
        with pytest.raises(ConfigError) as error:
            aft.train(**tags, loss=loss, out=tmp_path / loss)
        assert says(error.value, loss, "classification", "multilabel")
