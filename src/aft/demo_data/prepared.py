"""Prepared data sets: folders that are either complete or absent, with their description."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

SPLITS = ("train", "test")
Printer = Callable[[str], None]


class Source(NamedTuple):
    """A data set before it is downloaded.

    Attributes:
        name: Name of the data set, and of its folder in the cache.
        rows: Plural noun for the rows: `pictures`, `texts` …
        licence: Licence of the content.
        origin: The packages that contain it.
    """

    name: str
    rows: str
    licence: str
    origin: str


@dataclass(frozen=True)
class DemoData:
    """A data set that is ready for use.

    Attributes:
        name: Name of the data set.
        folder: For images, `{train,test}/CLASS/NAME.png`, RGB of at most 128 x 128 pixels; for
            texts, `train.jsonl` and `test.jsonl`; for images with texts, the images and
            `metadata.jsonl`.
        licence: Licence of the content.
        origin: The packages that contain it.
        counts: Number of rows per class in each split; numeric labels count under "".
        missing: Number of rows with an image but no text.
        rows: Plural noun for the rows: `pictures`, `texts` …
    """

    name: str
    folder: Path
    licence: str
    origin: str
    counts: dict[str, dict[str, int]]
    missing: int = 0
    rows: str = "pictures"

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, sorted; empty if labels are numbers."""
        return tuple(sorted(label for label in self.counts["train"] if label))

    @property
    def train_rows(self) -> int:
        """Number of rows of the train split."""
        return sum(self.counts["train"].values())

    @property
    def test_rows(self) -> int:
        """Number of rows of the test split."""
        return sum(self.counts["test"].values())

    def __str__(self) -> str:
        """Sizes, folder and licence in one line."""
        inside = f" in {len(self.classes)} classes" if self.classes else ""
        without = f" ({self.missing} of them without text)" if self.missing else ""
        return (
            f"{self.name}: {self.train_rows} train and {self.test_rows} test {self.rows}"
            f"{inside}{without} at {self.folder}; licence: {self.licence}"
        )


def prepared(
    source: Source, cache_dir: Path, prepare: Callable[[Path], None], say: Printer
) -> DemoData:
    """The data set in `cache_dir/NAME`; if missing, `prepare(folder)` creates it."""

    def prepare_and_credit(folder: Path) -> None:
        prepare(folder)
        credit = f"Made by `aft` from {source.origin}.\nLicence: {source.licence}.\n"
        (folder / "LICENCE.txt").write_text(credit, encoding="utf-8")

    folder = whole_folder(cache_dir / source.name, prepare_and_credit)
    counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    missing = 0
    for split, label, text in _rows(folder):
        counts[split][label if isinstance(label, str) else ""] += 1
        missing += text == ""
    per_class = {split: dict(sorted(count.items())) for split, count in counts.items()}
    data = DemoData(
        source.name, folder, source.licence, source.origin, per_class, missing, source.rows
    )
    say(str(data))
    return data


def whole_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """The folder; if missing, `fill` creates it completely while other processes wait."""
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


def write_jsonl(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write one JSON object per line in UTF-8, with the same bytes on every system."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The inverse of :func:`write_jsonl`."""
    with path.open(encoding="utf-8", newline="\n") as file:
        yield from map(json.loads, file)


def make_printer(progress: bool) -> Printer:
    """A function that prints to stderr, or does nothing without `progress`."""

    def say(text: str) -> None:
        if progress:
            print(text, file=sys.stderr)

    return say


def _rows(folder: Path) -> Iterator[tuple[str, Any, str | None]]:
    """Split, label and text (None for an image without a text column) of every row."""
    if (folder / "metadata.jsonl").exists():
        for row in read_jsonl(folder / "metadata.jsonl"):
            yield row["split"], row["label"], row["text"]
        return
    for split in SPLITS:
        if (folder / f"{split}.jsonl").exists():
            for row in read_jsonl(folder / f"{split}.jsonl"):
                yield split, row.get("label"), row["text"]
        else:
            for picture in (folder / split).glob("*/*.png"):
                yield split, picture.parent.name, None
