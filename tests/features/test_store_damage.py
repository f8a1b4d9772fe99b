"""Whatever happens to the files of a store, what it returns is right, or it says what is wrong."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from aft.errors import StoreError
from aft.features.shards import map_shard
from aft.features.store import FeatureStore, FeatureWriter
from features.test_store import IDENTITY, filled
from helpers.errors import says

ANY_PLACE = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("features"))


def reopened(store):
    map_shard.cache_clear()  # as in a new process
    return FeatureStore.at(store.path)


def shards_of(store):
    return sorted((store.path / "shards").iterdir())


@ANY_PLACE
@given(data=st.data(), change=st.integers(1, 255))
def test_any_changed_byte_of_a_shard_is_harmless_or_found(whole, tmp_path, data, change):
    store, ids, _ = whole
    expected = store.gather(ids)
    shutil.rmtree(tmp_path)
    shutil.copytree(store.path, tmp_path / store.path.name)
    file = shards_of(store)[1]
    copy = tmp_path / store.path.name / "shards" / file.name
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= change
    copy.write_bytes(content)
    map_shard.cache_clear()
    refused = None
    try:
        found = FeatureStore.at(tmp_path / store.path.name).gather(ids)
    except StoreError as error:
        refused = error
    assert torch.equal(found, expected) if refused is None else says(refused, copy)


@pytest.mark.parametrize("where", [0.0, 0.3, 0.7, 0.99])
def test_a_shard_that_was_cut_off_is_named(tmp_path, where):
    store, _, _ = filled(tmp_path)
    file = shards_of(store)[2]
    content = file.read_bytes()
    file.write_bytes(content[: int(where * len(content))])
    with pytest.raises(StoreError) as error:
        reopened(store)
    assert says(error.value, file)


def test_shards_of_another_teacher_are_refused(tmp_path):
    store, _, _ = filled(tmp_path)
    other, _, _ = filled(tmp_path, weights_sha256="cd" * 32)
    file = shards_of(store)[0]
    shutil.copy(shards_of(other)[0], file)
    with pytest.raises(StoreError) as error:
        reopened(store)
    assert says(error.value, file)


def test_shards_of_older_versions_stay_readable(tmp_path):
    store, ids, _ = filled(tmp_path)
    expected = store.gather(ids)
    for file in shards_of(store):
        save_file(load_file(file), file)  # without checksums
    again = reopened(store)
    assert torch.equal(again.gather(ids), expected) and again.verify() == []


def test_a_deleted_shard_is_computed_again_and_so_are_the_statistics(tmp_path):
    store, ids, features = filled(tmp_path)
    store.statistics(ids)
    before = set(store.path.glob("statistics-*"))
    shards_of(store)[0].unlink()
    again = reopened(store)
    lost = torch.from_numpy(again.missing(ids))
    assert lost.sum() == 16
    with FeatureWriter(again) as writer:
        writer.add(ids[lost.numpy()], features[lost] + 1)
    statistics = again.statistics(ids)
    assert set(store.path.glob("statistics-*")) > before
    expected = again.gather(ids).double()
    torch.testing.assert_close(statistics.mean, expected.mean(0).float())
    torch.testing.assert_close(statistics.std, expected.std(0, correction=0).float())


@pytest.mark.parametrize("change", [1, 128])
@pytest.mark.parametrize("place", [0, 9, 41, 60])
def test_damaged_statistics_are_computed_again(tmp_path, place, change):
    store, ids, _ = filled(tmp_path)
    first = store.statistics(ids)
    (file,) = store.path.glob("statistics-*")
    content = bytearray(file.read_bytes())
    content[place] ^= change
    file.write_bytes(content)
    again = store.statistics(ids)
    assert torch.equal(again.mean, first.mean) and torch.equal(again.std, first.std)


def test_verify_names_every_damaged_shard(tmp_path):
    store, _, _ = filled(tmp_path, count=80)
    files = [shards_of(store)[i] for i in (1, 3)]
    for file in files:
        content = bytearray(file.read_bytes())
        content[-300] ^= 1  # of the features: 16 ids follow
        file.write_bytes(content)
    faults = reopened(store).verify()
    assert [str(file) in fault for file, fault in zip(files, faults, strict=True)] == [True, True]


def test_features_are_checked_once_for_each_version_of_a_file(tmp_path, monkeypatch):
    store, ids, _ = filled(tmp_path, count=16)
    checked = []
    from aft.features import shards

    def count(data):
        checked.append(1)
        return real(data)

    real = shards.checksum
    monkeypatch.setattr(shards, "checksum", count)
    for _ in range(3):
        map_shard.cache_clear()
        store.gather(ids)
    assert len(checked) == 1
    (file,) = shards_of(store)
    os.utime(file, ns=(1, 1))
    map_shard.cache_clear()
    store.gather(ids)
    assert len(checked) == 2


def test_teacher_json_that_is_not_that_of_the_shards(tmp_path):
    store, _, _ = filled(tmp_path)
    file = store.path / "teacher.json"
    file.write_text(file.read_text().replace(IDENTITY["spec"], "timm:other"))
    with pytest.raises(StoreError):
        reopened(store)


def test_statistics_of_other_samples_are_computed_again(tmp_path):
    store, ids, _ = filled(tmp_path)
    first = store.statistics(ids[:10])
    (one,) = store.path.glob("statistics-*")
    store.statistics(ids[10:])
    (other,) = set(store.path.glob("statistics-*")) - {one}
    shutil.copy(other, one)
    assert torch.equal(store.statistics(ids[:10]).mean, first.mean)
