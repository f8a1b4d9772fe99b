"""Open Clip Art: what a picture shows, by the folder that the archive keeps it in.

The Debian package is read as it is (an `ar` archive with a tar inside), so neither root nor
Debian's tools are needed. What is left out, and why:

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
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from tqdm import tqdm

from aft.demo_data.downloads import Download
from aft.demo_data.pictures import SIZE, Row, fit_square, kin, pick, shares, without_copies, write
from aft.errors import DataError

PACKAGE = Download(
    package="openclipart-png",
    version="1:0.18+dfsg-19",
    file="openclipart-png_1%3a0.18+dfsg-19_all.deb",
    sha256="f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    megabytes=131,
)
LICENCE = "public domain (Creative Commons Public Domain Dedication)"
ORIGIN = "Open Clip Art 0.18, Debian package openclipart-png 1:0.18+dfsg-19"

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


def _rows(package: Path, progress: bool) -> Iterator[Row]:
    files = _pictures(package)
    for path, content in tqdm(
        files, "clip art", total=_FILES, unit=" files", disable=not progress, leave=False
    ):
        label, _, name = path.partition("/")
        picture = _decode(content) if name and label not in _LEFT_OUT else None
        if picture is not None:
            yield Row(label, name[: -len(".png")].replace("/", "__"), picture)


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


def _pictures(package: Path) -> Iterator[tuple[str, bytes]]:
    """Path below the folder of classes, and content, of every regular PNG file."""
    with package.open("rb") as file:
        _seek_data(file, package)
        try:
            with tarfile.open(fileobj=file, mode="r|*") as tar:
                for entry in tar:
                    path = entry.name.removeprefix("./")
                    if path.startswith(_ROOT) and path.lower().endswith(".png"):
                        content = tar.extractfile(entry) if entry.isreg() else None
                        if content is not None:
                            yield path[len(_ROOT) :], content.read()
        except (tarfile.TarError, EOFError) as error:
            raise DataError(f"{package} is damaged: {error}") from None


def _seek_data(file: BinaryIO, package: Path) -> None:
    """Leave an `ar` archive's position at the content of its member `data.tar.*`."""
    if file.read(8) == b"!<arch>\n":
        while len(header := file.read(60)) == 60:
            if header.startswith(b"data.tar"):
                return
            length = int(header[48:58])
            file.seek(length + length % 2, io.SEEK_CUR)
    raise DataError(f"{package} is no Debian package: expected an ar archive with a data.tar")
