"""Open Clip Art: drawings, with the folders of the archive as classes.

These files are left out:

* links: some images are in several folders as links; only regular files are used;
* duplicates: images that are equal after preparation are kept once, or dropped if their classes
  differ;
* the folders `unsorted`, `special`, `computer` and `shapes` (mostly flags), whose names do not
  describe the content;
* classes with fewer than 40 images;
* damaged, blank and poster-sized files.

Numbered variants (`apple_01.png`, `apple_02.png`) and near-duplicates are in the same split.
"""

from __future__ import annotations

import io
import re
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from aft.demo_data.downloads import Download
from aft.demo_data.prepared import Source
from aft.demo_data.splits import pick, shares
from aft.errors import DataError
from data_sets.archives import debian_files
from data_sets.pictures import SIZE, Row, fit_square, kin, without_copies, write

PACKAGE = Download(
    package="openclipart-png",
    version="1:0.18+dfsg-19",
    file="openclipart-png_1%3a0.18+dfsg-19_all.deb",
    sha256="f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    megabytes=131,
)
LICENCE = "public domain (Creative Commons Public Domain Dedication)"
SOURCE = Source(
    "clipart",
    "pictures",
    LICENCE,
    "Open Clip Art 0.18, Debian package openclipart-png 1:0.18+dfsg-19",
)

_ROOT = "usr/share/openclipart/png/"
_LEFT_OUT = {"unsorted", "special", "computer", "shapes"}
_MOST_PIXELS = 50_000_000  # 14 posters are larger; each needs hundreds of MB of memory
_FILES = 6900  # number of files in the package, for the progress bar


def prepare(
    package: Path,
    folder: Path,
    *,
    train_rows: int = 1000,
    smallest_class: int = 40,
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Write `folder/{train,test}/CLASS/NAME.png` (128 x 128 RGB) from the Debian package.

    Args:
        package: The `.deb` file.
        folder: A new folder.
        train_rows: Size of the train split, stratified by class; the rest is the test split.
        smallest_class: Classes with fewer images are left out.
        seed: Random seed of the split.
        progress: Whether to show a progress bar on stderr.

    Raises:
        DataError: If the file is not a Debian package or has no clip art.
    """
    rows = without_copies(_rows(package, progress))
    sizes = Counter(row.label for row in rows)
    rows = [row for row in rows if sizes[row.label] >= smallest_class]
    if not rows:
        raise DataError(f"{package} has no clip art; expected images in {_ROOT}CLASS/")
    labels = [row.label for row in rows]
    families = kin(rows, lambda row: (row.label, re.sub(r"\d+|[\d_\-.]+$", "", row.name)))
    write(rows, pick(labels, families, shares(labels, train_rows), seed), folder)


def place(path: str) -> tuple[str, str]:
    """Class and name of a drawing from its path in the archive: `a/b/c.png` is (`a`, `b__c`)."""
    label, _, name = path.partition("/")
    return label, name.rpartition(".")[0].replace("/", "__")


def _rows(package: Path, progress: bool) -> Iterator[Row]:
    files = debian_files(package, _ROOT, ".png")
    for path, content in tqdm(
        files, "clip art", total=_FILES, unit=" files", disable=not progress, leave=False
    ):
        label, name = place(path)
        picture = _decode(content) if name and label not in _LEFT_OUT else None
        if picture is not None:
            yield Row(label, name, picture)


def _decode(content: bytes) -> Image.Image | None:
    """The prepared image; None if the file is damaged, blank or too large."""
    if len(content) < 24:
        return None
    width, height = struct.unpack(">II", content[16:24])  # the first block of a PNG file
    if width * height > _MOST_PIXELS:
        return None
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            return fit_square(image, SIZE)
    except (OSError, SyntaxError, ValueError):
        return None
