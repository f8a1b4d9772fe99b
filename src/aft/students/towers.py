"""A student with one network per column of the data, whose features are joined."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, nn

from aft.backbones.network import seeded
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.backbones.weights import state_hash
from aft.config.groups import Augmentation
from aft.errors import StudentError
from aft.students.backbone import Backbone

Fusion = Literal["concat", "product"]
Part = Preprocessing | Tokenization
Value = Image | str | None

WIDEST_FACTOR = 64
"""Wider towers are projected to this dimension before features are multiplied."""


class Towers(nn.Module):
    """One network per column; their features are concatenated or multiplied.

    Each tower's features are first normalised per row to mean 0 and variance 1. Otherwise, the
    tower with the larger values would dominate the head and the transfer loss, and early in
    training the head's learning rate would suit only one tower. Normalisation is per row, so that
    a sample's features do not depend on the other samples in its batch.

    References:
        For ``product``: Zadeh et al., "Tensor Fusion Network for Multimodal Sentiment Analysis",
        EMNLP 2017, arXiv 1707.07250. The outer product of ``[1, a]`` and ``[1, b]`` contains the
        features of each tower and all pairwise products.

    Args:
        towers: One network per column, which maps the column's batch to ``(B, dims[column])``.
        dims: Feature dimension of each tower.
        fusion: ``concat``, of dimension ``sum(dims)``, or ``product`` for two towers, of dimension
            ``(1 + a) * (1 + b)``. For ``product``, a tower with more than 64 features is first
            projected to 64 by a learned matrix with orthogonal initialisation, so that the
            dimension is at most 4,225.

    Attributes:
        dim: Dimension of the joined features.
        columns: The columns, in the order in which their features are joined.

    Raises:
        StudentError: If there is no tower, if ``product`` does not get exactly two towers, if a
            tower has fewer than two features, or if `fusion` is unknown.
    """

    def __init__(
        self, towers: Mapping[str, nn.Module], dims: Mapping[str, int], fusion: Fusion = "concat"
    ) -> None:
        super().__init__()
        _check(dims, fusion)
        self.columns = tuple(towers)
        self.fusion = fusion
        # Lists, since column names need not be valid submodule names.
        self.towers = nn.ModuleList(towers.values())
        self.widths = widths = [dims[column] for column in self.columns]
        self.maps = nn.ModuleList()
        if fusion == "product":
            self.maps.extend(_narrow(width) for width in widths)
            self.dim = (1 + min(widths[0], WIDEST_FACTOR)) * (1 + min(widths[1], WIDEST_FACTOR))
        else:
            self.dim = sum(widths)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features ``(B, dim)`` of a batch with one tensor per column."""
        parts = []
        for column, tower, width in zip(self.columns, self.towers, self.widths, strict=True):
            parts.append(F.layer_norm(tower(inputs[column]), (width,)))
        if self.fusion == "concat":
            return torch.cat(parts, dim=1)
        # Multiply in float32: bf16 would round the sums in the head and the kernel.
        a, b = (
            F.pad(narrow(part).float(), (1, 0), value=1.0)
            for narrow, part in zip(self.maps, parts, strict=True)
        )
        return (a[:, :, None] * b[:, None, :]).flatten(1)

    def extra_repr(self) -> str:
        """Columns, fusion and dimension, for ``repr``."""
        return f"columns={list(self.columns)}, fusion={self.fusion!r}, dim={self.dim}"


