"""Build models of transformers, drop unused parts and check that the weights are complete."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from aft.backbones.checks import first_line, integer_option
from aft.backbones.huggingface_files import Repository, quiet
from aft.backbones.network import require, seeded
from aft.backbones.specs import Spec
from aft.backbones.weights import load_into, load_weights, unwrap
from aft.errors import ModelError

SHAPE = {
    "hidden_size": ("hidden_size",),
    "heads": ("num_attention_heads",),
    "intermediate_size": (
        *("intermediate_size", "d_ff", "hidden_dim", "encoder_ffn_dim", "ffn_dim", "n_inner"),
    ),
}
"""Size options of randomly initialised models, and their names in model configurations."""


# The model ----------------------------------------------------------------------------------------


def reshape(config: Any, spec: Spec) -> None:
    """Apply the size options to a configuration; only for random weights."""
    given = {o: n for o in SHAPE if (n := integer_option(spec, o, None)) is not None}
    if given and spec.options.get("weights") != "random":
        raise ModelError(
            f"{', '.join(given)} can be set with weights=random only, got {spec}; the sizes of "
            "pretrained weights are fixed (layers=K keeps K layers)"
        )
    for option, value in given.items():
        known = [name for name in SHAPE[option] if hasattr(config, name)]
        if not known:
            raise ModelError(
                f"{type(config).__name__} has no {' or '.join(SHAPE[option])}, so "
                f"{option}={value} cannot be set in {spec}"
            )
        setattr(config, known[0], value)
    if not {"hidden_size", "heads"} & set(given):
        return
    heads = config.num_attention_heads
    if config.hidden_size % heads:
        raise ModelError(
            f"expected hidden_size to be a multiple of heads, got {config.hidden_size} and {heads} "
            f"for {spec}"
        )
    if getattr(config, "num_key_value_heads", None):
        config.num_key_value_heads = heads
    if getattr(config, "head_dim", None):
        config.head_dim = config.hidden_size // heads


def load_model(
    repository: Repository, config: Any, source: str, seed: int
) -> tuple[Any, dict[str, Tensor]]:
    """The full model in float32, and its tensors that are missing from the weights."""
    transformers = require("transformers", "text")
    spec = repository.spec
    if source == "pretrained":
        model, loading = repository.load(
            transformers.AutoModel.from_pretrained, config=config, output_loading_info=True
        )
        return _with_missing(model, loading["missing_keys"])
    try:
        model = seeded(
            seed,
            lambda: transformers.AutoModel.from_config(
                config, trust_remote_code=repository.trust_remote_code
            ),
        )
    except Exception as error:  # a damaged configuration may raise anything
        raise ModelError(f"transformers cannot build {spec}: {first_line(error)}") from error
    if source == "random" or own_file(source) is not None:
        return _with_missing(model, ())
    state = unwrap(load_weights(source), model.state_dict(), f"{model.base_model_prefix}.")
    try:
        with quiet():
            model, loading = type(model).from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True
            )
    except Exception as error:  # the library raises many exception types
        raise ModelError(f"{source} does not fit {spec}: {first_line(error)}") from error
    return _with_missing(model, loading["missing_keys"])


def _with_missing(model: Any, names: Any) -> tuple[Any, dict[str, Tensor]]:
    tensors = model.float().state_dict(keep_vars=True)
    return model, {name: tensors[name] for name in sorted(names) if name in tensors}


def still_missing(module: nn.Module, missing: dict[str, Tensor]) -> list[str]:
    """Names of missing tensors that the module uses; dropped heads and layers do not count."""
    kept = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    used = {id(p) for p in module.parameters() if p.requires_grad}
    return [name for name, t in missing.items() if id(t) in kept and id(t) in used]


def own_file(source: str) -> Path | None:
    """Path of the weights of a saved student, or None for any other source."""
    path = Path(source).expanduser()
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError):
        return None  # reported when the file is read
    return path if any(name.startswith("backbone.model.") for name in names) else None


def load_own(spec: Spec, module: nn.Module, file: Path) -> None:
    """Load the weights of a saved student into a module."""
    try:
        load_into(module, load_weights(file), ("head", "rescale"))
    except ModelError as error:
        raise ModelError(f"{file} does not fit {spec}: {error}") from None


def choose_tower(spec: Spec, model: Any) -> Any:
    """The part to run: an encoder without its decoder, or one tower of an image-text model."""
    asked = spec.options.get("tower")
    if asked not in (None, "vision", "text"):
        raise ModelError(f"expected tower=vision or tower=text, got {asked!r} in {spec}")
    if hasattr(model, "vision_model") and hasattr(model, "text_model"):
        part = model.text_model if asked == "text" else model.vision_model
        part.main_input_name = "input_ids" if asked == "text" else "pixel_values"
        return part
    if asked:
        raise ModelError(f"tower={asked} needs an image-text model, got {spec}; remove tower")
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    if model.main_input_name not in ("input_ids", "pixel_values"):
        raise ModelError(
            f"expected a text or image model (input_ids or pixel_values), got {spec} with input "
            f"{model.main_input_name}"
        )
    return model


# Layers -------------------------------------------------------------------------------------------


def cut_layers(spec: Spec, model: Any) -> int | None:
    """Drop layers according to the options; returns the number of layers left, if known."""
    keep = integer_option(spec, "layers", None)
    start = spec.options.get("from", "first")
    if start not in ("first", "spaced") or ("from" in spec.options and keep is None):
        raise ModelError(f"expected layers=K with from=first or from=spaced, got {spec}")
    layer = integer_option(spec, "layer", None)
    stack = _stack(model)
    if stack is None:
        if keep is not None:
            raise ModelError(
                f"layers={keep} needs a model with a list of identical layers, got "
                f"{type(model).__name__} in {spec}; remove layers"
            )
        return None
    count = len(stack) if keep is None else keep
    for option, value, most in (("layers", keep, len(stack)), ("layer", layer, count)):
        if value is not None and value > most:
            raise ModelError(f"expected {option} <= {most}, the number of layers, got {spec}")
    # Keep one more layer than requested: models may normalise the output of the last one.
    needed = count if layer is None else min(count, layer + 1)
    chosen = space_layers(count, len(stack)) if start == "spaced" else range(count)
    if needed < len(stack):
        _keep_layers(model, stack, chosen[:needed])
    return count


def space_layers(count: int, total: int) -> list[int]:
    """Numbers of ``count`` of ``total`` layers, evenly spaced from the first to the last.

    The idea of TLEG (Xia et al., "Transformer as Linear Expansion of Learngene", AAAI 2024, arXiv
    2312.05614), whose layers change about linearly with their place, without its training of two
    layers from which all are made. One layer alone is the first one.
    """
    return [round(i * (total - 1) / max(1, count - 1)) for i in range(count)]


def _keep_layers(model: Any, stack: nn.ModuleList, chosen: Sequence[int]) -> None:
    config, layers = model.config, list(stack)
    del stack[:]
    stack.extend(layers[i] for i in chosen)
    if len(types := getattr(config, "layer_types", None) or ()) == len(layers):
        config.layer_types = [types[i] for i in chosen]  # forward passes look them up by place
    config.num_hidden_layers = len(chosen)


def _stack(model: nn.Module) -> nn.ModuleList | None:
    """The model's layers: the largest module list as long as the configured layer count."""
    count = getattr(model.config, "num_hidden_layers", None)
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and len({type(part) for part in module}) == 1
    ]
    return max(lists, key=lambda part: sum(p.numel() for p in part.parameters()), default=None)


def drop_pooler(model: Any) -> None:
    """Remove a pooler that has weights; it is not used."""
    pooler = getattr(model, "pooler", None)
    if isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()):
        model.pooler = None


def freeze_unused(module: nn.Module, features: Tensor) -> None:
    """Freeze parameters that the features do not depend on, e.g. mask tokens."""
    used: set[int] = set()
    waiting, seen = [features.grad_fn], {features.grad_fn}
    while waiting:
        node: Any = waiting.pop()
        if hasattr(node, "variable"):
            used.add(id(node.variable))
        for following, _ in getattr(node, "next_functions", ()):
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    for parameter in module.parameters():
        if id(parameter) not in used:
            parameter.requires_grad_(False)
