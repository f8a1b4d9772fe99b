"""Features by position in a data set: the same from memory and from memory maps."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from aft.devices import available_memory
from aft.errors import StoreError
from aft.features import stored as module
from aft.features.shards import FORMATS, map_shard
from aft.features.store import FeatureStore, FeatureWriter
from aft.features.stored import StoredFeatures, keep_in_memory
from aft.students.inputs import StudentInputs
from aft.training.sampling import Views
from features.test_store import filled
from features.test_store_damage import shards_of
from helpers.errors import says
from helpers.numbered import NumberedSamples, ids_of


def of_samples(store, numbers, present=None):
    samples = NumberedSamples(numbers)
    if present is not None:
        samples.present = np.asarray(present)[:, None]
        samples.ids = np.where(samples.present, samples.ids, 0).astype(np.uint8)
    return StoredFeatures("own", store, samples, [])


def one_by_one(store, stored, rows):
    """What the store returns for the id of each sample, read on its own."""
    return torch.cat([store.gather(stored.samples.ids[row : row + 1]) for row in rows])


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("dtype", ["fp16", "fp32", "bf16"])
class TestGather:
    def test_equals_rows_read_one_by_one(self, tmp_path, dtype, in_memory):
        store, _, features = filled(tmp_path, count=100, dtype=dtype)
        rng = np.random.default_rng(0)
        numbers = rng.integers(0, 100, 250)  # contents that occur twice, in another order
        stored = of_samples(store, numbers)
        keep_in_memory([stored] if in_memory else [])
        for rows in (rng.integers(0, 250, 128), np.arange(250), np.arange(0), np.array([3, 3])):
            got = stored.gather(rows)
            expected = features[numbers[rows]].to(FORMATS[dtype].torch).float()
            assert got.dtype == torch.float32 and torch.equal(got, expected)
            if len(rows):
                assert torch.equal(got, one_by_one(store, stored, rows))

    def test_samples_without_an_input_have_mean_features(self, tmp_path, dtype, in_memory):
        store, _, _ = filled(tmp_path, dtype=dtype)
        present = np.arange(40) % 3 > 0
        stored = of_samples(store, range(40), present)
        keep_in_memory([stored] if in_memory else [])
        rows = np.array([0, 1, 2, 3, 2])
        got = stored.gather(rows)
        assert torch.equal(got[[1, 2, 4]], one_by_one(store, stored, [1, 2, 2]))
        mean = store.statistics(stored.samples.ids[present]).mean
        assert torch.equal(got[[0, 3]], mean.expand(2, -1))

    def test_missing_rows_are_said_for_the_batch(self, tmp_path, dtype, in_memory):
        store, ids, features = filled(tmp_path, count=20, dtype=dtype)
        stored = of_samples(store, range(22))
        keep_in_memory([stored] if in_memory else [])
        assert len(stored.gather(np.arange(20))) == 20
        with pytest.raises(StoreError) as error:
            stored.gather(np.array([1, 20, 3, 21, 20]))
        assert says(error.value, "3 of 5", store.path, "aft extract")
        with FeatureWriter(store) as writer:
            writer.add(ids_of([20, 21]), features[:2])
        assert torch.equal(stored.gather(np.array([20, 0])), store.gather(ids[[0, 0]]))


def test_several_teachers_within_the_limit(tmp_path, monkeypatch):
    stores = [filled(tmp_path, count=30, dim=dim)[0] for dim in (3, 50, 4)]
    taken = [30 * store.row_bytes for store in stores]
    monkeypatch.setattr(module, "MOST_KEPT_BYTES", taken[0] + taken[2])
    some = [of_samples(store, range(30)) for store in stores]
    keep_in_memory(some)
    assert [one.keep(0) > 0 for one in some] == [True, False, True]
    rows = np.random.default_rng(0).integers(0, 30, 40)
    for one, store in zip(some, stores, strict=True):
        assert torch.equal(one.gather(rows), store.gather(one.samples.ids[rows]))
    shared = [of_samples(store, range(30)) for store in stores]
    keep_in_memory(shared, processes=2)
    assert [one.keep(0) > 0 for one in shared] == [True, False, False]


def test_limit_follows_the_available_memory(tmp_path, monkeypatch):
    store, _, _ = filled(tmp_path)
    needed = 40 * store.row_bytes
    for available, kept in ((4 * needed, True), (4 * needed - 4, False)):
        monkeypatch.setattr(module, "available_memory", lambda available=available: available)
        one = of_samples(store, range(40))
        keep_in_memory([one])
        assert (one.keep(0) > 0) == kept
    assert one.keep(needed - 1) == 0 < one.keep(needed) <= needed


def test_memory_of_a_container(monkeypatch):
    free = SimpleNamespace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    for limit, expected in (("400\n", 400), ("4000", 1000), ("max\n", 1000)):
        monkeypatch.setattr("pathlib.Path.read_text", lambda path, limit=limit: limit)
        assert available_memory() == expected


def test_samples_are_looked_up_once(tmp_path, monkeypatch):
    store, _, _ = filled(tmp_path)
    stored = of_samples(store, range(40))
    first = stored.gather(np.arange(7))
    monkeypatch.setattr(FeatureStore, "locate", None)  # looking up again would fail
    assert torch.equal(stored.gather(np.arange(7)), first)


def test_row_numbers_follow_deleted_shards(tmp_path):
    store, _, features = filled(tmp_path)
    stored = of_samples(store, range(40))
    stored.gather(np.arange(40))
    shards_of(store)[0].unlink()
    store.refresh()
    rows = np.arange(16, 40)[::-1].copy()
    assert torch.equal(stored.gather(rows), features[rows].half().float())
    with pytest.raises(StoreError, match="1 of 2"):
        stored.gather(np.array([0, 20]))


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_shard_that_changes_before_it_is_read_is_found(tmp_path, in_memory):
    store, _, _ = filled(tmp_path)
    stored = of_samples(store, range(40))
    map_shard.cache_clear()
    file = shards_of(store)[1]
    content = bytearray(file.read_bytes())
    content[-300] ^= 1  # of the features: 16 ids follow
    file.write_bytes(content)
    with pytest.raises(StoreError) as error:
        _ = stored.keep(2**20) if in_memory else stored.gather(np.array([20]))
    assert says(error.value, file)


def test_rows_that_do_not_exist_are_refused(tmp_path):
    store, _, _ = filled(tmp_path)
    assert store.locate(ids_of([0, 99])).tolist() == [0, -1]
    with pytest.raises(AssertionError):
        store.read_stored(store.locate(ids_of([0, 99])))


def test_statistics_equal_those_of_earlier_versions(tmp_path, monkeypatch):
    """The same operations in the same order: bitwise equal."""
    store, ids, _ = filled(tmp_path, count=100)
    monkeypatch.setattr("aft.features.store.CHUNK_VALUES", 30 * store.dim)
    count, mean = 0, torch.zeros(store.dim, dtype=torch.float64)
    squares = torch.zeros_like(mean)
    for values in store.gather(ids).double().split(30):
        middle, total = values.mean(0), count + len(values)
        gap = middle - mean
        squares += (values - middle).square().sum(0) + gap**2 * (count * len(values) / total)
        mean += gap * (len(values) / total)
        count = total
    got = store.statistics(ids)
    assert torch.equal(got.mean, mean.float())
    assert torch.equal(got.std, (squares / count).sqrt().float())


def test_what_workers_get_holds_no_features(tmp_path):
    """A process that reads inputs is given the samples, never what is kept in memory."""
    store, _, _ = filled(tmp_path, count=2000, dim=64)
    stored = of_samples(store, range(2000))
    keep_in_memory([stored])
    sent = pickle.dumps(Views(StudentInputs(stored.samples, np.asarray), 0))
    assert len(sent) < stored.keep(0) / 2
    assert len(pickle.dumps(store)) < 1000
