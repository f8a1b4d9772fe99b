from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aft.comparison.statistics import summarize_method
from aft.errors import AftError
from aft.report import write_methods_report
from aft.report.comparison.costs import cost_sentence, operations, ratio
from aft.report.comparison.overview import effects
from aft.report.comparison.text import introduction, read_shares, shares_sentence
from helpers.comparison_folders import TEACHERS, make_comparison
from helpers.report_pages import Page, check_self_contained, picture

STRANGE = "python:<script>alert('x')</script>|`*.py"


def open_file(file: str) -> Image.Image:
    return picture(int(Path(file).stem))


def test_one_setting(tmp_path: Path) -> None:
    found = make_comparison(tmp_path)
    page = Page(write_methods_report(tmp_path, found, open_file))
    check_self_contained(page)
    assert found["sentence"] in page.text
    assert "details" not in page.tags
    for heading in (
        "Methods",
        "Ceilings",
        "Gates of the features of its teachers",
        "Learning curves",
        "How the weights were chosen",
        "Every run",
        "Cost of the teachers",
        "Confusion matrix",
    ):
        assert f">{heading}" in page.source
    # errors, points, times, probes; two teachers' gates; six learning curves
    assert page.tags.count("svg") == 4 + 2 + 6
    best = max(
        (name for name in found["settings"][0]["methods"] if name not in ("alone", "refine")),
        key=lambda name: found["settings"][0]["methods"][name]["mean"],
    )
    assert f"What {best} changed" in page.text
    assert page.tags.count("img") > 4
    # 23 G a row and teacher against 3 x 1.1 G x 64 rows x 1000 steps
    assert "costs 0.26 times as much as one training run of the student" in page.text
    assert "would cost 53 times as much as the pass" in page.text
    assert write_methods_report(tmp_path, found, open_file).read_text() == page.source
    text = (tmp_path / "report.md").read_text()
    for row in (
        "| labels alone ",
        "| refine: student that keeps the teachers ",
        "linear head on",
    ):
        assert row in text
    assert "costs 0.26 times" in text


def test_a_method_that_keeps_its_teachers_is_a_ceiling(tmp_path: Path) -> None:
    found = make_comparison(tmp_path, methods=("alone", "aft", "refine"))
    page = Page(write_methods_report(tmp_path, found))
    verdict = found["settings"][0]["methods"]["refine"]["verdict"]
    assert verdict and verdict not in page.text
    assert "student that keeps the teachers" in page.text
    assert "hatched keeps the teachers at prediction" in page.text
    plain = make_comparison(tmp_path / "plain", methods=("alone", "aft"))
    page = Page(write_methods_report(tmp_path / "plain", plain))
    assert "hatched" not in page.text
    assert "rings" not in page.text


def test_several_settings(tmp_path: Path) -> None:
    found = make_comparison(
        tmp_path, fractions=(0.1, 1.0), each_teacher=True, seeds=2, methods=("alone", "aft")
    )
    assert len(found["settings"]) == 6
    page = Page(write_methods_report(tmp_path, found, open_file))
    check_self_contained(page)
    assert page.tags.count("details") == 6
    assert page.source.count('<details class="setting" open>') == 1
    assert [a for a in page.addresses if a.startswith("#s")] == [
        f"#setting-{i}" for i in range(1, 7)
    ]
    assert "Mean accuracy against the share of train: labels alone" in page.source
    assert "Effect of each teacher" in page.text
    assert "in the setting 100% of train, all teachers" in page.text
    assert "on 120 or 1,200 rows by each method" in page.text
    text = (tmp_path / "report.md").read_text()
    assert "## Overview" in text
    assert "## 10% of train, vit_small_patch14_dinov2\n" in text
    assert text.count("### Methods") == 6


def test_the_same_teachers_everywhere_have_no_effects_of_their_own(tmp_path: Path) -> None:
    found = make_comparison(tmp_path, fractions=(0.1, 1.0), seeds=2, methods=("alone", "aft"))
    assert effects(found) is None
    found = make_comparison(tmp_path, each_teacher=True, seeds=3, methods=("alone", "kd"))
    shown = effects(found)
    assert shown is not None
    assert shown["method"] == "kd"
    assert [row["name"] for row in shown["rows"]] == [one["name"] for one in found["settings"]]
    for row in shown["rows"]:
        assert 0 <= row["from"] <= row["at"] <= row["to"] <= 100
    page = Page(write_methods_report(tmp_path, found))
    assert "Mean accuracy against the share of train" not in page.source


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_other_tasks(tmp_path: Path, kind: str) -> None:
    methods = ("alone", "aft", "refine")
    found = make_comparison(
        tmp_path, methods=methods, kind=kind, seeds=2, run={"names": ("weight", "height")}
    )
    page = Page(write_methods_report(tmp_path, found, open_file))
    check_self_contained(page)
    assert "Learning curves" in page.text
    assert "Confusion matrix" not in page.text


