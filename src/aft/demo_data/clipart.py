"""Open Clip Art: what a picture shows, by the folder that the archive keeps it in.

What is left out, and why:

* links: one picture is filed under several folders, only regular files count;
* copies: pictures that are equal once prepared are kept once, and not at all where their classes
  disagree;
* `unsorted`, `special`, `computer` and `shapes` (mostly flags): these do not say what is shown;
* classes of fewer than 40 pictures;
* damaged, blank and poster-sized files.

Numbered variants (`apple_01.png`, `apple_02.png`) and near-copies go to one side of the split.
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

from aft.demo_data.archives import debian_files
from aft.demo_data.downloads import Download
from aft.demo_data.pictures import SIZE, Row, fit_square, kin, without_copies, write
from aft.demo_data.prepared import Source
from aft.demo_data.splits import pick, shares
from aft.errors import DataError

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
_MOST_PIXELS = 50_000_000  # 14 posters are larger; each would take hundreds of MB of memory
_FILES = 6900  # in the package, for the progress bar


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
        train_rows: Size of the train split, to which each class gives its share; test is the rest.
        smallest_class: Classes of fewer pictures are left out.
        seed: Of the split.
        progress: Whether to show a bar on stderr.

    Raises:
        DataError: If the file is no Debian package or holds no clip art.
    """
    rows = without_copies(_rows(package, progress))
    sizes = Counter(row.label for row in rows)
    rows = [row for row in rows if sizes[row.label] >= smallest_class]
    if not rows:
        raise DataError(f"{package} holds no clip art; expected pictures in {_ROOT}CLASS/")
    labels = [row.label for row in rows]
    families = kin(rows, lambda row: (row.label, re.sub(r"\d+|[\d_\-.]+$", "", row.name)))
    write(rows, pick(labels, families, shares(labels, train_rows), seed), folder)


def place(path: str) -> tuple[str, str]:
    """Class and name of a drawing, by its path in the archive: `a/b/c.png` is (`a`, `b__c`)."""
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
    """The prepared picture; None for a file that is damaged, blank or too large."""
    if len(content) < 24:
        return None
    width, height = struct.unpack(">II", content[16:24])  # of PNG, where the first block is fixed
    if width * height > _MOST_PIXELS:
        return None
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            return fit_square(image, SIZE)
    except (OSError, SyntaxError, ValueError):
        return None
