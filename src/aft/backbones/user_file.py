"""`python:FILE.py:function?option=value`: a backbone from a user's Python file."""

from __future__ import annotations

import ast
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from aft.backbones.checks import FAULTS, explain, find_function
from aft.backbones.network import Network, output_dim, seeded, versions
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.backbones.weights import file_hash
from aft.errors import ModelError, did_you_mean


def build(spec: Spec, *, seed: int = 0) -> Network:
    """Call the user's function and build a network from its result.

    Args:
        spec: ``python:FILE.py:function``; options are passed to the function as strings.
        seed: Seed of torch's random generator during the call.

    Raises:
        ModelError: If the file or function is missing or fails, or returns a wrong type.
    """
    made = seeded(seed, lambda: call(spec))
    module, preprocessing = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    preprocessing = preprocessing or Preprocessing(224)
    known = isinstance(preprocessing, Preprocessing | Tokenization)
    if not (known and isinstance(module, nn.Module)):
        raise ModelError(
            f"expected {spec} to return a module or (module, preprocessing), with an "
            "aft.teachers.Preprocessing or aft.teachers.Tokenization, got "
            f"{describe(made)}"
        )
    if isinstance(preprocessing, Tokenization):
        blank = preprocessing.evaluate()("a text").unsqueeze(0)
    else:
        blank = torch.zeros(1, 3, preprocessing.size, preprocessing.size)
    return Network(
        spec=spec,
        module=module,
        dim=output_dim(module, blank, str(spec)),
        preprocessing=preprocessing,
        weights=spec.options.get("weights", "as made by the function"),
        layer="output of the module",
        versions=versions("torch"),
    )


def call(spec: Spec) -> Any:
    """Call the user's function; error messages name the file and line."""
    path, name = find_function(spec)
    module = import_file(path)
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise ModelError(f"{path} has no function {name!r}{did_you_mean(name, known)}")
    try:
        return function(**spec.options)
    except ModelError:
        raise
    except FAULTS as error:
        raise ModelError(_where(error, path)) from error


def describe(made: Any) -> str:
    """Type name of a value, or of each element of a tuple."""
    if isinstance(made, tuple):
        return f"({', '.join(type(part).__name__ for part in made)})"
    return type(made).__name__


def own_files(path: Path) -> list[Path]:
    """A Python file and the modules that it imports from its own folder, directly or not."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imported(file, path.parent)
    return [path, *sorted(found - {path})]


def _imported(file: Path, folder: Path) -> Iterator[Path]:
    """Files in a folder, or in packages below it, that an import in a Python file may load."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except Exception:  # reported when the file is run
        return
    for node in nodes:
        base, names = folder, []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if node.level else folder
            start = f"{node.module}." if node.module else ""
            names = [start + alias.name for alias in node.names]
        for name in names:
            place = base
            for part in name.split("."):
                place = place / part
                both = (place.with_name(f"{part}.py"), place / "__init__.py")
                yield from (one for one in both if one.is_file() and one.is_relative_to(folder))


def import_file(path: Path, again: bool = True) -> ModuleType:
    """Import a file so that data-loading workers can import it too; its folder is importable.

    Args:
        path: The file.
        again: Whether to run the file again if it is already imported.
    """
    _make_importable(str(path.parent))
    name = path.stem
    importlib.invalidate_caches()
    known = importlib.util.find_spec(name) if name.isidentifier() and name != "__main__" else None
    if known is None or known.origin != str(path):
        name = f"_aft_{file_hash(path)[:16]}"
    if name in sys.modules and not again:
        return sys.modules[name]
    _forget_others(own_files(path)[1:], path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # Not the loader of the module: its cached bytecode may be that of an edited file's past.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except FAULTS as error:
        del sys.modules[name]
        raise ModelError(_where(error, path)) from error
    return module


_FOLDERS: list[str] = []
"""Folders of imported files, which were added to the path."""
_IMPORTED: dict[Path, str] = {}
"""SHA-256 of the neighbours of imported files when they were imported."""


def _make_importable(folder: str) -> None:
    """Add a folder to the path, before those of other files."""
    if folder in _FOLDERS:
        sys.path.remove(folder)
        _FOLDERS.remove(folder)
    if folder not in sys.path:
        _FOLDERS.append(folder)
        # After the rest of the path, so that the user's files do not shadow libraries.
        sys.path.insert(1 + len(sys.path) - len(_FOLDERS), folder)


def _forget_others(files: Sequence[Path], folder: Path) -> None:
    """Have neighbours imported again if one was edited since, or is of another file's folder."""
    hashes = {file: file_hash(file) for file in files}
    names = {file.relative_to(folder).parts[0].removesuffix(".py") for file in files}
    edited = any(_IMPORTED.get(file, now) != now for file, now in hashes.items())
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in names and (place := getattr(module, "__file__", None)):
            origin = Path(place)
            ours = any(origin.is_relative_to(one) for one in _FOLDERS)
            if (edited and origin in hashes) or (ours and origin not in hashes):
                del sys.modules[name]
    _IMPORTED.update(hashes)


def _where(error: BaseException, path: Path) -> str:
    """``FILE, line 12, in make: ValueError: …``, for the innermost line in the user's file."""
    message = explain(error)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}, line {error.lineno}: {message}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if not frames:
        return f"{path}: {message}"
    return f"{path}, line {frames[-1].lineno}, in {frames[-1].name}: {message}"
