"""Runs write no page here, which takes as long as the training, unless a test asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _no_run_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "run_pages" not in request.fixturenames:
        monkeypatch.setattr("aft.commands.train.write_run_report", _write_nothing)


@pytest.fixture
def run_pages() -> None:
    """Ask for this to have ``aft train`` write its page."""


def _write_nothing(out: Path, _: Any) -> Path:
    return out
