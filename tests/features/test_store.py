from __future__ import annotations

import json
import os
import pickle
import platform
import subprocess
import sys
import threading
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from aft.errors import InputError, StoreError
from aft.features import shards
from aft.features.store import FeatureStore, FeatureWriter, find_stores
from aft.features.teacher_identity import fingerprint
from helpers.errors import says
from helpers.numbered import ids_of

IDENTITY = {"spec": "timm:tiny?size=64", "weights_sha256": "ab" * 32, "size": [3, 64], "dim": 5}


def filled(folder, count=40, shard_rows=16, **changes):
    """A store of `count` samples, and what was put in."""
    store = FeatureStore.open(folder, {**IDENTITY, **changes})
    ids = ids_of(range(count))
    rows = np.random.default_rng(0).standard_normal((count, store.dim), np.float32)
    features = torch.from_numpy(rows)
    with FeatureWriter(store, shard_rows=shard_rows) as writer:
        writer.add(ids, features)
    return store, ids, features


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("features"))


class TestIdentity:
    def test_fingerprint_follows_values_not_order(self):
        turned = dict(reversed(IDENTITY.items()))
        assert fingerprint(IDENTITY) == fingerprint(turned)
        assert fingerprint(IDENTITY) == fingerprint({**IDENTITY, "size": (3, 64)})
        assert fingerprint(IDENTITY) != fingerprint({**IDENTITY, "size": [3, 65]})
        assert len(fingerprint(IDENTITY)) == 64

    def test_folder_is_named_by_spec_and_fingerprint(self, tmp_path):
        store = FeatureStore.open(tmp_path, IDENTITY)
        full = {**IDENTITY, "dtype": "fp16"}
        assert store.path.name == f"timm-tiny-size-64-{fingerprint(full)[:16]}"
        assert json.loads((store.path / "teacher.json").read_text()) == full == store.identity
        assert store.path == FeatureStore.open(tmp_path, full).path
        assert store.path != FeatureStore.open(tmp_path, {**IDENTITY, "dtype": "fp32"}).path

    def test_changed_teacher_json_names_the_field(self, tmp_path):
        file = FeatureStore.open(tmp_path, IDENTITY).path / "teacher.json"
        changed = {**json.loads(file.read_text()), "size": [3, 224]}
        file.write_text(json.dumps(changed))
        with pytest.raises(StoreError) as error:
            FeatureStore.open(tmp_path, IDENTITY)
        assert says(error.value, "size", [3, 224], [3, 64])

    def test_absent_store_names_the_nearest_and_what_differs(self, tmp_path):
        with pytest.raises(StoreError) as error:
            FeatureStore.open(tmp_path, IDENTITY, create=False)
        assert says(error.value, "timm:tiny", tmp_path, "aft extract")
        assert not list(tmp_path.iterdir())
        FeatureStore.open(tmp_path, IDENTITY)
        other = {**IDENTITY, "weights_sha256": "cd", "layer": "head"}
        with pytest.raises(StoreError) as error:
            FeatureStore.open(tmp_path, other, create=False)
        assert says(error.value, "layer", "'head'", "weights_sha256", "abab", "'cd'")

    def test_features_made_elsewhere_have_no_spec(self, tmp_path):
        identity = {"source": "features", "sha256": "ab", "dim": 5}
        store = FeatureStore.open(tmp_path, identity)
        assert store.path.name.startswith("features-")
        with pytest.raises(StoreError, match=r"1 of 1\b.*\bfeatures$"):
            store.gather(ids_of([1]))

    @pytest.mark.parametrize(
        ("changes", "values"),
        [
            ({"dtype": "int8"}, ("dtype", "fp16, fp32, bf16", "'int8'")),
            ({"dim": 0}, ("dim", "0")),
            ({"mean": np.float32(1)}, ("JSON", "float32")),
        ],
    )
    def test_unusable_identity(self, tmp_path, changes, values):
        with pytest.raises(StoreError) as error:
            FeatureStore.open(tmp_path, {**IDENTITY, **changes})
        assert says(error.value, *values)

    def test_folder_without_or_with_damaged_teacher_json(self, tmp_path):
        with pytest.raises(StoreError) as error:
            FeatureStore.at(tmp_path)
        assert says(error.value, tmp_path, "teacher.json")
        (tmp_path / "teacher.json").write_text("{")
        with pytest.raises(StoreError) as error:
            FeatureStore.at(tmp_path)
        assert says(error.value, tmp_path / "teacher.json")


