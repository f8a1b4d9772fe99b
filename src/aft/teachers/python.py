"""`python:FILE.py:function?option=value`: a model from the user's own Python file."""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image
from torch import nn

from aft.preprocessing import Preprocessing
from aft.specs import Spec
from aft.teachers.network import Teacher, did_you_mean, first_line, output_dim, versions
from aft.tokenization import Tokenization
from aft.weights import ModelError, file_hash, state_hash


def load(spec: Spec) -> Teacher:
    """Call the user's function and make a teacher of what it returns.

    Args:
        spec: ``python:FILE.py:function``; the options are given to the function as text.

    Raises:
        ModelError: If the file, the function or what it returns fails.
    """
    made = call(spec)
    module: nn.Module
    preprocess: Any
    dim: int | None
    if isinstance(made, Teacher):
        module, preprocess, dim, told = made.module, made.preprocess, made.dim, made.identity
    elif isinstance(made, tuple) and len(made) in (2, 3) and isinstance(made[0], nn.Module):
        module, preprocess, dim, told = made[0], made[1], made[2] if made[2:] else None, {}
    else:
        raise ModelError(
            f"expected {spec} to return an aft.teachers.Teacher, (module, preprocess) or "
            f"(module, preprocess, dim), got {describe(made)}"
        )
    description: Any = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(preprocess))
    modality = made.modality if isinstance(made, Teacher) else "image"
    if isinstance(preprocess, Preprocessing):
        description, preprocess = preprocess.describe(), preprocess.evaluate()
    elif isinstance(preprocess, Tokenization):
        description, modality = preprocess.describe(), "text"
    elif not callable(preprocess):
        raise ModelError(
            f"expected the preprocess of {spec} to take an input and return a tensor, "
            f"got {describe(preprocess)}"
        )
    module = module.eval().requires_grad_(False)
    found = output_dim(module, _blank_input(spec, preprocess, modality), str(spec))
    if dim is not None and dim != found:
        raise ModelError(f"{spec} says dim={dim} but its features have {found} columns")
    path = _file(spec)[0]
    own = {
        "spec": str(replace(spec, name=f"{path.name}:{_file(spec)[1]}").without("weights")),
        "source_sha256": file_hash(path),
        "weights_sha256": state_hash(module.state_dict()),
        "dim": found,
    }
    identity = {"preprocessing": description, "versions": versions("torch"), **told, **own}
    return Teacher(str(spec), found, module, preprocess, identity, modality)


def call(spec: Spec) -> Any:
    """What the user's function returns; errors in the user's file name its line."""
    path, name = _file(spec)
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


def _file(spec: Spec) -> tuple[Path, str]:
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


def _blank_input(spec: Spec, preprocess: Any, modality: str) -> Any:
    if isinstance(preprocess, Tokenization):
        return preprocess.evaluate()("a text").unsqueeze(0)
    is_text = modality == "text"
    try:
        value = "a text" if is_text else Image.new("RGB", (320, 256), "gray")
        return preprocess(value).unsqueeze(0)
    except Exception as error:  # the user's code, given a plain grey image
        what = "the text 'a text'" if is_text else "a 320 x 256 image"
        words = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(f"the preprocess of {spec} failed on {what}: {words}") from error
