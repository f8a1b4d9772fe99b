"""Read images: any format that Pillow supports, converted to upright RGB."""

from __future__ import annotations

import io
import warnings
from functools import cache
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from aft.errors import DataError


@cache
def image_suffixes() -> frozenset[str]:
    """File extensions that Pillow can open, in lower case with the dot."""
    extensions = Image.registered_extensions()
    return frozenset(end for end, kind in extensions.items() if kind in Image.OPEN) - {".pdf"}


def open_image(source: str | Path | bytes) -> Image.Image:
    """Decode an image file (a path or its bytes) to RGB.

    EXIF rotation is applied, transparent images are composited on white, 16-bit grey is scaled to
    8 bits, and the first frame of an animation is used.

    Raises:
        DataError: If the file is missing, empty, truncated, too large or not an image.
    """
    name = "the embedded image" if isinstance(source, bytes) else str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return _to_rgb(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read {name} as an image: {error}") from None


def find_fault(content: bytes) -> str | None:
    """Return why `content` cannot be decoded as an image, or None if it can.

    JPEG files are decoded at a reduced scale, which is faster but still reads every byte.
    """
    if not content:
        return "the file is empty"
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.draft("RGB", (32, 32))
            image.load()
    except UnidentifiedImageError:
        return "not an image that Pillow can read"
    except Exception as error:  # decoders raise many types of errors on damaged files
        return f"{type(error).__name__}: {error}"
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        high = 65535.0 if image.mode.startswith("I;16") or image.getextrema()[1] > 255 else 255.0  # type: ignore[operator]
        image = image.convert("F").point(lambda value: value * (255.0 / high) + 0.0).convert("L")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
