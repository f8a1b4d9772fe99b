"""Teacher: a frozen network and everything that determines its features."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aft.backbones.network import Network, spread_out
from aft.backbones.preprocessing import ImageTransform
from aft.backbones.tokenization import Tokenization
from aft.backbones.weights import state_hash

logger = logging.getLogger(__name__)


@dataclass
class Teacher:
    """A frozen model and everything that determines its features.

    Attributes:
        spec: The specification as the user wrote it.
        dim: Feature dimension.
        module: The network in eval mode, without gradients. Maps inputs ``(B, …)`` to features
            ``(B, dim)``, the inputs of the last linear layer.
        preprocess: Transform from a PIL image (RGB) to an input tensor; for text, the
            tokenization.
        identity: JSON values that determine the features: specification, SHA-256 of the weights,
            preprocessing, layer, dim, library versions, licence.
        modality: Type of the inputs, ``image`` or ``text``.
        spread: Whether to spread the network over all devices, instead of moving it to one.
    """

    spec: str
    dim: int
    module: nn.Module
    preprocess: Callable[[Any], Tensor] | Tokenization
    identity: dict[str, Any]
    modality: Literal["image", "text"] = "image"
    spread: bool = False

    def place(self, device: torch.device) -> nn.Module:
        """The network in eval mode, on the device or spread over all devices."""
        module = self.module.eval()
        return spread_out(module) if self.spread else module.to(device)


def share_images(teachers: Sequence[Any], most_bytes: float = math.inf) -> bool:
    """Whether different teachers can be run over the same decoded images, which they do not change.

    Args:
        teachers: Teachers or tables of features.
        most_bytes: Most memory for the weights of all.
    """
    if not all(isinstance(getattr(one, "preprocess", None), ImageTransform) for one in teachers):
        return False
    weights = (one.nbytes for teacher in teachers for one in teacher.module.parameters())
    different = {json.dumps(one.identity, sort_keys=True) for one in teachers}
    return len(different) == len(teachers) and sum(weights) <= most_bytes


def freeze(network: Network) -> Teacher:
    """Make a teacher of a network: set it to eval mode and disable gradients."""
    logger.info("teacher %s: weights %s", network.spec, network.weights)
    prepare = network.preprocessing
    is_text = isinstance(prepare, Tokenization)
    return Teacher(
        spec=str(network.spec),
        dim=network.dim,
        module=network.module.eval().requires_grad_(False),
        preprocess=prepare if isinstance(prepare, Tokenization) else prepare.evaluate(),
        modality="text" if is_text else "image",
        spread="device_map" in network.spec.options,
        identity={
            "spec": network.name,
            "weights": "file" if network.from_file else network.weights,
            "weights_sha256": state_hash(network.module.state_dict()),
            "preprocessing": network.preprocessing.describe(),
            "layer": network.layer,
            **({"pooling": network.pooling} if network.pooling else {}),
            "dim": network.dim,
            "versions": network.versions,
            "licence": network.licence,
        },
    )
