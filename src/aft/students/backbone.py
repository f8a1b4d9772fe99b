"""A student's backbone, built by its specification."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from aft.backbones.network import Network
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.backbones.weights import ModelError, state_hash
from aft.errors import StudentError, did_you_mean

if TYPE_CHECKING:
    from aft.students.towers import ColumnPreprocessing


logger = logging.getLogger(__name__)


# A network is built the same way for a teacher and for a student.
_SOURCES = {
    "hf": "aft.backbones.huggingface",
    "python": "aft.backbones.user_file",
    "small": "aft.backbones.small_images",
    "timm": "aft.backbones.timm",
    "torchvision": "aft.backbones.torchvision",
}


_HUBS = ("hf",)  # may come with code of their own


@dataclass
class Backbone:
    """A student without its classifier.

    Attributes:
        module: Trainable; takes ``(B, 3, size, size)``, tokens ``(B, L)`` or a dictionary of these,
            returns features ``(B, dim)``.
        dim: Width of the features.
        preprocessing: From an image, a text or a dictionary of these to an input.
        info: JSON values on where it is from: ``spec`` as the user wrote it, ``architecture_spec``
            (builds the same architecture again without weights or network), ``weights``
            (``pretrained (…)``, ``random`` or a file), ``weights_sha256``, ``licence``,
            ``layer``, ``versions``.
        files: Texts by file name that belong beside the saved weights.
        untrained: Names of parameters that start from random weights beside pre-trained ones.
    """

    module: nn.Module
    dim: int
    preprocessing: Preprocessing | Tokenization | ColumnPreprocessing
    info: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    untrained: frozenset[str] = frozenset()

    @property
    def modality(self) -> str:
        """What it takes: ``image`` or ``text``."""
        return "text" if isinstance(self.preprocessing, Tokenization) else "image"


def load_backbone(
    spec: str | Spec,
    *,
    seed: int = 0,
    texts: Callable[[], Iterable[str]] | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """Build a student's backbone by its specification.

    Args:
        spec: ``source:name?option=value&…`` with the source ``timm``, ``torchvision``, ``hf``
            (transformers), ``small`` or ``python`` (a function in a file).
        seed: Seed of random weights, unless the specification has an option ``seed``.
        texts: Gives the texts to train on, from which ``small:static`` makes its vocabulary.
        trust_remote_code: Whether code that comes with a hub's model may run.

    Raises:
        StudentError: If the source is unknown or the model cannot be built.
        ConfigError: If the specification is not written ``source:name?option=value``.
    """
    parsed = Spec.parse(spec) if isinstance(spec, str) else spec
    if parsed.source not in _SOURCES:
        raise StudentError(
            f"unknown source {parsed.source!r} of student {spec}; known are "
            f"{', '.join(_SOURCES)}{did_you_mean(parsed.source, _SOURCES)}"
        )
    options: dict[str, Any] = {}
    if parsed.source == "small":
        options["texts"] = texts
    if parsed.source in _HUBS:
        options["trust_remote_code"] = trust_remote_code
    try:
        build = importlib.import_module(_SOURCES[parsed.source]).build
        network: Network = build(parsed, seed=seed, **options)
    except ModelError as error:
        raise StudentError(str(error)) from error
    logger.info("student %s: weights %s", spec, network.weights)
    return Backbone(
        module=network.module,
        dim=network.dim,
        preprocessing=network.preprocessing,
        info={
            "spec": str(spec),
            "architecture_spec": network.architecture or str(_architecture(network)),
            "weights": network.weights,
            "weights_sha256": state_hash(network.module.state_dict()),
            "licence": network.licence,
            "layer": network.layer,
            "versions": network.versions,
        },
        files=network.files,
    )


def _architecture(network: Network) -> Spec:
    spec = network.spec
    if spec.source == "python":  # only the function knows what its options mean
        return spec
    if isinstance(network.preprocessing, Tokenization):
        raise StudentError(f"{spec} cannot be built anew from its own folder")
    size = str(network.preprocessing.size)
    return Spec(spec.source, spec.name, {"weights": "random", "size": size})
