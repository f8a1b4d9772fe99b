from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aft.errors import DataError
from aft.report import write_run_report
from aft.report.cards import excerpt
from aft.report.rendering import count, student_name
from helpers.report_pages import Page, check_self_contained, picture
from helpers.run_folders import make_run

HOSTILE = (
    "<script>alert('x')</script> said \"yes\" & 'no'",
    "a\x00b\x1b[31mc\x7f\ud800d\u2028e",
    "</p></li><style>* { display: none }</style>",
    "{{ 7 * 7 }} {% for %}",
    "w" * 3000,
    "جاء الولد <b>إلى</b> المدرسة. " * 40,
    "one\n\n\n  two  \r\nthree\rfour" + "\nand more" * 40,
    "Z" + "\u0301" * 500,
    "  ",
    "",
)
PAIR = (("premise", "text"), ('<b>"hypothesis"</b>', "text"))
BOTH = (("image", "image"), ("text", "text"))


def text(position: int) -> str:
    return HOSTILE[position % len(HOSTILE)]


def pair(position: int) -> dict[str, Any]:
    second = None if position % 5 == 4 else text(position + 1)
    return {"premise": text(position), PAIR[1][0]: second}


def picture_and_text(position: int) -> dict[str, Any]:
    return {
        "image": None if position % 7 == 3 else picture(position),
        "text": None if position % 5 == 2 else text(position),
    }


@pytest.mark.parametrize(
    ("kind", "columns", "open_input"),
    [
        ("classification", (("review <i>", "text"),), text),
        ("regression", PAIR, pair),
        ("multilabel", BOTH, picture_and_text),
    ],
    ids=["text", "pair", "image and text"],
)
def test_texts_are_shown_as_they_are_and_do_no_harm(
    tmp_path: Path, kind: str, columns: Any, open_input: Any
) -> None:
    teachers = ((f"{columns[0][0]}=st:a<b>?prompt=x", 16), ("text=hf:google/flan-t5-base", 1))
    run = make_run(
        tmp_path / "run",
        kind=kind,
        rows=24,
        skill=0.7,
        columns=columns,
        teachers=teachers,
        notes=["3 texts were cut to 512 tokens: <a>", "2 rows have no image"],
    )
    page = Page(write_run_report(run, open_input))
    check_self_contained(page)
    assert ("img" in page.tags) == (columns is BOTH)
    assert "picture" not in page.text
    assert "<style>*" not in page.source
    assert "{{ 7 * 7 }} {% for %}" in page.text
    missing = page.by_class.get("missing", [])
    assert (len(missing) > 0) and set(missing) == {"missing"}
    assert "2 rows have no image" in page.text
    for spec in ("st:a<b>?prompt=x", "hf:google/flan-t5-base"):
        assert spec in page.text
    assert "(1 feature)" in page.text
    for name, _ in columns:
        assert name in page.text
    assert "\x00" not in page.source and "\x1b" not in page.source
    assert len(page.source) < 500_000


def test_texts_that_are_gone_are_left_out(tmp_path: Path) -> None:
    def gone(position: int) -> str:
        raise DataError("the table has changed")

    run = make_run(tmp_path / "run", columns=(("text", "text"),), teachers=())
    shown = Page(write_run_report(run, lambda position: f"row {position}"))
    page = Page(write_run_report(run, gone))
    assert len(page.by_class["none"]) == len(shown.by_class["text"]) > 0
    assert "text" not in page.by_class and "none" not in shown.by_class


def test_excerpts_are_short_and_keep_line_breaks() -> None:
    assert excerpt("  a   b\n\n\nc\r\nd\t e ") == "a b\nc\nd e"
    assert excerpt(" \n ") == ""
    assert excerpt("a\x00b\ud800c\x85d") == "a\ufffdb\ufffdc\nd"
    words = excerpt("several words " * 100)
    assert 250 < len(words) <= 281
    assert words.endswith(" words…") or words.endswith(" several…")
    assert excerpt("w" * 10**6) == "w" * 280 + "…"
    assert excerpt("w" * 280) == "w" * 280
    assert excerpt("line\n" * 20) == "\n".join(["line"] * 8) + "…"
    assert excerpt("line\n" * 8) == "\n".join(["line"] * 8)
    assert excerpt("a" + " " * 10_000 + "b") == "a…"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("timm:vit_small.in1k?size=96", "vit_small"),
        ("hf:google/bge-small-v1.5?layers=2", "bge-small-v1.5"),
        ("small:static", "static"),
        ("python:models/net.py:make", "make"),
        (
            "image=torchvision:squeezenet1_1?size=64 + my text=small:static",
            "squeezenet1_1 + static",
        ),
        ("small:cnn?weights=/a + b/w.pth", "cnn"),
    ],
)
def test_names_of_students(spec: str, name: str) -> None:
    assert student_name(spec) == name


def test_counts() -> None:
    assert [count(n, "row") for n in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]
    assert count(2, "class", "classes") == "2 classes"
