"""What an image processor of transformers does, as our preprocessing."""

from __future__ import annotations

from typing import Any

from aft.backbones.huggingface_files import Repository
from aft.backbones.network import integer_option, require
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.weights import ModelError

_FILE = "preprocessor_config.json"
_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}
_CONVNEXT_WHOLE = 384  # pixels from which ConvNeXt's processor does not crop


def read_preprocessing(
    repository: Repository, config: Any, weights: str
) -> tuple[Preprocessing, dict[str, str]]:
    """The preprocessing of a vision model, and the files to build it again from.

    Args:
        repository: Where the model is.
        config: Its configuration.
        weights: With ``random`` the processor may be missing; then ImageNet's mean and standard
            deviation are taken.

    Raises:
        ModelError: If the processor is missing or does what our preprocessing cannot do.
    """
    asked = integer_option(repository.spec, "size", None, minimum=1)
    if repository.folder and not repository.file(_FILE):
        if weights == "pretrained":
            raise ModelError(
                f"{repository.name} has no {_FILE}, so it is not known how images are prepared "
                f"for {repository.spec}; get it from where the weights are from"
            )
        size = getattr(config, "image_size", None)
        return Preprocessing(asked or (size if isinstance(size, int) else 224)), {}
    processor: Any = repository.load(
        require("transformers", "text").AutoImageProcessor.from_pretrained
    )
    preprocessing = convert(processor.to_dict(), repository.name, asked)
    return preprocessing, {_FILE: processor.to_json_string()}


def convert(processor: dict[str, Any], name: str, size: int | None = None) -> Preprocessing:
    """From an image processor's settings.

    Args:
        processor: As in ``preprocessor_config.json``, with its class's defaults.
        name: Whose they are, for errors.
        size: Height and width in pixels instead of its own.
    """
    resized, squash = _resized(processor, name)
    cropped = _side(processor.get("crop_size")) if processor.get("do_center_crop") else None
    crop = min(1.0, (cropped or resized) / resized)
    own = cropped or resized
    if (
        processor.get("crop_pct")
        and "convnext" in str(processor.get("image_processor_type")).lower()
    ):
        squash = (size or own) >= _CONVNEXT_WHOLE
        crop = 1.0 if squash else float(processor["crop_pct"])
    resample = processor.get("resample", 2)
    if int(resample) not in _RESAMPLE:
        raise ModelError(
            f"{name} resizes images by method {resample} of Pillow; expected 0 (nearest), 2 "
            "(bilinear) or 3 (bicubic)"
        )
    # Ours divides by 255; theirs multiplies by a factor of its own, or leaves 0 to 255.
    factor = float(processor.get("rescale_factor") or 1 / 255)
    scale = 1 / (factor * 255) if processor.get("do_rescale", True) else 1 / 255
    normalise = processor.get("do_normalize", True)
    mean = processor.get("image_mean") if normalise else None
    std = processor.get("image_std") if normalise else None
    return Preprocessing(
        size=size or own,
        mean=_channels(mean or (0.0,) * 3, scale),
        std=_channels(std or (1.0,) * 3, scale),
        interpolation=_RESAMPLE[int(resample)],
        crop=crop,
        squash=squash,
    )


def _resized(processor: dict[str, Any], name: str) -> tuple[int, bool]:
    """The length that sides are resized to, and whether both are."""
    size = processor.get("size")
    if isinstance(size, dict):
        if size.get("shortest_edge"):
            return int(size["shortest_edge"]), False
        if size.get("height") and size.get("height") == size.get("width"):
            return int(size["height"]), True
    elif isinstance(size, int):
        return size, True
    raise ModelError(
        f"expected {name} to resize images to a square or by their shorter side, got size {size}; "
        "only that is supported"
    )


def _side(size: Any) -> int | None:
    if isinstance(size, dict):
        return int(size["height"]) if size.get("height") else None
    return int(size) if size else None


def _channels(values: Any, scale: float) -> tuple[float, float, float]:
    red, green, blue = (float(value) * scale for value in values)
    return red, green, blue
