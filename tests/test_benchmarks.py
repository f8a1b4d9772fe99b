"""The suite's tasks are comparisons that `aft` takes, and its tables tell what the numbers say."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

from aft.config import CompareConfig, resolve

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import suite  # noqa: E402
import tables  # noqa: E402


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


def method(mean: float | None, ratio: float | None, outcome: str | None) -> dict[str, Any]:
    return {
        **{"mean": mean, "std": None if mean is None else 0.01, "outcome": outcome, "beta": 1.0},
        **{"difference": ratio and 1 - ratio, "low": ratio and 0.9 - ratio},
        **{"high": ratio and 1.1 - ratio, "keeps_teachers": False},
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
        "refine": {**method(0.7, 0.6, "better"), "beta": None, "keeps_teachers": True},
    }
    setting = {
        "rows": {"train": 1000, "validation": 100, "test": 500},
        "probes": [{"teachers": ["x"], "score": 0.6}],
        "methods": methods,
    }
    return {"seeds": 5, "betas": [0.1, 1.0], "machine": "m", "errors": {}, "settings": [setting]}


WORDS = dict.fromkeys(("trec", "sms", "sms-b"), ("data", "student", "random", "teacher"))


def test_tables(document: dict[str, Any]) -> None:
    other = copy.deepcopy(document)
    other["settings"][0]["methods"]["aft"].update(error_ratio=1.1, outcome="worse")
    other["errors"] = {"runs/rkd-beta1-seed0": "broken"}
    found = {"trec": document, "sms": other, "sms-b": other}
    rows = tables.task_table(found, WORDS).splitlines()
    assert rows[2].startswith("| data | 1,000 | student, random | 0.600 | 0.500 ± 0.010 | 0.550")
    assert rows[2].endswith("| kd -0.200 (-0.300 to -0.100) |")
    methods = {row.split(" | ")[0]: row for row in tables.method_table(found).splitlines()}
    # Both tasks on SMS are one data set: (0.9 + 1.1) / 2.
    assert methods["| aft"].startswith("| aft | 2 | 1.000 | ")
    assert methods["| aft"].endswith("| 1 | 0 | 2 |")
    assert "| -0.200 |" in methods["| kd"] and "| rkd" not in methods
    assert "| refine (keeps the teachers)" in methods
    scores = tables.score_table(found)
    assert (
        "| aft | **0.550 ± 0.010** | _0.550 ± 0.010_ |" in scores and "| rkd | \u2013 |" in scores
    )
    origin = tables._origin(found)
    assert "2 runs failed" in origin and "0 of 9 are the smallest" in origin
    assert "9 the largest" in origin
    assert tables.draw(found, WORDS).axes


def test_marks_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x -->\nold\n<!-- /x -->\nafter\n")
    tables.put("x", "new \\1\n", ["page.md"])
    assert page.read_text() == "before\n<!-- x -->\nnew \\1\n<!-- /x -->\nafter\n"
    with pytest.raises(ValueError, match=r"page\.md lacks the marks of y"):
        tables.put("y", "new", ["page.md"])


@pytest.mark.parametrize("page", [*tables.BOTH, "docs/demo.md"])
def test_pages_have_their_marks(page: str) -> None:
    text = (ROOT / page).read_text()
    marks = {
        "README.md": ("suite tasks", "suite methods"),
        "docs/benchmarks.md": ("suite tasks", "suite methods", "suite scores", "survey", "noise"),
        "docs/demo.md": ("demo results",),
    }[page]
    assert all(f"<!-- {mark} -->" in text and f"<!-- /{mark} -->" in text for mark in marks)
