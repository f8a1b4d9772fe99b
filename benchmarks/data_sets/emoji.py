"""Twemoji: one emoji per picture, its Unicode category is the class, and its Unicode name a text.

An npm package has the pictures, 64 x 64 pixels, beside the table of names and categories. What is
left out is what :mod:`data_sets.openmoji` leaves out: sequences of code points (skin tones,
man and woman, families, keycaps), flags, clock faces, letters, and discs and hearts in many
colours. Near-copies go to one side of the split, large groups of them to train.

Words of the classes ("symbol", "food") are cut out of the names.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from aft.demo_data.downloads import Download
from aft.demo_data.prepared import Source
from aft.demo_data.splits import pick
from aft.errors import DataError
from data_sets.archives import npm_files
from data_sets.openmoji import LARGEST_FAMILY, is_kept, slug
from data_sets.pictures import Row, fit_square, kin, without_copies, write, write_with_texts
from data_sets.titles import without_words, words_of_labels

PACKAGE = Download(
    package="emoji-datasource-twitter",
    version="16.0.0",
    file="emoji-datasource-twitter-16.0.0.tgz",
    sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    megabytes=62,
)
_LICENCE = (
    "CC BY 4.0, Twemoji graphics by Twitter, Inc. and contributors; names and categories MIT, "
    "copyright 2013 Cal Henderson"
)
_ORIGIN = "Twemoji 16.0.1, npm package emoji-datasource-twitter 16.0.0"
SOURCE = Source("emoji", "pictures", _LICENCE, _ORIGIN)
NAMES_SOURCE = Source("emoji-names", "pictures with names", _LICENCE, _ORIGIN)

_SIZE = 64
_TABLE = "emoji.json"
_PICTURES = "img/twitter/64/"


def prepare(
    package: Path, folder: Path, *, names: bool = False, test_share: float = 0.35, seed: int = 0
) -> None:
    """Write `folder/{train,test}/CATEGORY/NAME.png` (64 x 64 RGB, white ground).

    Args:
        package: The npm package.
        folder: A new folder.
        names: Whether to write `metadata.jsonl` too, with the emoji's names as texts.
        test_share: The share of each class that goes to test.
        seed: Of the split.

    Raises:
        DataError: If the package is damaged or has other content.
    """
    table, files = b"", {}
    for path, content in npm_files(package, "package/", (".json", ".png")):
        if path == _TABLE:
            table = content
        elif path.startswith(_PICTURES):
            files[path.removeprefix(_PICTURES)] = content
    kept: list[dict[str, Any]] = [entry for entry in json.loads(table or b"[]") if is_kept(entry)]
    found, called = [], {}
    for entry in kept:
        if entry["image"] not in files:
            raise DataError(f"expected {_PICTURES}{entry['image']} in {package}")
        with Image.open(io.BytesIO(files[entry["image"]]), formats=["PNG"]) as image:
            picture = fit_square(image, _SIZE)
        if picture is not None:
            row = Row(slug(entry["category"]), slug(entry["name"]), picture)
            called[row.label, row.name] = entry["name"].lower()
            found.append(row)
    rows = without_copies(found)
    if not rows:
        raise DataError(f"{package} has no emoji; expected {_TABLE} and pictures in {_PICTURES}")
    labels = [row.label for row in rows]
    wanted = {label: round(test_share * n) for label, n in Counter(labels).items()}
    in_test = pick(
        labels, kin(rows, lambda row: (row.label, row.name)), wanted, seed, LARGEST_FAMILY
    )
    in_train = [not test for test in in_test]
    if names:
        words = words_of_labels(set(labels))
        texts = [without_words(called[row.label, row.name], words) for row in rows]
        write_with_texts(rows, in_train, texts, folder)
    else:
        write(rows, in_train, folder)
