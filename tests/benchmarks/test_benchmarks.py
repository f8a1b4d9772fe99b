"""The suite's tasks are comparisons that `aft` takes, and its tables tell what the numbers say."""

from __future__ import annotations

import copy
import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aft.config.commands import CompareConfig, ScoreConfig, TrainConfig, resolve
from aft.losses import AFTSoftLoss
from aft.students.backbone import load_backbone
from aft.tasks import Task
from aft.training.schedule import Schedule

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import advice  # noqa: E402
import advice_tables  # noqa: E402
import curves  # noqa: E402
import resolution  # noqa: E402
import suite  # noqa: E402
import tables  # noqa: E402
import trial_losses  # noqa: E402
import trial_tasks  # noqa: E402
import trials  # noqa: E402

SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_names_what_there_is(name: str) -> None:
    """The product moves on; a script that is run once a month must not find out by itself."""
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()


def test_make_bench_runs_every_benchmark() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = re.search(r"^BENCHMARKS := (.*)$", makefile, re.MULTILINE)
    assert named is not None
    run = set(named[1].split())
    marks = {name for name in SCRIPTS if 'if __name__ == "__main__"' in read(name)}
    assert run == marks - {"paper", "make_data"}  # a model hub and a GPU; an argument


def read(script: str) -> str:
    return (ROOT / "benchmarks" / f"{script}.py").read_text()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", suite.TASKS)
