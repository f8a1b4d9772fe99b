"""A student with one network a column of the data, whose features are joined."""

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
"""Features of a tower that is wider are mapped to so many before they are multiplied."""


class Towers(nn.Module):
    """One network a column; their features side by side, or multiplied with each other.

    Each tower's features are first brought to one scale: in every row to mean 0 and variance 1
    over the tower's features. Else the tower with the larger numbers would decide what the head
    and a transfer loss see, and at the start of training the head's steps would suit only one.
    It is done row by row, so that a sample's features do not depend on the others in its batch.

    References:
        For ``product``: Zadeh et al., "Tensor Fusion Network for Multimodal Sentiment Analysis",
        EMNLP 2017, arXiv 1707.07250. With ``[1, a]`` and ``[1, b]`` the outer product holds the
        features of each tower alone and all products of two.

    Args:
        towers: A network a column, each from that column's batch to ``(B, dims[column])``.
        dims: Width of each tower's features.
        fusion: ``concat``, of width ``sum(dims)``, or ``product`` for two towers, of width
            ``(1 + a) * (1 + b)``. There a tower of more than 64 features is first mapped to 64 by
            a learned matrix that starts orthogonal, so that the width is at most 4,225.

    Attributes:
        dim: Width of the joined features.
        columns: The columns in the order in which their features are joined.

    Raises:
        StudentError: If there is no tower, if there are not two for ``product``, if a tower has
            fewer than two features, or if `fusion` is neither.
    """

    def __init__(
        self, towers: Mapping[str, nn.Module], dims: Mapping[str, int], fusion: Fusion = "concat"
    ) -> None:
        super().__init__()
        _check(dims, fusion)
        self.columns = tuple(towers)
        self.fusion = fusion
        # Lists: a column may have any name, a submodule not.
        self.towers = nn.ModuleList(towers.values())
        widths = [dims[column] for column in self.columns]
        self.maps = nn.ModuleList()
        if fusion == "product":
            self.maps.extend(_narrow(width) for width in widths)
            self.dim = (1 + min(widths[0], WIDEST_FACTOR)) * (1 + min(widths[1], WIDEST_FACTOR))
        else:
            self.dim = sum(widths)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features ``(B, dim)`` of a batch with one tensor a column."""
        parts = []
        for column, tower in zip(self.columns, self.towers, strict=True):
            features = tower(inputs[column])
            parts.append(F.layer_norm(features, features.shape[-1:]))
        if self.fusion == "concat":
            return torch.cat(parts, dim=1)
        # Multiplied in full precision: half of it would round the sums of head and kernel.
        a, b = (
            F.pad(narrow(part).float(), (1, 0), value=1.0)
            for narrow, part in zip(self.maps, parts, strict=True)
        )
        return (a[:, :, None] * b[:, None, :]).flatten(1)

    def extra_repr(self) -> str:
        """Columns and fusion, for ``print``."""
        return f"columns={list(self.columns)}, fusion={self.fusion!r}, dim={self.dim}"


@dataclass(frozen=True)
class ColumnPreprocessing:
    """How a sample of several columns becomes the input of :class:`Towers`.

    Attributes:
        parts: The preprocessing of each tower.
        takes: The columns of the data that a tower takes where that is not the one of its name:
            the two texts of a pair.
    """

    parts: dict[str, Part]
    takes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """As plain JSON values."""
        columns = {name: part.describe() for name, part in self.parts.items()}
        takes = {"takes": {k: list(v) for k, v in self.takes.items()}} if self.takes else {}
        return {"kind": "columns", "columns": columns, **takes}

    def evaluate(self) -> ColumnTransform:
        """The same result every time."""
        return self._transform({name: part.evaluate() for name, part in self.parts.items()})

    def augment(self, kind: Augmentation = "standard") -> ColumnTransform:
        """Random views of the images, see :meth:`Preprocessing.augment`."""
        return self._transform({name: part.augment(kind) for name, part in self.parts.items()})

    def _transform(self, transforms: dict[str, Callable[[Any], Tensor]]) -> ColumnTransform:
        sizes = {n: p.size for n, p in self.parts.items() if isinstance(p, Preprocessing)}
        return ColumnTransform(transforms, sizes, self.takes)


@dataclass(frozen=True)
class ColumnTransform:
    """From the values of a sample's columns to the tensors that the towers take.

    A missing image becomes one in the mean colour of its model, zeros after normalisation; a
    missing text an empty one.

    Attributes:
        transforms: What is done to the value of each column.
        sizes: Height and width of the towers' images.
        takes: As in :class:`ColumnPreprocessing`.
    """

    transforms: Mapping[str, Callable[[Any], Tensor]]
    sizes: Mapping[str, int]
    takes: Mapping[str, tuple[str, ...]]

    def __call__(self, values: Mapping[str, Value]) -> dict[str, Tensor]:
        """One tensor a tower; `values` may hold columns that no tower takes."""
        inputs = {}
        for name, transform in self.transforms.items():
            columns = self.takes.get(name, (name,))
            value = values[columns[0]] if len(columns) == 1 else {c: values[c] for c in columns}
            if value is None and name in self.sizes:
                inputs[name] = torch.zeros(3, self.sizes[name], self.sizes[name])
            else:
                inputs[name] = transform(value)
        return inputs


def join(
    backbones: Mapping[str, Backbone],
    fusion: Fusion = "concat",
    *,
    seed: int = 0,
    takes: Mapping[str, tuple[str, ...]] | None = None,
) -> Backbone:
    """Make one student of several.

    Args:
        backbones: One student a column.
        fusion: As in :class:`Towers`.
        seed: Of the maps that ``product`` learns.
        takes: As in :class:`ColumnPreprocessing`.

    Returns:
        A student whose ``info`` holds that of each tower under ``towers``, with architectures
        that look for the tower's files in a folder of its own, see :func:`column_folder`.

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
    """The name of the folder for a column's files: the column's own where that can be a folder.

    Letters, digits, ``-`` and ``_`` stay; any other character becomes ``%`` and its code, so that
    no column leads out of the student's folder.
    """
    return re.sub(r"[^\w-]", lambda found: f"%{ord(found[0]):02X}", column)