class TestRows:
    @pytest.mark.parametrize(
        ("dtype", "tolerance"), [("fp16", 2**-11), ("bf16", 2**-8), ("fp32", 0.0)]
    )
    def test_shuffled_gather(self, tmp_path, dtype, tolerance):
        store, ids, features = filled(tmp_path, dtype=dtype)
        order = np.random.default_rng(0).integers(0, len(ids), 64)  # with repeats
        got = store.gather(ids[order])
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, features[order], rtol=tolerance, atol=1e-7)
        kept = load_file(next((store.path / "shards").iterdir()))
        assert kept["features"].dtype == shards.FORMATS[dtype].torch
        assert kept["sample_ids"].shape == (16, 16)

    @given(st.lists(st.integers(0, 39), max_size=50))
    @settings(max_examples=30)
    def test_gather_is_indexing(self, shared_store, order):
        store, ids, features = shared_store
        rows = np.array(order, dtype=np.int64)
        assert torch.equal(store.gather(ids[rows]), features[rows].half().float())

    def test_unknown_ids(self, tmp_path):
        store, ids, _ = filled(tmp_path, count=3)
        unknown = ids_of(range(2, 6))
        assert store.missing(unknown).tolist() == [False, True, True, True]
        with pytest.raises(StoreError) as error:
            store.gather(unknown)
        assert says(error.value, "3 of 4", store.path, "aft extract")
        empty = FeatureStore.open(tmp_path / "empty", IDENTITY)
        assert empty.missing(ids).all()
        assert empty.gather(ids[:0]).shape == (0, 5)

    def test_ids_of_another_kind(self, tmp_path):
        store, ids, _ = filled(tmp_path, count=3)
        for wrong in (ids[:, :8], ids.astype(np.int64), ids[0]):
            with pytest.raises(InputError) as error:
                store.gather(wrong)
            assert says(error.value, "(n, 16)", "uint8", wrong.shape, wrong.dtype)

    def test_ids_with_zero_bytes_differ(self, tmp_path):
        ids = np.zeros((3, 16), np.uint8)
        ids[1, 15], ids[2, 0] = 1, 1
        store = FeatureStore.open(tmp_path, IDENTITY)
        with FeatureWriter(store) as writer:
            writer.add(ids, torch.arange(3.0)[:, None].expand(3, 5))
        assert store.gather(ids[::-1])[:, 0].tolist() == [2, 1, 0]

    def test_first_of_equal_ids_counts(self, tmp_path):
        store, ids, features = filled(tmp_path, count=4)
        with FeatureWriter(store, rank=1) as writer:
            writer.add(ids, features + 1)
        assert len(store) == 4
        assert torch.equal(store.gather(ids), features.half().float())

    def test_refresh_shows_what_another_writer_added(self, tmp_path):
        store, _, _ = filled(tmp_path, count=20)
        other, ids, features = filled(tmp_path, count=30)
        assert len(store) == 20
        store.refresh()
        assert len(store) == len(other) == 30
        assert torch.equal(store.gather(ids), features.half().float())

    def test_refresh_forgets_deleted_shards(self, tmp_path):
        store, ids, features = filled(tmp_path)
        store.gather(ids)
        (store.path / "shards" / "part-000-000001.safetensors").unlink()
        store.refresh()
        present = ~store.missing(ids)
        assert present.sum() == 24
        assert torch.equal(store.gather(ids[present]), features[present].half().float())

    def test_travels_to_other_processes(self, tmp_path):
        store, ids, _ = filled(tmp_path)
        copy = pickle.loads(pickle.dumps(store))
        assert torch.equal(copy.gather(ids), store.gather(ids))

    def test_more_shards_than_maps_are_kept(self, tmp_path, monkeypatch):
        few = lru_cache(maxsize=2)(shards.map_shard.__wrapped__)
        monkeypatch.setattr("aft.features.store.map_shard", few)
        store, ids, features = filled(tmp_path, shard_rows=4)
        order = np.random.default_rng(0).permutation(40)
        assert torch.equal(store.gather(ids[order]), features[order].half().float())

    def test_summary(self, tmp_path):
        store, _, _ = filled(tmp_path)
        summary = store.summary()
        on_disk = sum(file.stat().st_size for file in (store.path / "shards").iterdir())
        assert (summary.rows, summary.dim, summary.dtype, summary.shards) == (40, 5, "fp16", 3)
        assert summary.bytes == on_disk >= 40 * store.row_bytes
        assert [found.path for found in find_stores(tmp_path)] == [store.path]