def test_every_task_is_a_comparison(
    name: str, full: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(suite, "fetch_minilm", lambda *_: Path("/weights/minilm"))
    monkeypatch.setattr(suite, "fetch_squeezenet", lambda *_: Path("/weights/squeezenet"))
    task = suite.TASKS[name]
    assert task.data in suite.DATA_SETS
    options = {**suite.COMMON, **task.options, **(suite.FULL | task.full if full else {})}
    left_out = options.pop("leave_out", ())
    methods = [method for method in suite.METHODS if method not in left_out]
    student, teachers = task.student(tmp_path), task.teachers(tmp_path)
    resolve(
        CompareConfig,
        None,
        {"data": "x", "student": student, "teachers": teachers, "methods": methods, **options},
    )


@pytest.mark.parametrize("name", suite.DATA_SETS)
def test_every_data_set_is_documented(name: str) -> None:
    table = (ROOT / "docs" / "benchmarks.md").read_text().partition("### Data sets")[2]
    assert f"`{name}`" in table.partition("###")[0]


def method(mean: float | None, ratio: float | None, outcome: str | None) -> dict[str, Any]:
    return {
        **{"mean": mean, "std": None if mean is None else 0.01, "outcome": outcome, "beta": 1.0},
        **{"difference": ratio and 1 - ratio, "low": ratio and 0.9 - ratio},
        **{"high": ratio and 1.1 - ratio},
        **{"error_ratio": ratio, "error_ratio_low": ratio and ratio - 0.1},
        "error_ratio_high": ratio and ratio + 0.1,
    }


@pytest.fixture
def document() -> dict[str, Any]:
    methods = {
        "alone": {**method(0.5, None, None), "beta": None},
        "kd": method(0.4, 1.2, "worse"),
        "rkd": method(None, None, None),
        "aft": method(0.55, 0.9, "better"),
        "aft-soft": {**method(0.55, 0.9, "better"), "beta": None},
        # as results of earlier versions hold it
        "refine": {**method(0.7, 0.6, "better"), "beta": None, "keeps_teachers": True},
    }
    setting = {
        "rows": {"train": 1000, "validation": 100, "test": 500},
        "unlabelled": 300,
        "probes": [{"teachers": ["x"], "score": 0.6}],
        "methods": methods,
    }
    return {"seeds": 5, "betas": [0.1, 1.0], "machine": "m", "errors": {}, "settings": [setting]}


WORDS = dict.fromkeys(("trec", "sms", "sms-b"), ("data", "student", "random", "teacher"))


def test_tables(document: dict[str, Any]) -> None:
    other = copy.deepcopy(document)
    other["settings"][0]["methods"]["aft"].update(error_ratio=1.1, outcome="worse")
    other["errors"] = {"runs/rkd-beta1-seed0": "broken"}
    other["metric"] = "balanced_accuracy"
    found = {"trec": document, "sms": other, "sms-b": other}
    rows = tables.task_table(found, WORDS).splitlines()
    assert rows[2].startswith("| data | 1,000 + 300 | student, random | 0.600 | 0.500 ± 0.010 |")
    assert "| +0.100 (+0.000 to +0.200) | kd -0.200 (-0.300 to -0.100) |" in rows[2]
    # The probe is .1 ahead, and so is the student.
    assert rows[2].endswith("| **0.550 ± 0.010** | +0.100 (+0.000 to +0.200) | 100% |")
    methods = {row.split(" | ")[0]: row for row in tables.method_table(found).splitlines()}
    # Both tasks on SMS are one data set: (0.9 + 1.1) / 2.
    assert methods["| aft"].startswith("| aft | 2 | 1.000 | ")
    assert methods["| aft"].endswith("| 1 | 0 | 2 |")
    assert "| -0.200 |" in methods["| kd"] and "| rkd" not in methods
    assert any(name.startswith("| refine") for name in methods)
    scores = tables.score_table(found)
    assert (
        "| aft | **0.550 ± 0.010** | _0.550 ± 0.010_ |" in scores and "| rkd | \u2013 |" in scores
    )
    origin = " ".join(tables._origin(found).split())
    assert "balanced accuracy for sms, sms-b)" in origin
    assert "2 runs" in origin and "0 of 9" in origin and " 9 the largest" in origin
    assert tables.draw(found, WORDS).axes


def test_tables_at_equal_inputs(document: dict[str, Any]) -> None:
    methods = document["settings"][0]["methods"]
    longer = {"alone": methods["alone"], "alone-equal-steps": method(0.6, 0.8, "better"), **methods}
    document["settings"][0]["methods"] = longer
    found = {"trec": document}
    assert "equal-steps" not in tables.task_table(found, WORDS)  # it is no rival
    assert tables.score_table(found).splitlines()[3].startswith("| alone-equal-steps | **0.600")
    document["metric"] = "accuracy"
    (row,) = tables.picture_table(found, WORDS).splitlines()[2:3]
    own = "0.600 | \u2013 | 0.600 ± 0.010 | 0.500 ± 0.010 | 0.550 ± 0.010 | kd 0.400 ± 0.010 |"
    assert own in row and row.endswith("| +0.100 (+0.000 to +0.200) | 100% |")
    del methods["aft"], methods["kd"], methods["rkd"]
    assert "| 0.500 ± 0.010 | \u2013 | \u2013 | **0.550" in tables.picture_table(
        {
            "trec": document
            | {
                "settings": [
                    {
                        **document["settings"][0],
                        "methods": {
                            name: one
                            for name, one in longer.items()
                            if name in (*methods, "alone-equal-steps")
                        },
                    }
                ]
            }
        },
        WORDS,
    )


def test_marks_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x -->\nold\n<!-- /x -->\nafter\n")
    tables.put("x", "new \\1\n", ["page.md"])
    assert page.read_text() == "before\n<!-- x -->\nnew \\1\n<!-- /x -->\nafter\n"
    with pytest.raises(ValueError, match=r"page\.md.*\by\b"):
        tables.put("y", "new", ["page.md"])


@pytest.mark.parametrize("page", [*tables.README, *tables.PAGE, "docs/demo.md", "docs/score.md"])
def test_pages_have_their_marks(page: str) -> None:
    text = (ROOT / page).read_text()
    marks = {
        "README.md": ("results",),
        "docs/benchmarks.md": (
            "suite pictures",
            "suite tasks",
            "suite methods",
            "suite scores",
            "survey",
            "noise",
        ),
        "docs/demo.md": ("demo results",),
        "docs/score.md": ("advice",),
    }[page]
    assert all(f"<!-- {mark} -->" in text and f"<!-- /{mark} -->" in text for mark in marks)


# Learning curves and resolutions ------------------------------------------------------------------


def test_learning_curves() -> None:
    runs = [
        {"task": "trec", "method": name, "steps": steps, "seed": seed, "inputs": steps * width}
        | {"score": 0.5 + steps / 1e4 + seed / 100, "metric": "accuracy", "seconds": 1.0}
        for name, width in (("alone", 64), ("aft", 64), ("aft-soft", 96))
        for steps in (100, 1000)
        for seed in range(2)
    ]
    rows = curves.write_table(runs).splitlines()
    assert rows[2].startswith("| TREC questions | student alone | 0.515 ± 0.007 | 0.605 ± 0.007 |")
    assert len(rows[4].split("|")) == 6
    (axes, _) = curves.draw(runs).axes
    assert axes.get_xscale() == "log" and len(axes.containers) == 3
    planned = list(curves.plan(["trec"], [300, 100], 2))
    assert len(planned) == 12 and planned[0] == {key: runs[0][key] for key in planned[0]}


def test_names_and_cells_of_resolutions() -> None:
    pair = ["timm:tf_efficientnet_lite0?size=96", "timm:tf_efficientnet_lite2"]
    assert resolution.name_of(pair) == "Lite0, 96 px + Lite2, 260 px"
    one = {"teachers": pair, "probe": 0.5, "probe_se": 0.01, "ridge": 0.6}
    found = {"stamps": {"metric": "accuracy", "rows": 10, "sets": [one]}}
    assert "| 0.500 ± 0.010 | 0.600 |" in resolution.write_table(found)


# Advice -------------------------------------------------------------------------------------------


def outcome(task: str, gap: float, gain: float, group: tuple[bool, bool]) -> advice.Outcome:
    return advice.Outcome(task, *group, gap, 0.02, gain, 0.005)


def test_calibration_finds_the_share_of_a_kind_of_task() -> None:
    none, rest = (True, False), (False, True)
    outcomes = [outcome(f"a{i}", 0.2, 0.0, none) for i in range(40)]
    outcomes += [outcome(f"b{i}", 0.2, 0.1, rest) for i in range(40)]
    noise = outcome("c", 0.001, 0.02, none)  # its share is 20, and means nothing
    found = advice.calibrate([*outcomes, noise])
    assert found[none].share == pytest.approx(0, abs=0.03)
    assert found[rest].share == pytest.approx(0.5, abs=0.03)
    assert found[True, True].share == pytest.approx(0.25, abs=0.03)  # no task: the mean of all
    assert found[none].share_sd < 0.1 and found[none].spread < 0.01


def test_small_gaps_tell_how_gains_differ_without_one() -> None:
    group = (True, True)
    outcomes = [outcome(f"a{i}", 0.001, 0.03 * (-1) ** i, group) for i in range(40)]
    found = advice.calibrate([*outcomes, outcome("b", 0.4, 0.04, group)])[group]
    assert found.spread == pytest.approx(0.03, abs=0.002)
    assert found.share == pytest.approx(0.1, abs=0.01) and found.share_sd < 0.15


def test_few_tasks_are_drawn_to_the_mean_of_all() -> None:
    outcomes = [outcome("a", 0.5, 0.25, (True, True)), outcome("b", 0.5, 0.0, (True, False))]
    found = advice.calibrate(outcomes)
    assert 0.3 < found[True, True].share < 0.45
    assert 0.05 < found[True, False].share < 0.2
    assert found[False, False].share == pytest.approx(0.25)
    assert found[True, True].share_sd == found[False, False].share_sd > 0.1


def test_a_task_is_not_expected_from_its_own_data() -> None:
    group = (True, False)
    outcomes = [outcome(name, 0.2, 0.02, group) for name in ("a", "b", "c")]
    outcomes += [outcome("d", 0.2, gain, group) for gain in (0.2,)]
    said = {"verdict": "use", "gain": 0.2, "gain_low": 0.1, "gain_high": 0.3}
    one = advice.weigh(outcomes[-1], [*outcomes, outcome("d-few", 0.2, 0.2, group)], said)
    assert one["expected"][0] == pytest.approx(0.02) and one["misses"] == ["outside the interval"]
    assert advice.weigh(outcomes[0], outcomes[:2], said)["expected"] is None  # one other data set


def test_misses_are_named() -> None:
    low = {"gain": 0.01, "gain_low": -0.01, "gain_high": 0.03}
    assert advice.find_misses({"verdict": "use", **low}, None) == ["no gain shown"]
    assert advice.find_misses({"verdict": "unclear", **low}, [0, -0.1, 0.1]) == []
    worse = {"gain": -0.02, "gain_low": -0.03, "gain_high": -0.01}
    assert advice.find_misses({"verdict": "use", **worse}, None) == ["harm"]
    better = {"gain": 0.02, "gain_low": 0.01, "gain_high": 0.03}
    assert advice.find_misses({"verdict": "don't", **better}, None) == ["a gain"]


def test_what_the_tasks_say_together() -> None:
    said = {"gain": 0.02, "gap": 0.2, "test_gap": 0.1, "expected": [0.03, 0.0, 0.06], "misses": []}
    worse = {**said, "gain": 0.01, "gap": 0.1, "misses": ["no gain shown", "outside the interval"]}
    best = {**said, "gain": 0.05, "gap": 0.3}
    waiting = {"gap": 0.5}
    found = advice.sum_up({"a": said, "b": worse, "c": best, "d": waiting})
    assert (
        found is not None and found["tasks"] == 3 and found["within"] == 2 and found["by_gap"] == 1
    )
    assert found["by_test_gap"] is None  # all the same
    assert found["error"] == pytest.approx(0.05 / 3)
    assert found["error_of_nothing"] == pytest.approx(0.08 / 3)
    assert advice.sum_up({"d": waiting}) is None
    text = advice_tables.say_advice(found)
    assert "2 of 3" in text and "0.017" in text and "+1.00" in text


def test_rank_correlations() -> None:
    assert advice.spearman([1, 2, 4], [0.1, 0.2, 0.3]) == 1
    assert advice.spearman([1, None, 4, 3], [0.1, 0.5, 0.2, 0.3]) == 0.5
    assert advice.spearman([1, None, 4], [0.1, 0.2, 0.3]) is None
    assert advice.spearman([1, 1, 1], [0.1, 0.2, 0.3]) is None


def test_advice_tables() -> None:
    said = {
        **{"rows": 1200, "unlabelled": 0, "gap": 0.2, "gap_se": 0.02, "verdict": "use"},
        **{"gain": 0.01, "gain_low": -0.01, "gain_high": 0.03, "test_gap": 0.1},
        **{"expected": [0.02, 0.0, 0.04], "misses": ["no gain shown"]},
    }
    waiting = {name: said[name] for name in ("rows", "unlabelled", "gap", "gap_se", "verdict")}
    rows = advice_tables.advice_table({"trec": said, "sms": waiting}, WORDS).splitlines()
    assert rows[2].endswith(
        "| 1,200 (0) | +0.200 ± 0.020 | use | +0.020 (+0.000 to +0.040) | "
        "+0.010 (-0.010 to +0.030) | +0.100 | no gain shown |"
    )
    assert rows[3].endswith("| use | \u2013 | \u2013 | \u2013 | not measured yet |")
    teacher: dict[str, Any] = {**dict.fromkeys(advice.SCORES, 0.5), "tmi": None}
    teacher |= {"teacher": "t", "runs": [0.4, 0.6], "mean": 0.5}
    spearman = {**dict.fromkeys(advice.SCORES, 1.0), "tmi": None}
    ranks = {"trec": {"teachers": [teacher], "spearman": spearman}}
    ranked = advice_tables.rank_table(ranks, WORDS)
    assert "| probe | +1.00 | +1.00 |" in ranked and "| TMI | \u2013 | \u2013 |" in ranked
    last = advice_tables.teacher_table(ranks, WORDS).splitlines()[-1]
    assert last.startswith("| data | t | 0.500 |")
    assert last.endswith("| \u2013 | 0.500 (0.400 to 0.600) |")


@pytest.mark.parametrize("name", advice.RANKED)
def test_rankings_are_of_a_task_and_its_own_teachers(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(suite, "fetch_squeezenet", lambda *_: Path("/weights/squeezenet"))
    for module in (suite, advice):
        monkeypatch.setattr(module, "fetch_minilm", lambda *_: Path("/weights/minilm"))
    teachers = advice.RANKED[name](tmp_path)
    assert len(set(teachers.values())) == len(teachers) >= 3
    assert set(suite.TASKS[name].teachers(tmp_path)) <= set(teachers.values())


@pytest.fixture
def bench() -> trial_tasks.Bench:
    """Texts of two kinds of words, and two teachers that half know which."""
    rng = torch.Generator().manual_seed(0)
    labels = {name: torch.arange(n) % 2 for name, n in (("train", 24), ("validation", 8))}
    labels |= {"test": torch.arange(8) % 2}
    kinds = {**labels, "pool": torch.arange(40) % 2}
    texts = {
        name: [" ".join(f"w{label}{i % 7 + k}" for k in range(3)) for i, label in enumerate(of)]
        for name, of in kinds.items()
    }
    backbone = load_backbone("small:static?dim=8", texts=lambda: texts["train"] + texts["pool"])
    prepare = backbone.preprocessing.evaluate()
    return trial_tasks.Bench(
        Task("classification", ("a", "b")),
        backbone,
        Schedule(steps=10, batch_size=8, unlabelled_batch_size=16, lr=1e-2, head_lr=1e-2),
        {n: trial_tasks.Held([prepare(t) for t in of], None) for n, of in texts.items()},
        labels,
        [
            {
                n: torch.randn(len(kinds[n]), dim, generator=rng) + kinds[n][:, None]
                for n in ("train", "pool")
            }
            for dim in (6, 4)
        ],
    )


def test_every_idea_is_tried(bench: trial_tasks.Bench) -> None:
    scores = {name: trials.train(bench, idea, 0) for name, idea in trials.IDEAS.items()}
    assert all(0 <= score <= 1 for score in scores.values())
    assert all(idea.against in scores for idea in trials.IDEAS.values())
    assert trials.train(bench, trials.IDEAS["joint"], 0) == scores["joint"]


def test_table_of_trials() -> None:
    def seeds(*scores: float) -> dict[str, Any]:
        return {str(seed): {"score": score} for seed, score in enumerate(scores)}

    found = {"joint": seeds(0.5, 0.6), "rising": seeds(0.51, 0.62), "alone": seeds(0.4, 0.5)}
    rows = trials.as_table({"made up": found, "other": {"alone": seeds(0.5)}}).splitlines()
    told = {row.split(" | ")[0]: row.split(" | ")[3:] for row in rows}
    assert told["| joint"] == ["0.550 \u00b1 0.071", "\u2013 |"]
    assert told["| rising"][0] == "0.565 (+0.015, -0.049 to +0.079)"
    assert told["| alone"] == ["0.450 (_-0.100_, -0.100 to -0.100)", "0.500 |"]


def test_ideas_change_the_loss_as_they_say(bench: trial_tasks.Bench) -> None:
    ideas, known = trials.IDEAS, [one["train"] for one in bench.features]
    outputs = (torch.randn(24, 2), torch.randn(24, 8))
    apart = [trial_losses.make_losses(bench, ideas["two, apart"], (one,), 0) for one in (0, 1)]
    each = torch.stack(
        [loss(outputs, [teacher]) for loss, teacher in zip(apart, known, strict=True)]
    )
    for drop, kept in (("larger", each.min()), ("smaller", each.max())):
        loss = trial_losses.Apart(apart, drop)
        told = {round(loss(outputs, known).item(), 5) for _ in range(40)}
        assert told == {round(kept.item(), 5), round(each.mean().item(), 5)}
    # One number a teacher does not change the kernel of one teacher.
    features = trials.replace(ideas["kernel"], kernel="features")
    both = [trials.replace(features, scale=scale) for scale in ("none", "teacher")]
    plain, scaled = (
        trial_losses.make_transfer(bench, idea, 0)(outputs, known[:1]) for idea in both
    )
    torch.testing.assert_close(plain, scaled)
    queue = trial_losses.make_transfer(bench, ideas["queue"], 0).kernel
    first, again = queue(outputs[1], known[:1]), queue(outputs[1], known[:1])
    torch.testing.assert_close(first, again)  # every row twice tells the same
    assert len(queue.earlier[0]) == 48
    gates = trial_losses.make_transfer(bench, ideas["gates of the head"], 0).kernel.gates()
    assert gates[0].max() > 0.999 and gates[0].min() < 0.9
    scores = trial_losses.make_transfer(bench, ideas["scores alone"], 0)
    assert not list(scores.parameters())
    # "joint" is the library's loss, to the bit, with the gates that it has.
    whole = AFTSoftLoss.fit(bench.heads[(0,)], known[:1])
    joint = trial_losses.make_transfer(bench, ideas["joint"], 0)
    assert joint(outputs, known[:1]) == whole(outputs, known[:1])
    assert len(list(joint.parameters())) == 1
    softer = trial_losses.make_transfer(bench, ideas["softer labels"], 0)
    assert softer.labels.temperature == 2 and joint.labels.temperature == 1


def test_ranking_trains_with_each_teacher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    teachers = {words: f"features:{words}.parquet" for words in ("good", "fair", "poor")}
    value = dict(zip(teachers.values(), (0.9, 0.6, 0.3), strict=True))
    steps = []

    def score(**options: Any) -> SimpleNamespace:
        resolve(ScoreConfig, None, options)
        (spec,) = options["teachers"]
        row = {**dict.fromkeys(advice.SCORES, value[spec]), "tmi": 1 - value[spec]}
        return SimpleNamespace(document={"metric": "accuracy"}, table=[row])

    def train(**options: Any) -> SimpleNamespace:
        config = resolve(TrainConfig, None, options)
        steps.append(config.steps)
        return SimpleNamespace(metrics={"accuracy": value[config.teachers[0]] + 0.01 * config.seed})

    monkeypatch.setitem(advice.RANKED, "reuters", lambda cache: teachers)
    monkeypatch.setattr(advice, "task_options", lambda name: {"data": "x", "student": "small:cnn"})
    monkeypatch.setattr(advice, "aft", SimpleNamespace(score=score, train=train))
    found = advice.rank("reuters")
    assert steps == 9 * [suite.TASKS["reuters"].options["steps"]]
    assert found["teachers"][0]["mean"] == pytest.approx(0.91)
    assert found["spearman"]["probe"] == 1 and found["spearman"]["tmi"] == -1
