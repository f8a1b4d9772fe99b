"""Network, a backbone without its classifier, and helpers that build backbones."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
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
from aft.errors import AftError, did_you_mean

_T = TypeVar("_T")
FAULTS = (Exception, SystemExit)
"""What the code of others may raise; ``sys.exit()`` must not end a command as if it were done."""


@dataclass(frozen=True)
class Network:
    """A backbone: its output is the input of the original model's last linear layer.

    Attributes:
        spec: The specification that it was built from.
        module: Maps images ``(B, 3, size, size)`` or tokens ``(B, L)`` (see
            :mod:`aft.backbones.batches`) to features ``(B, dim)``.
        dim: Feature dimension.
        preprocessing: Turns an image or a text into a model input.
        weights: Origin of the weights: ``pretrained (…)``, ``random`` or the path of a file.
        layer: Name of the layer that the features are taken from.
        licence: Licence of the weights, if their source states one.
        versions: Versions of the libraries that define the network.
        pooling: How token features are pooled to one vector, for networks over tokens.
        files: Content of additional files for a student's folder, by file name.
        architecture: The specification that rebuilds the network, without its weights, from a
            student's folder; ``{folder}`` stands for the path of the folder. If None, the same
            name with random weights is used.
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
        """The specification without options stored elsewhere; only the last part of a path."""
        path = Path(self.spec.name).expanduser()
        spec = self.spec.without("weights", "size", "seed", "tokenizer")
        return str(replace(spec, name=path.resolve().name) if path.exists() else spec)

    @property
    def from_file(self) -> bool:
        """Whether the weights were read from a file that the user named."""
        return self.weights != "random" and not self.weights.startswith("pretrained (")


def output_dim(module: nn.Module, inputs: Tensor, what: str) -> int:
    """Feature dimension of a module, determined by one forward pass in eval mode.

    Args:
        module: The network.
        inputs: A batch of shape ``(B, …)``.
        what: The model's name, for error messages.

    Raises:
        ModelError: If the forward pass fails or does not return a tensor ``(B, dim)``.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            features = module(inputs)
    except FAULTS as error:
        raise ModelError(
            f"{what} failed on an input of shape {tuple(inputs.shape)}: {explain(error)}; "
            f"try another size, e.g. {what.partition('?')[0]}?size=224"
        ) from error
    finally:
        for part, mode in modes:
            part.training = mode
    if not isinstance(features, Tensor) or features.shape[:-1] != inputs.shape[:1]:
        given = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ModelError(
            f"expected {what} to return features of shape ({len(inputs)}, dim), got {given}"
        )
    return int(features.shape[-1])


def check_options(spec: Spec, allowed: Collection[str]) -> None:
    """Raise ``ModelError`` for an option that the source does not support."""
    for option in spec.options:
        if option not in allowed:
            raise ModelError(
                f"unknown option {option!r} in {spec}; expected one of "
                f"{', '.join(sorted(allowed))}{did_you_mean(option, allowed)}"
            )


def integer_option(spec: Spec, name: str, default: _T, minimum: int = 0) -> int | _T:
    """The value of an integer option, or the default if the option is not set."""
    if name not in spec.options:
        return default
    text = spec.options[name]
    if not text.isdecimal() or int(text) < minimum:
        raise ModelError(f"expected {name} to be a whole number >= {minimum}, got {text!r}")
    return int(text)


def seeded(seed: int, build: Callable[[], _T]) -> _T:
    """Call ``build`` with a seeded torch generator; restore the generator's state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def require(library: str, extra: str) -> ModuleType:
    """Import an optional library.

    Raises:
        ModelError: If it is not installed or cannot be imported.
    """
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{library} is required, but {error.name} is not installed: "
            f"pip install 'adaptive-feature-transfer[{extra}]'"
        ) from error
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"{library} is installed but cannot be imported: {first_line(error)}; check that "
            "torch and torchvision have matching versions and builds"
        ) from error


def versions(*libraries: str) -> dict[str, str]:
    """Versions of installed libraries without build tags (``2.13.0+cpu`` becomes ``2.13.0``)."""
    return {library: version(library).partition("+")[0] for library in libraries}


@contextmanager
def loading(spec: Spec, kind: type[AftError]) -> Iterator[None]:
    """Convert whatever loading a model raises to an error of a kind that names the model."""
    try:
        yield
    except ModelError as error:
        text = str(error)
        raise kind(text if spec.name in text else f"{spec}: {text}") from error
    except AftError:
        raise
    except Exception as error:  # libraries raise anything on damaged files
        raise kind(f"cannot load {spec}: {explain(error)}") from error


def explain(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """The first line of an error message, or the error's type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
