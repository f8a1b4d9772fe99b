"""Students: the small models to train, named ``source:name?option=value``."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from typing import Any

from torch import nn

from aft.errors import StudentError
from aft.preprocessing import Preprocessing
from aft.specs import Spec
from aft.teachers.network import Network, did_you_mean
from aft.weights import ModelError, state_hash

__all__ = ["Backbone", "load_backbone"]

logger = logging.getLogger(__name__)

# A network is built the same way for a teacher and for a student.
_SOURCES = {
    "python": "aft.students.python",
    "small": "aft.students.small",
    "timm": "aft.teachers.timm",
    "torchvision": "aft.teachers.torchvision",
}


@dataclass
class Backbone:
    """A student without its classifier.

    Attributes:
        module: Trainable; takes ``(B, 3, size, size)``, returns features ``(B, dim)``.
        dim: Width of the features.
        preprocessing: From an image to an input; its size is the size the student works at.
        info: JSON values on where it is from: ``spec`` as the user wrote it, ``architecture_spec``
            (builds the same architecture again without weights or network), ``weights``
            (``pretrained (…)``, ``random`` or a file), ``weights_sha256``, ``licence``,
            ``layer``, ``versions``.
    """

    module: nn.Module
    dim: int
    preprocessing: Preprocessing
    info: dict[str, Any]


def load_backbone(spec: str, *, seed: int = 0) -> Backbone:
    """Build a student's backbone by its specification.

    To build a trained one again, call this with ``info["architecture_spec"]`` and load the state
    dict; preprocessing is then to be taken from where it was written, since some weights have
    their own.

    Args:
        spec: ``source:name?option=value&…`` with the source ``timm``, ``torchvision``, ``small``
            or ``python`` (a function in a file).
        seed: Seed of random weights, unless the specification has an option ``seed``.

    Raises:
        StudentError: If the source is unknown or the model cannot be built.
        ConfigError: If the specification is not written ``source:name?option=value``.
    """
    parsed = Spec.parse(spec)
    if parsed.source not in _SOURCES:
        raise StudentError(
            f"unknown source {parsed.source!r} of student {spec}; known are "
            f"{', '.join(_SOURCES)}{did_you_mean(parsed.source, _SOURCES)}"
        )
    try:
        network: Network = importlib.import_module(_SOURCES[parsed.source]).build(parsed, seed=seed)
    except ModelError as error:
        raise StudentError(str(error)) from error
    logger.info("student %s: weights %s", spec, network.weights)
    return Backbone(
        module=network.module,
        dim=network.dim,
        preprocessing=network.preprocessing,
        info={
            "spec": spec,
            "architecture_spec": str(_architecture(network)),
            "weights": network.weights,
            "weights_sha256": state_hash(network.module.state_dict()),
            "licence": network.licence,
            "layer": network.layer,
            "versions": network.versions,
        },
    )


def _architecture(network: Network) -> Spec:
    spec = network.spec
    if spec.source == "python":  # only the function knows what its options mean
        return spec
    size = str(network.preprocessing.size)
    return Spec(spec.source, spec.name, {"weights": "random", "size": size})
