"""Build a student from its specifications, or rebuild it from a saved folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from aft.backbones.checks import check_columns
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec, split_column
from aft.backbones.tokenization import Tokenization
from aft.data.readers.find_columns import InputColumn
from aft.data.samples import Samples, columns_for
from aft.errors import ConfigError, StudentError
from aft.students.backbone import Backbone, load_backbone

_FOLDER = "{folder}"


def build_student(
    specs: Sequence[str],
    samples: Samples,
    unlabelled: Samples | None = None,
    *,
    fusion: Literal["concat", "product"] = "concat",
    layers: int | None = None,
    layers_from: str = "first",
    seed: int = 0,
    trust_remote_code: bool = False,
) -> tuple[Backbone, tuple[InputColumn, ...]]:
    """Build the student for a data set.

    Args:
        specs: One model, or one per column, each ``[COLUMN=]source:name?option=value``.
        samples: Training samples.
        unlabelled: Unlabelled training samples; their words are added to the vocabulary.
        fusion: How to combine the features of several models: ``concat`` or ``product``.
        layers: Number of layers of ``hf`` models to keep.
        layers_from: Which ones: ``first``, or ``spaced`` evenly from the first to the last.
        seed: Seed of random weights.
        trust_remote_code: Whether to run code from a model repository on the hub.

    Returns:
        The backbone and the input columns that it takes.

    Raises:
        StudentError: If a model cannot be built.
        ConfigError: If the models do not match the columns.
    """
    check_columns(specs, layers, fusion, layers_from)
    towers: dict[str, Backbone] = {}
    takes: dict[str, tuple[str, ...]] = {}
    for text in specs:
        asked, rest = split_column(text)
        spec = Spec.parse(rest)
        if layers is not None and spec.source == "hf":
            which = {} if layers_from == "first" else {"from": layers_from}
            spec = Spec(spec.source, spec.name, {**spec.options, "layers": str(layers), **which})

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
            raise ConfigError(f"expected one model per column, as {each}, got {' '.join(specs)}")
        towers[name], takes[name] = backbone, names
    taken = [column for names in takes.values() for column in names]
    if len(set(taken)) < len(taken):
        raise ConfigError(f"expected one model per column, got {' '.join(specs)}")
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
    trust_remote_code: bool | Collection[str] = False,
) -> Backbone:
    """Rebuild the architecture of a saved student from its folder alone.

    Args:
        info: :attr:`Backbone.info` of the saved student.
        preprocessing: The description of its preprocessing.
        folder: Folder with :attr:`Backbone.files`.
        trust_remote_code: Whether to run the code that the student needs; or the specifications
            that the user gave, of which the files of ``python:`` students may run.

    Raises:
        StudentError: If the student needs code that is not trusted, or cannot be built.
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
    trusted = trust_remote_code is True
    named = () if isinstance(trust_remote_code, bool) else map(split_column, trust_remote_code)
    if spec.source == "python" and not trusted and str(spec) not in {one for _, one in named}:
        raise StudentError(
            f"the student in {folder} is built by {spec}, which is not trusted; read that file, "
            "then use --trust-remote-code to run it"
        )

    def placed(text: str) -> str:
        return str(folder) + text.removeprefix(_FOLDER) if text.startswith(_FOLDER) else text

    options = {key: placed(value) for key, value in spec.options.items()}
    backbone = load_backbone(
        Spec(spec.source, placed(spec.name), options), trust_remote_code=trusted
    )
    own = backbone.preprocessing
    if isinstance(own, Preprocessing):  # weights may change it
        backbone.preprocessing = Preprocessing.from_description(preprocessing)
    elif isinstance(own, Tokenization):  # earlier versions cut long texts in another way
        backbone.preprocessing = Tokenization.from_description(preprocessing, own.tokenizer_json)
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
        f"the data has the columns {names}, but {model} takes only {modality}s. Use one model per "
        f"column (--student {each}), or only this column: --student {first}={model}"
    )
