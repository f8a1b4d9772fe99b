"""Every promise of the documentation names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "promises.md"
PROMISES = re.findall(
    r"^\| (?!what happens|-)(.+?) \|.*\| `(\S+)::(\w+)` \|$", PAGE.read_text(), re.M
)


@pytest.mark.parametrize(("promise", "file", "name"), PROMISES)
def test_a_promise_is_tested(promise: str, file: str, name: str) -> None:
    assert re.search(rf"^ *def {name}\(", (TESTS / file).read_text(), re.M), promise


def test_every_row_of_the_page_is_a_promise() -> None:
    tables = PAGE.read_text().partition("## Faults injected")[0]
    rows = [line for line in tables.splitlines() if line.startswith("| ")]
    assert len(PROMISES) == len([row for row in rows if not row.startswith("| what happens")]) > 20
