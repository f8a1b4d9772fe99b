"""Fashion-MNIST: clothes in grey, 28 x 28 pixels, a drawn part of each published split.

The archive has 60,000 pictures to train on and 10,000 to test on; 200 of each of the 10 classes
are drawn from either. Of pictures that are equal to the pixel one is kept.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from aft.demo_data.downloads import Download
from aft.demo_data.prepared import Source
from aft.errors import DataError
from data_sets.archives import debian_files
from data_sets.pictures import Row, without_copies, write

PACKAGE = Download(
    package="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    file="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    megabytes=31,
)
SOURCE = Source(
    "fashion",
    "pictures",
    "MIT, copyright 2017 Zalando SE",
    "Fashion-MNIST, Debian package dataset-fashion-mnist 0.0~git20200523.55506a9-1",
)

_ROOT = "usr/share/datasets/fashion-mnist/"
_FILES = {"train": "train", "test": "t10k"}
_CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle_boot",
)
_SIDE = 28


def prepare(package: Path, folder: Path, *, per_class: int = 200, seed: int = 0) -> None:
    """Write `folder/{train,test}/CLASS/SPLIT_NUMBER.png` (28 x 28 RGB) from the Debian package.

    Args:
        package: The `.deb` file.
        folder: A new folder.
        per_class: Pictures of each class in either split.
        seed: Of the draw.

    Raises:
        DataError: If the package is damaged or has other content.
    """
    files = dict(debian_files(package, _ROOT, (".gz",)))
    rows: list[Row] = []
    for split, stem in _FILES.items():
        labels = _read(files, f"{stem}-labels-idx1-ubyte.gz", 8, package)
        pixels = _read(files, f"{stem}-images-idx3-ubyte.gz", 16, package)
        if len(pixels) != len(labels) * _SIDE**2:
            raise DataError(f"{package} has another number of {split} pictures than of labels")
        rows += _drawn(split, labels, pixels.reshape(-1, _SIDE, _SIDE), per_class, seed)
    rows = without_copies(rows)
    write(rows, [row.name.startswith("train") for row in rows], folder)


def _drawn(
    split: str, labels: np.ndarray, pictures: np.ndarray, per_class: int, seed: int
) -> Iterator[Row]:
    rng = np.random.default_rng(seed)
    for number, label in enumerate(_CLASSES):
        for i in np.sort(rng.permutation(np.flatnonzero(labels == number))[:per_class]):
            yield Row(label, f"{split}_{i:05}", Image.fromarray(pictures[i]).convert("RGB"))


def _read(files: dict[str, bytes], name: str, head: int, package: Path) -> np.ndarray:
    """The numbers of an IDX file, all bytes after a head of fixed length."""
    try:
        return np.frombuffer(gzip.decompress(files[name]), np.uint8, offset=head)
    except (KeyError, OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"expected {_ROOT}{name} in {package}: {error}") from None
