"""Image transforms in two steps: equal to torchvision's, and random in the same way."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from aft.backbones import preprocessing
from aft.backbones.preprocessing import ImageTransform, Preprocessing, _draw_box


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth random colours."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


SIZES = [(64, 64), (300, 200), (33, 97), (7, 3), (225, 224)]
"""Width and height of images."""


def torchvision_transform(settings: Preprocessing) -> v2.Compose:
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
        assert torch.equal(settings.evaluate()(image), torchvision_transform(settings)(image))


def test_grey_images_and_missing_ones_have_three_channels() -> None:
    transform = Preprocessing(8).evaluate()
    grey = Image.new("L", (10, 12), 99)
    assert torch.equal(transform(grey), transform(grey.convert("RGB")))
    assert not transform(None).any() and transform(None).shape == (3, 8, 8)


def test_a_batch_is_its_images() -> None:
    how = Preprocessing(16).evaluate()
    images = [picture(40, 30, seed) for seed in range(3)]
    batch = how.finish([how.keep(images[0]), None, how.keep(images[1])])
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch[0], how(images[0])) and torch.equal(batch[2], how(images[1]))
    assert not batch[1].any() and torch.equal(how(None), batch[1])


def test_channels_in_reverse() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    usual = Preprocessing(16, mean, std).evaluate()(picture(20, 20))
    reversed_ = Preprocessing(16, mean[::-1], std[::-1], bgr=True).evaluate()(picture(20, 20))
    assert torch.equal(reversed_.flip(0), usual)


@pytest.mark.parametrize(
    ("size", "kept"), [((300, 200), (48, 32)), ((200, 300), (32, 48)), ((20, 30), (20, 30))]
)
def test_random_crops_are_of_twice_the_size(size: tuple[int, int], kept: tuple[int, int]) -> None:
    transform = Preprocessing(16).augment("standard")
    assert transform.keep(picture(*size)).shape == (kept[1], kept[0], 3)


def test_views_depend_on_the_seed_alone() -> None:
    transform = Preprocessing(16).augment("standard")
    small = transform.keep(picture(60, 40))
    one, two = transform.finish([small] * 4, [1, 2, 1, 3]), transform.finish([small], [2])
    assert torch.equal(one[0], one[2]) and torch.equal(one[1], two[0])
    assert not torch.equal(one[0], one[1]) and not torch.equal(one[1], one[3])


def test_half_of_the_images_are_flipped() -> None:
    transform = Preprocessing(8).augment("flip")
    small = transform.keep(picture(12, 8))
    batch = transform.finish([small] * 400, list(range(400)))
    straight, mirrored = transform.finish([small], [0])[0], None
    mirrored = straight.flip(2)
    same = sum(bool(torch.equal(one, straight)) for one in batch)
    assert same + sum(bool(torch.equal(one, mirrored)) for one in batch) == 400
    assert 160 <= same <= 240


def test_boxes_have_the_distribution_of_torchvision() -> None:
    """Means and standard deviations of area, ratio and place, each within five standard errors."""
    number, width, height = 4000, 100, 70
    ours = np.array([_draw_box(width, height, random.Random(i)) for i in range(number)], float)
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    crop = v2.RandomResizedCrop(16, scale=(0.35, 1.0))
    drawn = [crop.make_params([blank]) for _ in range(number)]
    theirs = np.array([[one[key] for key in ("left", "top", "width", "height")] for one in drawn])

    def describe(boxes: np.ndarray) -> np.ndarray:
        left, top, wide, high = boxes.T
        return np.stack([left, top, wide * high, np.log(wide / high)])

    a, b = describe(ours), describe(theirs.astype(float))
    error = np.sqrt((a.var(axis=1) + b.var(axis=1)) / number)
    assert (np.abs(a.mean(axis=1) - b.mean(axis=1)) < 5 * error).all()
    np.testing.assert_allclose(a.std(axis=1), b.std(axis=1), rtol=0.1)
    assert ((ours[:, :2] >= 0) & (ours[:, :2] + ours[:, 2:] <= (width, height))).all()


def test_a_strip_is_cropped_to_the_extreme_ratio() -> None:
    assert _draw_box(400, 30, random.Random(0)) == (180, 0, 40, 30)
    assert _draw_box(30, 400, random.Random(0)) == (0, 180, 30, 40)


def test_what_is_kept_is_described() -> None:
    how = Preprocessing(16)
    standard, plain = how.augment("standard"), how.evaluate()
    assert standard.least_side == 32 and plain.least_side is None
    kinds = [standard, plain, Preprocessing(17).evaluate(), ImageTransform(how, "flip")]
    kept = [repr(one.describe_kept()) for one in kinds]
    assert len(set(kept)) == 3 and kept[1] == kept[3]
    other = Preprocessing(16, mean=(0, 0, 0)).augment("standard")
    assert other.describe_kept() == standard.describe_kept()


def test_two_resizings_look_like_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crop of the kept image is about as sharp as one of the whole image."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 180, 3), np.uint8)
    image = Image.fromarray(noise).resize((360, 240), Image.Resampling.BICUBIC)
    monkeypatch.setattr(
        preprocessing, "_draw_box", lambda width, height, rng: (0, 0, width, height)
    )
    transform = Preprocessing(32, (0, 0, 0), (1, 1, 1)).augment("standard")
    seed = next(seed for seed in range(9) if random.Random(seed).random() >= 0.5)  # no flip
    found = 255 * transform.finish([transform.keep(image)], [seed])[0].permute(1, 2, 0).numpy()
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), float)
    assert np.abs(found - expected).mean() < 0.25 * np.abs(expected - expected.mean()).mean()
    assert 0.9 < found.std() / expected.std() < 1.1
