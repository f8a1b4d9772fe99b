from __future__ import annotations

import json
import re
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
from aft.report.comparison.text import NONE, introduction, other_metrics, read_shares, warnings
from helpers.comparison_folders import TEACHERS, make_comparison, set_metric
from helpers.errors import says
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
        "Other metrics",
        "Ceilings",
        "Teacher gates of aft",
        "Learning curves",
        "Weight selection",
        "Runs",
        "Cost of the teachers",
        "Changed predictions",
        "Confusion matrix",
        "Setup",
    ):
        assert heading in page.headings
    # errors, points, times, probes; two teachers' gates; five learning curves
    assert page.tags.count("svg") == 4 + 2 + 5
    best = max(
        (name for name in found["settings"][0]["methods"] if name != "alone"),
        key=lambda name: found["settings"][0]["methods"][name]["mean"],
    )
    (compared,) = (words for words in page.paragraphs if words.startswith(f"{best} compared"))
    assert "3 seeds" in compared
    recommended = found["settings"][0]["best"]["method"] == best
    assert ("recommended" in compared, "highest mean" in compared) == (recommended, not recommended)
    assert page.tags.count("img") > 4
    # 23 G per row and teacher against 3 x 1.1 G x 64 rows x 1000 steps
    costs = cost_sentence(found)
    assert "0.26 times" in costs and "53 times" in costs and costs in page.text
    aft = found["settings"][0]["methods"]["aft"]
    expected = [aft["outcome"], "10", "3", f"{aft['mean']:.3f}", f"{aft['std']:.3f}"]
    assert page.row("aft")[:5] == expected
    assert write_methods_report(tmp_path, found, open_file).read_text() == page.source
    text = (tmp_path / "report.md").read_text()
    for row in ("| labels alone ", "| linear model on ", "## Other metrics\n"):
        assert row in text
    assert costs in text


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
    assert "Effect of each teacher" in page.headings
    assert page.headings.count("Runs") == 6
    (compared,) = (words for words in page.paragraphs if words.startswith("aft compared"))
    assert "100% of train, all teachers" in compared
    assert "120 or 1,200 rows" in introduction(found) and introduction(found) in page.text
    text = (tmp_path / "report.md").read_text()
    assert "## Overview" in text
    assert "## 10% of train, vit_small_patch14_dinov2\n" in text
    assert text.count("### Methods") == 6


ALL = ("alone", "alone-equal-steps", "aft", "kd")
INSTEAD = ("TF-IDF with a linear model", "linear model on the student's starting features")


def test_baselines_and_the_labels_alone_at_equal_steps(tmp_path: Path) -> None:
    found = make_comparison(tmp_path, methods=ALL, baselines=True)
    (setting,) = found["settings"]
    setting["best"]["better_baseline"] = {"outcome": "worse"}
    page = Page(write_methods_report(tmp_path, found, open_file))
    check_self_contained(page)
    assert page.headings[0].startswith("3 methods")
    assert page.by_class["verdict"] and '<p class="verdict unclear">' in page.source
    for table in ("verdict", "mean time"):  # of the methods, and of their runs
        names = [cells[0] for cells in page.rows]
        start = next(i for i, cells in enumerate(page.rows) if table in cells)
        shown = names[start + 1 : start + 8]
        assert shown[:2] == ["labels alone", "labels alone, equal steps"]
        assert shown[4].endswith("instead") and tuple(shown[5:]) == INSTEAD
    first, last = (page.row(words) for words in INSTEAD)
    assert first[0] == "better" and first[1] == NONE and last[2] == "2"
    assert "equal steps" in page.source.split("Error ratio of each method")[1].split('"')[0]
    names, rows = other_metrics(setting, "accuracy")
    assert [name for name, _ in rows[-2:]] == list(INSTEAD) and len(names) == 3
    text = (tmp_path / "report.md").read_text()
    assert all(f"| {words} " in text for words in INSTEAD)
    (run,) = [line for line in text.splitlines() if line.startswith("| aft ") and " s |" in line]
    assert [cell.strip() for cell in run.split("|")[5:8]] == ["1,000", "64,000", "211 T"]
    assert setting["methods"]["alone-equal-steps"]["verdict"] not in page.text


