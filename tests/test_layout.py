"""The reader's promise: imports inside `aft` point upward in one list, and starting is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aft

PACKAGE = Path(aft.__file__).parent
# A module (or folder) may import those above it; the doors, `aft` and `python -m aft`, come last.
ORDER = [
    "errors",
    "specs",
    "options",
    "config",
    "devices",
    "hub",
    "functional",
    "distributed",
    "preprocessing",
    "weights",
    "identity",
    "fingerprints",
    "images",
    "texts",
    "labels",
    "sources",
    "data",
    "views",
    "columns",
    "tokenization",
    "batches",
    "teachers",
    "shards",
    "store",
    "forward",
    "extract",
    "losses",
    "students",
    "model",
    "inference",
    "evaluate",
    "logs",
    "sampling",
    "schedule",
    "transfer",
    "checkpoints",
    "trainer",
    "runs",
    "scores",
    "advice",
    "scoring",
    "predict",
    "statistics",
    "report",
    "score",
    "outcome",
    "train",
    "costs",
    "cells",
    "compare",
    "export",
    "inspect",
    "demo_data",
    "demo",
    "verbs",
    "cli",
    "__main__",
    "__init__",
]
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "torchvision", "timm", "transformers", "datasets", "accelerate", "matplotlib"}


def place(path: Path) -> str:
    """The entry of ORDER that a file belongs to: its name, or its folder's."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of_ours(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and entry of ORDER of each import of ours in a module's source, in functions too.

    Args:
        source: The module's text.
        package: The package it belongs to, which relative imports count from.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: 1 - node.level or None] if node.level else []
            base += [node.module] if node.module else []
            names = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            match name.split("."):
                case ["aft", "__version__"]:
                    pass
                case ["aft", entry, *_]:
                    yield node.lineno, entry
                case ["aft"]:
                    yield node.lineno, "__init__"


def modules_after(code: str) -> set[str]:
    """The top-level modules that are loaded after running ``code`` in a new interpreter."""
    code += "\nimport sys; print('\\nMODULES', *{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_upward(path: Path) -> None:
    here = place(path)
    assert here in ORDER, f"{path.name} has no place yet: give it one in ORDER"
    package = ".".join(["aft", *path.relative_to(PACKAGE).parent.parts])
    for line, entry in imports_of_ours(path.read_text(encoding="utf-8"), package):
        assert entry in ORDER, f"{path}:{line}: aft.{entry} is no module; name the one it lives in"
        assert entry == here or ORDER.index(entry) < ORDER.index(here), (
            f"{path}:{line}: {here} imports {entry}, which stands below it in ORDER"
        )


def test_every_kind_of_import_is_seen() -> None:
    source = """
import numpy, aft.data as data
from aft import __version__, store
from . import timm
from .timm import load
from ..trainer import fit
def late():
    import aft.cli
    from aft.losses.kd import KDLoss
"""
    found = [entry for _, entry in imports_of_ours(source, "aft.teachers")]
    assert sorted(found) == sorted(
        ["data", "store", "teachers", "teachers", "trainer", "cli", "losses"]
    )


@pytest.mark.parametrize(
    "code",
    [
        "import aft",
        "import aft.config",
        "import sys; sys.argv = ['aft', '--help']\n"
        "from aft.cli import main\n"
        "try: main()\nexcept SystemExit: pass",
    ],
    ids=["import aft", "import aft.config", "aft --help"],
)
def test_starting_imports_nothing_heavy(code: str) -> None:
    assert not modules_after(code) & HEAVY
