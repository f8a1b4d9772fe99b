"""`hf:NAME_OR_FOLDER`: text and image models of transformers, as teacher or student.

Text features come from the last layer. By default they are averaged over the tokens (encoders and
the encoder of an encoder-decoder) or taken from the last token (causal models). Image features are
the class token if the model has one, otherwise the model's own pooling.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aft.backbones.checks import check, first_line, integer_option
from aft.backbones.huggingface_files import Repository
from aft.backbones.huggingface_images import read_preprocessing
from aft.backbones.huggingface_models import (
    choose_tower,
    cut_layers,
    drop_pooler,
    freeze_unused,
    load_model,
    load_own,
    own_file,
    reshape,
    still_missing,
)
from aft.backbones.network import Network, require, versions
from aft.backbones.pooling import ImageFeatures, TextFeatures, num_positions, takes
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization, read_tokenizer
from aft.backbones.weights import read_object
from aft.errors import ModelError
from aft.files import reading

_MOST_TOKENS = 512
_TOKENIZATION = "tokenization.json"
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding", "cls")


def build(spec: Spec, *, seed: int = 0, trust_remote_code: bool = False) -> Network:
    """Build a `transformers` model without its head.

    Args:
        spec: ``hf:NAME`` or ``hf:FOLDER``; options ``weights`` (``pretrained``, ``random`` or a
            file), ``pooling`` (``mean``, ``cls``, ``last``; ``pooler`` for images), ``layer``
            (take the features after this many layers), ``layers`` (keep only so many) and ``from``
            (``first`` ones, or ``spaced`` evenly from the first to the last); for text
            ``max_tokens`` (default: the model's limit, at most 512), ``template`` and
            ``truncate``; for images ``size`` (pixels); for image-text models ``tower`` (``vision``
            or ``text``); with ``weights=random`` also ``seed``, ``hidden_size``, ``heads`` and
            ``intermediate_size``.
        seed: Seed of random weights if the specification has no ``seed``.
        trust_remote_code: Whether to run Python code that is part of the model.

    Raises:
        ModelError: If the model cannot be found or loaded, or an option or the weights are
            invalid.
    """
    check(spec)
    transformers = require("transformers", "text")
    repository = Repository.find(spec, trust_remote_code)
    config = repository.load(transformers.AutoConfig.from_pretrained)
    reshape(config, spec)
    saved = _config_json(config)
    source = spec.options.get("weights", "pretrained")
    model, missing = load_model(repository, config, source, integer_option(spec, "seed", seed))
    tower = choose_tower(spec, model)
    num_layers = cut_layers(spec, tower)
    layer = integer_option(spec, "layer", None)
    if layer == num_layers:
        layer = None

    module: TextFeatures | ImageFeatures
    preprocessing: Tokenization | Preprocessing
    if tower.main_input_name == "pixel_values":
        preprocessing, files = read_preprocessing(repository, tower.config, source)
        module = _image_features(spec, tower, layer, preprocessing.size)
        blank = torch.zeros(1, 3, preprocessing.size, preprocessing.size)
    else:
        preprocessing = _tokenization(repository, tower)
        module = _text_features(spec, tower, layer)
        blank = torch.tensor([_some_ids(tower)])
        files = {
            "tokenizer.json": preprocessing.tokenizer_json,
            _TOKENIZATION: json.dumps(preprocessing.describe(), indent=2) + "\n",
        }
    features = _run(spec, module, blank)
    freeze_unused(module, features)
    if (file := own_file(source)) is not None:
        load_own(spec, module, file)
    elif names := still_missing(module, missing):
        raise ModelError(_missing_tensors(spec, names))

    kept = _kept_options(spec, module, preprocessing)
    return Network(
        spec=spec,
        module=module,
        dim=features.shape[-1],
        preprocessing=preprocessing,
        weights=_weights_origin(repository, source),
        layer=_layer_name(module, num_layers),
        licence=repository.licence() if source == "pretrained" else None,
        versions=versions("transformers", "tokenizers", "torch"),
        pooling=module.pooling,
        files={"config.json": saved, **files, **_code(repository)},
        architecture=str(Spec("hf", "{folder}", kept)),
    )


# Text ---------------------------------------------------------------------------------------------


def _text_features(spec: Spec, model: Any, layer: int | None) -> TextFeatures:
    drop_pooler(model)
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False  # only needed for generation
    pooling = _pooling(spec, ("mean", "cls", "last"))
    if pooling is None:
        pooling = "last" if _is_causal(spec, model) else "mean"
    return TextFeatures(model, pooling, layer)


def _is_causal(spec: Spec, model: nn.Module) -> bool:
    """Whether the first token's hidden state is independent of the last token."""
    probe = TextFeatures(model, "cls")
    ids = _some_ids(model)
    with torch.no_grad():
        first, second = _run(spec, probe, torch.tensor([ids, [*ids[:-1], ids[0]]]))
    return bool(torch.allclose(first, second, rtol=1e-5, atol=1e-6))


def _some_ids(model: Any) -> list[int]:
    """Valid token ids for a test run; the first differs from the last."""
    most = model.get_input_embeddings().num_embeddings
    return [index % most for index in (5, 6, 7, 8)]


def _tokenization(repository: Repository, model: Any) -> Tokenization:
    spec = repository.spec
    known = repository.file(_TOKENIZATION)
    if known is not None:  # a saved student
        file = repository.file("tokenizer.json")
        if file is None:
            raise ModelError(
                f"expected a tokenizer.json beside {_TOKENIZATION} in {repository.name}, got none"
            )
        content, tokenizer_json = read_object(known), read_tokenizer(file)
        with reading(known, ModelError):
            saved = Tokenization.from_description(content, tokenizer_json)
        text, most, side = saved.tokenizer_json, saved.max_tokens, saved.truncate
        template, types = saved.template, saved.token_types
    else:
        transformers = require("transformers", "text")
        repository.check_tokenizer()
        tokenizer = repository.load(transformers.AutoTokenizer.from_pretrained)
        text = fast_tokenizer_json(spec, tokenizer)
        most = min(_MOST_TOKENS, int(min(tokenizer.model_max_length, 2**31)))
        template, side = None, "end"
        types = (
            "token_type_ids" in tokenizer.model_input_names
            and takes(model, "token_type_ids")
            and getattr(model.config, "type_vocab_size", 2) > 1
        )
    limit = num_positions(model)
    asked = integer_option(spec, "max_tokens", None)
    if limit is not None and asked is not None and asked > limit:
        raise ModelError(
            f"expected max_tokens <= {limit}, the model's number of position embeddings, got {spec}"
        )
    most = asked or (most if limit is None else min(most, limit))
    tokenization = Tokenization(
        text,
        most,
        spec.options.get("template", template),
        types,
        spec.options.get("truncate", side),
    )
    check_vocabulary(spec, tokenization, model)
    return tokenization


def fast_tokenizer_json(spec: Spec, tokenizer: Any) -> str:
    """JSON of the fast tokenizer inside a `transformers` one, with truncation and padding off."""
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"expected a fast tokenizer (with a tokenizer.json) for {spec}, got "
            f"{type(tokenizer).__name__}; convert it, e.g. with "
            "transformers.convert_slow_tokenizer, and save it in a folder"
        )
    fast = copy.deepcopy(tokenizer.backend_tokenizer)
    fast.no_truncation()
    fast.no_padding()
    text: str = fast.to_str()
    return text