def test_baselines_in_several_settings(tmp_path: Path) -> None:
    found = make_comparison(tmp_path, methods=ALL, baselines=True, fractions=(0.1, 1.0), seeds=2)
    found["settings"][0]["baselines"] = []
    page = Page(write_methods_report(tmp_path, found, open_file))
    check_self_contained(page)
    headings = next(cells for cells in page.rows if cells and cells[0] == "setting")
    assert tuple(headings[-2:]) == INSTEAD
    cells = next(cells for cells in page.rows if cells and cells[0] == "10% of train")
    assert cells[-2:] == [NONE, NONE]
    told = page.source.split("Mean accuracy against the share of train: ")[1].split('"')[0]
    assert "tf-idf 0." in told and "equal steps 0." in told


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
    methods = ("alone", "aft", "rkd")
    found = make_comparison(
        tmp_path, methods=methods, kind=kind, seeds=2, run={"names": ("weight", "height")}
    )
    page = Page(write_methods_report(tmp_path, found, open_file))
    check_self_contained(page)
    assert "Learning curves" in page.headings
    assert "Confusion matrix" not in page.headings


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


@pytest.mark.parametrize("lost", [("kd",), ("alone",), ("aft", "rkd"), ("alone", "kd", "aft")])
def test_methods_without_runs(tmp_path: Path, lost: tuple[str, ...]) -> None:
    methods = ("alone", "kd", "aft", "rkd")
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
    (compared,) = (words for words in page.paragraphs if words.startswith("aft compared"))
    assert "2 seeds" in compared
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
    for heading in ("Ceilings", "Weight selection", "Cost of the teachers"):
        assert heading not in page.headings
    assert page.row("aft")[0] == "too few seeds"
    assert ["teacher", "share of the kernel", "range over seeds"] not in page.rows  # one teacher
    assert "weight 3," in introduction(found)


