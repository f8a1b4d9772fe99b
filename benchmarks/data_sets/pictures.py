"""Turn drawings into image folders: crop, remove duplicates, group near-duplicates, write."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from aft.demo_data.prepared import write_jsonl

SIZE = 128
_NEAR_COPY = 0.95  # correlation of 16 x 16 colour thumbnails above which images are near-duplicates
_PAPER = [0] * 12 + [255] * 244  # for `Image.point`: pixels up to this darkness are background


class Row(NamedTuple):
    """An image, its class and its name within the class (a file name without extension)."""

    label: str
    name: str
    picture: Image.Image


def fit_square(image: Image.Image, size: int) -> Image.Image | None:
    """Put an image on white, crop it to its content, scale its longer side to `size`, centre it.

    Returns:
        RGB, `size` x `size`; None if the image is blank on white.
    """
    rgba = image.convert("RGBA")
    box = rgba.getbbox()  # of all pixels that are not fully transparent
    if box is None:
        return None
    rgba = rgba.crop(box)
    page = Image.new("RGB", rgba.size, "white")
    page.paste(rgba, mask=rgba.getchannel("A"))
    box = ImageOps.invert(page).convert("L").point(_PAPER).getbbox()
    if box is None:
        return None
    ink = page.crop(box)
    scale = size / max(ink.size)
    fitted = (max(1, round(scale * ink.width)), max(1, round(scale * ink.height)))
    ink = ink.resize(fitted, Image.Resampling.BICUBIC, reducing_gap=2.0)
    picture = Image.new("RGB", (size, size), "white")
    picture.paste(ink, ((size - ink.width) // 2, (size - ink.height) // 2))
    return picture


def without_copies(rows: Iterable[Row]) -> list[Row]:
    """Rows sorted by label and name; equal images are kept once, or dropped if labels differ."""
    found: dict[bytes, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.label, row.name)):
        found[hashlib.blake2b(row.picture.tobytes()).digest()].append(row)
    return [same[0] for same in found.values() if len({row.label for row in same}) == 1]


def kin(rows: Sequence[Row], stem: Callable[[Row], Hashable]) -> list[int]:
    """A family number per row: rows with equal stems or near-duplicate images are a family.

    The relation is transitive.

    Args:
        rows: At least one row.
        stem: Returns a key that numbered variants of one drawing share.
    """
    small = np.stack([_thumbnail(row.picture) for row in rows])
    small -= small.mean(axis=1, keepdims=True)
    small /= np.linalg.norm(small, axis=1, keepdims=True) + 1e-9
    near = [(int(i), int(j)) for i, j in np.argwhere(np.triu(small @ small.T, 1) > _NEAR_COPY)]
    first: dict[Hashable, int] = {}
    named = [(first.setdefault(stem(row), i), i) for i, row in enumerate(rows)]
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in near + named:
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    return [root(i) for i in range(len(rows))]


def write(rows: Sequence[Row], in_train: Sequence[bool], folder: Path) -> None:
    """Save every row as `folder/{train,test}/LABEL/NAME.png`."""
    for row, train in zip(rows, in_train, strict=True):
        file = folder / ("train" if train else "test") / row.label / f"{row.name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        row.picture.save(file)


def write_with_texts(
    rows: Sequence[Row], in_train: Sequence[bool], texts: Sequence[str], folder: Path
) -> None:
    """Save every row like :func:`write`, and `metadata.jsonl` with the text of each row."""
    write(rows, in_train, folder)
    entries = []
    for row, train, text in zip(rows, in_train, texts, strict=True):
        split = "train" if train else "test"
        image = f"{split}/{row.label}/{row.name}.png"
        entries.append({"image": image, "text": text, "label": row.label, "split": split})
    write_jsonl(entries, folder / "metadata.jsonl")


def _thumbnail(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((16, 16), Image.Resampling.BOX), np.float64).ravel()
