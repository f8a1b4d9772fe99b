"""A small folder of generated pictures, laid out as people lay out theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "cross", "ring", "bars")
COLOURS = (
    (214, 64, 52),
    (46, 120, 210),
    (52, 168, 83),
    (240, 180, 20),
    (140, 70, 190),
    (20, 20, 20),
)


def make_picture_folder(
    root: Path,
    classes: int = 3,
    train: int = 20,
    test: int = 8,
    size: int = 48,
    seed: int = 0,
) -> Path:
    """Write ``root/{train,test}/<class>/<number>.png``; each class is a shape in its colour.

    Args:
        root: The folder to fill; made if it is missing.
        classes: How many classes, at most ``len(SHAPES)``.
        train: Pictures of each class in ``train``.
        test: Pictures of each class in ``test``; with 0 there is no such folder.
        size: Height and width in pixels.
        seed: The same seed gives the same bytes; no two pictures of a folder are the same.

    Returns:
        ``root``.
    """
    if classes > len(SHAPES):
        raise ValueError(f"expected at most {len(SHAPES)} classes, got {classes}")
    generator = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for label in range(classes):
            folder = root / split / SHAPES[label]
            if count:
                folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                draw_picture(label, size, generator).save(folder / f"{number:03d}.png")
    return root


def draw_picture(label: int, size: int, generator: np.random.Generator) -> Image.Image:
    """One RGB picture: the shape of class ``label`` somewhere on a pale, noisy ground."""
    ground = generator.integers(190, 256, 3) - generator.integers(0, 30, (size, size, 3))
    image = Image.fromarray(ground.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    side = int(generator.integers(size // 3, size * 2 // 3))
    x, y = (int(v) for v in generator.integers(0, size - side, 2))
    r, g, b = (int(v) for v in np.clip(COLOURS[label] + generator.normal(0, 12, 3), 0, 255))
    fill, box, pen = (r, g, b), (x, y, x + side, y + side), max(2, side // 5)
    match SHAPES[label]:
        case "circle":
            draw.ellipse(box, fill=fill)
        case "square":
            draw.rectangle(box, fill=fill)
        case "triangle":
            draw.polygon([(x, y + side), (x + side, y + side), (x + side // 2, y)], fill=fill)
        case "cross":
            draw.line([(x, y), (x + side, y + side)], fill=fill, width=pen)
            draw.line([(x, y + side), (x + side, y)], fill=fill, width=pen)
        case "ring":
            draw.ellipse(box, outline=fill, width=pen)
        case "bars":
            for top in range(y, y + side, 2 * pen):
                draw.rectangle((x, top, x + side, min(top + pen - 1, y + side)), fill=fill)
    return image
