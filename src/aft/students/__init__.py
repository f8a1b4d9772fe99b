"""Students: the small models to train, named ``source:name?option=value``."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from aft.columns import columns_for
from aft.data import InputColumn, Samples
from aft.errors import ConfigError, StudentError
from aft.preprocessing import Preprocessing
from aft.specs import Spec, split_column
from aft.teachers.network import Network, did_you_mean
from aft.tokenization import Tokenization
from aft.weights import ModelError, state_hash

if TYPE_CHECKING:
    from aft.students.towers import ColumnPreprocessing

__all__ = ["Backbone", "build_student", "load_backbone", "rebuild_backbone"]

logger = logging.getLogger(__name__)

# A network is built the same way for a teacher and for a student.
_SOURCES = {
    "hf": "aft.teachers.huggingface",
    "python": "aft.students.python",
    "small": "aft.students.small",
    "timm": "aft.teachers.timm",
    "torchvision": "aft.teachers.torchvision",
}
_HUBS = ("hf",)  # may come with code of their own
_FOLDER = "{folder}"


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


def build_student(
    specs: Sequence[str],
    samples: Samples,
    unlabelled: Samples | None = None,
    *,
    fusion: Literal["concat", "product"] = "concat",
    layers: int | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> tuple[Backbone, tuple[InputColumn, ...]]:
    """Build the student of a data set.

    Args:
        specs: One model, or one a column, each written ``[COLUMN=]source:name?option=value``.
        samples: Training samples.
        unlabelled: Training inputs without labels, whose words join a vocabulary.
        fusion: How several models' features are joined: ``concat`` or ``product``.
        layers: Keep only so many first layers of ``hf`` models.
        seed: Seed of random weights.
        trust_remote_code: Whether code that comes with a hub's model may run.

    Returns:
        The backbone, and the columns that it takes.

    Raises:
        StudentError: If a model cannot be built.
        ConfigError: If the models do not fit the columns.
    """
    if layers is not None and not any(split_column(text)[1].startswith("hf:") for text in specs):
        raise ConfigError(f"--student-layers is for hf: students, got {' '.join(specs)}")
    if fusion == "product" and len(specs) == 1:
        raise ConfigError(f"--fusion product joins the models of two columns, got only {specs[0]}")
    towers: dict[str, Backbone] = {}
    takes: dict[str, tuple[str, ...]] = {}
    for text in specs:
        asked, rest = split_column(text)
        spec = Spec.parse(rest)
        if layers is not None and spec.source == "hf":
            spec = Spec(spec.source, spec.name, {**spec.options, "layers": str(layers)})

        def texts(asked: str | None = asked, model: str = rest) -> Iterable[str]:
            names = columns_for(model, asked, "text", samples.columns)
            parts = [samples] if unlabelled is None else [samples, unlabelled]
            return chain.from_iterable(_texts(part.only(*names)) for part in parts)

        backbone = load_backbone(spec, seed=seed, texts=texts, trust_remote_code=trust_remote_code)
        names = columns_for(rest, asked, backbone.modality, samples.columns)
        name = asked or names[0]
        if asked is None and len(names) < len(samples.columns) and len(specs) == 1:
            raise ConfigError(_takes_part(rest, backbone.modality, samples.columns))
        if len(specs) > 1 and (asked is None or name in towers):
            each = " ".join(f"{column.name}=…" for column in samples.columns)
            raise ConfigError(f"expected one model a column, written {each}, got {' '.join(specs)}")
        towers[name], takes[name] = backbone, names
    taken = [column for names in takes.values() for column in names]
    if len(set(taken)) < len(taken):
        raise ConfigError(f"expected one model a column, got {' '.join(specs)}")
    columns = tuple(column for column in samples.columns if column.name in taken)
    if len(specs) == 1:
        return backbone, columns
    from aft.students.towers import join

    others = {name: names for name, names in takes.items() if names != (name,)}
    return join(towers, fusion, seed=seed, takes=others), columns


def rebuild_backbone(
    info: dict[str, Any],
    preprocessing: dict[str, Any],
    folder: Path,
    trust_remote_code: bool = False,
) -> Backbone:
    """The architecture of a saved student, from what stands in its folder alone.

    Args:
        info: :attr:`Backbone.info`.
        preprocessing: The description of its preprocessing.
        folder: Holds :attr:`Backbone.files`.
        trust_remote_code: Whether the code that a student needs may run.

    Raises:
        StudentError: If it needs code that is not trusted, or cannot be built.
    """
    if "towers" in info:
        from aft.students.towers import join

        towers = {
            name: rebuild_backbone(tower, preprocessing["columns"][name], folder, trust_remote_code)
            for name, tower in info["towers"].items()
        }
        takes = {name: tuple(names) for name, names in preprocessing.get("takes", {}).items()}
        return join(towers, info["fusion"], takes=takes)
    spec = Spec.parse(info["architecture_spec"])
    if spec.source == "python" and not trust_remote_code:
        raise StudentError(
            f"the student in {folder} is built by {spec}; read that file, then pass "
            "--trust-remote-code to run it"
        )

    def placed(text: str) -> str:
        return str(folder) + text.removeprefix(_FOLDER) if text.startswith(_FOLDER) else text

    options = {key: placed(value) for key, value in spec.options.items()}
    backbone = load_backbone(
        Spec(spec.source, placed(spec.name), options), trust_remote_code=trust_remote_code
    )
    if isinstance(backbone.preprocessing, Preprocessing):  # some weights have their own
        backbone.preprocessing = Preprocessing.from_description(preprocessing)
    return backbone


def _texts(samples: Samples) -> Iterable[str]:
    for i in range(len(samples)):
        value = samples.input(i)
        for text in value.values() if isinstance(value, dict) else (value,):
            if isinstance(text, str):
                yield text


def _takes_part(model: str, modality: str, columns: Sequence[InputColumn]) -> str:
    names = ", ".join(f"{c.name} ({c.modality})" for c in columns)
    first = next(c.name for c in columns if c.modality == modality)
    each = " ".join(f"{c.name}=…" for c in columns)
    return (
        f"the data has the columns {names}, but {model} takes {modality}s only. Give a model for "
        f"each (--student {each}), or say that this column is enough: --student {first}={model}"
    )


def _architecture(network: Network) -> Spec:
    spec = network.spec
    if spec.source == "python":  # only the function knows what its options mean
        return spec
    if isinstance(network.preprocessing, Tokenization):
        raise StudentError(f"{spec} cannot be built anew from its own folder")
    size = str(network.preprocessing.size)
    return Spec(spec.source, spec.name, {"weights": "random", "size": size})
