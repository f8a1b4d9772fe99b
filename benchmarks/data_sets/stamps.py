"""Stamps of Tux Paint: photos and drawings, each with a caption; the class is the folder.

What is left out, and why:

* SVG files (a quarter): drawing them takes a program that is not here;
* `symbols/alphabets`: letters, filled and outlined;
* `_mirror` files: another picture of the set, turned around;
* copies, and pictures whose copies are in another class too;
* classes of fewer than 25 pictures.

Pictures with the same caption ("A frog."), numbered variants and near-copies go to one side of the
split. Words of the classes are cut out of the captions.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

from PIL import Image

from aft.demo_data.downloads import Download
from aft.demo_data.prepared import Source
from aft.demo_data.splits import pick, shares
from aft.errors import DataError
from data_sets.archives import debian_files
from data_sets.pictures import SIZE, Row, fit_square, kin, without_copies, write, write_with_texts
from data_sets.titles import without_words, words_of_labels

PACKAGE = Download(
    package="tuxpaint-stamps-default",
    version="2022.06.04-1",
    file="tuxpaint-stamps-default_2022.06.04-1_all.deb",
    sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    megabytes=161,
)
_LICENCE = "GPL-2, copyright 2002-2022 Bill Kendrick and contributors"
_ORIGIN = "Tux Paint stamps, Debian package tuxpaint-stamps-default 2022.06.04-1"
SOURCE = Source("stamps", "pictures", _LICENCE, _ORIGIN)
CAPTIONS_SOURCE = Source("stamps-captions", "pictures with captions", _LICENCE, _ORIGIN)

_ROOT = "usr/share/tuxpaint/stamps/"
_LEFT_OUT = "symbols/alphabets/"


def prepare(
    package: Path,
    folder: Path,
    *,
    captions: bool = False,
    train_rows: int = 300,
    smallest_class: int = 25,
    seed: int = 0,
) -> None:
    """Write `folder/{train,test}/CLASS/NAME.png` (128 x 128 RGB) from the Debian package.

    Args:
        package: The `.deb` file.
        folder: A new folder.
        captions: Whether to write `metadata.jsonl` too, with the captions as texts.
        train_rows: Size of the train split, to which each class gives its share; test is the rest.
        smallest_class: Classes of fewer pictures are left out.
        seed: Of the split.

    Raises:
        DataError: If the file is no Debian package or holds no stamps.
    """
    found, said = [], {}
    for path, content in debian_files(package, _ROOT, (".png", ".txt")):
        stem, _, end = path.rpartition(".")
        label, _, name = stem.partition("/")
        key = (label, name.replace("/", "__"))
        if end == "txt":  # English first, then translations, a line each
            said[key] = content.decode("utf-8", "replace").partition("\n")[0].strip()
        elif not path.startswith(_LEFT_OUT) and not stem.endswith("_mirror"):
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                picture = fit_square(image, SIZE)
            if picture is not None:
                found.append(Row(*key, picture))
    rows = without_copies(found)
    sizes = Counter(row.label for row in rows)
    rows = [row for row in rows if sizes[row.label] >= smallest_class]
    if not rows:
        raise DataError(f"{package} holds no stamps; expected pictures in {_ROOT}CLASS/")
    labels = [row.label for row in rows]
    texts = [said.get((row.label, row.name), "") for row in rows]

    def stem_of(row: Row) -> tuple[str, str]:
        caption = said.get((row.label, row.name), "").casefold()
        return row.label, caption or re.sub(r"\d+|[\d_\-.]+$", "", row.name)

    in_train = pick(labels, kin(rows, stem_of), shares(labels, train_rows), seed)
    if captions:
        words = words_of_labels(set(labels))
        write_with_texts(rows, in_train, [without_words(text, words) for text in texts], folder)
    else:
        write(rows, in_train, folder)
