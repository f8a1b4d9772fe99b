"""A teacher: a frozen network with all that decides its features."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from aft.backbones.network import Network
from aft.backbones.tokenization import Tokenization
from aft.backbones.weights import state_hash

logger = logging.getLogger(__name__)


@dataclass
class Teacher:
    """A frozen model and all that decides its features.

    Attributes:
        spec: As the user wrote it.
        dim: Width of the features.
        module: In eval mode, without gradients; takes ``(B, …)``, returns features ``(B, dim)``:
            what enters the last linear layer.
        preprocess: From a PIL image (RGB) to one input tensor; for text the tokenization.
        identity: JSON values that change whenever the features may: specification, SHA-256 of
            the weights, preprocessing, layer, dim, library versions, licence.
        modality: What it takes.
    """

    spec: str
    dim: int
    module: nn.Module
    preprocess: Callable[[Any], Tensor] | Tokenization
    identity: dict[str, Any]
    modality: Literal["image", "text"] = "image"


def freeze(network: Network) -> Teacher:
    """A network as a frozen teacher: in eval mode, without gradients."""
    logger.info("teacher %s: weights %s", network.spec, network.weights)
    prepare = network.preprocessing
    is_text = isinstance(prepare, Tokenization)
    return Teacher(
        spec=str(network.spec),
        dim=network.dim,
        module=network.module.eval().requires_grad_(False),
        preprocess=prepare if isinstance(prepare, Tokenization) else prepare.evaluate(),
        modality="text" if is_text else "image",
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
