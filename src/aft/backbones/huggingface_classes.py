"""Embeddings of the names of classes by image-text models of transformers, such as CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aft.backbones.checks import integer_option
from aft.backbones.huggingface import build
from aft.backbones.huggingface_files import Repository
from aft.backbones.huggingface_models import load_model, reshape
from aft.backbones.network import require
from aft.backbones.specs import Spec
from aft.errors import ModelError

_CHANGING = {"pooling", "layer", "layers", "size"}
_SAME = 0.999


class ClassTexts(NamedTuple):
    """Texts in the space of an image-text model.

    Attributes:
        embeddings: ``(C, E)``, one vector per text.
        projection: ``(E, D)``, maps the image features ``(D,)`` of the teacher to this space; None
            if they are in it.
        scale: The model's factor of the cosine of an image and a text.
    """

    embeddings: Tensor
    projection: Tensor | None
    scale: float


def embed_texts(spec: Spec, texts: Sequence[str], trust_remote_code: bool = False) -> ClassTexts:
    """Embed texts with the text tower of a model whose vision tower is a teacher.

    Args:
        spec: The teacher, ``hf:NAME`` or ``hf:FOLDER``.
        texts: One text per class.
        trust_remote_code: As in :func:`aft.backbones.huggingface.build`.

    Raises:
        ModelError: If the model has no text tower, cannot be loaded, or the options of the teacher
            make its features other than those that the model compares with texts.
    """
    if options := sorted(_CHANGING & spec.options.keys()):
        raise ModelError(
            f"the features of {spec} are not those that the model compares with texts: remove "
            f"{', '.join(options)}"
        )
    transformers = require("transformers", "text")
    repository = Repository.find(spec, trust_remote_code)
    config = repository.load(transformers.AutoConfig.from_pretrained)
    reshape(config, spec)
    source, seed = spec.options.get("weights", "pretrained"), integer_option(spec, "seed", 0)
    model, _ = load_model(repository, config, source, seed or 0)
    if not (hasattr(model, "get_text_features") and hasattr(model, "logit_scale")):
        raise ModelError(
            f"--classes needs an image-text model such as CLIP as teacher of images, got {spec}"
        )
    tokenizer = repository.load(transformers.AutoTokenizer.from_pretrained)
    most = min(tokenizer.model_max_length, config.text_config.max_position_embeddings)
    # SigLIP was trained with padded texts; CLIP ignores what follows the last token.
    tokens = tokenizer(
        list(texts), padding="max_length", max_length=most, truncation=True, return_tensors="pt"
    )
    network = build(spec, trust_remote_code=trust_remote_code)
    size = network.preprocessing.describe()["size"]
    image = torch.linspace(-1, 1, 3 * size * size).reshape(1, 3, size, size)
    layer = getattr(model, "visual_projection", None)
    projection = None if layer is None else layer.weight.detach()
    with torch.no_grad():
        embeddings = _pooled(model.eval().get_text_features(**tokens))
        expected = _pooled(model.get_image_features(image))
        found = network.module.eval()(image)
        found = found if projection is None else F.linear(found, projection)
        scale = float(model.logit_scale.exp())
    same = found.shape == expected.shape and float(F.cosine_similarity(found, expected)) > _SAME
    if not same:
        raise ModelError(
            f"the features of {spec} are not those that the model compares with texts, so "
            "--classes cannot use it; use another image-text model, such as a CLIP"
        )
    return ClassTexts(embeddings, projection, scale)


def _pooled(output: object) -> Tensor:
    """The vector of each input; a model of transformers before version 5 returns only these."""
    found = getattr(output, "pooler_output", output)
    assert isinstance(found, Tensor)
    return found
