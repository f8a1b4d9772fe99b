from __future__ import annotations

import fsspec
import numpy as np
import pytest

from aft.data.loading import load_data
from aft.data.readers.remote import fetch
from aft.errors import DataError
from aft.features.extraction import extract_features
from helpers.numbered import NumberedSamples, ids_of, numbered_teacher


@pytest.fixture
def storage():
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


def test_a_folder_in_object_storage_is_that_folder(storage, picture_folder) -> None:
    here = picture_folder(classes=2, train=4)
    storage.put(str(here), "/bucket/pictures", recursive=True)
    for address in ("memory://bucket/pictures", "memory://bucket/pictures/"):
        one, other = load_data(str(here)), load_data(address)
        assert np.array_equal(one.splits["train"].ids, other.splits["train"].ids)
        assert one.task.names == other.task.names


def test_a_table_is_copied_again_when_it_changed(storage) -> None:
    lines = [f"text {i},{'ab'[i % 2]}\n" for i in range(10)]
    storage.pipe("/bucket/t.csv", ("text,label\n" + "".join(lines)).encode())
    first = fetch("memory://bucket/t.csv")
    assert first == fetch("memory://bucket/t.csv") and first.name == "t.csv"
    assert sum(map(len, load_data("memory://bucket/t.csv").splits.values())) == 10
    storage.pipe("/bucket/t.csv", ("text,label\n" + "".join(lines[:8])).encode())
    assert sum(map(len, load_data("memory://bucket/t.csv").splits.values())) == 8


@pytest.mark.parametrize("address", ["memory://bucket/nothing", "nowhere://bucket/table.csv"])
def test_what_is_not_there_is_named(address) -> None:
    with pytest.raises(DataError, match=address):
        load_data(address)


def test_a_store_is_copied_to_object_storage_and_back(storage, tmp_path) -> None:
    """The way that docs/machines.md shows."""
    store = extract_features(
        numbered_teacher(), NumberedSamples(range(9)), tmp_path / "a", num_workers=0, progress=False
    )
    storage.put(f"{tmp_path}/a/", "/bucket/features/", recursive=True)
    storage.get("/bucket/features/", f"{tmp_path}/b/", recursive=True)
    back = type(store).at(tmp_path / "b" / store.path.name)
    assert np.array_equal(back.gather(ids_of(range(9))), store.gather(ids_of(range(9))))
