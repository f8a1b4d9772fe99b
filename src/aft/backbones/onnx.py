"""`onnx:PATH`: an image or text model exported to ONNX, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aft.backbones.checks import check_options, find_onnx, first_line, integer_option
from aft.backbones.huggingface_images import convert
from aft.backbones.network import Network, require
from aft.backbones.onnx_networks import (
    FLOATS,
    OnnxImageNetwork,
    OnnxSession,
    OnnxTextNetwork,
    Slot,
    fixed_length,
)
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization, read_tokenizer
from aft.backbones.weights import file_hash, read_object
from aft.errors import ModelError, did_you_mean
from aft.files import reading

_TEXT_OPTIONS = ("max_tokens", "template", "tokenizer", "truncate")
_IMAGE_OPTIONS = ("mean", "size", "std")
_POOLINGS = ("mean", "cls", "last")
_OUTPUTS = ("sentence_embedding", "image_embeds", "text_embeds", "last_hidden_state")
_MAX_TOKENS = 512


def build(spec: Spec, *, seed: int = 0) -> Network:
    """Build a network from an ONNX model.

    Args:
        spec: ``onnx:PATH``, a ``.onnx`` file or a folder with one. Options: ``output`` (name of
            the output to use), ``pooling`` (``mean``, ``cls`` or ``last``, for an output with one
            vector per token); for text ``tokenizer`` (a ``tokenizer.json`` or its folder),
            ``max_tokens``, ``template`` and ``truncate``; for images ``size`` (pixels), ``mean``
            and ``std`` (one number, or three separated by commas).
        seed: Not used.

    Raises:
        ModelError: If a library is missing, or the file, its inputs, its outputs or an option
            are not supported.
    """
    path = find_onnx(spec)
    session = OnnxSession(path)
    is_text = "input_ids" in session.roles.values() and len(session.roles) == len(session.inputs)
    is_image = len(session.inputs) == 1 and _is_image(session.inputs[0])
    if not is_text and not is_image:
        raise ModelError(
            f"expected {path} to take text (input_ids, optionally attention_mask and "
            "token_type_ids) or images (one float input of shape (batch, 3, height, width)), got "
            f"the inputs {'; '.join(map(str, session.inputs))}"
        )
    check_options(spec, ("output", "pooling", *(_TEXT_OPTIONS if is_text else _IMAGE_OPTIONS)))
    output = _choose_output(spec, session)
    pooling = spec.options.get("pooling", "mean")
    if pooling not in _POOLINGS:
        raise ModelError(f"expected pooling to be mean, cls or last, got {pooling!r}")
    sha256 = file_hash(path, *_external_files(path))

    network: OnnxTextNetwork | OnnxImageNetwork
    preprocessing: Tokenization | Preprocessing
    if is_text:
        preprocessing = _tokenization(spec, path, session)
        probe = preprocessing.evaluate()(" ".join(["a"] * preprocessing.max_tokens))[None, :8]
        network = OnnxTextNetwork(session, output, pooling, sha256)
    else:
        preprocessing = _preprocessing(spec, path, session)
        probe = torch.zeros(1, 3, preprocessing.size, preprocessing.size)
        network = OnnxImageNetwork(session, output, pooling, sha256)
    dim = _feature_dim(spec, network, probe)
    pooled = any(slot.name == output and len(slot.shape) in (2, 4) for slot in session.outputs)
    if pooled and "pooling" in spec.options:
        raise ModelError(
            f"{spec}: pooling needs an output with one vector per token or image patch, but "
            f"output {output!r} is already pooled; remove pooling, or choose another output with "
            "output=NAME"
        )
    return Network(
        spec=spec,
        module=network,
        dim=dim,
        preprocessing=preprocessing,
        weights=str(path),
        layer=f"output {output}",
        versions={"onnxruntime": require("onnxruntime", "onnx").__version__},
        pooling=None if pooled else pooling,
    )


# The file and its session -------------------------------------------------------------------------


def _external_files(path: Path) -> list[Path]:
    """Sorted paths of the external weight files that a model refers to."""
    onnx = require("onnx", "onnx")
    model = onnx.load(str(path), load_external_data=False)
    places = {
        entry.value
        for graph in _graphs(model.graph)
        for tensor in _tensors(graph)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path.parent / place for place in sorted(places)]


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and its subgraphs (branches, loops)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _graphs(inner)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t


# Outputs ------------------------------------------------------------------------------------------


def _choose_output(spec: Spec, session: OnnxSession) -> str:
    floats = [slot for slot in session.outputs if slot.dtype in FLOATS]
    names = [slot.name for slot in floats]
    if asked := spec.options.get("output"):
        if asked not in names:
            raise ModelError(
                f"{session.path} has no float output {asked!r}{did_you_mean(asked, names)}; its "
                f"outputs are {'; '.join(map(str, session.outputs))}"
            )
        return asked
    for name in _OUTPUTS:
        if name in names:
            return name
    pooled = [slot.name for slot in floats if len(slot.shape) == 2]
    for choice in (names, pooled):
        if len(choice) == 1:
            return choice[0]
    raise ModelError(
        f"{session.path} has several outputs; choose one with {spec.source}:{spec.name}"
        f"?output=NAME: {'; '.join(map(str, session.outputs))}"
    )


def _feature_dim(spec: Spec, network: nn.Module, probe: Tensor) -> int:
    try:
        features = network(probe)
    except Exception as error:  # ONNX Runtime raises many exception types
        hint = "check that the tokenizer belongs to this model" if probe.ndim == 2 else "try size"
        raise ModelError(
            f"{spec} failed on an input of shape {tuple(probe.shape)}: {first_line(error)}; {hint}"
        ) from error
    return int(features.shape[1])


# Texts --------------------------------------------------------------------------------------------


def _tokenization(spec: Spec, path: Path, session: OnnxSession) -> Tokenization:
    place = Path(spec.options.get("tokenizer", path.parent)).expanduser()
    file = place / "tokenizer.json" if place.is_dir() else place
    if not file.is_file():
        raise ModelError(
            f"{path} takes text and needs a tokenizer, but {file} does not exist; put a "
            f"tokenizer.json beside the model or set onnx:{spec.name}?tokenizer=FILE"
        )
    require("tokenizers", "text")
    fixed = fixed_length(session)
    max_tokens = integer_option(spec, "max_tokens", fixed or _default_length(file))
    if fixed and max_tokens > fixed:
        raise ModelError(
            f"expected max_tokens <= {fixed}, the fixed length of {path}, got {max_tokens}"
        )
    return Tokenization(
        read_tokenizer(file),
        max_tokens,
        spec.options.get("template"),
        token_types="token_type_ids" in session.roles.values(),
        truncate=spec.options.get("truncate", "end"),
    )


def _default_length(tokenizer: Path) -> int:
    """Maximum number of tokens according to the files beside a tokenizer; at most 512."""
    for name, key in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        length = _read_json(tokenizer.parent / name).get(key)
        if isinstance(length, int) and length > 0:
            return min(length, _MAX_TOKENS)
    return _MAX_TOKENS


def _read_json(file: Path) -> dict[str, Any]:
    return read_object(file) if file.is_file() else {}


# Images -------------------------------------------------------------------------------------------


def _is_image(slot: Slot) -> bool:
    return slot.dtype in FLOATS and len(slot.shape) == 4 and slot.shape[1] in (3, None)


def _preprocessing(spec: Spec, path: Path, session: OnnxSession) -> Preprocessing:
    """From the options, else from ``preprocessor_config.json``, else ImageNet's defaults."""
    height, width = session.inputs[0].shape[2:]
    if height != width:
        raise ModelError(f"expected {path} to take square images, got {session.inputs[0]}")
    file = path.parent / "preprocessor_config.json"
    size = integer_option(spec, "size", height)
    if file.is_file():
        with reading(file, ModelError):
            default = convert(_read_json(file), str(file), size)
    elif size is not None:
        default = Preprocessing(size)
    else:
        raise ModelError(
            f"{path} takes images of any size and has no preprocessor_config.json; set the size, "
            f"e.g. onnx:{spec.name}?size=224"
        )
    if height and default.size != height:
        raise ModelError(f"expected size={height}, the fixed size of {path}, got {size}")
    mean, std = _triple(spec, "mean", default.mean), _triple(spec, "std", default.std)
    return replace(default, mean=mean, std=std)


def _triple(
    spec: Spec, name: str, default: tuple[float, float, float]
) -> tuple[float, float, float]:
    given = spec.options.get(name)
    if given is None:
        return default
    try:
        values = [float(value) for value in given.split(",")]
    except ValueError:
        values = []
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3 or (name == "std" and min(values) <= 0):
        raise ModelError(
            f"expected {name} to be one number or three separated by commas, for pixel values "
            f"from 0 to 1{' and > 0' if name == 'std' else ''}, got {given!r}"
        )
    return values[0], values[1], values[2]
