"""Image preprocessing: from a PIL image to an input tensor, described by plain JSON values."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image, Resampling, fromarray
from torch import Tensor

from aft.config.groups import Augmentation

Transform = Callable[[Any], Tensor]
_AREA, _RATIO = (0.35, 1.0), (3 / 4, 4 / 3)
_CROPPED_FROM = 2
"""Random crops are taken from an image whose shorter side is so many times that of the input."""


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of an image to an input of shape ``(3, size, size)``.

    Attributes:
        size: Height and width in pixels.
        mean: Mean of each RGB channel, for pixel values from 0 to 1.
        std: Standard deviation of each RGB channel.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``.
        crop: Size of the centre crop relative to the shorter side of the resized image.
        bgr: Whether channels are in BGR order (models converted from Caffe); mean and std use
            the same order.
        squash: Whether to resize both sides to the same length, which changes the aspect ratio
            (SigLIP), instead of the shorter side.
    """

    size: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    crop: float = 1.0
    bgr: bool = False
    squash: bool = False

    def describe(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Preprocessing:
        """The inverse of :meth:`describe`."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in description.items()
        }
        return cls(**values)

    def evaluate(self) -> ImageTransform:
        """The deterministic transform: resize, centre crop, normalise.

        A missing image (None) becomes zeros, the mean colour after normalisation.
        """
        return ImageTransform(self)

    def augment(self, kind: Augmentation = "standard") -> ImageTransform:
        """The random transform for training; uses torch's generator when called.

        Args:
            kind: ``none`` (as in :meth:`evaluate`), ``flip`` (random horizontal flip) or
                ``standard`` (flip, and a random resized crop of 35 to 100 % of the area).
        """
        return ImageTransform(self, kind)


class ImageTransform:
    """A transform in two steps: a small image that stays the same, and an input made from it.

    The first step is costly for large images, but its result can be kept. For random crops it
    makes the shorter side twice as long as that of the input, so that few details are lost.

    Args:
        preprocessing: The settings.
        augment: Kind of augmentation; ``none`` is deterministic.
    """

    def __init__(self, preprocessing: Preprocessing, augment: Augmentation = "none") -> None:
        self.preprocessing = preprocessing
        self.augment = augment
        self._resample = Resampling[preprocessing.interpolation.upper()]
        # Crops are resized again: a sharp filter first, or they would be blurred twice.
        sharp = augment == "standard" and preprocessing.interpolation != "nearest"
        self._shrink = Resampling.LANCZOS if sharp else self._resample

    @property
    def least_side(self) -> int | None:
        """Length of the shorter side from which an image may be read at a reduced scale."""
        return _CROPPED_FROM * self.preprocessing.size if self.augment == "standard" else None

    def keep(self, image: Image) -> NDArray[np.uint8]:
        """The first step: a small RGB image, ``(H, W, 3)``."""
        how, short = self.preprocessing, min(image.size)
        if self.augment == "standard":
            side = min(short, _CROPPED_FROM * how.size)
        else:
            side = int(how.size / how.crop + 1e-6)  # rounded down, as in timm: 224 / 0.9 is 248
        whole = how.squash and self.augment != "standard"
        width, height = (side if whole else int(side * n / short) for n in image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), self._shrink)
        if self.augment != "standard":  # the centre, or all of it with a black border
            left, top = (round((n - how.size) / 2) for n in image.size)
            image = image.crop((left, top, left + how.size, top + how.size))
        return np.asarray(image.convert("RGB"))

    def finish(
        self, kept: Sequence[NDArray[np.uint8] | None], seeds: Sequence[int] | None = None
    ) -> Tensor:
        """The second step for a batch: inputs ``(B, 3, size, size)``, channels last in memory.

        Args:
            kept: The small images; None for missing ones, which become zeros.
            seeds: Seed of the random crop and flip of each image.
        """
        size = self.preprocessing.size
        pixels = np.zeros((len(kept), size, size, 3), np.uint8)
        for row, image in enumerate(kept):
            if image is None:
                continue
            if self.augment != "none":
                image = self._draw(image, random.Random(seeds[row]) if seeds else random.Random())
            pixels[row] = image
        batch = torch.from_numpy(pixels[..., ::-1].copy() if self.preprocessing.bgr else pixels)
        mean, std = torch.tensor(self.preprocessing.mean), torch.tensor(self.preprocessing.std)
        # The same as in torchvision, whose import takes seconds.
        batch = batch.float().mul_(1 / 255).sub_(mean).div_(std).permute(0, 3, 1, 2)
        missing = [row for row, image in enumerate(kept) if image is None]
        if missing:
            batch[missing] = 0
        return batch

    def __call__(self, image: Image | None) -> Tensor:
        """Transform an image to a tensor ``(3, size, size)``; zeros for a missing image."""
        seed = 0 if self.augment == "none" else int(torch.randint(2**62, ()))
        return self.finish([None if image is None else self.keep(image)], [seed])[0].contiguous()

    def describe(self) -> dict[str, Any]:
        """The transform as plain JSON values; different transforms have different descriptions."""
        augment = {} if self.augment == "none" else {"augment": self.augment}
        return self.preprocessing.describe() | augment

    def describe_kept(self) -> dict[str, Any]:
        """What :meth:`keep` depends on, as plain JSON values."""
        if self.augment != "standard":
            return self.preprocessing.describe()
        return {"least_side": self.least_side, "interpolation": self.preprocessing.interpolation}

    def _draw(self, image: NDArray[np.uint8], rng: random.Random) -> NDArray[np.uint8]:
        """A random view of a small image, ``(size, size, 3)``."""
        if self.augment == "standard":
            left, top, width, height = _draw_box(image.shape[1], image.shape[0], rng)
            box = image[top : top + height, left : left + width]
            size = self.preprocessing.size
            image = np.asarray(fromarray(box).resize((size, size), self._resample))
        return image[:, ::-1] if rng.random() < 0.5 else image


def _draw_box(width: int, height: int, rng: random.Random) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random crop, as in torchvision's RandomResizedCrop."""
    for _ in range(10):
        area = rng.uniform(*_AREA) * width * height
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, width - w), rng.randint(0, height - h), w, h
    w = min(width, max(1, round(height * _RATIO[1])))
    h = min(height, max(1, round(width / _RATIO[0])))
    return (width - w) // 2, (height - h) // 2, w, h
