"""The backbone of a student, built from its specification."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from aft.backbones.checks import MODULES, check_model, loading
from aft.backbones.network import Network
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.backbones.weights import state_hash
from aft.errors import StudentError

if TYPE_CHECKING:
    from aft.students.towers import ColumnPreprocessing


logger = logging.getLogger(__name__)


_HUBS = ("hf",)  # models from these sources may include their own code


@dataclass
class Backbone:
    """A student without its classifier.

    Attributes:
        module: Trainable network; takes images ``(B, 3, size, size)``, tokens ``(B, L)`` or a
            dictionary of these, and returns features ``(B, dim)``.
        dim: Feature dimension.
        preprocessing: Maps an image, a text or a dictionary of these to an input.
        info: JSON values about its origin: ``spec`` as the user wrote it, ``architecture_spec``
            (rebuilds the architecture without weights or internet access), ``weights``
            (``pretrained (…)``, ``random`` or a file), ``weights_sha256``, ``licence``,
            ``layer``, ``versions``.
        files: Text files, by name, to save beside the weights.
        untrained: Names of randomly initialised parameters in an otherwise pre-trained network.
    """

    module: nn.Module
    dim: int
    preprocessing: Preprocessing | Tokenization | ColumnPreprocessing
    info: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    untrained: frozenset[str] = frozenset()

    @property
    def modality(self) -> str:
        """Modality of its inputs: ``image`` or ``text``."""
        return "text" if isinstance(self.preprocessing, Tokenization) else "image"


def load_backbone(
    spec: str | Spec,
    *,
    seed: int = 0,
    texts: Callable[[], Iterable[str]] | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """Build a student's backbone from its specification.

    Args:
        spec: ``source:name?option=value&…`` with the source ``timm``, ``torchvision``, ``hf``
            (transformers), ``small`` or ``python`` (a function in a file).
        seed: Seed of random weights, unless the specification has an option ``seed``.
        texts: Returns the training texts, from which ``small:static`` builds its vocabulary.
        trust_remote_code: Whether to run Python code that is part of a model.

    Raises:
        StudentError: If the source is unknown or the model cannot be built.
        ConfigError: If the specification is not of the form ``source:name?option=value``.
    """
    parsed = check_model(spec, StudentError)
    options: dict[str, Any] = {}
    if parsed.source == "small":
        options["texts"] = texts
    if parsed.source in _HUBS:
        options["trust_remote_code"] = trust_remote_code
    with loading(parsed, StudentError):
        build = importlib.import_module(f"aft.backbones.{MODULES[parsed.source]}").build
        network: Network = build(parsed, seed=seed, **options)
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
    if spec.source == "python":  # the meaning of its options is unknown here
        return spec
    if isinstance(network.preprocessing, Tokenization):
        raise StudentError(f"{spec} cannot be rebuilt from a saved student folder")
    size = str(network.preprocessing.size)
    return Spec(spec.source, spec.name, {"weights": "random", "size": size})
