"""`python:FILE.py:function?option=value`: a backbone from the user's own Python file."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from aft.backbones.network import Network, did_you_mean, first_line, output_dim, seeded, versions
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.backbones.weights import ModelError, file_hash


def build(spec: Spec, *, seed: int = 0) -> Network:
    """Call the user's function and make a network of what it returns.

    Args:
        spec: ``python:FILE.py:function``; the options are given to the function as text.
        seed: Seed of torch's random numbers while the function runs.

    Raises:
        ModelError: If the file, the function or what it returns fails.
    """
    made = seeded(seed, lambda: call(spec))
    module, preprocessing = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    preprocessing = preprocessing or Preprocessing(224)
    known = isinstance(preprocessing, Preprocessing | Tokenization)
    if not (known and isinstance(module, nn.Module)):
        raise ModelError(
            f"expected {spec} to return a module, or a module and an "
            "aft.teachers.Preprocessing or aft.teachers.Tokenization, "
            f"got {describe(made)}"
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
    """What the user's function returns; errors in the user's file name its line."""
    path, name = find_file(spec)
    module = _run_file(path)
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise ModelError(f"{path} has no function {name!r}{did_you_mean(name, known)}")
    try:
        return function(**spec.options)
    except ModelError:
        raise
    except Exception as error:  # anything may happen in the user's code
        raise ModelError(_where(error, path)) from error


def describe(made: Any) -> str:
    """The type of a value, or of each part of a tuple."""
    if isinstance(made, tuple):
        return f"({', '.join(type(part).__name__ for part in made)})"
    return type(made).__name__


def find_file(spec: Spec) -> tuple[Path, str]:
    """The file and the function that a specification names."""
    path, colon, name = spec.name.rpartition(":")
    if not colon or not path.endswith(".py") or not name.isidentifier():
        raise ModelError(f"expected python:FILE.py:function, got {spec}")
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ModelError(f"there is no file {file} ({spec})")
    return file, name


def _run_file(path: Path) -> ModuleType:
    """Import a file; data-loading workers can import it too, and it its neighbours."""
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last: the user's files never hide a library
    name = path.stem
    importlib.invalidate_caches()
    found = importlib.util.find_spec(name) if name.isidentifier() and name != "__main__" else None
    if found is None or found.origin != str(path):
        name = f"_aft_{file_hash(path)[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # anything may happen in the user's code
        del sys.modules[name]
        raise ModelError(_where(error, path)) from error
    return module


def _where(error: Exception, path: Path) -> str:
    """``FILE, line 12, in make: ValueError: …``, at the deepest line of the user's file."""
    words = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}, line {error.lineno}: {words}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if not frames:
        return f"{path}: {words}"
    return f"{path}, line {frames[-1].lineno}, in {frames[-1].name}: {words}"