def check_vocabulary(spec: Spec, tokenization: Tokenization, model: Any) -> None:
    """Raise ``ModelError`` if the tokenizer has token ids without an embedding in the model."""
    most = model.get_input_embeddings().num_embeddings
    if (size := tokenization.vocabulary_size) > most:
        raise ModelError(
            f"the tokenizer of {spec} has token ids up to {size - 1}, but the model has only "
            f"{most} embeddings; use the tokenizer of this model"
        )


# Images -------------------------------------------------------------------------------------------


def _image_features(spec: Spec, model: Any, layer: int | None, size: int) -> ImageFeatures:
    pooling = _pooling(spec, ("mean", "cls", "pooler"))
    names = [name.rpartition(".")[2] for name, _ in model.named_parameters()]
    class_tokens = 0
    if any(name in _CLASS_TOKENS for name in names):
        registers = getattr(model.config, "num_register_tokens", 0) or 0
        class_tokens = 1 + registers + ("distillation_token" in names)
    if pooling == "cls" and not class_tokens:
        raise ModelError(f"{spec} has no class token; expected pooling=mean or pooling=pooler")
    if pooling == "pooler" and layer is not None:
        raise ModelError(
            f"pooling=pooler uses the last layer only, got layer={layer} in {spec}; "
            "remove layer or use another pooling"
        )
    if pooling is None:
        # CLIP normalises its class token inside the pooler, so its pooler is kept. A ViT normalises
        # before the pooler, which only serves pre-training, so its class token is used directly.
        plain = class_tokens > 0 and not hasattr(model, "post_layernorm")
        pooling = "cls" if plain else "mean" if layer is not None else "pooler"
    if pooling != "pooler":
        drop_pooler(model)
    fitted = "size" in spec.options and takes(model, "interpolate_pos_encoding")
    module = ImageFeatures(model, pooling, layer, class_tokens, fitted)
    if pooling == "pooler" and "pooling" not in spec.options:
        with torch.no_grad():
            output = _run(spec, _Whole(model, module.options), torch.zeros(1, 3, size, size))
        if getattr(output, "pooler_output", None) is None:
            module.pooling = "mean"
    return module


