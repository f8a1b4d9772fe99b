"""Teacher: a frozen network and everything that determines its features."""

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
    """

    spec: str
    dim: int
    module: nn.Module
    preprocess: Callable[[Any], Tensor] | Tokenization
    identity: dict[str, Any]
    modality: Literal["image", "text"] = "image"


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