def lose(found: dict[str, Any], methods: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    """Make runs of the first setting fail."""
    setting = found["settings"][0]
    for method in methods:
        values = setting["methods"][method]
        for run in values["runs"]:
            if run["seed"] in seeds:
                name = run["folder"]
                run.clear()
                run |= {"seed": seeds[0], "folder": name, "score": None, "error": "out of memory"}
                found["errors"][name] = "out of memory"
        own, alone = (setting["methods"][name]["runs"] for name in (method, "alone"))
        values |= summarize_method(method, "accuracy", own, alone if method != "alone" else None)


@pytest.mark.parametrize("lost", [("kd",), ("alone",), ("aft", "refine"), ("alone", "kd", "aft")])
def test_methods_without_runs(tmp_path: Path, lost: tuple[str, ...]) -> None:
    methods = ("alone", "kd", "aft", "refine")
    found = make_comparison(tmp_path, methods=methods, seeds=3, fractions=(0.1, 1.0))
    del found["settings"][1]["methods"]["kd"]  # the settings need not have the same methods
    for method in lost:
        for seed in range(3):
            lose(found, (method,), (seed,))
        values = found["settings"][0]["methods"][method]
        values |= {"beta": None, "seconds": None}
        for look in values["search"]:
            look |= {"validation": None, "error": "out of memory"}
        for folder in (tmp_path / "train-0.1" / "runs").glob(f"{method}-*"):
            (folder / "result.json").unlink()
    page = Page(write_methods_report(tmp_path, found, open_file))
    check_self_contained(page)
    assert "out of memory" in page.text
    assert "out of memory" in (tmp_path / "report.md").read_text()


def test_one_failed_run(tmp_path: Path) -> None:
    found = make_comparison(tmp_path, methods=("alone", "aft"), seeds=3)
    lose(found, ("aft",), (1,))
    (tmp_path / "runs" / "aft-beta10-seed1" / "result.json").unlink()
    page = Page(write_methods_report(tmp_path, found, open_file))
    assert "beside the labels alone, over 2 seeds" in page.text
    (row,) = (
        line
        for line in (tmp_path / "report.md").read_text().splitlines()
        if line.startswith("| aft ") and line.endswith(" s |")
    )
    assert row.split("|")[3].strip() == "\N{EN DASH}"


def test_nothing_counted_and_no_ceilings(tmp_path: Path) -> None:
    found = make_comparison(
        tmp_path,
        methods=("alone", "aft"),
        seeds=1,
        betas=(3.0,),
        teachers=TEACHERS[:1],
        probes=False,
    )
    found["costs"] = {
        "student": {"flops": None, "training_flops": None, "rows_seen": 0},
        "teachers": [],
    }
    page = Page(write_methods_report(tmp_path, found))
    check_self_contained(page)
    for heading in ("Ceilings", "How the weights were chosen", "Cost of the teachers"):
        assert heading not in page.text
    assert "too few seeds" in page.text
    assert "share of the kernel" not in page.text  # there is but one teacher
    assert "has the weight 3; it was not searched" in introduction(found)


def test_costs_that_are_not_known(tmp_path: Path) -> None:
    found = make_comparison(tmp_path, methods=("alone", "aft"), seeds=1)
    found["costs"]["teachers"][0] |= {"flops": None, "total_flops": None}
    page = Page(write_methods_report(tmp_path, found))
    assert "What the teachers cost beside a training run is not known" in page.text
    assert page.text.count("not known") == 3
    found["costs"]["teachers"] = found["costs"]["teachers"][1:]
    assert "run it again" in cost_sentence(found)
    assert [operations(n) for n in (None, 12, 1234, 2.5e9, 3e15)] == [
        "not known",
        "12",
        "1.23 k",
        "2.5 G",
        "3 P",
    ]
    assert [ratio(n) for n in (0.00001, 0.41, 12.3, 1234)] == [
        "less than 0.001",
        "0.41",
        "12",
        "1,200",
    ]


def test_a_teacher_that_is_switched_off(tmp_path: Path) -> None:
    found = make_comparison(tmp_path, methods=("alone", "aft"), seeds=2)
    for seed, shares in enumerate(([0.998, 0.002], [0.99, 0.01])):
        path = tmp_path / "runs" / f"aft-beta10-seed{seed}" / "result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "teacher_shares": shares}))
    shares = read_shares(tmp_path, found["settings"][0])
    assert [share["off"] for share in shares] == [False, True]
    assert (shares[1]["low"], shares[1]["high"]) == (0.002, 0.01)
    rule = "has a share below 1% of the kernel, averaged over seeds"
    said = f"Switched off, that is, {rule}: {TEACHERS[1]}."
    assert said == shares_sentence(shares)
    assert said in Page(write_methods_report(tmp_path, found)).text
    assert said in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("error", [AftError("gone"), OSError("gone"), KeyError("gone")])
def test_inputs_that_are_gone(tmp_path: Path, error: Exception) -> None:
    def gone(file: str) -> Image.Image:
        raise error

    found = make_comparison(tmp_path, methods=("alone", "aft"), seeds=2)
    page = Page(write_methods_report(tmp_path, found, gone))
    assert "no picture" in page.text
    assert "img" not in page.tags


def test_texts_are_shown(tmp_path: Path) -> None:
    columns = {"columns": [("title", "text"), ("body", "text")]}
    found = make_comparison(tmp_path, methods=("alone", "aft"), seeds=2, run=columns)
    page = Page(
        write_methods_report(
            tmp_path, found, lambda file: {"title": f"<b>{file}</b>", "body": None}
        )
    )
    check_self_contained(page)
    assert "<b>test/00" in page.text


def test_seeds_without_rows_in_common(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    found = make_comparison(tmp_path, methods=("alone", "aft"), seeds=2)
    for i, path in enumerate(sorted(tmp_path.rglob("evaluation.parquet"))):
        table = pyarrow.parquet.read_table(path).to_pydict()
        table["file"] = [f"{i}-{file}" for file in table["file"]]
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    page = Page(write_methods_report(tmp_path, found, open_file))
    assert "The seeds share no row of the test split" in page.text
    assert "Confusion matrix" in page.text


def test_strange_names_are_escaped(tmp_path: Path) -> None:
    found = make_comparison(
        tmp_path,
        methods=("alone", "aft", STRANGE),
        teachers=(STRANGE, "ひまわり:زهرة<b>"),
        each_teacher=True,
        seeds=2,
        run={"names": (STRANGE, "$^{b}$", "زهرة")},
    )
    found |= {"data": STRANGE, "student": STRANGE, "errors": {STRANGE: STRANGE}}
    found |= {"sentence": STRANGE, "cautions": [STRANGE]}
    for i, setting in enumerate(found["settings"]):
        setting["name"] = f"{STRANGE} {i}"
    page = Page(write_methods_report(tmp_path, found, open_file))
    check_self_contained(page)
    assert page.text.count(STRANGE) > 20
    assert "<script" not in (tmp_path / "report.md").read_text()


def test_markdown_needs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = make_comparison(tmp_path, methods=("alone", "aft"), seeds=2)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(AftError, match="reports need matplotlib"):
        write_methods_report(tmp_path, found)
    assert "## Every run" in (tmp_path / "report.md").read_text()


def test_metrics_that_moved_the_other_way_are_named(tmp_path: Path) -> None:
    found = make_comparison(tmp_path, methods=("alone", "aft"), seeds=3)
    values = found["settings"][0]["methods"]["aft"]
    values["outcome"] = "better"
    values["metrics"]["balanced_accuracy"] |= {
        **{"mean": 0.238, "difference": -0.022, "low": -0.043, "high": -0.0015},
        "outcome": "worse",
    }
    page = Page(write_methods_report(tmp_path, found, open_file))
    check_self_contained(page)
    assert "balanced accuracy -0.022" in page.text and "-0.043 to -0.001" in page.text
    assert "log loss" in page.text
    text = (tmp_path / "report.md").read_text()
    assert "| aft " in text and "balanced accuracy" in text and "log loss" in text
    for method in found["settings"][0]["methods"].values():
        del method["metrics"]  # as documents were before
    assert "Other metrics" not in Page(write_methods_report(tmp_path, found, open_file)).text
