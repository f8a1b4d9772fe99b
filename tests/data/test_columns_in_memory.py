"""Input columns in memory hold what a data set of the same values holds."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from aft.data.readers.rows import VALUE, as_dataset, column_of

TEXTS = ["a", None, "", "Grüße", "a longer text", None]


@pytest.mark.parametrize("binary", [False, True])
def test_a_column_and_a_data_set_are_alike(binary: bool) -> None:
    values = [text.encode() if text and binary else text for text in TEXTS]
    values[2] = b"" if binary else ""
    column = column_of(values, binary=binary)
    for chosen in (column, pickle.loads(pickle.dumps(column))):
        assert chosen[VALUE] == list(as_dataset(chosen)[VALUE]) == values
        assert [chosen[i] for i in range(len(chosen))] == [{VALUE: one} for one in values]
    rows = np.asarray([4, 1, 4, 3])
    some = column.select(rows)
    assert some[VALUE] == list(as_dataset(some)[VALUE]) == [values[i] for i in rows]
    again = some.select(np.asarray([3, 0]))
    assert again[VALUE] == [values[3], values[4]] and len(again) == 2
    encoded = [None if text is None else text.encode() for text in TEXTS]
    assert [column.bytes_of(i) for i in range(len(column))] == encoded


def test_a_column_may_be_empty() -> None:
    assert column_of([])[VALUE] == list(as_dataset(column_of([]))[VALUE]) == []