@dataclass(frozen=True)
class ColumnPreprocessing:
    """Preprocessing of samples with several columns for :class:`Towers`.

    Attributes:
        parts: The preprocessing of each tower.
        takes: The data columns of each tower whose input is not the column of its name, such as
            the two texts of a text pair.
    """

    parts: dict[str, Part]
    takes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Description as plain JSON values."""
        columns = {name: part.describe() for name, part in self.parts.items()}
        takes = {"takes": {k: list(v) for k, v in self.takes.items()}} if self.takes else {}
        return {"kind": "columns", "columns": columns, **takes}

    def evaluate(self) -> ColumnTransform:
        """The deterministic transform for evaluation."""
        return self._transform({name: part.evaluate() for name, part in self.parts.items()})

    def augment(self, kind: Augmentation = "standard") -> ColumnTransform:
        """The transform with random views of images, see :meth:`Preprocessing.augment`."""
        return self._transform({name: part.augment(kind) for name, part in self.parts.items()})

    def _transform(self, transforms: dict[str, Callable[[Any], Tensor]]) -> ColumnTransform:
        return ColumnTransform(transforms, self.takes)


@dataclass(frozen=True)
class ColumnTransform:
    """Maps the values of a sample's columns to the input tensors of the towers.

    A missing image is replaced by zeros, which is the model's mean colour after normalisation; a
    missing text is treated as an empty text.

    Attributes:
        transforms: The transform of each tower.
        takes: As in :class:`ColumnPreprocessing`.
    """

    transforms: Mapping[str, Callable[[Any], Tensor]]
    takes: Mapping[str, tuple[str, ...]]

    def __call__(self, values: Mapping[str, Value]) -> dict[str, Tensor]:
        """One tensor per tower; `values` may contain columns that no tower takes."""
        inputs = {}
        for name, transform in self.transforms.items():
            columns = self.columns(name)
            value = values[columns[0]] if len(columns) == 1 else {c: values[c] for c in columns}
            inputs[name] = transform(value)
        return inputs

    def columns(self, tower: str) -> tuple[str, ...]:
        """The data columns that a tower takes."""
        return self.takes.get(tower, (tower,))


def join(
    backbones: Mapping[str, Backbone],
    fusion: Fusion = "concat",
    *,
    seed: int = 0,
    takes: Mapping[str, tuple[str, ...]] | None = None,
) -> Backbone:
    """Join several backbones to one.

    Args:
        backbones: One backbone per column.
        fusion: As in :class:`Towers`.
        seed: Seed of the learned projections of ``product``.
        takes: As in :class:`ColumnPreprocessing`.

    Returns:
        A backbone whose ``info`` contains that of each tower under ``towers``. Each tower's files
        are in a folder of its own, see :func:`column_folder`.

    Raises:
        StudentError: As :class:`Towers`.
    """
    modules = {column: backbone.module for column, backbone in backbones.items()}
    dims = {column: backbone.dim for column, backbone in backbones.items()}
    module = seeded(seed, lambda: Towers(modules, dims, fusion))
    infos = {column: _moved(backbone.info, column) for column, backbone in backbones.items()}
    licences = {str(info["licence"]) for info in infos.values() if info.get("licence")}
    untrained = {name for name, _ in module.named_parameters() if name.startswith("maps.")}
    for place, backbone in enumerate(backbones.values()):
        if backbone.info["weights"] == "random":
            names = (name for name, _ in backbone.module.named_parameters())
            untrained.update(f"towers.{place}.{name}" for name in names)
    return Backbone(
        module=module,
        dim=module.dim,
        preprocessing=ColumnPreprocessing(
            {column: _part(backbone) for column, backbone in backbones.items()}, dict(takes or {})
        ),
        info={
            "spec": " + ".join(f"{column}={info['spec']}" for column, info in infos.items()),
            "towers": infos,
            "fusion": fusion,
            "weights": _weights({column: info["weights"] for column, info in infos.items()}),
            "weights_sha256": state_hash(module.state_dict()),
            "licence": " + ".join(sorted(licences)) or None,
            "layer": f"{fusion} of " + ", ".join(f"{c}: {i['layer']}" for c, i in infos.items()),
            "versions": {k: v for info in infos.values() for k, v in info["versions"].items()},
        },
        files={
            f"{column_folder(column)}/{name}": text
            for column, backbone in backbones.items()
            for name, text in backbone.files.items()
        },
        untrained=frozenset(untrained),
    )


def column_folder(column: str) -> str:
    """The name of the folder for a column's files: the column name, escaped where necessary.

    Letters, digits, ``-`` and ``_`` are kept; any other character becomes ``%`` and its
    hexadecimal code, so that the path never leaves the student's folder.
    """
    return re.sub(r"[^\w-]", lambda match: f"%{ord(match[0]):02X}", column)


def _check(dims: Mapping[str, int], fusion: str) -> None:
    if fusion not in get_args(Fusion):
        raise StudentError(f"expected fusion concat or product, got {fusion!r}")
    if not dims:
        raise StudentError("expected at least one network for the student, got none")
    if fusion == "product" and len(dims) != 2:
        raise StudentError(
            "expected two networks for fusion product, got "
            f"{len(dims)} ({', '.join(dims)}); use fusion concat for any other number"
        )
    for column, dim in dims.items():
        if dim < 2:
            raise StudentError(
                f"the student's network for {column} has {dim} feature; expected at least 2, since "
                "the mean over its features is subtracted"
            )


def _part(backbone: Backbone) -> Part:
    part = backbone.preprocessing
    assert not isinstance(part, ColumnPreprocessing)  # towers are not nested
    return part


def _narrow(width: int) -> nn.Module:
    if width <= WIDEST_FACTOR:
        return nn.Identity()
    narrow = nn.Linear(width, WIDEST_FACTOR, bias=False)
    nn.init.orthogonal_(narrow.weight)  # keeps the features' scale
    return narrow


def _moved(info: Mapping[str, Any], column: str) -> dict[str, Any]:
    """The info of a tower, with the paths of its files moved to the column's folder."""
    spec, here = Spec.parse(str(info["architecture_spec"])), "{folder}"

    def moved(text: str) -> str:
        inside = f"{here}/{column_folder(column)}"
        return inside + text.removeprefix(here) if text.startswith(here) else text

    options = {key: moved(value) for key, value in spec.options.items()}
    return {**info, "architecture_spec": str(Spec(spec.source, moved(spec.name), options))}


def _weights(weights: Mapping[str, str]) -> str:
    if set(weights.values()) == {"random"}:
        return "random"
    parts = [f"{column}: {_inside(source)}" for column, source in weights.items()]
    return f"pretrained ({'; '.join(parts)})"


def _inside(weights: str) -> str:
    """The content of the brackets: ``IMAGENET1K_V1`` for ``pretrained (IMAGENET1K_V1)``."""
    if weights.startswith("pretrained (") and weights.endswith(")"):
        return weights[len("pretrained (") : -1]
    return weights
