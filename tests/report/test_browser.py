"""Report pages in a real browser: narrow and wide, light and dark, and in print."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aft.report import write_methods_report, write_run_report, write_score_report
from helpers.browser import PAPER, look, open_browser, open_page
from helpers.comparison_folders import make_comparison, set_metric
from helpers.report_pages import picture
from helpers.run_folders import make_run
from helpers.score_documents import make_score_document

LONG = "a_class_with_a_rather_long_name_that_nobody_has_broken_into_words"
NAMES = ("apple", "banana & <b>cherry</b>", "ひまわり", LONG)
TEACHERS = (
    ("timm:vit_small_patch14_dinov2.lvd142m?size=518", 384),
    ("features:/data/features/of/a/model/in/a/deep/folder/with-a-long-name.parquet", 64),
)


def write_run(folder: Path) -> Path:
    run = make_run(folder / "run", names=NAMES, teachers=TEACHERS, bad_inputs=8, notes=["A note."])
    return write_run_report(run, picture)


def write_wide_run(folder: Path) -> Path:
    names = [f"class number {i}" for i in range(30)]
    return write_run_report(make_run(folder / "run", names=names, rows=300, looks=1), picture)


def write_numbers(folder: Path) -> Path:
    run = make_run(folder / "run", kind="regression", names=("weight", "高さ in metres"))
    return write_run_report(run, None)


def write_methods(folder: Path) -> Path:
    document = make_comparison(folder, run={"names": NAMES})
    document["settings"][0]["methods"]["aft"]["outcome"] = "better"
    set_metric(document["settings"][0], "aft", "nll", 0.031, "worse")
    return write_methods_report(folder, document, lambda file: picture(len(file)))


def write_settings(folder: Path) -> Path:
    teachers = [spec for spec, _ in TEACHERS]
    document = make_comparison(
        folder,
        methods=("alone", "kd", "aft"),
        seeds=2,
        fractions=(0.1, 1.0),
        teachers=teachers,
        each_teacher=True,
    )
    document["errors"] = {"train-0.1/runs/kd-beta10-seed2": "the loss is nan at step 12"}
    return write_methods_report(folder, document)


def write_score(folder: Path) -> Path:
    specs = [f"timm:{LONG}?size=96", "hf:ひまわり", "features:/data/of/others/model.parquet"]
    return write_score_report(folder, make_score_document(specs=specs, layers=6))


PAGES: dict[str, Callable[[Path], Path]] = {
    "run": write_run,
    "wide-run": write_wide_run,
    "numbers": write_numbers,
    "methods": write_methods,
    "settings": write_settings,
    "score": write_score,
}


OPEN_ALL = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
FAULTS = """<!DOCTYPE html><meta name="viewport" content="width=device-width">
<body style="background: white; color: black">
<p style="width: 2000px">too wide</p>
<svg width="200" height="100" aria-label="chart">
<text x="20" y="50">first</text><text x="22" y="52">second</text><text x="190" y="80">outside</text>
</svg>
<p style="color: #ddd">too light</p>
<details><summary>more</summary><p>in a closed box</p></details>
<p style="display: none">not there</p>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name not in made:
            made[name] = PAGES[name](tmp_path_factory.mktemp(name))
        return made[name]

    return find


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1200, "light")])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_on_a_screen(
    browser: Any,
    page_of: Callable[[str], Path],
    tmp_path: Path,
    name: str,
    width: int,
    scheme: str,
) -> None:
    with open_page(browser, page_of(name), width, color_scheme=scheme) as page:
        page.evaluate(OPEN_ALL)
        assert look(page) == {}
        file = tmp_path / f"{name}-{width}-{scheme}.png"
        page.screenshot(path=file, full_page=True)
    with Image.open(file) as shot:
        pixels = shot.convert("RGB")
    assert pixels.width == width and pixels.height > 900
    colours = pixels.getcolors(maxcolors=pixels.width * pixels.height)
    assert colours is not None and len(colours) > 100
    (_, most), (_, second) = sorted(colours, reverse=True)[:2]
    assert (sum(most) < 150) == (scheme == "dark") and second != most


@pytest.mark.parametrize("name", PAGES)
def test_a_page_on_paper(browser: Any, page_of: Callable[[str], Path], name: str) -> None:
    with open_page(browser, page_of(name), PAPER[0], color_scheme="dark") as page:
        page.emulate_media(media="print")
        assert look(page) == {}
        paper = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(paper) == "rgb(255, 255, 255)"
        pdf = page.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 1


def test_faults_are_seen(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "faults.html"
    file.write_text(FAULTS)
    with open_page(browser, file, 390) as page:
        found = {name: " ".join(faults) for name, faults in look(page).items()}
    assert "too wide" in found["overflow"]
    assert "outside" in found["charts"] and "first" in found["charts"]
    assert "too light" in found["faint"]
    assert "closed box" in found["hidden"] and "not there" in found["hidden"]

    file.write_text('<body>text<img alt="x" src="missing.png"><script>throw Error("no")</script>')
    with pytest.raises(AssertionError), open_page(browser, file, 390):
        pass
