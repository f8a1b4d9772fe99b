"""Image preprocessing computes what torchvision's transforms do."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from aft.backbones.preprocessing import Preprocessing

v2 = pytest.importorskip("torchvision.transforms.v2")

SIZES = [(64, 64), (300, 200), (33, 97), (7, 3), (225, 224)]
"""Width and height of images."""


def published(settings: Preprocessing) -> v2.Compose:
    side = int(settings.size / settings.crop + 1e-6)
    mode = v2.InterpolationMode(settings.interpolation)
    steps = [
        v2.Resize([side, side] if settings.squash else side, interpolation=mode, antialias=True),
        v2.CenterCrop(settings.size),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Lambda(lambda image: image.flip(0) if settings.bgr else image),
        v2.Normalize(list(settings.mean), list(settings.std)),
    ]
    return v2.Compose(steps)


@pytest.mark.parametrize("shape", SIZES)
def test_the_transform_is_that_of_torchvision(shape: tuple[int, int]) -> None:
    width, height = shape
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    modes = ("bilinear", "bicubic", "nearest")
    for size, crop, mode, squash in product((8, 65, 224), (1, 0.9, 0.875), modes, (False, True)):
        settings = Preprocessing(
            size, interpolation=mode, crop=crop, squash=squash, bgr=mode == "nearest"
        )
        assert torch.equal(settings.evaluate()(image), published(settings)(image))


def test_grey_images_and_missing_ones_have_three_channels() -> None:
    transform = Preprocessing(8).evaluate()
    grey = Image.new("L", (10, 12), 99)
    assert torch.equal(transform(grey), transform(grey.convert("RGB")))
    assert not transform(None).any() and transform(None).shape == (3, 8, 8)