def _check(dims: Mapping[str, int], fusion: str) -> None:
    if fusion not in get_args(Fusion):
        raise StudentError(f"expected the fusion to be concat or product, got {fusion!r}")
    if not dims:
        raise StudentError("expected at least one network for the student, got none")
    if fusion == "product" and len(dims) != 2:
        raise StudentError(
            "a student with fusion product multiplies the features of two networks, got "
            f"{len(dims)} ({', '.join(dims)}); use fusion concat, which joins any number"
        )
    for column, dim in dims.items():
        if dim < 2:
            raise StudentError(
                f"the student's network for {column} has {dim} feature; to be joined with another "
                "it needs at least two, since their mean is taken off"
            )


def _part(backbone: Backbone) -> Part:
    part = backbone.preprocessing
    assert not isinstance(part, ColumnPreprocessing)  # towers are not towers themselves
    return part


def _narrow(width: int) -> nn.Module:
    if width <= WIDEST_FACTOR:
        return nn.Identity()
    narrow = nn.Linear(width, WIDEST_FACTOR, bias=False)
    nn.init.orthogonal_(narrow.weight)  # keeps the features' scale
    return narrow


def _moved(info: Mapping[str, Any], column: str) -> dict[str, Any]:
    """What is known of a tower, its architecture's files in the column's folder."""
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
    """``pretrained (IMAGENET1K_V1)`` without its own brackets."""
    if weights.startswith("pretrained (") and weights.endswith(")"):
        return weights[len("pretrained (") : -1]
    return weights
