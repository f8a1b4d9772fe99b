"""`st:NAME_OR_FOLDER`: sentence-transformers models with their own pooling, as teachers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aft.backbones.checks import check, integer_option
from aft.backbones.huggingface import fast_tokenizer_json
from aft.backbones.huggingface_files import Repository, needs_code
from aft.backbones.network import Network, output_dim, require, versions
from aft.backbones.pooling import num_positions, padding_id, read_tokens
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.backbones.weights import read_object
from aft.errors import ModelError, did_you_mean
from aft.files import reading

_MODULES = "modules.json"
_CLASSES = {
    **{"Transformer": "transformer", "Pooling": "pooling", "Dense": "dense"},
    **{"Normalize": "normalize", "LayerNorm": "layer_norm", "Dropout": "dropout"},
    **{"StaticEmbedding": "static_embedding", "WeightedLayerPooling": "weighted_layer_pooling"},
}
_PACKAGES = ("base.modules", "sentence_transformer.modules")
_KNOWN = frozenset(
    f"sentence_transformers.{place}"
    for name, file in _CLASSES.items()
    for place in (
        f"models.{name}",
        *(f"{package}.{end}" for package in _PACKAGES for end in (name, f"{file}.{name}")),
    )
)
"""Modules that run without ``trust_remote_code``. Others, such as Router and Asym, import the
classes that their own configuration names, or read pickles."""
_ACTIVATION = re.compile(r"torch\.nn\.modules\.(activation\.\w+|linear\.Identity)")
_MOST_TOKENS = 512  # for models without a limit
_MOST_TOKENS_STATIC = 8192  # for models that average static embeddings


def build(spec: Spec, *, seed: int = 0, trust_remote_code: bool = False) -> Network:
    """Build a sentence-transformers model with all its modules.

    Args:
        spec: ``st:NAME`` or ``st:FOLDER``; options ``prompt`` (the name of one of the model's
            prompts, or ``none``; default: the model's default prompt, if any), ``max_tokens``
            (default: the model's own), ``template`` (format of the text after the prompt, e.g.
            ``{0}`` or ``Title: {0} Text: {1}``) and ``truncate``.
        seed: Not used: the weights are always pretrained.
        trust_remote_code: Whether to run Python code that is part of the model.

    Raises:
        ModelError: If the model cannot be found or loaded, or an option is invalid.
    """
    check(spec)
    library = require("sentence_transformers", "text")
    repository = Repository.find(spec, trust_remote_code)
    _check_classes(repository)
    repository.check_tokenizer()

    def load(name: str, **options: Any) -> Any:
        return library.SentenceTransformer(name, device="cpu", **options)

    model = repository.load(load).float()
    prompt = _prompt(spec, model)
    tokenization = _tokenization(spec, model, prompt)
    module = SentenceFeatures(model, _prompt_length(model, tokenization, prompt))
    ids = tokenization.encode_batch(["a"] if _takes_one(tokenization) else [{"a": "a", "b": "a"}])
    return Network(
        spec=spec,
        module=module,
        dim=output_dim(module, torch.from_numpy(ids[0]).unsqueeze(0), str(spec)),
        preprocessing=tokenization,
        weights=repository.origin,
        layer="sentence embedding",
        licence=repository.licence(),
        versions=versions("sentence-transformers", "transformers", "tokenizers", "torch"),
        pooling=_describe_modules(model),
    )


class SentenceFeatures(nn.Module):
    """All modules of a sentence-transformers model.

    Maps tokens ``(B, L)`` or ``(B, 2, L)``, int64 and padded with -1, to sentence embeddings
    ``(B, dim)``; zeros for a text without tokens.

    Args:
        model: A ``SentenceTransformer``.
        prompt_length: Number of leading prompt tokens, which some poolings exclude.
    """

    def __init__(self, model: Any, prompt_length: int = 0) -> None:
        super().__init__()
        self.model = model
        self.prompt_length = prompt_length
        self.is_static = _is_static(model)
        self.padding_id = padding_id(getattr(model[0], "auto_model", model))
        self.num_positions = num_positions(model)
        self.dim: int | None = model.truncate_dim

    def forward(self, batch: Tensor) -> Tensor:
        """Sentence embeddings of a batch of texts."""
        tokens = read_tokens(batch, self.padding_id, self.num_positions)
        features: dict[str, Any]
        if self.is_static:  # concatenated texts and their offsets
            ends = tokens.counts.squeeze(1).cumsum(0)
            real = torch.arange(tokens.ids.shape[1], device=batch.device) < tokens.counts
            offsets = torch.nn.functional.pad(ends[:-1], (1, 0))
            features = {"input_ids": tokens.ids[real], "offsets": offsets}
        else:
            features = {"input_ids": tokens.ids, "attention_mask": tokens.mask}
            if tokens.types is not None:
                features["token_type_ids"] = tokens.types
        if self.prompt_length:
            features["prompt_length"] = self.prompt_length
        embedding: Tensor = self.model(features)["sentence_embedding"].float()
        return torch.where(tokens.counts > 0, embedding[:, : self.dim], 0)


def _check_classes(repository: Repository) -> None:
    """Reject models of other libraries, and unknown classes without ``trust_remote_code``."""
    path = _get(repository, _MODULES)
    if path is None:
        raise ModelError(
            f"expected a sentence-transformers model with a {_MODULES}, but {repository.name} has "
            f"none; use hf:{repository.spec.name} for other transformers models"
        )
    with reading(path, ModelError):
        modules = [(str(one["type"]), str(one["path"])) for one in json.loads(path.read_bytes())]
    if repository.trust_remote_code:
        return
    own = [kind for kind, _ in modules if kind not in _KNOWN]
    for kind, folder in modules:
        if kind.endswith("Dense"):
            if not re.fullmatch(r"\w+", folder):
                raise ModelError(f"expected the folder of a module in {path}, got {folder!r}")
            config = _get(repository, f"{folder}/config.json")
            named = read_object(config).get("activation_function") if config else None
            if named is not None and not _ACTIVATION.fullmatch(str(named)):
                own.append(str(named))
    if own:
        raise ModelError(
            f"{needs_code(repository.spec)} (classes in {_MODULES} that are not known to be "
            f"harmless: {', '.join(own)})"
        )


def _get(repository: Repository, name: str) -> Path | None:
    """Path of a file of the model, which is downloaded if necessary; None if there is none."""
    path = repository.file(name)
    if path is not None or repository.folder is not None:
        return path

    def download(repository_name: str, *, local_files_only: bool = False, **_: Any) -> str:
        hub = require("huggingface_hub", "text")
        file: str = hub.hf_hub_download(repository_name, name, local_files_only=local_files_only)
        return file

    return Path(repository.load(download))


def _is_static(model: Any) -> bool:
    return isinstance(getattr(model[0], "embedding", None), nn.EmbeddingBag)


# Texts --------------------------------------------------------------------------------------------


def _prompt(spec: Spec, model: Any) -> str:
    """The prompt text, prepended to every input."""
    prompts = {name: text for name, text in (model.prompts or {}).items() if text is not None}
    name = spec.options.get("prompt", model.default_prompt_name)
    if name is None or (name == "none" and name not in prompts):
        return ""
    if name not in prompts:
        known = [*prompts, "none"]
        raise ModelError(
            f"{spec.name} has no prompt {name!r}; available: {', '.join(known)}"
            f"{did_you_mean(name, known)}"
        )
    return str(prompts[name])


def _tokenization(spec: Spec, model: Any, prompt: str) -> Tokenization:
    template = spec.options.get("template")
    if prompt:
        template = prompt.replace("{", "{{").replace("}", "}}") + (template or "{0}")
    side = spec.options.get("truncate", "end")
    if _is_static(model):
        text = _without_special_tokens(model[0].tokenizer.to_str())
        most = integer_option(spec, "max_tokens", _MOST_TOKENS_STATIC)
        return Tokenization(text, most, template, truncate=side)
    transformer = getattr(model[0], "auto_model", None)
    if transformer is None or getattr(model[0], "tokenizer", None) is None:
        raise ModelError(
            f"expected the first module of {spec} to be a text transformer or static embeddings, "
            f"got {type(model[0]).__name__}"
        )
    text = fast_tokenizer_json(spec, model[0].tokenizer)
    limit = num_positions(model)
    own = model.max_seq_length or 2**31
    most = int(min(own, limit)) if limit is not None else int(min(own, 2**31))
    asked = integer_option(spec, "max_tokens", None)
    if asked is not None and limit is not None and asked > limit:
        raise ModelError(
            f"expected max_tokens <= {limit}, the model's number of position embeddings, got {spec}"
        )
    types = getattr(transformer.config, "type_vocab_size", 0) > 1 and (
        "token_type_ids" in model[0].tokenizer.model_input_names
    )
    most = asked or (most if most < 2**31 else _MOST_TOKENS)
    return Tokenization(text, most, template, types, side)


def _without_special_tokens(tokenizer_json: str) -> str:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(
        json.dumps({**json.loads(tokenizer_json), "post_processor": None})
    )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    text: str = tokenizer.to_str()
    return text


def _takes_one(tokenization: Tokenization) -> bool:
    return tokenization.num_texts != 2


def _prompt_length(model: Any, tokenization: Tokenization, prompt: str) -> int:
    """Number of tokens of the prompt, without a special token at its end."""
    if not prompt or all(getattr(module, "include_prompt", True) for module in model):
        return 0
    alone = Tokenization(tokenization.tokenizer_json, tokenization.max_tokens)
    (ids,) = alone.encode_batch([prompt])
    special = model[0].tokenizer.all_special_ids
    return len(ids) - (int(ids[-1]) in special)


def _describe_modules(model: Any) -> str:
    """The modules after the first one and their settings, as JSON."""
    described = []
    for module in list(model)[1:]:
        settings: dict[str, Any] = getattr(module, "get_config_dict", dict)()
        described.append({"module": type(module).__name__, **settings})
    if model.truncate_dim:
        described.append({"module": "truncate", "dim": model.truncate_dim})
    return json.dumps(described, sort_keys=True, default=str)
