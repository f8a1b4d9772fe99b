"""Clip art with titles: images with a text, some of which is missing.

The images and their splits are those of :mod:`data_sets.clipart`. Another Debian package has
the same drawings as SVG files with titles (`dc:title`). They are used as follows:

* keywords (`dc:subject`) are not used, because they determined the classes of the archive;
* the prefix `Clipart by AUTHOR - ` of a title is removed;
* a title that 10 or more images share names a collection ("card", "AIGA Symbol Signs") and does
  not describe the image, so it is left out;
* words of the class names ("sign", "tools") are removed from every title.

If no word of a title is left, the text of the row is empty. 2,311 of the 3,105 images have a text
(784 of 1,000 in train). The median length is 2 words, and not all texts are English. Texts are not
missing at random: they are missing for half of `recreation`, which has the playing cards, but only
for a tenth of `animals`.
"""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from aft.demo_data.downloads import Download
from aft.demo_data.prepared import SPLITS, Source, write_jsonl
from aft.errors import DataError
from data_sets.archives import debian_files
from data_sets.clipart import LICENCE, place

PACKAGE = Download(
    package="openclipart-svg",
    version="1:0.18+dfsg-19",
    file="openclipart-svg_1%3a0.18+dfsg-19_all.deb",
    sha256="989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    megabytes=25,
)
SOURCE = Source(
    "clipart-titles",
    "pictures with titles",
    LICENCE,
    "Open Clip Art 0.18, Debian packages openclipart-png and openclipart-svg 1:0.18+dfsg-19",
)

_ROOT = "usr/share/openclipart/svg/"
_AUTHOR = re.compile(r"^clipart by [^-]+ - ", re.IGNORECASE)


def prepare(package: Path, pictures: Path, folder: Path, *, shared: int = 10) -> None:
    """Write the pictures and `metadata.jsonl`, rows `{"image", "text", "label", "split"}`.

    Args:
        package: The `.deb` file with the SVG files.
        pictures: The folder written by :func:`data_sets.clipart.prepare`.
        folder: A new folder.
        shared: Titles that this many images or more share are left out.

    Raises:
        DataError: If the file is not a Debian package or has no titles.
    """
    found = {place(path): _title(content) for path, content in debian_files(package, _ROOT, ".svg")}
    files = [path for split in SPLITS for path in sorted((pictures / split).glob("*/*.png"))]
    titles = [found.get((path.parent.name, path.stem), "") for path in files]
    if not any(titles):
        raise DataError(f"{package} has no titles; expected SVG files in {_ROOT}CLASS/")
    times = Counter(title.casefold() for title in titles)
    label_words = words_of_labels({path.parent.name for path in files})
    rows = []
    for path, title in zip(files, titles, strict=True):
        image = path.relative_to(pictures).as_posix()
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / image)
        text = "" if times[title.casefold()] >= shared else without_words(title, label_words)
        split, label, _ = image.split("/")
        rows.append({"image": image, "text": text, "label": label, "split": split})
    write_jsonl(rows, folder / "metadata.jsonl")


def words_of_labels(labels: Iterable[str]) -> re.Pattern[str]:
    """A pattern of the words in class names: `signs_and_symbols` has sign(s) and symbol(s)."""
    words = {word.removesuffix("s") for label in labels for word in label.split("_")} - {"and"}
    return re.compile(rf"\b(?:{'|'.join(sorted(words))})s?\b", re.IGNORECASE)


def without_words(title: str, words: re.Pattern[str]) -> str:
    """A title without the words of a pattern; empty if no letter is left."""
    left = " ".join(words.sub(" ", title).split()).strip(" -,;:/")
    return left if any(character.isalpha() for character in left) else ""


def _title(svg: bytes) -> str:
    """The title of the drawing (not of its author or licence), in one line."""
    try:
        tree = ET.fromstring(svg)
    except ET.ParseError:
        return ""
    work = next((node for node in tree.iter() if node.tag.endswith("}Work")), None)
    title = next((node for node in work or () if node.tag.endswith("}title")), None)
    if title is None:
        return ""
    text = " ".join("".join(title.itertext()).replace("_", " ").split())
    return _AUTHOR.sub("", text)