def test_costs_that_are_not_known(tmp_path: Path) -> None:
    found = make_comparison(tmp_path, methods=("alone", "aft"), seeds=1)
    found["costs"]["teachers"][0] |= {"flops": None, "total_flops": None}
    page = Page(write_methods_report(tmp_path, found))
    assert cost_sentence(found) in page.text and "unknown" in cost_sentence(found)
    assert page.row(f"{TEACHERS[0]}, one pass over 1,200 rows")[:2] == ["unknown", "unknown"]
    assert page.text.count("unknown") == 3
    found["costs"]["teachers"] = found["costs"]["teachers"][1:]
    assert "the teacher over" in cost_sentence(found)
    assert [operations(n) for n in (None, 12, 1234, 2.5e9, 3e15)] == [
        "unknown",
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
    page = Page(write_methods_report(tmp_path, found))
    assert [TEACHERS[1], "0.006 off", "0.002 to 0.010"] in page.rows
    assert [TEACHERS[0], "0.994", "0.990 to 0.998"] in page.rows
    (sentence,) = (words for words in page.paragraphs if words.startswith("Switched off"))
    assert "1%" in sentence and TEACHERS[1] in sentence and TEACHERS[0] not in sentence
    assert sentence in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("error", [AftError("gone"), OSError("gone"), KeyError("gone")])
def test_inputs_that_are_gone(tmp_path: Path, error: Exception) -> None:
    def gone(file: str) -> Image.Image:
        raise error

    found = make_comparison(tmp_path, methods=("alone", "aft"), seeds=2)
    page = Page(write_methods_report(tmp_path, found, gone))
    assert len(page.by_class["none"]) > 0
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
    assert "tiles" not in page.by_class  # no counts of changed predictions
    assert "Changed predictions" in page.headings
    assert "Confusion matrix" in page.headings


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
    with pytest.raises(AftError) as caught:
        write_methods_report(tmp_path, found)
    assert says(caught.value, "matplotlib", "pip install", "[report]")
    assert "## Runs" in (tmp_path / "report.md").read_text()


def test_other_metrics(tmp_path: Path) -> None:
    found = make_comparison(tmp_path, methods=("alone", "kd", "aft", "rkd"))
    (setting,) = found["settings"]
    own = set_metric(setting, "kd", "nll", 0.031, "worse")
    better = set_metric(setting, "aft", "nll", -0.052, "better")
    names, rows = other_metrics(setting, "accuracy")
    assert [name.split(" (")[0] for name in names] == ["balanced accuracy", "macro F1", "log loss"]
    assert "lower" in names[-1] and "lower" not in "".join(names[:-1])
    cells = dict(rows)
    assert list(cells)[:3] == ["labels alone", "kd", "aft"] and len(cells) == 4
    assert cells["kd"][-1] == ("0.531", "+0.031 (+0.021 to +0.041)", "worse")
    assert cells["aft"][-1] == ("0.448", "-0.052 (-0.062 to -0.042)", "better")
    assert all(cell.difference == "" == cell.outcome for cell in cells["labels alone"])

    page = Page(write_methods_report(tmp_path, found))
    check_self_contained(page)
    assert "Other metrics" in page.headings
    assert any(cells[1:] == names for cells in page.rows if cells and cells[0] == "method")
    texts = [cells[-1] for cells in page.rows if cells and cells[0] in ("kd", "aft")]
    assert "0.531 +0.031 (+0.021 to +0.041) worse" in texts
    assert "0.448 -0.052 (-0.062 to -0.042) better" in texts
    (table,) = page.source.split('class="overview metrics"')[1:]
    assert re.search(rf'<td class="n worse"><b>{own["mean"]:.3f}</b>', table)
    assert re.search(rf'<td class="n better"><b>{better["mean"]:.3f}</b>', table)
    text = (tmp_path / "report.md").read_text()
    assert "0.531, +0.031 (+0.021 to +0.041), worse" in text


def test_a_better_method_that_is_worse_in_another_metric(tmp_path: Path) -> None:
    found = make_comparison(tmp_path, methods=("alone", "kd", "ft", "aft"), seeds=3)
    (setting,) = found["settings"]
    methods = setting["methods"]
    for method, outcome in (("kd", "no difference shown"), ("ft", "worse"), ("aft", "better")):
        methods[method]["outcome"] = outcome
    for method in ("kd", "ft", "aft"):
        methods[method]["metrics"] = {}
        set_metric(setting, method, "accuracy", 0.05, methods[method]["outcome"])
        set_metric(setting, method, "macro_f1", 0.04, "better")
    assert warnings(setting, "accuracy") == []
    page = Page(write_methods_report(tmp_path, found))
    known = page.by_class["caution"]
    assert "Verdict" in page.headings and methods["aft"]["verdict"] in page.text
    assert methods["kd"]["verdict"] not in page.text  # no difference shown
    assert "**Warning:**" not in (tmp_path / "report.md").read_text()

    for method in ("kd", "ft", "aft"):  # higher log loss is worse; only aft has a verdict to doubt
        set_metric(setting, method, "nll", 0.031, "worse")
        set_metric(setting, method, "balanced_accuracy", -0.02, "worse")
    (warning,) = warnings(setting, "accuracy")
    assert warning.startswith("aft ")
    for value in ("accuracy", "log loss", "+0.031", "+0.021", "+0.041"):
        assert value in warning
    for value in ("balanced accuracy", "-0.020", "-0.030", "-0.010"):
        assert value in warning
    assert "macro F1" not in warning
    page = Page(write_methods_report(tmp_path, found))
    (shown,) = (text for text in page.by_class["caution"] if text not in known)
    assert warning in shown
    assert f"**Warning:** {warning}" in (tmp_path / "report.md").read_text()


def test_warnings_of_several_settings_are_in_the_overview(tmp_path: Path) -> None:
    found = make_comparison(
        tmp_path, fractions=(0.1, 1.0), seeds=2, methods=("alone", "aft"), probes=False
    )
    second = found["settings"][1]
    second["methods"]["aft"]["outcome"] = "better"
    set_metric(second, "aft", "nll", 0.031, "worse")
    (warning,) = warnings(second, "accuracy")
    before = Page(write_methods_report(tmp_path, found)).source.split("<details", 1)[0]
    assert f"{second['name']}: {warning}" in before
    assert f"{found['settings'][0]['name']}: aft" not in before


@pytest.mark.parametrize("old", ["no key", "empty", "other methods"])
def test_documents_without_other_metrics(tmp_path: Path, old: str) -> None:
    found = make_comparison(tmp_path, methods=("alone", "aft"), seeds=2)
    (setting,) = found["settings"]
    for name, values in setting["methods"].items():
        if old == "no key":
            del values["metrics"]
        elif old == "empty" or name == "alone":
            values["metrics"] = {}
    page = Page(write_methods_report(tmp_path, found))
    check_self_contained(page)
    assert ("Other metrics" in page.headings) == (old == "other methods")
    assert ("Other metrics" in (tmp_path / "report.md").read_text()) == (old == "other methods")
    if old == "other methods":
        assert dict(other_metrics(setting, "accuracy")[1])["labels alone"] == [(NONE, "", "")] * 3
