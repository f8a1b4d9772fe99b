"""Network, a backbone without its classifier, and helpers that build backbones."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from aft.backbones.checks import FAULTS, explain, first_line
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.errors import ModelError

_T = TypeVar("_T")


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
        spec = self.spec.without("weights", "size", "seed", "tokenizer", "device_map")
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


def seeded(seed: int, build: Callable[[], _T]) -> _T:
    """Call ``build`` with a seeded torch generator; restore the generator's state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def licence_of(info: Mapping[str, Any]) -> str | None:
    """Licence of the weights that a student started from; None if all of them were random.

    Args:
        info: ``Backbone.info``. A licence that its source does not state is ``unknown``.
    """
    parts = list(info.get("towers", {}).values()) or [info]
    found = {one.get("licence") or "unknown" for one in parts if one.get("weights") != "random"}
    return " + ".join(sorted(found)) or None


def spread_out(module: nn.Module) -> nn.Module:
    """Spread a network on the CPU over all devices, as transformers does with ``device_map=auto``.

    What does not fit on the accelerators stays in main memory and is moved there when it is run.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory, get_max_memory

    if not hasattr(module, "hf_device_map"):  # not yet
        whole = {n for p in module.modules() for n in getattr(p, "_no_split_modules", None) or ()}
        here = {**get_max_memory(), "cpu": sys.maxsize}  # where its weights are already
        most = get_balanced_memory(module, here, no_split_module_classes=list(whole))
        places = infer_auto_device_map(module, most, no_split_module_classes=list(whole))
        dispatch_model(module, places, force_hooks=True)
    return module


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
