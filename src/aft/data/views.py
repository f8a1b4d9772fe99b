"""Views of samples: fixed random crops of images, texts that lack a word, each with its own id.

A view is drawn from its id alone, and the id says how it is drawn: which content, which kind of
view, which seed, which of several. So teachers' features of a view have a key of their own in the
store, and whoever reads the view later gets the same one: in another process, another year.
"""

from __future__ import annotations

import json
import math
import re
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from aft.config.groups import Augmentation
from aft.data.samples import Samples
from aft.errors import InputError
from aft.ids import ID_BYTES, content_id

VERSION = 1
"""Part of every view's id: to be raised when anything below gives other pixels or words."""
LEAST_AREA = 0.35
"""Share of the largest square that a crop keeps at least."""
DROPPED = 0.1
"""Probability that a word is left out."""

_WORD = re.compile(r"\S+\s*")


def make_views(samples: Samples, count: int, seed: int, augment: Augmentation) -> Samples:
    """Several fixed views of every sample.

    Row ``k * len(samples) + i`` is view ``k`` of sample ``i``, with the label of the sample. Its
    input is the crop of the picture, or the text without some words, before any model's own
    preprocessing; :func:`draw_view` says how they are drawn. With several columns each has a view
    of its own, and what is missing stays missing. Views depend on the content, the seed and ``k``,
    never on the other samples, on their order, or on ``count``: a larger one adds views.

    Args:
        samples: What to take views of; not views themselves.
        count: Views of each sample, at least 1.
        seed: Another seed gives other views.
        augment: Of images: ``standard`` (a square crop, mirrored or not) or ``flip`` (mirrored or
            not, so there are two different ones). Views of texts are the same for both.

    Returns:
        ``count * len(samples)`` rows. Their files are called ``NAME (view 1)`` and so on.

    Raises:
        InputError: If there is nothing to draw, or the samples are views.
    """
    if augment not in ("standard", "flip"):
        raise InputError(
            "views are random crops or mirror images: expected the augmentation 'standard' or "
            f"'flip', got {augment!r}"
        )
    if count < 1:
        raise InputError(f"expected at least 1 view of each sample, got {count}")
    if samples.view is not None:
        raise InputError("expected samples as they are, got views: take the views of the originals")
    every = np.tile(np.arange(len(samples)), count)
    names = [f"{file} (view {k + 1})" for k in range(count) for file in samples.files]
    return Samples(
        samples.columns,
        [values.select(every) for values in samples.values],
        np.concatenate([_view_ids(samples, k, seed, augment) for k in range(count)]),
        samples.present[every],
        np.asarray(names, dtype=object),
        samples.splits[every],
        None if samples.labels is None else samples.labels[every],
        partial(draw_view, augment=augment),
    )


def draw_view(
    value: Image.Image | str, view_id: bytes, augment: Augmentation = "standard"
) -> Image.Image | str:
    """The view of an image or a text that an id stands for.

    Of an image ``standard`` cuts out a square of 35 to 100 % of the largest that fits in, anywhere
    in it, and mirrors half of them; ``flip`` mirrors only. Pixels are never resized here. Crops
    are squares because every model makes its input one: most resize the shorter side and cut off
    what juts out. Of an oblong crop each would cut off or squeeze another part, and what the
    teacher says would be about pixels that the student does not see. For the same reason the
    aspect of things is not changed, as training's own random crops do.

    Of a text each word is left out with probability 0.1, but never all. Words end at white space,
    so texts in scripts without it stay as they are.

    Args:
        value: An RGB image, or a text.
        view_id: 16 bytes, the only source of what is random.
        augment: ``standard`` or ``flip``; for images.
    """
    if isinstance(value, str):
        return _drop_words(value, view_id)
    mirror, area, across, down = _uniform(view_id, 4)
    if augment == "standard":
        width, height = value.size
        share = LEAST_AREA + (1 - LEAST_AREA) * area
        side = max(1, round(math.sqrt(share) * min(width, height)))
        left, top = int(across * (width - side + 1)), int(down * (height - side + 1))
        value = value.crop((left, top, left + side, top + side))
    return ImageOps.mirror(value) if mirror < 0.5 else value


def _drop_words(text: str, view_id: bytes) -> str:
    words = _WORD.findall(text)
    if not words:
        return text
    drawn = _uniform(view_id, len(words))
    kept = drawn >= DROPPED
    if kept.all():
        return text
    kept[drawn.argmax()] = True
    return "".join(word for word, keep in zip(words, kept, strict=True) if keep).rstrip()


def _view_ids(samples: Samples, k: int, seed: int, augment: Augmentation) -> NDArray[np.uint8]:
    """Ids of the parts of every sample's view ``k``, shape ``(n, num_columns, 16)``."""
    ids = np.zeros_like(samples.parts)
    for c, column in enumerate(samples.columns):
        kind = augment if column.modality == "image" else "words"
        recipe: dict[str, Any] = {"view": kind, "version": VERSION, "seed": seed, "k": k}
        start = json.dumps(recipe, sort_keys=True).encode() + b"\0"
        there = samples.present[:, c]
        contents = np.ascontiguousarray(samples.parts[there, c])
        joined = b"".join(content_id(start + part.tobytes()) for part in contents)
        ids[there, c] = np.frombuffer(joined, np.uint8).reshape(-1, ID_BYTES)
    return ids


def _uniform(view_id: bytes, count: int) -> NDArray[np.float64]:
    """Numbers from 0 to below 1, shape ``(count,)``.

    From the bits of PCG64, which numpy promises never to change, unlike what its ``Generator``
    makes of them.
    """
    bits = np.random.PCG64(int.from_bytes(view_id, "big")).random_raw(count)
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, dtype=np.float64)