class TestStatistics:
    def test_equals_numpy_and_is_kept(self, tmp_path, monkeypatch):
        store, ids, _ = filled(tmp_path, count=100)
        subset = ids[np.random.default_rng(0).permutation(100)[:60]]
        values = store.gather(subset).double()
        with monkeypatch.context() as patch:  # several chunks
            patch.setattr("aft.features.store.CHUNK_VALUES", 7 * store.dim)
            got = store.statistics(subset)
        torch.testing.assert_close(got.mean, values.mean(0).float(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(
            got.std, values.std(0, correction=0).float(), rtol=1e-6, atol=1e-7
        )
        monkeypatch.setattr(FeatureStore, "read_stored", None)  # reading again would fail
        repeated = np.concatenate([subset[::-1], subset[:5]])
        again = FeatureStore.at(store.path).statistics(repeated)
        assert torch.equal(again.mean, got.mean)
        assert torch.equal(again.std, got.std)

    def test_depends_on_the_set_of_samples(self, tmp_path):
        store, ids, _ = filled(tmp_path)
        store.statistics(ids[:10])
        store.statistics(ids[10:])
        assert len(list(store.path.glob("statistics-*"))) == 2

    def test_large_offset_does_not_cancel(self, tmp_path):
        store = FeatureStore.open(tmp_path, {**IDENTITY, "dtype": "fp32"})
        ids = ids_of(range(1000))
        values = 1e4 + torch.randn(1000, 5, generator=torch.Generator().manual_seed(0))
        with FeatureWriter(store) as writer:
            writer.add(ids, values)
        expected = values.double().std(0, correction=0).float()
        torch.testing.assert_close(store.statistics(ids).std, expected, rtol=1e-6, atol=0)

    def test_damaged_file_is_computed_again(self, tmp_path):
        store, ids, _ = filled(tmp_path)
        first = store.statistics(ids)
        (file,) = store.path.glob("statistics-*")
        file.write_bytes(b"garbage")
        assert torch.equal(store.statistics(ids).mean, first.mean)

    def test_needs_every_sample_and_one_at_least(self, tmp_path):
        store, ids, _ = filled(tmp_path, count=3)
        with pytest.raises(StoreError, match="1 of 4"):
            store.statistics(ids_of(range(4)))
        with pytest.raises(StoreError, match="0"):
            store.statistics(ids[:0])


class TestWriting:
    def test_too_large_for_fp16(self, tmp_path):
        store = FeatureStore.open(tmp_path, IDENTITY)
        values = torch.ones(2, 5)
        values[1, 3] = -7e4
        with pytest.raises(StoreError) as error:
            FeatureWriter(store).add(ids_of(range(2)), values)
        assert says(error.value, "timm:tiny", "70000", "65504", "fp16", "fp32 or bf16")
        for dtype in ("fp32", "bf16"):
            other = FeatureStore.open(tmp_path, {**IDENTITY, "dtype": dtype})
            with FeatureWriter(other) as writer:
                writer.add(ids_of(range(2)), values)
            assert other.gather(ids_of([1]))[0, 3].item() == pytest.approx(-7e4, rel=0.01)

    def test_not_finite(self, tmp_path):
        store = FeatureStore.open(tmp_path, IDENTITY)
        with pytest.raises(StoreError, match="1 of 2"):
            FeatureWriter(store).add(ids_of(range(2)), torch.tensor([[0.0] * 5, [np.nan] * 5]))

    def test_wrong_width(self, tmp_path):
        store = FeatureStore.open(tmp_path, IDENTITY)
        with pytest.raises(InputError) as error:
            FeatureWriter(store).add(ids_of(range(2)), torch.ones(2, 4))
        assert says(error.value, (2, 5), (2, 4))

    def test_an_error_in_the_block_keeps_what_was_added(self, tmp_path):
        store = FeatureStore.open(tmp_path, IDENTITY)

        def interrupted():
            with FeatureWriter(store) as writer:
                writer.add(ids_of(range(3)), torch.ones(3, 5))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert len(store) == 3

    def test_a_slow_teacher_is_saved_by_time(self, tmp_path, monkeypatch):
        monkeypatch.setattr("aft.features.store.FLUSH_SECONDS", -1)
        store = FeatureStore.open(tmp_path, IDENTITY)
        with FeatureWriter(store) as writer:
            writer.add(ids_of(range(3)), torch.ones(3, 5))
            store.refresh()
            assert len(store) == 3

    @pytest.mark.parametrize("keep", [0, 4, 30, 200, -1])
    def test_truncated_shard(self, tmp_path, keep):
        store, ids, _ = filled(tmp_path)
        shard = store.path / "shards" / "part-000-000001.safetensors"
        shard.write_bytes(shard.read_bytes()[:keep])
        with pytest.raises(StoreError) as error:
            FeatureStore.open(tmp_path, IDENTITY)
        assert says(error.value, shard)
        shard.unlink()
        assert FeatureStore.open(tmp_path, IDENTITY).missing(ids).sum() == 16

    def test_shard_of_another_width(self, tmp_path):
        store, _, _ = filled(tmp_path)
        foreign, _, _ = filled(tmp_path, dim=6)
        source = foreign.path / "shards" / "part-000-000000.safetensors"
        (store.path / "shards" / "part-007-000000.safetensors").write_bytes(source.read_bytes())
        with pytest.raises(StoreError) as error:
            store.refresh()
        assert says(error.value, "part-007-000000.safetensors", [16, 5], [16, 6])

    def test_leftovers_of_killed_writers_go_but_not_of_living_ones(self, tmp_path):
        store = FeatureStore.open(tmp_path, IDENTITY)
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        left = [
            folder / f".part-000-000000.safetensors.ab.{platform.node()}-{owner}.tmp"
            for folder in (store.path, store.path / "shards")
            for owner in (process.pid, os.getpid())
        ]
        for file in left:
            file.write_bytes(b"half a shard")
        FeatureWriter(store, rank=0).close()
        assert [file.exists() for file in left] == [False, True, False, True]

    def test_second_writer_of_a_rank_waits(self, tmp_path, capsys):
        store = FeatureStore.open(tmp_path, IDENTITY)
        ids = ids_of(range(2))
        first = FeatureWriter(store)
        first.add(ids, torch.ones(2, 5))
        seen = []

        def second():
            mine = FeatureStore.open(tmp_path, IDENTITY)
            with FeatureWriter(mine):
                seen.append(len(mine))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert not seen
        first.close()
        thread.join(10)
        assert seen == [2]
        assert str(store.path) in capsys.readouterr().err

    def test_nothing_of_a_failed_shard_stays(self, tmp_path, monkeypatch):
        store = FeatureStore.open(tmp_path, IDENTITY)
        writer = FeatureWriter(store)
        writer.add(ids_of(range(2)), torch.ones(2, 5))

        def fail(number):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", fail)
            with pytest.raises(StoreError) as error:
                writer.flush()
            assert says(error.value, store.path, "No space left on device")
        assert not list((store.path / "shards").iterdir())
        writer.close()  # room again: the rows are still there
        assert len(store) == 2

    def test_too_little_space_is_said_before(self, tmp_path):
        store = FeatureStore.open(tmp_path, IDENTITY)
        store.require_space(1000)
        with pytest.raises(StoreError) as error:
            store.require_space(10**15)
        assert says(error.value, "26000.0 TB", store.path)
