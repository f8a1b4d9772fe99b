"""Students as folders that timm and transformers load without aft."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from aft.backbones.checks import first_line
from aft.backbones.network import require
from aft.backbones.pooling import ImageFeatures, TextFeatures
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.errors import ExportError
from aft.exporting.graph import Feeds
from aft.students.saved import SavedStudent
from aft.students.student import Rescale

_NEARLY_LINEAR = 2.0**-11
"""Scale at which tanh changes an activation by less than the rounding of its sums."""


def check_source(name: str, student: SavedStudent) -> None:
    """Check that a student is of the library whose folder is asked for.

    Raises:
        ExportError: If it is not.
    """
    wanted = {"timm": "timm", "transformers": "hf"}.get(name)
    info = student.backbone.info
    own = None if "towers" in info else Spec.parse(info["architecture_spec"]).source
    if wanted is not None and own != wanted:
        raise ExportError(
            f"--format {name} is for a {wanted}: student, got {info['spec']}; use --format onnx"
        )


def write_timm(folder: Path, student: SavedStudent) -> None:
    """Write a folder for ``timm.create_model("local-dir:FOLDER", pretrained=True)``.

    Raises:
        ExportError: If the model's own classifier is not a linear layer on the same features.
    """
    timm = require("timm", "vision")
    backbone: Any = student.module.backbone
    how = student.backbone.preprocessing
    assert isinstance(how, Preprocessing)
    known = dict(backbone.pretrained_cfg)
    fixed = {"img_size": how.size} if known.get("fixed_input_size") else {}
    model = timm.create_model(known["architecture"], num_classes=len(student.task.names), **fixed)
    _, unexpected = model.load_state_dict(backbone.state_dict(), strict=False)
    head = model.get_classifier()
    if unexpected or not isinstance(head, nn.Linear) or head.in_features != student.module.dim:
        raise ExportError(
            f"the classifier of {known['architecture']} is not a linear layer on the student's "
            "features; use --format onnx"
        )
    _set_head(head, student)
    kept = ("tag", "license", "first_conv", "classifier", "fixed_input_size")
    config = {
        "architecture": known["architecture"],
        "num_classes": len(student.task.names),
        "num_features": model.num_features,
        "label_names": list(student.task.names),
        "pretrained_cfg": {
            **{name: known[name] for name in kept if known.get(name) is not None},
            "num_classes": len(student.task.names),
            "custom_load": False,
            "input_size": [3, how.size, how.size],
            "mean": list(how.mean),
            "std": list(how.std),
            "interpolation": how.interpolation,
            "crop_pct": how.crop,
            "crop_mode": "squash" if how.squash else "center",
        },
        **({"model_args": fixed} if fixed else {}),
    }
    folder.mkdir()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def write_transformers(folder: Path, student: SavedStudent, feeds: Feeds) -> None:
    """Write a folder for ``from_pretrained`` of transformers' models with a classifier.

    Text classifiers there have a layer with tanh or ReLU between the features and the classifier.
    It is set to values at which it changes nothing beyond rounding.

    Args:
        folder: The folder to make.
        student: The student.
        feeds: Some inputs, for which the outputs are compared.

    Raises:
        ExportError: If the architecture has no classifier that computes the same.
    """
    transformers = require("transformers", "text")
    backbone, part = student.module.backbone, student.backbone
    assert isinstance(backbone, TextFeatures | ImageFeatures)
    is_text = isinstance(backbone, TextFeatures)
    config: Any = copy.deepcopy(backbone.model.config)
    config.id2label = dict(enumerate(student.task.names))
    config.label2id = {name: place for place, name in config.id2label.items()}
    kinds = {"multilabel": "multi_label_classification", "regression": "regression"}
    config.problem_type = kinds.get(student.task.kind, "single_label_classification")
    kind = _auto_model(transformers, is_text)
    refusal = (
        f"transformers has no classifier for {type(backbone.model).__name__} that computes what "
        f"this student does (pooling={backbone.pooling}); use --format onnx"
    )
    try:
        model = kind.from_config(config).eval()
        base = getattr(model, model.base_model_prefix)
        _, unexpected = base.load_state_dict(backbone.model.state_dict(), strict=False)
    except (ValueError, AttributeError, RuntimeError) as error:
        raise ExportError(f"{refusal} ({first_line(error)})") from error
    inputs = [torch.from_numpy(array) for array in feeds.values()]
    with torch.no_grad():
        expected = student.module(inputs[0]).logits
        same = not unexpected and any(
            _set_layers(model, base, student, shift)
            and torch.allclose(_run(model, is_text, inputs[0]), expected, rtol=1e-3, atol=1e-3)
            for shift in (0.0, 64.0)
        )
    if not same:
        raise ExportError(refusal)
    model.save_pretrained(folder)
    if isinstance(part.preprocessing, Tokenization):
        _save_tokenizer(transformers, folder, part.preprocessing, config)
    elif (file := "preprocessor_config.json") in part.files:
        (folder / file).write_text(part.files[file], "utf-8")


def run_transformers(folder: Path, kind: str) -> Callable[[Tensor], Tensor]:
    """The outputs of a folder of :func:`write_transformers`, for inputs as the student takes."""
    transformers = require("transformers", "text")
    is_text = kind == "text"
    model = _auto_model(transformers, is_text).from_pretrained(folder).eval()
    return lambda inputs: _run(model, is_text, inputs)


def _auto_model(transformers: Any, is_text: bool) -> Any:
    kind = "Sequence" if is_text else "Image"
    return getattr(transformers, f"AutoModelFor{kind}Classification")


def _run(model: Any, is_text: bool, inputs: Tensor) -> Tensor:
    if not is_text:
        return model(pixel_values=inputs).logits  # type: ignore[no-any-return]
    ids, types = (inputs[:, 0], inputs[:, 1]) if inputs.ndim == 3 else (inputs, None)
    mask, padding = ids >= 0, model.config.pad_token_id or 0
    more = {} if types is None else {"token_type_ids": types.clamp(min=0)}
    ids = torch.where(mask, ids, padding)
    return model(input_ids=ids, attention_mask=mask.long(), **more).logits  # type: ignore[no-any-return]


def _set_layers(model: Any, base: nn.Module, student: SavedStudent, shift: float) -> bool:
    """Set the classifier, and the layer before it so that it passes the features on.

    Args:
        model: The model with a classifier.
        base: The part of it that has the student's weights.
        student: The student.
        shift: 0 if that layer ends with tanh; for ReLU, more than the largest feature.

    Returns:
        Whether the model has such layers.
    """
    known = set(student.module.backbone.model.state_dict())  # type: ignore[union-attr]
    ours = {id(one) for name, one in base.named_parameters() if name in known}
    layers = [
        one for one in model.modules() if isinstance(one, nn.Linear) and id(one.weight) not in ours
    ]
    dim, outputs = student.module.dim, student.task.num_outputs
    last = [one for one in layers if (one.in_features, one.out_features) == (dim, outputs)]
    between = [one for one in layers if one is not last[-1]] if last else []
    if not last or last[-1].bias is None or len(between) > 1:
        return False
    _set_head(last[-1], student)
    for layer in between:
        if layer.weight.shape != (dim, dim) or layer.bias is None:
            return False
        scale = 1.0 if shift else _NEARLY_LINEAR
        layer.weight.copy_(scale * torch.eye(dim))
        layer.bias.fill_(shift)
        last[-1].bias.sub_(shift * last[-1].weight.sum(1))
        last[-1].weight.div_(scale)
    return True


@torch.no_grad()
def _set_head(layer: nn.Linear, student: SavedStudent) -> None:
    """Give a linear layer the student's weights; for regression in the targets' units."""
    weight, bias = student.module.head.weight, student.module.head.bias
    if isinstance(rescale := student.module.rescale, Rescale):
        weight, bias = weight * rescale.scale[:, None], rescale(bias)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)


def _save_tokenizer(transformers: Any, folder: Path, tokens: Tokenization, config: Any) -> None:
    from tokenizers import Tokenizer

    fast = Tokenizer.from_str(tokens.tokenizer_json)
    padding = fast.id_to_token(config.pad_token_id or 0)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, model_max_length=tokens.max_tokens, pad_token=padding
    ).save_pretrained(folder)
