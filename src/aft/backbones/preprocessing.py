"""Image preprocessing: from a PIL image to an input tensor, described by plain JSON values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor

from aft.config.groups import Augmentation

Transform = Callable[[Any], Tensor]


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

    def evaluate(self) -> Transform:
        """The deterministic transform: resize, centre crop, normalise.

        A missing image (None) becomes zeros, the mean colour after normalisation.
        """
        return ImageTransform(self, "none", self._prepare)

    def _prepare(self, image: Image) -> Tensor:
        """What torchvision's transforms compute, whose import takes seconds."""
        side = int(self.size / self.crop + 1e-6)  # rounded down, as in timm: 224 / 0.9 is 248
        short = min(image.size)
        width, height = (side if self.squash else int(side * n / short) for n in image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), Resampling[self.interpolation.upper()])
        left, top = (round((n - self.size) / 2) for n in image.size)
        image = image.crop((left, top, left + self.size, top + self.size))
        return self._as_tensor(image)

    def _as_tensor(self, image: Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        pixels = pixels.float().mul_(1 / 255)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels.flip(0) if self.bgr else pixels).sub_(mean).div_(std)

    def augment(self, kind: Augmentation = "standard") -> Transform:
        """The random transform for training; uses torch's generator.

        Args:
            kind: ``none`` (as in :meth:`evaluate`), ``flip`` (random horizontal flip) or
                ``standard`` (flip, and a random resized crop of 35 to 100 % of the area).
        """
        if kind == "none":
            return self.evaluate()
        from torchvision.transforms import InterpolationMode, v2

        flip = v2.RandomHorizontalFlip()
        if kind == "flip":
            return ImageTransform(self, "flip", v2.Compose([flip, self._prepare]))
        mode = InterpolationMode(self.interpolation)
        crop = v2.RandomResizedCrop(self.size, (0.35, 1.0), interpolation=mode, antialias=True)
        return ImageTransform(self, "standard", v2.Compose([crop, flip, self._as_tensor]))


class ImageTransform:
    """A transform that keeps the :class:`Preprocessing` it was created from.

    Attributes:
        preprocessing: The settings of the transform.
        augment: Kind of augmentation; ``none`` if deterministic.
    """

    def __init__(
        self, preprocessing: Preprocessing, augment: Augmentation, transform: Transform
    ) -> None:
        self.preprocessing = preprocessing
        self.augment = augment
        self._transform = transform

    def __call__(self, image: Image | None) -> Tensor:
        """Transform an image to a tensor ``(3, size, size)``; zeros for a missing image."""
        size = self.preprocessing.size
        return torch.zeros(3, size, size) if image is None else self._transform(image)

    def describe(self) -> dict[str, Any]:
        """The transform as plain JSON values; different transforms have different descriptions."""
        augment = {} if self.augment == "none" else {"augment": self.augment}
        return self.preprocessing.describe() | augment
