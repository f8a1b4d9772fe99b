"""Models of transformers: built, cut to what is needed, and found complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from aft.backbones.huggingface_files import Repository, quiet
from aft.backbones.network import first_line, integer_option, require, seeded
from aft.backbones.specs import Spec
from aft.backbones.weights import ModelError, load_into, load_weights

SHAPE = {
    "hidden_size": ("hidden_size",),
    "heads": ("num_attention_heads",),
    "intermediate_size": (
        *("intermediate_size", "d_ff", "hidden_dim", "encoder_ffn_dim", "ffn_dim", "n_inner"),
    ),
}
"""Options for the sizes of random models, and what configurations call them."""


# The model ----------------------------------------------------------------------------------------


def reshape(config: Any, spec: Spec) -> None:
    """Change the sizes of a configuration for random weights."""
    given = {o: n for o in SHAPE if (n := integer_option(spec, o, None, minimum=1)) is not None}
    if given and spec.options.get("weights") != "random":
        raise ModelError(
            f"{', '.join(given)} can be chosen with weights=random only, got {spec}; pretrained "
            "weights have the sizes that they have (layers=K keeps the first K layers)"
        )
    for option, value in given.items():
        known = [name for name in SHAPE[option] if hasattr(config, name)]
        if not known:
            raise ModelError(
                f"{type(config).__name__} has no {' or '.join(SHAPE[option])}: {option}={value} "
                f"cannot be set for {spec}"
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
    """The whole model in float32, and those of its tensors that the weights lack."""
    transformers = require("transformers", "text")
    spec = repository.spec
    if source == "pretrained":
        model, told = repository.load(
            transformers.AutoModel.from_pretrained, config=config, output_loading_info=True
        )
        return _with_missing(model, told["missing_keys"])
    try:
        model = seeded(
            seed,
            lambda: transformers.AutoModel.from_config(
                config, trust_remote_code=repository.trust_remote_code
            ),
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise ModelError(f"transformers cannot build {spec}: {first_line(error)}") from error
    if source == "random" or own_file(source) is not None:
        return _with_missing(model, ())
    state = load_weights(source)
    try:
        with quiet():
            model, told = type(model).from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True
            )
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{source} does not fit {spec}: {first_line(error)}") from error
    return _with_missing(model, told["missing_keys"])


def _with_missing(model: Any, names: Any) -> tuple[Any, dict[str, Tensor]]:
    tensors = model.float().state_dict(keep_vars=True)
    return model, {name: tensors[name] for name in sorted(names) if name in tensors}


def still_missing(module: nn.Module, missing: dict[str, Tensor]) -> list[str]:
    """Those that are no part of the heads, decoders and layers left out."""
    kept = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    used = {id(p) for p in module.parameters() if p.requires_grad}
    return [name for name, t in missing.items() if id(t) in kept and id(t) in used]


def own_file(source: str) -> Path | None:
    """The weights of a student of ours, which name the parts of its module."""
    path = Path(source).expanduser()
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError):
        return None  # told when it is read
    return path if any(name.startswith("backbone.model.") for name in names) else None


def load_own(spec: Spec, module: nn.Module, file: Path) -> None:
    """Fill a module with the weights of a student of ours."""
    try:
        load_into(module, load_weights(file), ("head", "rescale"))
    except ModelError as error:
        raise ModelError(f"{file} does not fit {spec}: {error}") from None


def choose_tower(spec: Spec, model: Any) -> Any:
    """The part that is run: an encoder without its decoder, one half of a model of both."""
    asked = spec.options.get("tower")
    if asked not in (None, "vision", "text"):
        raise ModelError(f"expected tower=vision or tower=text, got {asked!r} in {spec}")
    if hasattr(model, "vision_model") and hasattr(model, "text_model"):
        part = model.text_model if asked == "text" else model.vision_model
        part.main_input_name = "input_ids" if asked == "text" else "pixel_values"
        return part
    if asked:
        raise ModelError(f"tower={asked} is for models of images and text, got {spec}")
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    if model.main_input_name not in ("input_ids", "pixel_values"):
        raise ModelError(
            f"expected a model over text or images, got {spec}, which takes {model.main_input_name}"
        )
    return model


# Layers -------------------------------------------------------------------------------------------


def cut_layers(spec: Spec, model: Any) -> int | None:
    """Leave out the last layers as the options say; how many there are then, where known."""
    keep = integer_option(spec, "layers", None, minimum=1)
    layer = integer_option(spec, "layer", None, minimum=1)
    stack = _stack(model)
    if stack is None:
        if keep is not None:
            raise ModelError(
                f"{spec}: {type(model).__name__} is no stack of like layers, so layers={keep} "
                "cannot keep the first of them"
            )
        return None
    count = len(stack) if keep is None else keep
    for option, value, most in (("layers", keep, len(stack)), ("layer", layer, count)):
        if value is not None and value > most:
            raise ModelError(f"expected {option} <= {most}, the layers there are, got {spec}")
    # One more than asked for: what the last layer gives, models may normalise once more.
    needed = count if layer is None else min(count, layer + 1)
    if needed < len(stack):
        del stack[needed:]
        model.config.num_hidden_layers = needed
    return count


def _stack(model: nn.Module) -> nn.ModuleList | None:
    """The list of a model's layers: as long as the configuration says, the largest such list."""
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
    """Take away a pooler that has weights and that nothing here uses."""
    pooler = getattr(model, "pooler", None)
    if isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()):
        model.pooler = None


def freeze_unused(module: nn.Module, features: Tensor) -> None:
    """Parameters that features do not depend on (tokens for masks) are not trained."""
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
