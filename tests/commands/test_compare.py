"""`aft compare`: several methods over several seeds, end to end."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import aft
from aft.cli import main
from aft.comparison.statistics import recommend_method, summarize_method
from aft.config.commands import CompareConfig, TrainConfig
from aft.errors import AftError, ConfigError
from aft.report import write_methods_report
from aft.training.trainer import Trainer
from helpers.damage import edit
from helpers.errors import says
from helpers.report_pages import Page, check_self_contained
from helpers.text_data import FILLERS, make_text_table
from helpers.training import TEACHERS

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small comparison over texts: two seeds, two weights, two losses, two teachers."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "teachers.py").write_text(TEACHERS)
    teacher = f"python:{folder / 'teachers.py'}:words"
    return {
        "data": str(make_text_table(folder / "texts.jsonl")),
        "teachers": (teacher, teacher),
        "student": "small:static?dim=16",
        "features": folder / "features",
        "methods": ("aft", "kd"),
        "seeds": 2,
        "betas": (1.0, 0.1),
        "steps": 8,
        "eval_every": 4,
        "batch_size": 16,
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
        "out": folder / "out",
    }


@pytest.fixture(scope="module")
def found(options: dict[str, Any]) -> dict[str, Any]:
    return aft.compare(**options)


def runs(out: Path) -> dict[str, int]:
    """When each run was finished."""
    return {
        str(path.parent.relative_to(out)): path.stat().st_mtime_ns
        for path in sorted(out.rglob("result.json"))
    }


def test_end_to_end(found: dict[str, Any], options: dict[str, Any]) -> None:
    out = options["out"]
    (setting,) = found["settings"]
    trained = {f"runs/alone-seed{seed}" for seed in (0, 1)}
    for method in ("aft", "kd"):
        trained |= {f"runs/{method}-beta{beta}-seed0" for beta in ("0.1", "1")}
        trained.add(f"runs/{method}-beta{setting['methods'][method]['beta']:g}-seed1")
    assert set(runs(out)) == trained
    assert json.loads((out / "compare.json").read_text()) == json.loads(json.dumps(found))
    assert found["split"] == "test" and found["metric"] == "accuracy"
    assert list(setting["methods"]) == ["alone", "aft", "kd"] and not found["errors"]
    for method, values in setting["methods"].items():
        scores = []
        for seed, run in enumerate(values["runs"]):
            result = aft.TrainResult.load(out / run["folder"])
            assert run["score"] == result.metrics["accuracy"] and result.summary["seed"] == seed
            assert result.summary["loss"] == (None if method == "alone" else method)
            assert result.summary["beta"] == (values["beta"] or 0.0)
            assert "safety_net" not in result.summary  # as their papers have them
            scores.append(run["score"])
        assert values["mean"] == pytest.approx(sum(scores) / 2)
        assert values["seconds"] > 0
        for metric, one in values["metrics"].items():
            known = [aft.TrainResult.load(out / run["folder"]).metrics for run in values["runs"]]
            assert one["mean"] == pytest.approx(sum(each[metric] for each in known) / 2)
    page = Page(out / "report.html")
    check_self_contained(page)
    text = (out / "report.md").read_text()
    for sentence in (found["sentence"], *found["cautions"]):  # on both pages, whatever it says
        assert sentence in text and sentence in page.text
    best = setting["best"]
    own = {run["folder"] for run in setting["methods"][best["method"]]["runs"]}
    assert best["folder"] in own and best["folder"] in text and best["folder"] in page.text
    values = setting["methods"]["kd"]
    for run in values["runs"]:
        card = (out / run["folder"] / "student/README.md").read_text()
        assert "seeds 0, 1" in card and f"{values['mean']:.4f}" in card
        assert f"{values['low']:+.3f} to {values['high']:+.3f}" in card
    others = trained - {run["folder"] for one in setting["methods"].values() for run in one["runs"]}
    for name in others:
        assert "aft compare" not in (out / name / "student/README.md").read_text()


def test_methods_that_are_left_out_are_named(
    found: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(options["out"], out)
    fewer = aft.compare(**{**options, "out": out, "methods": ("kd", "aft-rbf"), "betas": (1.0,)})
    rbf = fewer["settings"][0]["methods"]["aft-rbf"]["runs"][1]["folder"]
    trained = yaml.safe_load((out / rbf / "config.yaml").read_text())
    assert (trained["loss"], trained["kernel"]) == ("aft", "rbf")
    listed = [note for note in fewer["cautions"] if "--methods" in note]
    assert len(listed) == 1 and "aft," in listed[0] and "kd" not in listed[0]
    assert not any("--methods" in note for note in found["cautions"])


def test_ceilings(found: dict[str, Any], options: dict[str, Any]) -> None:
    probes = found["settings"][0]["probes"]
    first, second = options["teachers"]
    both = [first, second]
    expected = [(False, [first]), (False, [second]), (False, both), (True, both)]
    (ridge,) = (probe for probe in probes if probe["ridge"])
    assert not ridge["student"] and ridge["teachers"] == both
    linear = sorted((one["student"], one["teachers"]) for one in probes if not one["ridge"])
    assert linear == sorted(expected) and not probes[-1]["student"] and probes[-1] is not ridge
    assert all(probe["score"] > 0.6 for probe in probes)


def test_costs(found: dict[str, Any], options: dict[str, Any]) -> None:
    """At least those of the head: a multiplication and an addition of each weight."""
    student, teachers = found["costs"]["student"], found["costs"]["teachers"]
    assert student["flops"] >= 2 * 16 * 3
    assert student["rows_seen"] == found["steps"] * 16
    assert student["training_flops"] == 3 * student["flops"] * student["rows_seen"]
    assert [teacher["spec"] for teacher in teachers] == list(options["teachers"])
    for teacher in teachers:
        assert teacher["rows"] == found["settings"][0]["rows"]["train"]
        assert teacher["flops"] is None  # word vectors alone: nothing is multiplied


def test_the_weight_is_chosen_on_validation(found: dict[str, Any], options: dict[str, Any]) -> None:
    assert found["betas"] == [0.1, 1.0]
    for values in found["settings"][0]["methods"].values():
        for look in values["search"]:
            summary = aft.TrainResult.load(options["out"] / look["folder"]).summary
            assert summary["split"] == "test"
            assert look["validation"] == summary["validation"]["accuracy"]
            assert summary["beta"] == look["beta"] and summary["seed"] == 0
        if values["search"]:
            best = max(look["validation"] for look in values["search"])
            assert values["beta"] == min(
                look["beta"] for look in values["search"] if look["validation"] == best
            )


def test_the_final_split_has_no_part_in_the_choice(
    found: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    """Of two weights the one that is worse on test wins where validation says so."""
    out = tmp_path / "out"
    shutil.copytree(options["out"], out)
    for method in ("aft", "kd"):
        for beta, validation, test in (("0.1", 0.2, 0.9), ("1", 0.3, 0.1)):
            path = out / f"runs/{method}-beta{beta}-seed0/result.json"
            scores = {
                "validation": {"accuracy": validation},
                "metrics": {"accuracy": test},
            }
            edit(path, lambda result, scores=scores: result | scores)
    again = aft.compare(**{**options, "out": out, "probes": False})["settings"][0]
    assert [again["methods"][method]["beta"] for method in ("aft", "kd")] == [1.0, 1.0]
    assert again["probes"] == []


def test_a_repeat_trains_nothing_and_a_lost_run_is_made_again(
    found: dict[str, Any], options: dict[str, Any]
) -> None:
    before = runs(options["out"])
    again = aft.compare(**options)
    assert runs(options["out"]) == before and again == found
    methods = found["settings"][0]["methods"]
    lost = methods["kd"]["runs"][1]["folder"]
    shutil.rmtree(options["out"] / lost)
    again = aft.compare(**options)["settings"][0]
    after = runs(options["out"])
    assert {name for name in before if before[name] != after[name]} == {lost}
    assert [run["score"] for run in again["methods"]["kd"]["runs"]] == [
        run["score"] for run in methods["kd"]["runs"]
    ]


def test_more_may_be_asked_for_later(
    found: dict[str, Any],
    options: dict[str, Any],
    tmp_path: Path,
) -> None:
    """Weights, single teachers, shares of the rows and the ceiling join what is there."""
    out = tmp_path / "out"
    shutil.copytree(options["out"], out)
    before = runs(out)
    more = aft.compare(
        **{
            **options,
            "out": out,
            "methods": ("aft", "soft-labels"),
            "betas": (1.0, 30.0),
            "train_fractions": (0.5, 1.0),
            "each_teacher": True,
        }
    )
    after = runs(out)
    assert all(after[name] == before[name] for name in before)
    settings = more["settings"]
    assert [(one["fraction"], len(one["teachers"])) for one in settings] == [
        *((0.5, 2), (0.5, 1), (0.5, 1)),
        *((1.0, 2), (1.0, 1), (1.0, 1)),
    ]
    assert settings[1]["name"] == "50% of train, words (1)"
    folders = {
        (one["fraction"], place, method): values["runs"][1]["folder"].rpartition("/")[0]
        for place, one in enumerate(settings)
        for method, values in one["methods"].items()
    }
    assert folders[0.5, 1, "alone"] == "train-0.5/runs"
    assert folders[0.5, 1, "aft"] == "train-0.5/teacher-1/runs"
    assert folders[0.5, 0, "soft-labels"] == "train-0.5/runs"
    assert folders[1.0, 5, "aft"] == "teacher-2/runs" and folders[1.0, 3, "aft"] == "runs"
    rows = [one["rows"]["train"] for one in settings]
    assert rows[0] == rows[2] < rows[3] == found["settings"][0]["rows"]["train"]
    assert settings[0]["methods"]["alone"]["runs"] == settings[1]["methods"]["alone"]["runs"]
    labels = settings[0]["methods"]["soft-labels"]
    assert labels["beta"] is None and not labels["search"] and labels["mean"] is not None
    assert "aft" in more["sentence"] and "soft-labels" in more["sentence"]
    check_self_contained(Page(out / "report.html"))


def test_other_options_are_refused(found: dict[str, Any], options: dict[str, Any]) -> None:
    before = runs(options["out"])
    with pytest.raises(ConfigError) as error:
        aft.compare(**{**options, "steps": 13})
    assert says(error.value, "steps", 8, 13)
    assert runs(options["out"]) == before


def test_what_cannot_be_compared_is_said(options: dict[str, Any], tmp_path: Path) -> None:
    new = {**options, "out": tmp_path / "new"}

    def refused(kind: type[AftError], *named: object, **changes: Any) -> None:
        with pytest.raises(kind) as error:
            aft.compare(**{**new, **changes})
        assert says(error.value, *named)

    refused(ConfigError, "--teachers", "aft", teachers=())
    refused(ConfigError, "aft-rbf", "--kernel rbf", methods=("aft", "aft-rbf"), kernel="rbf")
    refused(ConfigError, "--methods", "alone", methods=("alone",))
    refused(ConfigError, "refine", "aft-soft", methods=("refine",))
    refused(AftError, "small:static", student="small:statik")
    refused(AftError, "'tim'", "timm", teachers=("tim:resnet18",))
    refused(ConfigError, "accuracy", "r2", metric="r2")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    refused(ConfigError, tmp_path / "mine", out=tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "letter.txt").exists()


def test_a_method_that_fails_loses_no_other(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = importlib.import_module("aft.training.prepare")
    make_loss = prepare.make_loss

    def broken(config: TrainConfig, teachers: Any, *args: Any, **named: Any) -> Any:
        if not teachers:
            return None
        if config.loss == "kd" or (config.loss == "aft" and config.seed == 1):
            kind = RuntimeError if config.loss == "aft" else AftError  # such as a full memory
            raise kind(f"no {config.loss} <b>today</b>")
        return make_loss(config, teachers, *args, **named)

    monkeypatch.setattr(prepare, "make_loss", broken)
    found = aft.compare(**{**options, "out": tmp_path / "out", "steps": 4, "eval_every": 2})
    methods = found["settings"][0]["methods"]
    kd, plain = methods["kd"], methods["aft"]
    assert kd["beta"] is None and kd["mean"] is None and "0 of 2" in kd["verdict"]
    assert plain["mean"] is not None and plain["outcome"] is None
    assert [run["score"] is None for run in methods["alone"]["runs"]] == [False, False]
    lost = plain["runs"][1]["folder"]
    assert set(found["errors"]) == {"runs/kd-beta0.1-seed0", "runs/kd-beta1-seed0", lost}
    page = Page(tmp_path / "out" / "report.html")
    check_self_contained(page)
    assert "no kd <b>today</b>" in page.text
    assert any("aft" in note and "1 of 2" in note for note in found["cautions"])
    monkeypatch.undo()

    def always_broken(config: TrainConfig, teachers: Any, *args: Any, **named: Any) -> None:
        if teachers:
            raise AftError("no kd")

    monkeypatch.setattr(prepare, "make_loss", always_broken)
    with pytest.raises(AftError) as error:
        aft.compare(**{**options, "out": tmp_path / "none", "steps": 4})
    assert says(error.value, "no kd")


def test_labels_that_a_loss_is_not_for(options: dict[str, Any], tmp_path: Path) -> None:
    rows = []
    for i in range(40):
        text = f"{FILLERS[i % len(FILLERS)]} {FILLERS[i // 4]} {i}"
        rows.append(json.dumps({"text": text, "label": ["a", "b"][: 1 + i % 2]}) + "\n")
    (tmp_path / "tags.jsonl").write_text("".join(rows))
    tags = {**options, "data": str(tmp_path / "tags.jsonl"), "betas": (1.0,), "steps": 4}
    with pytest.raises(ConfigError) as error:
        aft.compare(**{**tags, "out": tmp_path / "none", "methods": ("rkd", "logit-kd")})
    assert says(error.value, "logit-kd", "classification", "multilabel")
    assert not runs(tmp_path / "none")
    found = aft.compare(**{**tags, "out": tmp_path / "out", "methods": ("rkd",)})
    (setting,) = found["settings"]
    assert found["metric"] == "mean_average_precision"
    assert 0 < setting["probes"][-1]["score"] <= 1
    assert setting["methods"]["rkd"]["mean"] is not None
    assert found["split"] == "validation"
    assert any("--test-fraction" in note for note in found["cautions"])


def test_a_stopped_comparison_goes_on(
    found: dict[str, Any], options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer._step

    def stop(self: Trainer, *args: Any) -> Any:
        if self.progress.step == 6:
            raise KeyboardInterrupt
        return step(self, *args)

    few = {**options, "methods": ("kd",), "betas": (1.0,), "out": tmp_path / "out"}
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stop)
        with pytest.raises(KeyboardInterrupt) as stopped:
            aft.compare(**few)
    assert says(stopped.value, tmp_path / "out")
    assert (tmp_path / "out" / "runs" / "alone-seed0" / "checkpoints" / "last.pt").exists()
    again = aft.compare(**few)
    methods, before = (one["settings"][0]["methods"] for one in (again, found))
    assert [run["score"] for run in methods["alone"]["runs"]] == [
        run["score"] for run in before["alone"]["runs"]
    ]
    assert methods["kd"]["beta"] == 1.0 and not methods["kd"]["search"]


def test_command_line_and_file(
    found: dict[str, Any], options: dict[str, Any], tmp_path: Path, capsys: Capture
) -> None:
    saved = options["out"] / "compare.yaml"
    assert set(yaml.safe_load(saved.read_text())) == set(CompareConfig.model_fields)
    before = runs(options["out"])
    capsys.readouterr()
    line = ["compare", "--config", str(saved), "--trust-remote-code"]
    assert main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(
        (options["out"] / "compare.json").read_text()
    )
    assert main(line) == 0
    assert "| labels alone" in capsys.readouterr().out
    assert runs(options["out"]) == before
    assert main([*line, "--methods", "kdd"]) == 2
    assert main([*line, "--betas", "-1"]) == 2


def scored(values: list[float | None], **others: list[float]) -> list[dict[str, Any]]:
    """Runs with these scores, and with other metrics."""
    return [
        {
            "score": value,
            "metrics": {"accuracy": value, **{name: one[i] for name, one in others.items()}},
        }
        for i, value in enumerate(values)
    ]


def test_verdicts() -> None:
    alone = scored([0.50, 0.60, 0.55, None])
    better = summarize_method("aft", "accuracy", scored([0.60, 0.71, 0.65, 0.9]), alone)
    worse = summarize_method("kd", "accuracy", scored([0.40, 0.49, 0.45, 0.9]), alone)
    same = summarize_method("rkd", "accuracy", scored([0.52, 0.57, 0.56, None]), alone)
    few = summarize_method("ft", "accuracy", scored([0.7, None, None, None]), alone)
    assert better["outcome"] == "better" and "accuracy +0.10" in better["verdict"]
    assert "3 seeds" in better["verdict"] and better["pairs"] == 3
    assert worse["outcome"] == "worse" and "accuracy -0.10" in worse["verdict"]
    assert same["outcome"] == "no difference shown" and "rkd" in same["verdict"]
    assert few["outcome"] is None and "1 of 4" in few["verdict"]
    assert better["error_ratio"] == pytest.approx((0.8 + 0.29 / 0.4 + 0.35 / 0.45) / 3)
    assert better["error_ratio_high"] < 1 < worse["error_ratio_low"]
    base = summarize_method("alone", "accuracy", alone, None)
    assert base["mean"] == pytest.approx(0.55) and base["verdict"] is None
    methods = {"alone": base, "kd": worse, "rkd": same, "aft": better}
    best = recommend_method(methods, "accuracy", "alone")
    assert best["method"] == "aft" and best["outcome"] == "better"
    methods["rkd"] = {**same, "mean": 0.99}  # a higher mean without a verdict does not win
    best = recommend_method(methods, "accuracy", "alone")
    assert best["method"] == "aft" and "rkd" in best["sentence"] and "0.990" in best["sentence"]
    del methods["aft"]
    best = recommend_method(methods, "accuracy", "alone")
    assert best["method"] == "alone" and "rkd" in best["sentence"]
    del methods["rkd"]
    methods["kd"]["mean"] = base["mean"]
    best = recommend_method(methods, "accuracy", "alone")
    assert best["method"] == "alone" and "0.550" in best["sentence"]
    methods["kd"] = {**worse, "mean": 0.99}  # not even with the highest mean
    assert recommend_method(methods, "accuracy", "alone")["method"] == "alone"
    lost = {"kd": few, "alone": {**base, "mean": None}}
    assert recommend_method(lost, "accuracy", "alone")["outcome"] is None
    lost = {"kd": {**few, "mean": None}, "alone": {**base, "mean": None}}
    assert recommend_method(lost, "accuracy", "alone")["method"] is None
    perfect = summarize_method("aft", "accuracy", scored([1.0, 1.0]), scored([1.0, 0.9]))
    assert perfect["error_ratio"] is None and perfect["outcome"] == "no difference shown"


def test_a_verdict_names_what_moved_the_other_way() -> None:
    alone = scored([0.5, 0.52, 0.51], balanced_accuracy=[0.3, 0.31, 0.3], nll=[6.0, 6.1, 6.2])
    own = scored([0.6, 0.62, 0.62], balanced_accuracy=[0.2, 0.21, 0.21], nll=[1.7, 1.8, 1.9])
    values = summarize_method("aft", "accuracy", own, alone)
    assert values["metrics"]["balanced_accuracy"]["outcome"] == "worse"
    assert values["metrics"]["nll"]["outcome"] == "better"  # lower is better
    assert "balanced accuracy -0.09" in values["verdict"] and "log loss" not in values["verdict"]
    base = summarize_method("alone", "accuracy", alone, None)
    best = recommend_method({"alone": base, "aft": values}, "accuracy", "alone")
    assert best["method"] == "aft" and "balanced accuracy -0.09" in best["sentence"]
    # Where nothing is shown of the metric itself there is nothing to oppose.
    unclear = summarize_method("aft", "accuracy", scored([0.5, 0.53, 0.5], nll=[9, 9, 8]), alone)
    assert unclear["outcome"] == "no difference shown"
    assert unclear["metrics"]["nll"]["outcome"] == "worse" and "log loss" not in unclear["verdict"]


def test_strange_names_are_escaped(
    found: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(options["out"] / "runs", tmp_path / "runs")
    name = "python:<script>alert('x')</script>|`*.py"
    changed = {**found, "data": name, "teachers": [name], "student": name, "errors": {"a": name}}
    (setting,) = found["settings"]
    probes = [{"teachers": [name], "student": False, "score": 0.5}]
    changed["settings"] = [{**setting, "name": name, "teachers": [name], "probes": probes}]
    page = Page(write_methods_report(tmp_path, changed))
    check_self_contained(page)
    assert name in page.text
    assert "<script" not in (tmp_path / "report.md").read_text()
