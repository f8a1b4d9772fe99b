"""What `aft compare` makes equal: inputs seen, and the rows beside the methods."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aft
from aft.comparison.runs import method_of
from aft.config.commands import TrainConfig, write_config_file
from aft.errors import AftError
from aft.report.comparison.text import introduction
from aft.tasks import Task
from helpers.report_pages import Page, check_self_contained
from helpers.text_data import make_text_table
from helpers.training import TEACHERS

ROWS, BATCH, STEPS, VIEWS = 81, 16, 8, 4
WORDS = {
    "tf-idf": "TF-IDF with a linear model",
    "start-features": "linear model on the student's starting features",
    "taught-tf-idf": "TF-IDF with a linear model, taught by the soft labels",
}
Score = Callable[[TrainConfig], float]


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "teachers.py").write_text(TEACHERS)
    return {
        "data": str(make_text_table(tmp_path / "texts.jsonl")),
        "teachers": (f"python:{tmp_path / 'teachers.py'}:words",),
        "student": "small:static?dim=16",
        "features": tmp_path / "features",
        "methods": ("aft-soft", "kd"),
        "seeds": 3,
        "betas": (1.0,),
        "steps": STEPS,
        "batch_size": BATCH,
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
        "probes": False,
        "out": tmp_path / "out",
    }


class MadeUp:
    """Stands in for `aft train`: writes a run with made-up scores.

    Args:
        score: Score of a run.
        baselines: Scores of the baselines by name, plus the seed / 1000.
    """

    def __init__(self, score: Score, **baselines: float) -> None:
        self.score = score
        self.baselines = {name.replace("_", "-"): value for name, value in baselines.items()}
        self.configs: dict[str, TrainConfig] = {}

    def __call__(self, config: TrainConfig) -> aft.TrainResult:
        assert config.out is not None
        self.configs[config.out.name] = config
        views = VIEWS if config.loss in ("aft-soft", "soft-labels") and config.teachers else 0
        metrics = {"accuracy": self.score(config)}
        summary = {
            "task": Task("classification", ("food", "space", "sport")).describe(),
            "metric": "accuracy",
            "student": "small:static",
            "student_weights": "random",
            "num_parameters": 100,
            "steps": config.steps or STEPS,
            "best_step": 1,
            "training_seconds": 2.0,
            "seconds": 3.0,
            "rows": {"train": ROWS, "validation": 9, "test": 30},
            "rows_without_labels": views * ROWS,
            "views": views,
            "split": "test",
            "metrics": metrics,
            "validation": metrics,
        }
        if config.baselines:
            summary["baselines"] = [
                {
                    "name": name,
                    "words": WORDS[name],
                    "metrics": {"accuracy": value + config.seed / 1000},
                    "validation": {"accuracy": 0.1},
                    "seconds": 1.5,
                }
                for name, value in self.baselines.items()
                if config.teachers or name != "taught-tf-idf"
            ]
        config.out.mkdir(parents=True, exist_ok=True)
        write_config_file(config.out / "config.yaml", config)
        (config.out / "data.json").write_text("{}")
        (config.out / "result.json").write_text(json.dumps(summary))
        return aft.TrainResult.load(config.out)


def small_gain(config: TrainConfig) -> float:
    """Teachers help by 0.1; seeds differ a little."""
    return 0.6 + 0.1 * bool(config.teachers) + 0.01 * config.seed


@pytest.fixture
def make_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[MadeUp], MadeUp]:
    def patch(train: MadeUp) -> MadeUp:
        monkeypatch.setattr(importlib.import_module("aft.commands.compare"), "train", train)
        return train

    return patch


MakeUp = Callable[[MadeUp], MadeUp]


def test_all_see_as_many_inputs(options: dict[str, Any], make_up: MakeUp, capsys: Any) -> None:
    train = make_up(MadeUp(small_gain))
    found = aft.compare(**{**options, "eval_every": 4, "progress": True})
    (setting,) = found["settings"]
    steps = {name: config.steps for name, config in train.configs.items()}
    assert steps == {
        f"{name}-seed{seed}": number
        for seed in range(3)
        for name, number in (
            ("alone-steps24", 24),
            ("alone-equal-steps", 8),
            ("aft-soft", 8),
            ("kd-beta1-steps24", 24),
        )
    }
    assert f"of {len(steps)}:" in capsys.readouterr().err
    looks = {name: config.eval_every for name, config in train.configs.items()}
    assert looks["alone-steps24-seed0"] == 12 and looks["alone-equal-steps-seed0"] == 4
    methods = setting["methods"]
    assert list(methods) == ["alone", "alone-equal-steps", "aft-soft", "kd"]
    seen = {name: (one["steps"], one["inputs_seen"]) for name, one in methods.items()}
    assert seen.pop("alone-equal-steps") == (STEPS, STEPS * BATCH)
    assert set(seen.values()) == {(24, 3 * STEPS * BATCH), (8, 3 * STEPS * BATCH)}
    assert seen["aft-soft"][0] == STEPS == setting["steps"] == found["steps"]
    assert all(one["operations"] is None for one in methods.values())  # no student to count
    assert set(found["errors"]) == {"costs"}
    (note,) = [one for one in found["cautions"] if "second batch" in one]
    assert "24" in note and "8" in note
    words = "labels alone, equal steps"
    page = Page(options["out"] / "report.html")
    check_self_contained(page)
    assert page.row(words) and words in introduction(found)
    lines = (options["out"] / "report.md").read_text().splitlines()
    names = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert names[:4] == ["method", "labels alone", words, "aft-soft"]
    (row,) = [cells[1:] for cells in page.rows if cells[0] == "kd" and cells[-1] == "2 s"]
    assert row == ["0.700", "0.710", "0.720", "24", "384", "\N{EN DASH}", "2 s"]


def test_the_row_at_equal_steps_is_never_recommended(
    options: dict[str, Any], make_up: MakeUp
) -> None:
    def short_is_best(config: TrainConfig) -> float:
        short = not config.teachers and config.steps == STEPS
        return 0.6 + 0.3 * short + 0.01 * config.seed

    make_up(MadeUp(short_is_best))
    found = aft.compare(**options)
    (setting,) = found["settings"]
    row = setting["methods"]["alone-equal-steps"]
    assert row["outcome"] == "better" and row["difference"] == pytest.approx(0.3)
    assert setting["best"]["method"] == "alone" and "0.9" not in found["sentence"]
    assert "steps" not in found["sentence"]


@pytest.mark.parametrize("changes", [{"methods": ("kd",)}, {"views": "clean"}])
def test_without_a_second_batch_nothing_changes(
    options: dict[str, Any], make_up: MakeUp, changes: dict[str, Any]
) -> None:
    train = make_up(MadeUp(small_gain))
    found = aft.compare(**{**options, **changes})
    assert "alone-equal-steps" not in found["settings"][0]["methods"]
    assert {config.steps for config in train.configs.values()} == {STEPS}
    assert all("steps" not in name for name in train.configs)


def test_epochs_and_shares_of_the_rows(options: dict[str, Any], make_up: MakeUp) -> None:
    """Steps follow the rows of each share, as in `aft train`."""
    train = make_up(MadeUp(small_gain))
    more = {"steps": None, "epochs": 2.0, "train_fractions": (0.5, 1.0), "unlabelled_batch_size": 8}
    aft.compare(**{**options, **more})
    found = {
        str(config.out.parent.relative_to(options["out"])): (config.steps, config.epochs)
        for config in train.configs.values()
        if config.out is not None and config.out.name.startswith("alone-steps")
    }
    # 81 and 40 rows are 5 and 2 batches of 16 per epoch; a step sees 16 + 8 inputs.
    assert found == {"runs": (15, None), "train-0.5/runs": (6, None)}


def test_a_share_that_cannot_be_loaded_is_listed(
    options: dict[str, Any], make_up: MakeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_up(MadeUp(small_gain))
    runs = importlib.import_module("aft.comparison.runs")
    load = runs.load_training_data

    def broken(config: TrainConfig) -> Any:
        if config.train_fraction < 1:
            raise AftError("too few rows")
        return load(config)

    monkeypatch.setattr(runs, "load_training_data", broken)
    found = aft.compare(**{**options, "train_fractions": (0.1, 1.0)})
    first, second = (list(setting["methods"]) for setting in found["settings"])
    assert "alone-equal-steps" in second and "alone-equal-steps" not in first
    check_self_contained(Page(options["out"] / "report.html"))


def test_the_counted_operations(options: dict[str, Any]) -> None:
    """A real comparison: the operations follow from the inputs that each run saw."""
    found = aft.compare(**{**options, "methods": ("soft-labels",), "seeds": 2})
    assert not found["errors"]
    (setting,) = found["settings"]
    flops = found["costs"]["student"]["flops"]
    for name, values in setting["methods"].items():
        expected = STEPS * BATCH * (1 if name == "alone-equal-steps" else 3)
        assert values["inputs_seen"] == expected
        assert values["operations"] == 3 * flops * expected


def test_names_of_runs() -> None:
    for name in ("alone", "alone-steps24", "aft-rbf-beta1e-05-steps300", "aft-rbf-beta0.1"):
        assert method_of(f"{name}-seed10") == name.partition("-beta")[0].partition("-steps")[0]
    assert method_of("alone-equal-steps-seed3") == "alone-equal-steps"


class TestBaselines:
    def test_rows(self, options: dict[str, Any], make_up: MakeUp) -> None:
        train = make_up(MadeUp(small_gain, tf_idf=0.5, start_features=0.65, taught_tf_idf=0.66))
        found = aft.compare(**{**options, "methods": ("soft-labels", "aft-soft", "kd")})
        scored = {method_of(name) for name, one in train.configs.items() if one.baselines}
        assert scored == {"alone", "soft-labels", "aft-soft"}
        rows = {one["name"]: one for one in found["settings"][0]["baselines"]}
        assert list(rows) == ["tf-idf", "start-features", "taught-tf-idf"]
        assert {name: one["words"] for name, one in rows.items()} == WORDS
        row = rows["tf-idf"]
        assert [run["score"] for run in row["runs"]] == pytest.approx([0.5, 0.501, 0.502])
        assert [run["seed"] for run in row["runs"]] == [0, 1, 2] and row["seconds"] == 1.5
        assert row["mean"] == pytest.approx(0.501) and row["std"] == pytest.approx(0.001)
        assert row["outcome"] == "worse" and row["difference"] == pytest.approx(-0.109)
        assert WORDS["tf-idf"] in row["verdict"] and row["metrics"]["accuracy"]["low"] is not None
        best = found["settings"][0]["best"]
        assert best["better_baseline"] is None and "TF-IDF" not in found["sentence"]
        page, text = (
            Page(options["out"] / "report.html"),
            (options["out"] / "report.md").read_text(),
        )
        check_self_contained(page)
        for words in WORDS.values():
            assert page.row(words) and f"| {words} " in text
        assert "would use instead" in page.text and "would use instead" in text

    def test_a_better_one_is_named(self, options: dict[str, Any], make_up: MakeUp) -> None:
        make_up(MadeUp(small_gain, tf_idf=0.84, start_features=0.75))
        found = aft.compare(**options)
        best = found["settings"][0]["best"]
        better = best["better_baseline"]
        assert best["method"] in ("aft-soft", "kd") and better["name"] == "tf-idf"
        assert better["mean"] == pytest.approx(0.841) and better["outcome"] == "worse"
        assert better["difference"] == pytest.approx(-0.131)
        assert better["low"] < better["difference"] < better["high"] < 0
        assert found["sentence"].endswith(better["sentence"])
        for part in (WORDS["tf-idf"], "is better", "0.841", "0.710", f"{better['low']:+.3f}"):
            assert part in better["sentence"]
        assert found["sentence"] in Page(options["out"] / "report.html").text

    def test_a_higher_mean_is_not_always_better(
        self, options: dict[str, Any], make_up: MakeUp
    ) -> None:
        def noisy(config: TrainConfig) -> float:
            return small_gain(config) + (0.0, 0.1, -0.05)[config.seed]

        make_up(MadeUp(noisy, tf_idf=0.74))
        better = aft.compare(**options)["settings"][0]["best"]["better_baseline"]
        assert better["outcome"] == "no difference shown" and better["high"] > 0
        assert "no difference is shown" in better["sentence"]

    def test_seeds_without_a_score(self, options: dict[str, Any], make_up: MakeUp) -> None:
        train = MadeUp(small_gain, tf_idf=0.84)

        def fails(config: TrainConfig) -> float:
            if config.seed > 0 and not config.teachers and config.steps != STEPS:
                raise AftError("out of memory")
            return small_gain(config)

        train.score = fails
        make_up(train)
        (setting,) = aft.compare(**options)["settings"]
        (row,) = setting["baselines"]  # the labels alone have it, so no other run is asked
        assert [run["score"] for run in row["runs"]] == [0.84, None, None]
        better = setting["best"]["better_baseline"]
        assert better["difference"] is None and "too few seeds" in better["sentence"]

    def test_several_settings(self, options: dict[str, Any], make_up: MakeUp) -> None:
        train = MadeUp(small_gain, tf_idf=0.0)
        make_up(train)

        def score(config: TrainConfig) -> float:
            train.baselines["tf-idf"] = 0.9 if config.train_fraction < 1 else 0.2
            return small_gain(config)

        train.score = score
        found = aft.compare(**{**options, "train_fractions": (0.5, 1.0)})
        assert "1 of 2 settings" in found["sentence"] and WORDS["tf-idf"] in found["sentence"]
        page = Page(options["out"] / "report.html")
        check_self_contained(page)
        headings = next(cells for cells in page.rows if cells[0] == "setting")
        assert headings[-1] == WORDS["tf-idf"] and headings[2] == "labels alone, equal steps"
        assert page.by_class["apart"][0] == WORDS["tf-idf"]
        lines = (options["out"] / "report.md").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("| setting")]
        assert WORDS["tf-idf"] in line