class _Whole(nn.Module):
    """Returns the complete output of a vision model."""

    def __init__(self, model: nn.Module, options: Any) -> None:
        super().__init__()
        self.model = model
        self.options = options

    def forward(self, images: Tensor) -> Any:
        return self.model(pixel_values=images, **self.options)


def _layer_name(module: TextFeatures | ImageFeatures, num_layers: int | None) -> str:
    of = "" if num_layers is None else f" of {num_layers}"
    return f"layer {module.layer}{of}" if module.layer is not None else f"last layer{of}"


# Both ---------------------------------------------------------------------------------------------


def _pooling(spec: Spec, known: tuple[str, ...]) -> str | None:
    asked = spec.options.get("pooling")
    if asked is not None and asked not in known:
        raise ModelError(f"expected pooling to be {', '.join(known)}, got {asked!r} in {spec}")
    return asked


def _run(spec: Spec, module: nn.Module, inputs: Tensor) -> Any:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        return module(inputs)
    except Exception as error:  # third-party code may raise anything
        raise ModelError(
            f"{spec} failed on an input of shape {tuple(inputs.shape)}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        for part, mode in modes:
            part.training = mode


def _kept_options(
    spec: Spec, module: TextFeatures | ImageFeatures, preprocessing: Tokenization | Preprocessing
) -> dict[str, str]:
    """Options that, with the configuration, rebuild the same architecture."""
    options = {"weights": "random", "pooling": module.pooling}
    options |= {k: v for k, v in spec.options.items() if k in ("layer", "layers", "from", "tower")}
    if isinstance(preprocessing, Preprocessing) and "size" in spec.options:
        options["size"] = str(preprocessing.size)
    return options


def _config_json(config: Any) -> str:
    kept = copy.deepcopy(config)
    kept.name_or_path = ""  # a local path
    text: str = kept.to_json_string()
    return text


def _code(repository: Repository) -> dict[str, str]:
    """Python files of a trusted model, needed to rebuild a student."""
    if not (repository.trust_remote_code and repository.folder):
        return {}
    return {p.name: p.read_text(encoding="utf-8") for p in sorted(repository.folder.glob("*.py"))}


def _weights_origin(repository: Repository, source: str) -> str:
    if source == "pretrained":
        return repository.origin
    return "random" if source == "random" else str(Path(source).expanduser())


def _missing_tensors(spec: Spec, names: list[str]) -> str:
    more = " …" if len(names) > 3 else ""
    return (
        f"the weights of {spec} are incomplete: {len(names)} missing tensors: "
        f"{', '.join(names[:3])}{more}; use complete weights, or weights=random to train from "
        "scratch"
    )
