"""Views of samples: fixed random crops of images and texts with dropped words, each with an id.

A view depends only on its id, which is a hash of the content, the kind of view, the seed and the
number of the view. So the feature store keeps teacher features per view, and every process draws
the same view again from its id.
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
"""Part of every view id. Raise it when a change to this module changes pixels or words."""
LEAST_AREA = 0.35
"""Minimum area of a crop, as a share of the largest square inside the image."""
DROPPED = 0.1
"""Probability that a word is dropped."""

_WORD = re.compile(r"\S+\s*")


def make_views(samples: Samples, count: int, seed: int, augment: Augmentation) -> Samples:
    """Make several fixed views of every sample.

    Row ``k * len(samples) + i`` is view ``k`` of sample ``i``, with the label of the sample. Its
    input is a crop of the image, or the text without some words, before the preprocessing of any
    model; see :func:`draw_view`. With several columns, each column has its own view, and missing
    values stay missing. Views depend on the content, the seed and ``k``, not on the other samples,
    their order, or ``count``: a larger ``count`` only adds views.

    Args:
        samples: The original samples, not views.
        count: Views per sample, at least 1.
        seed: Random seed of the views.
        augment: Kind of image views: ``standard`` (a square crop, mirrored with probability 0.5)
            or ``flip`` (mirrored with probability 0.5, so at most two distinct views). Views of
            texts are the same for both.

    Returns:
        ``count * len(samples)`` rows. Their files are named ``NAME (view 1)`` and so on.

    Raises:
        InputError: If `augment` or `count` is invalid, or the samples are views.
    """
    if augment not in ("standard", "flip"):
        raise InputError(
            "views are random crops or mirror images: expected the augmentation 'standard' or "
            f"'flip', got {augment!r}"
        )
    if count < 1:
        raise InputError(f"expected at least 1 view per sample, got {count}")
    if samples.view is not None:
        raise InputError(
            "expected original samples, got views; call make_views on the original samples"
        )
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
        samples.contents[every],
    )


def draw_view(
    value: Image.Image | str, view_id: bytes, augment: Augmentation = "standard"
) -> Image.Image | str:
    """Draw the view of an image or a text from its id.

    For images, ``standard`` crops a square at a random position, with 35 to 100 % of the area of
    the largest square inside the image, and mirrors it with probability 0.5; ``flip`` only mirrors.
    Pixels are not resized. Crops are square because every model makes its input square: most
    models resize the shorter side and crop the longer one. From an oblong crop, each model would
    crop or squeeze a different part, so the teacher would describe pixels that the student does
    not see. For the same reason, the aspect ratio is kept, unlike in the random crops of training.

    For texts, each word is dropped with probability 0.1, but at least one is kept. Words are
    separated by white space, so texts in scripts without white space do not change.

    Args:
        value: An RGB image, or a text.
        view_id: 16 bytes, the only source of randomness.
        augment: ``standard`` or ``flip``; only for images.
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
    """Ids of the parts of view ``k`` of every sample, shape ``(n, num_columns, 16)``."""
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
    """Uniform numbers in [0, 1), shape ``(count,)``.

    They use the raw bits of PCG64, which numpy guarantees to be stable; the stream of its
    ``Generator`` may change between versions.
    """
    bits = np.random.PCG64(int.from_bytes(view_id, "big")).random_raw(count)
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, dtype=np.float64)
