"""Convert image processors of transformers to :class:`Preprocessing`."""

from __future__ import annotations

from typing import Any

from aft.backbones.checks import integer_option
from aft.backbones.huggingface_files import Repository
from aft.backbones.network import require
from aft.backbones.preprocessing import Preprocessing
from aft.errors import ModelError

_FILE = "preprocessor_config.json"
_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}
_CONVNEXT_WHOLE = 384  # from this size in pixels ConvNeXt's processor does not crop


def read_preprocessing(
    repository: Repository, config: Any, weights: str
) -> tuple[Preprocessing, dict[str, str]]:
    """The preprocessing of a vision model, and the files that rebuild it.

    Args:
        repository: The model's repository.
        config: The model's configuration.
        weights: If not ``pretrained``, the processor may be missing; ImageNet's mean and
            standard deviation are used instead.

    Raises:
        ModelError: If the processor is missing or uses unsupported operations.
    """
    asked = integer_option(repository.spec, "size", None)
    if repository.folder and not repository.file(_FILE):
        if weights == "pretrained":
            raise ModelError(
                f"expected a {_FILE} in {repository.name} for {repository.spec}, got none; get "
                "it from the source of the weights"
            )
        size = getattr(config, "image_size", None)
        return Preprocessing(asked or (size if isinstance(size, int) else 224)), {}
    processor: Any = repository.load(
        require("transformers", "text").AutoImageProcessor.from_pretrained
    )
    preprocessing = convert(processor.to_dict(), repository.name, asked)
    return preprocessing, {_FILE: processor.to_json_string()}


def convert(processor: dict[str, Any], name: str, size: int | None = None) -> Preprocessing:
    """Convert the settings of an image processor.

    Args:
        processor: Content of ``preprocessor_config.json``, with the defaults of its class.
        name: The model's name, for error messages.
        size: Height and width in pixels; overrides the processor's size.

    Raises:
        ModelError: If the processor uses unsupported operations.
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
            "expected resample to be 0 (nearest), 2 (bilinear) or 3 (bicubic) in the image "
            f"processor of {name}, got {resample}"
        )
    # Preprocessing divides by 255; processors use their own factor, or do not rescale.
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
    """The target length, and whether both sides are resized to it."""
    size = processor.get("size")
    if isinstance(size, dict):
        if size.get("shortest_edge"):
            return int(size["shortest_edge"]), False
        if size.get("height") and size.get("height") == size.get("width"):
            return int(size["height"]), True
    elif isinstance(size, int):
        return size, True
    raise ModelError(
        f"expected the image processor of {name} to resize to a square or by the shorter side, "
        f"got size {size}"
    )


def _side(size: Any) -> int | None:
    if isinstance(size, dict):
        return int(size["height"]) if size.get("height") else None
    return int(size) if size else None


def _channels(values: Any, scale: float) -> tuple[float, float, float]:
    red, green, blue = (float(value) * scale for value in values)
    return red, green, blue
