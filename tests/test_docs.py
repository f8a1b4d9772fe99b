"""The Python code in the docs runs as it is pasted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def python_blocks(page: str) -> list[str]:
    """The Python code blocks of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def run_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> object:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AFT_CACHE", str(tmp_path / "cache"))

    def run(page: str, word: str) -> str:
        (block,) = [block for block in python_blocks(page) if word in block]
        capsys.readouterr()
        exec(compile(block, page, "exec"), {})
        return capsys.readouterr().out

    return run


def test_from_a_table_to_predictions_and_drift(run_block) -> None:  # type: ignore[no-untyped-def]
    said = run_block("python.md", "student.predict_proba")
    assert "'label': 'good'" in said and "(80, 2) ('bad', 'good')" in said
    area = float(run_block("export.md", "roc_auc").split()[-1])
    assert 0.7 < area <= 1


def test_a_table_of_soft_labels(run_block, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("pyarrow")
    run_block("models.md", "p_good")
    lines = (tmp_path / "films.csv").read_text().splitlines()
    assert len(lines) == 81 and lines[-1].endswith(",")


@pytest.mark.parametrize("page", [*DOCS.parent.glob("*.md"), *DOCS.glob("*.md")], ids=str)
def test_pages_have_no_marks_of_a_merge(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert not [line for line in lines if line.startswith(("<<<<<<< ", ">>>>>>> "))]
