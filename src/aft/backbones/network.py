"""What teachers and students share: a network without its classifier, and how it came to be."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor, nn

from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.backbones.weights import ModelError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Network:
    """A network whose output is what entered its last linear layer.

    Attributes:
        spec: What it was built from.
        module: Takes images ``(B, 3, size, size)`` or tokens ``(B, L)`` (see :mod:`aft.batches`),
            returns ``(B, dim)``.
        dim: Width of the features.
        preprocessing: From an image or a text to an input.
        weights: Where the weights are from: ``pretrained (…)``, ``random`` or a file's path.
        layer: The layer whose input the features are.
        licence: Of the weights, where their source states one.
        versions: Of the libraries that define the network.
        pooling: How one row of features is made of one a token, for networks over tokens.
        files: Texts by file name that a student's folder needs beside its weights.
        architecture: The specification that builds the network anew from that folder, without
            these weights; ``{folder}`` stands for its path. None: the specification's own name,
            with random weights.
    """

    spec: Spec
    module: nn.Module
    dim: int
    preprocessing: Preprocessing | Tokenization
    weights: str
    layer: str
    licence: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    pooling: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    architecture: str | None = None

    @property
    def name(self) -> str:
        """The specification without what is told elsewhere; a path by its last part alone."""
        path = Path(self.spec.name).expanduser()
        spec = self.spec.without("weights", "size", "seed", "tokenizer")
        return str(replace(spec, name=path.resolve().name) if path.exists() else spec)

    @property
    def from_file(self) -> bool:
        """Whether the weights were read from a file that the user named."""
        return self.weights != "random" and not self.weights.startswith("pretrained (")


def output_dim(module: nn.Module, inputs: Tensor, what: str) -> int:
    """Width of a module's features, found by running it once in eval mode.

    Args:
        module: The network.
        inputs: A batch of shape ``(B, …)``.
        what: The model's name for errors.

    Raises:
        ModelError: If it cannot run on such inputs or does not return a tensor ``(B, dim)``.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            features = module(inputs)
    except Exception as error:  # third-party code: assertions, shape errors, anything
        raise ModelError(
            f"{what} cannot take an input of shape {tuple(inputs.shape)}: "
            f"{first_line(error)}; another size may do, e.g. {what.partition('?')[0]}?size=224"
        ) from error
    finally:
        for part, mode in modes:
            part.training = mode
    if not isinstance(features, Tensor) or features.shape[:-1] != inputs.shape[:1]:
        came = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ModelError(
            f"expected {what} to return features of shape ({len(inputs)}, dim), got {came}"
        )
    return int(features.shape[-1])


def check_options(spec: Spec, allowed: Collection[str]) -> None:
    """Raise ``ModelError`` for an option that the source does not know."""
    for option in spec.options:
        if option not in allowed:
            raise ModelError(
                f"unknown option {option!r} in {spec}; {spec.source}: knows "
                f"{', '.join(sorted(allowed))}{did_you_mean(option, allowed)}"
            )


def integer_option(spec: Spec, name: str, default: _T, minimum: int = 0) -> int | _T:
    """An option's whole number, or the default if it is not given."""
    if name not in spec.options:
        return default
    text = spec.options[name]
    if not text.isdecimal() or int(text) < minimum:
        raise ModelError(f"expected {name} to be a whole number >= {minimum}, got {text!r}")
    return int(text)


def seeded(seed: int, build: Callable[[], _T]) -> _T:
    """What ``build`` returns when torch's random numbers start from a seed, and only then."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def require(library: str, extra: str) -> ModuleType:
    """Import an optional library.

    Raises:
        ModelError: If it is missing (says what to install) or broken.
    """
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{library} is needed here and {error.name} is not installed: "
            f"pip install 'adaptive-feature-transfer[{extra}]'"
        ) from error
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"{library} is installed but cannot be imported: {first_line(error)}; torch and "
            "torchvision must be of matching versions and builds"
        ) from error


def versions(*libraries: str) -> dict[str, str]:
    """Versions of installed libraries, less build tags (``2.13.0+cpu`` is ``2.13.0``)."""
    return {library: version(library).partition("+")[0] for library in libraries}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` with the nearest known words, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def first_line(error: BaseException) -> str:
    """An error's first line, or its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
