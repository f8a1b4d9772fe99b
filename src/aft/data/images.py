"""Read images of the usual formats, converted to upright RGB."""

from __future__ import annotations

import io
import warnings
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from aft.data.texts import find_pointer
from aft.errors import DataError
from aft.paths import read_file

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats to read, by Pillow's names. Pillow opens others by starting a program (EPS, PDF)."""
MOST_RATIO = 1000
"""Largest ratio of the sides. Resizing a longer strip to a model's height needs too much memory."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn an image upright, by its EXIF orientation."""


@cache
def image_suffixes() -> frozenset[str]:
    """File extensions of the formats, in lower case with the dot."""
    extensions = Image.registered_extensions()
    known = {*_formats(), "MPO"}
    return frozenset(end for end, kind in extensions.items() if kind in known)


@cache
def _formats() -> tuple[str, ...]:
    """The formats that the installed Pillow opens; it reads MPO as a kind of JPEG."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


def open_image(
    source: str | Path | bytes, name: str = "the embedded image", least_side: int | None = None
) -> Image.Image:
    """Decode an image file (a path or its bytes) to RGB.

    EXIF rotation is applied, transparent images are composited on white, 16-bit grey is scaled to
    8 bits, and the first frame of an animation is used.

    Args:
        source: A path, or the content of a file.
        name: The name of a content in error messages.
        least_side: JPEG files may be decoded at a reduced scale, as long as the shorter side keeps
            this length; None decodes every pixel.

    Raises:
        DataError: If the file is missing, empty, truncated, too large or not an image.
    """
    name = name if isinstance(source, bytes) else str(source)
    try:
        content = source if isinstance(source, bytes) else read_file(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(content) as image:
                if least_side is not None:
                    image.draft("RGB", (least_side, least_side))
                image.load()
                return _to_rgb(_turn_upright(image))
    except Exception as error:  # decoders raise many types of errors on damaged files
        raise DataError(f"cannot read {name} as an image: {_explain(error)}") from None


def encode_image(image: Image.Image | NDArray[Any]) -> bytes:
    """The content of an image in memory: as :func:`open_image` decodes it, a PPM file.

    This format has no compression, so the bytes do not depend on versions of Pillow or zlib.

    Args:
        image: A PIL image of any mode, whose EXIF rotation is applied; or an array of uint8 (true
            and false, or uint16 for 16-bit grey), of shape ``(H, W)`` or ``(H, W, channels)`` with
            grey, grey and alpha, RGB, or RGBA.

    Raises:
        DataError: If the image cannot be decoded, or the array is no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _from_array(image) if isinstance(image, np.ndarray) else image
            image.load()
            upright = _to_rgb(_turn_upright(image))
    except Exception as error:  # decoders raise many types of errors on damaged files
        raise DataError(_explain(error)) from None
    return f"P6\n{upright.width} {upright.height}\n255\n".encode() + upright.tobytes()


def _from_array(array: NDArray[Any]) -> Image.Image:
    given = f"an array of {array.dtype} of shape {array.shape}"
    channels = array.shape[2] if array.ndim == 3 else 1 if array.ndim == 2 else 0
    if not array.size or not 1 <= channels <= 4:
        turn = array.ndim == 3 and 1 <= len(array) <= 4
        hint = "; pass array.transpose(1, 2, 0)" if turn else ""
        raise ValueError(f"{given}; expected the shape (H, W) or (H, W, channels){hint}")
    array = array[:, :, 0] if array.ndim == 3 and channels == 1 else array
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8 and not (array.dtype == np.uint16 and array.ndim == 2):
        scaled = "(255 * array).round()" if array.dtype.kind == "f" else "array"
        raise ValueError(
            f"{given}; expected uint8 from 0 to 255: if its values are from 0 to "
            f"{1 if array.dtype.kind == 'f' else 255}, pass {scaled}.astype('uint8')"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def find_fault(content: bytes) -> str | None:
    """Return why `content` cannot be decoded as an image, or None if it can.

    JPEG files are decoded at a reduced scale, which is faster but still reads every byte.
    """
    if not content:
        return "the file is empty"
    try:
        with _open(content) as image:
            image.draft("RGB", (32, 32))
            image.load()
            _to_rgb(image if image.mode in ("I", "F") else image.crop((0, 0, 1, 1)))
    except MemoryError:  # no fault of the image
        raise
    except Exception as error:
        return find_pointer(content) or _explain(error)
    return None


def _open(content: bytes) -> Image.Image:
    """Read the header of an image, and check its size before any pixel is decoded."""
    image = Image.open(io.BytesIO(content), formats=_formats())
    short, long = sorted(image.size)
    if long > MOST_RATIO * short:
        raise ValueError(
            f"{image.width} x {image.height} pixels; expected sides of at most 1 to {MOST_RATIO}"
        )
    return image


def _explain(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not an image in one of the formats {', '.join(_formats())}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(int(image.getexif().get(ExifTags.Base.Orientation, 1)))
    except Exception:  # damaged EXIF data, on which the pixels do not depend
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):  # 32 bits: other ranges than those of 8 or 16 bits become black
        low, high = cast("tuple[float, float]", image.getextrema())
        if not (0 <= low <= high <= 65535 and (image.mode == "I" or 1 < high <= 255 or high == 0)):
            raise ValueError(f"pixel values from {low:g} to {high:g}; convert it to 8 or 16 bits")
    if image.mode.startswith("I;16") or image.mode == "I":
        most = 65535.0 if image.mode.startswith("I;16") or high > 255 else 255.0
        image = image.convert("F").point(lambda value: value * (255.0 / most) + 0.0).convert("L")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
