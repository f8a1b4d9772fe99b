"""Shared by tests of the report pages: a strict HTML parser, and images to show."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

HEADINGS = ("h1", "h2", "h3", "h4")
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that every element is closed, and collects the contents of the page.

    Attributes:
        source: The HTML.
        tags: Names of all elements.
        text: All text outside of styles.
        headings: Text of ``h1`` to ``h4``, in order.
        paragraphs: Text of each ``p``, in order.
        rows: Text of the cells of each table row, in order.
        by_class: Texts of the elements with each CSS class.
        addresses: Values of ``src``, ``href`` and ``srcset``.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[tuple[str, list[str], list[str]]] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.headings: list[str] = []
        self.paragraphs: list[str] = []
        self.rows: list[list[str]] = []
        self.by_class: dict[str, list[str]] = {}
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for name, v in attrs if name in ("src", "href", "srcset")]
        if tag == "img":
            assert dict(attrs)["alt"]
        if tag == "svg":
            assert dict(attrs)["aria-label"]
        if tag == "tr":
            self.rows.append([])
        if tag not in VOID:
            self.open.append((tag, (dict(attrs).get("class") or "").split(), []))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        opened, classes, texts = self.open.pop()
        assert opened == tag
        text = " ".join(" ".join(texts).split())
        if tag in HEADINGS:
            self.headings.append(text)
        if tag == "p":
            self.paragraphs.append(text)
        if tag in ("td", "th"):
            self.rows[-1].append(text)
        for name in classes:
            self.by_class.setdefault(name, []).append(text)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][0] != "style":
            self.texts.append(data)
            for _, _, texts in self.open:
                texts.append(data)

    def row(self, name: str) -> list[str]:
        """Cells of the first table row that begins with a name, without the name."""
        return next(cells[1:] for cells in self.rows if cells and cells[0] == name)


def picture(position: int) -> Image.Image:
    return Image.new("RGB", (40 + 200 * (position % 2), 60), (position % 256, 90, 120))


def check_self_contained(page: Page) -> None:
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    ids = re.findall(r'\bid="([^"]+)"', page.source)
    assert len(ids) == len(set(ids))
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(ids)
