"""The structure of the package: one order of imports, small packages, and a cheap start."""

from __future__ import annotations

import ast
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import aft

PACKAGE = Path(aft.__file__).parent
# A package may import those before it; the entry points come last.
ORDER = [
    *(
        "errors",
        "files",
        "version",
        "hub",
        "paths",
        "functional",
        "devices",
        "ids",
        "tasks",
        "metrics",
        "trivial",
    ),
    *("config", "data", "backbones", "teachers", "features", "losses", "students", "linear"),
    *(
        "training",
        "comparison",
        "scoring",
        "report",
        "exporting",
        "serving",
        "demo_data",
        "commands",
    ),
    *("cli", "__main__", "__init__"),
]
APART = {"data", "backbones", "losses"}
"""Packages that never import each other."""
PUBLIC = {"aft", "aft.data", "aft.teachers", "aft.students", "aft.losses", "aft.demo_data"}
"""Packages whose ``__init__`` hands on names; the others have none."""
CORE = ("losses", "functional", "features", "students", "training")
MOST_CORE_LINES = 6_400
MOST_LINES = 22_700
MOST_TOP_LEVEL_MODULES = 14
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "torchvision", "timm", "transformers", "datasets", "accelerate", "matplotlib"}


def place(path: Path) -> str:
    """The entry of ORDER that a file belongs to: its name, or its folder's."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    parts = ["aft", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in MODULES}


def imports_of_ours(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and module of each import of ours in a module's source, in functions too.

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
            whole = ".".join(base)
            names = [
                f"{whole}.{alias.name}" if f"{whole}.{alias.name}" in NAMES else whole
                for alias in node.names
            ]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == "aft":
                yield node.lineno, name


def entry(name: str) -> str:
    """The entry of ORDER that a module belongs to."""
    return [*name.split("."), "__init__"][1]


def code_lines(path: Path) -> int:
    """Lines of code, without docstrings, comments and blank lines."""
    text = path.read_text(encoding="utf-8")
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            prose |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines: set[int] = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in (*layout, tokenize.ENCODING, tokenize.ENDMARKER):
                lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - prose)


def modules_after(code: str) -> set[str]:
    """The top-level modules that are loaded after running ``code`` in a new interpreter."""
    code += "\nimport sys; print('\\nMODULES', *{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    here = place(path)
    assert here in ORDER, f"{path.name} has no place yet: give it one in ORDER"
    package = (
        module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    )
    for line, name in imports_of_ours(path.read_text(encoding="utf-8"), package):
        there = entry(name)
        if there == here:
            continue
        where = f"{path}:{line}: {here} imports {name}"
        assert there in ORDER, f"{where}, which is in no known package"
        assert ORDER.index(there) < ORDER.index(here), f"{where}, which comes later in ORDER"
        assert not {here, there} <= APART, f"{where}; these two stay apart"
        assert there != "report" or here == "commands", f"{where}; only commands make pages"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_names_are_imported_from_where_they_are_defined(path: Path) -> None:
    if path.name == "__init__.py":
        return
    for line, name in imports_of_ours(path.read_text(encoding="utf-8"), module_name(path)):
        handed_on = name in PUBLIC - {"aft"}
        assert not handed_on, f"{path}:{line}: name the module of {name} that defines it"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name == "__init__.py"], ids=module_name
)
def test_packages_hold_no_logic(path: Path) -> None:
    if module_name(path) in ("aft", "aft.report"):  # these import lazily
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        assert isinstance(node, ast.Expr | ast.Import | ast.ImportFrom | ast.Assign), (
            f"{path}:{node.lineno}: give it a module"
        )


def test_every_kind_of_import_is_seen() -> None:
    source = """
import numpy, aft.data as data
from aft import version, losses
from . import loading
from .teacher import Teacher
from ..training.trainer import fit
def late():
    import aft.cli
    from aft.losses.kd import KDLoss
"""
    found = [name for _, name in imports_of_ours(source, "aft.teachers")]
    assert sorted(found) == sorted(
        [
            *("aft.data", "aft.version", "aft.losses", "aft.teachers.loading"),
            *("aft.teachers.teacher", "aft.training.trainer", "aft.cli", "aft.losses.kd"),
        ]
    )
    assert entry("aft") == "__init__" and entry("aft.losses.kd") == "losses"


def test_lines_of_code_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        '"""Doc."""\n\n# a comment\nx = [\n    1,\n]\n\n\ndef f():\n    """Doc."""\n    return 1\n'
    )
    assert code_lines(file) == 5


def test_packages_stay_small() -> None:
    lines = {path: code_lines(path) for path in MODULES}
    core = sum(count for path, count in lines.items() if place(path) in CORE)
    assert core <= MOST_CORE_LINES, "growth of the core is a decision: raise the budget on purpose"
    assert sum(lines.values()) <= MOST_LINES
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_TOP_LEVEL_MODULES


@pytest.mark.parametrize(
    "code",
    [
        "import aft",
        "import aft.config.commands",
        "import sys; sys.argv = ['aft', '--help']\n"
        "from aft.cli import main\n"
        "try: main()\nexcept SystemExit: pass",
    ],
    ids=["import aft", "import aft.config.commands", "aft --help"],
)
def test_starting_imports_nothing_heavy(code: str) -> None:
    assert not modules_after(code) & HEAVY


def test_losses_and_the_store_need_no_extra() -> None:
    code = """
import sys
for name in ("PIL", "timm", "transformers"):
    sys.modules[name] = None
import aft, aft.losses, aft.features.store
aft.FeatureStore, aft.losses.AFTLoss
"""
    assert "aft" in modules_after(code)
