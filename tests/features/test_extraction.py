from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from aft.commands.extract import extract as extract_command
from aft.data.loading import load_data
from aft.errors import DataError, StoreError, TeacherError
from aft.features.extraction import (
    extract_features,
    format_seconds,
    store_identity,
    verify_features,
)
from aft.features.store import FeatureStore
from aft.teachers.loading import load_teacher
from aft.teachers.teacher import Teacher
from helpers.errors import says
from helpers.numbered import (
    NumberedSamples,
    computed,
    features_of,
    ids_of,
    numbered_teacher,
    preprocess,
)

HERE = Path(__file__).parents[1]  # so that `helpers` can be imported


def extract(teacher, numbers, folder, **options):
    options = {"num_workers": 0, "progress": False, **options}
    return extract_features(teacher, NumberedSamples(numbers), folder, **options)


def start(folder, *options):
    """Extract in a process of its own."""
    command = [sys.executable, "-m", "helpers.numbered", str(folder), *map(str, options)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=HERE, stdout=pipe, stderr=pipe, text=True)


def finish(process):
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out, error


def stand_in(module, dim=4, prepare=preprocess, spec="python:own.py:teacher"):
    return Teacher(
        spec=spec, dim=dim, module=module, preprocess=prepare, identity={"spec": spec, "dim": dim}
    )


class TestRows:
    def test_features_of_each_sample(self, tmp_path):
        store = extract(numbered_teacher(), range(100), tmp_path, dtype="fp32", batch_size=7)
        assert torch.equal(store.gather(ids_of(range(100))), features_of(range(100), 8))

    def test_more_samples_cost_only_themselves(self, tmp_path):
        log = tmp_path / "log"
        teacher = numbered_teacher(log=log)
        extract(teacher, range(50), tmp_path)
        extract(teacher, range(50), tmp_path)
        assert computed(log) == list(range(50))
        extract(teacher, [*range(149, 49, -1), *range(50)], tmp_path)  # other order, 100 more
        assert computed(log)[50:] == list(range(149, 49, -1))

    def test_features_do_not_depend_on_what_was_computed_with_them(self, tmp_path):
        """Bitwise: other batch shapes would run other kernels."""
        teacher = load_teacher("timm:resnet10t?weights=random&size=48")
        samples = NumberedSamples(range(0, 40 * 4099, 4099))
        options = {"dtype": "fp32", "batch_size": 32, "progress": False}
        whole = extract_features(teacher, samples, tmp_path / "whole", **options)
        for end in (3, 36, 40):
            part = NumberedSamples(samples.numbers[::-1][:end])
            parts = extract_features(teacher, part, tmp_path / "parts", **options)
        assert torch.equal(whole.gather(samples.ids), parts.gather(samples.ids))

    def test_the_same_content_is_computed_once(self, tmp_path):
        log = tmp_path / "log"
        store = extract(numbered_teacher(log=log), [3, 1, 3, 2, 1], tmp_path)
        assert computed(log) == [3, 1, 2]
        assert len(store) == 3

    def test_order_changes_nothing(self, tmp_path):
        shuffled = np.random.default_rng(0).permutation(60)
        one = extract(numbered_teacher(), range(60), tmp_path / "a", batch_size=8)
        two = extract(numbered_teacher(), shuffled, tmp_path / "b", batch_size=5, shard_rows=9)
        ids = ids_of(range(60))
        assert torch.equal(one.gather(ids), two.gather(ids))
        assert torch.equal(one.statistics(ids).mean, two.statistics(ids).mean)

    def test_worker_processes_change_nothing(self, tmp_path):
        store = extract(numbered_teacher(), range(60), tmp_path, dtype="fp32", num_workers=2)
        assert torch.equal(store.gather(ids_of(range(60))), features_of(range(60), 8))

    def test_ranks_share_the_rows(self, tmp_path):
        log = tmp_path / "log"
        for rank in (2, 0, 1):  # one after the other: the share must not depend on the rest
            store = extract(numbered_teacher(log=log), range(50), tmp_path, rank=rank, world_size=3)
        assert sorted(computed(log)) == list(range(50))
        assert len(store) == 50
        names = {file.name for file in (store.path / "shards").iterdir()}
        assert names == {f"part-00{rank}-000000.safetensors" for rank in range(3)}

    def test_each_dtype_and_precision_has_its_store(self, tmp_path):
        teacher = numbered_teacher()
        paths = {
            extract(teacher, range(4), tmp_path, dtype=dtype, precision=precision).path
            for dtype in ("fp16", "bf16", "fp32")
            for precision in ("fp32", "bf16")
        }
        assert len(paths) == 6
        assert FeatureStore.open(tmp_path, teacher.identity, create=False).path in paths
        assert store_identity(teacher, "bf16", "bf16")["precision"] == "bf16"

    def test_precision_is_that_of_the_arithmetic(self, tmp_path):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(3, 4))
        teacher = stand_in(module, prepare=lambda image: preprocess(image) / 256)
        exact = extract(teacher, range(9), tmp_path, dtype="fp32")
        rough = extract(teacher, range(9), tmp_path, dtype="fp32", precision="bf16")
        ids = ids_of(range(9))
        gap = (exact.gather(ids) - rough.gather(ids)).abs().max().item()
        assert 0 < gap < 0.02

    def test_precision_is_an_option(self, tmp_path, picture_folder):
        options = {"data": str(picture_folder(classes=1, train=3, test=1)), "device": "cpu"}
        options |= {"teachers": "torchvision:resnet18?weights=random&size=32", "progress": False}
        folders = set()
        for precision in ("fp32", "bf16"):
            (facts,) = extract_command(
                **options, features=tmp_path, extract_precision=precision, engine="onnx"
            )
            store = FeatureStore.at(Path(facts["folder"]))
            found = [store.identity.get(name) for name in ("precision", "engine")]
            assert found == ([None, "onnx"] if precision == "fp32" else ["bf16", None])
            folders.add(store.path)
        assert len(folders) == 2

    def test_input_layout_of_images(self, tmp_path):
        seen = []

        def look(pixels):
            seen.append(pixels.is_contiguous(memory_format=torch.channels_last))
            return pixels.mean((2, 3))

        teacher = stand_in(_Function(look), 3, lambda image: torch.zeros(3, 8, 8))
        extract(teacher, range(2), tmp_path)
        assert seen == [True]

    def test_verify(self, tmp_path):
        teacher = numbered_teacher()
        extract(teacher, range(50), tmp_path)
        samples = NumberedSamples(range(70))  # 20 of them are not in the store
        store = FeatureStore.open(tmp_path, teacher.identity)
        right = verify_features(store, teacher, samples, k=10, seed=1)
        assert len(set(right.positions.tolist())) == 10
        assert right.positions.max() < 50
        assert np.all(right.cosines > 0.999999)
        again = verify_features(store, teacher, samples, k=10, seed=1)
        assert np.array_equal(right.positions, again.positions)
        wrong = stand_in(_Function(lambda pixels: -features_of(pixels[:, 2, 0, 0], 8)), 8)
        assert np.all(verify_features(store, wrong, samples, k=10).cosines < -0.99)
        with pytest.raises(StoreError) as error:
            verify_features(store, teacher, NumberedSamples(range(60, 70)))
        assert says(error.value, store.path, "aft extract")


class TestRealData:
    """Pictures on disk, teachers by name."""

    @pytest.fixture
    def samples(self, picture_folder):
        folder = picture_folder(classes=2, train=6, test=2, size=32)
        return load_data(str(folder)).splits["train"]

    def test_network(self, samples, tmp_path):
        teacher = load_teacher("torchvision:resnet18?weights=random&size=32")
        store = extract_features(teacher, samples, tmp_path / "features", progress=False)
        assert store.gather(samples.ids).shape == (len(samples), 512)
        assert store.statistics(samples.ids).std.max() > 0
        assert np.all(verify_features(store, teacher, samples, k=3).cosines > 0.9999)

    def test_table_made_elsewhere(self, samples, tmp_path):
        file = tmp_path / "features.safetensors"
        features = torch.arange(len(samples) * 3.0).reshape(-1, 3)
        save_file({"features": features, "sample_ids": torch.from_numpy(samples.ids.copy())}, file)
        table = load_teacher(f"features:{file}")
        store = extract_features(table, samples, tmp_path / "features", progress=False)
        assert torch.equal(store.gather(samples.ids), features)
        assert np.all(verify_features(store, table, samples, k=3).cosines == 1)

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_replaced_while_it_runs(self, samples, tmp_path, num_workers):
        """The features of a new picture never get the id of the old one."""
        own = [samples.values[0][i]["value"] for i in range(len(samples))]
        new, old = Path(own[0]), Path(own[-1])

        def replace(pixels):
            old.write_bytes(new.read_bytes())
            return pixels[:, :, 0, 0]

        teacher = stand_in(_Function(replace), 4, lambda image: torch.ones(4, 1, 1))
        options = {"batch_size": 1, "num_workers": num_workers, "progress": False}
        with pytest.raises(DataError) as error:
            extract_features(teacher, samples, tmp_path / "features", **options)
        assert says(error.value, old) and len(str(error.value).splitlines()) == 1
        store = FeatureStore.open(tmp_path / "features", store_identity(teacher))
        assert store.missing(samples.ids).tolist() == [False] * (len(samples) - 1) + [True]


class _Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function(inputs)


def _fail_at_17(image):
    pixels = preprocess(image)
    if pixels[2] == 17:
        raise ZeroDivisionError("by zero")
    return pixels


def _die_at_17(image):
    pixels = preprocess(image)
    if pixels[2] == 17:
        os.kill(os.getpid(), signal.SIGKILL)  # as when the memory is full
    return pixels


class TestErrors:
    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_failing_preprocessing_names_the_file(self, tmp_path, num_workers):
        module = _Function(lambda pixels: features_of(pixels[:, 2, 0, 0], 4))
        teacher = stand_in(module, 4, _fail_at_17)
        with pytest.raises(TeacherError, match=r"^picture-17\.png:.*ZeroDivisionError: by zero$"):
            extract(teacher, range(30), tmp_path, batch_size=5, num_workers=num_workers)
        assert len(FeatureStore.open(tmp_path, teacher.identity)) == 15  # three whole batches

    def test_a_worker_process_that_is_killed(self, tmp_path):
        module = _Function(lambda pixels: features_of(pixels[:, 2, 0, 0], 4))
        teacher = stand_in(module, 4, _die_at_17)
        with pytest.raises(DataError) as error:
            extract(teacher, range(30), tmp_path, batch_size=5, num_workers=1)
        assert says(error.value, "--num-workers 0")
        assert len(str(error.value).splitlines()) == 1

    def test_unreadable_input_keeps_its_own_words(self, tmp_path):
        class Samples(NumberedSamples):
            def input(self, index):
                raise DataError("picture-0.png: truncated")

        with pytest.raises(DataError, match=r"^picture-0\.png: truncated$"):
            extract_features(numbered_teacher(), Samples(range(3)), tmp_path, progress=False)

    def test_preprocessing_that_gives_no_tensor(self, tmp_path):
        teacher = stand_in(_Function(lambda pixels: pixels), 4, lambda image: image)
        with pytest.raises(TeacherError) as error:
            extract(teacher, range(3), tmp_path)
        assert says(error.value, "picture-0.png", "Image")

    def test_inputs_of_several_shapes(self, tmp_path):
        sizes = iter((3, 4, 3))
        teacher = stand_in(_Function(lambda x: x), 4, lambda image: torch.zeros(next(sizes)))
        with pytest.raises(TeacherError) as error:
            extract(teacher, range(3), tmp_path)
        assert says(error.value, (3,), (4,))

    @pytest.mark.parametrize(
        ("module", "given"),
        [
            (_Function(lambda x: x.flatten(1)), (3, 3)),
            (_Function(lambda x: x[:1, :1].expand(1, 4, 1, 1)), (1, 4, 1, 1)),
            (_Function(lambda x: {"features": x}), "dict"),
        ],
    )
    def test_wrong_shape_from_the_module(self, tmp_path, module, given):
        with pytest.raises(TeacherError) as error:
            extract(stand_in(module), range(3), tmp_path, batch_size=3)
        assert says(error.value, (3, 4), given)

    def test_failing_module_says_on_what(self, tmp_path):
        with pytest.raises(TeacherError) as error:
            extract(stand_in(nn.Linear(7, 4)), range(3), tmp_path, batch_size=3)
        assert says(error.value, (3, 3, 1, 1))

    def test_not_finite_counts_and_names_and_keeps_the_rest(self, tmp_path):
        def compute(pixels):
            numbers = pixels[:, 2, 0, 0]
            features = features_of(numbers, 4)
            features[(numbers >= 12) & (numbers < 17), 1] = float("nan")
            return features

        teacher = stand_in(_Function(compute))
        with pytest.raises(TeacherError) as error:
            extract(teacher, range(30), tmp_path, batch_size=10)
        names = "picture-12.png, picture-13.png, picture-14.png"
        assert says(error.value, "5 of 10", names, "2 more")
        assert len(FeatureStore.open(tmp_path, teacher.identity)) == 15

    def test_too_large_for_fp16(self, tmp_path):
        teacher = stand_in(_Function(lambda pixels: features_of(pixels[:, 2, 0, 0], 4) * 1e5))
        with pytest.raises(StoreError, match="65504"):
            extract(teacher, range(3), tmp_path)
        assert len(extract(teacher, range(3), tmp_path, dtype="bf16")) == 3


class TestProgress:
    def test_says_cost_before_and_time_after_some_batches(self, tmp_path, capsys):
        extract(numbered_teacher(seconds=0.01), range(40), tmp_path, batch_size=4, progress=True)
        error = capsys.readouterr().err
        first, second = error.replace("\r", "\n").splitlines()[0], error
        assert "40 of 40" in first
        assert "1.3 kB" in first
        assert str(tmp_path) in first
        assert re.search(r"\d+ s .*\d samples/s", second)
        assert "sample/s]" in second  # the bar

    def test_silent_without(self, tmp_path, capsys):
        extract(numbered_teacher(), range(40), tmp_path, batch_size=4)
        assert capsys.readouterr() == ("", "")

    def test_seconds_for_people(self):
        said = [format_seconds(value) for value in (3.2, 600, 4000)]
        assert said == ["3 s", "10 min", "1 h 7 min"]


class TestProcesses:
    def test_killed_runs_go_on_where_they_stopped(self, tmp_path):
        count, log, teacher = 600, tmp_path / "log", numbered_teacher()
        options = ("--count", count, "--log", log, "--seconds", 0.004)
        moments = random.Random(0)
        stored: set[bytes] = set()
        for _ in range(3):
            before = len(computed(log))
            process = start(tmp_path / "killed", *options)
            target = before + moments.randint(20, 160)
            while len(computed(log)) < target:
                assert process.poll() is None
                time.sleep(moments.random() * 0.01)
            process.kill()
            process.communicate()
            again = ids_of(computed(log)[before:])
            assert not stored & {row.tobytes() for row in again}
            store = FeatureStore.open(tmp_path / "killed", teacher.identity)
            now = {
                row.tobytes() for row in ids_of(range(count))[~store.missing(ids_of(range(count)))]
            }
            assert stored < now
            stored = now
        before = len(computed(log))
        finish(start(tmp_path / "killed", *options))
        last = {row.tobytes() for row in ids_of(computed(log)[before:])}
        assert not stored & last
        assert len(stored) + len(last) == count
        store = FeatureStore.open(tmp_path / "killed", teacher.identity)
        whole = extract(teacher, range(count), tmp_path / "whole")
        ids = ids_of(range(count))
        assert torch.equal(store.gather(ids), whole.gather(ids))
        assert sum(shard.rows for shard in store._index.shards) == count  # no row twice
        assert not list(store.path.glob("shards/.*.tmp"))

    def test_two_processes_at_once_compute_each_row_once(self, tmp_path):
        log = tmp_path / "log"
        options = ("--count", 400, "--log", log, "--seconds", 0.003)
        both = [start(tmp_path / "features", *options) for _ in range(2)]
        errors = [finish(process)[1] for process in both]
        assert sorted(computed(log)) == list(range(400))
        store = FeatureStore.open(tmp_path / "features", numbered_teacher().identity)
        assert len(store) == 400
        waits = [line for text in errors for line in text.splitlines()]
        assert all(str(store.path) in line for line in waits)
        assert len(waits) <= 1

    def test_two_ranks_and_two_threads_at_once(self, tmp_path):
        log = tmp_path / "log"
        stores = []

        def run(rank):
            teacher = numbered_teacher(log=log, seconds=0.001)
            options = {"rank": rank, "world_size": 2, "batch_size": 4, "shard_rows": 16}
            stores.append(extract(teacher, range(200), tmp_path / "features", **options))

        threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1, 0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(computed(log)) == list(range(200))
        for store in stores:
            store.refresh()
            assert len(store) == 200

    def test_a_file_that_grows_too_large_is_reported(self, tmp_path):
        process = start(tmp_path, "--shard-rows", 64, "--dim", 64, "--largest-file", 4000)
        error = process.communicate(timeout=60)[1]
        assert process.returncode == 1
        assert error.startswith("StoreError: ")
        assert "9.6 kB" in error
        assert "File too large" in error  # the system's own words
        assert len(error.strip().splitlines()) == 1
        assert not list(tmp_path.glob("*/shards/*"))

    def test_full_disk(self, tmp_path):
        """On a real, tiny file system, where the user may make one."""
        disk = tmp_path / "disk"
        disk.mkdir()
        # Other files take the space between the check and the last shards.
        command = f"{sys.executable} -m helpers.numbered"
        script = f"""
            mount -t tmpfs -o size=300k tmpfs {disk} || exit 77
            {command} {disk} --count 300 --dim 256 --seconds 0.02 &
            child=$!
            while [ -z "$(ls {disk}/*/shards/part-* 2>/dev/null)" ]; do sleep 0.02; done
            head -c 200k /dev/zero > {disk}/other 2>/dev/null
            wait $child; echo "exit $?"
            ls {disk}/*/shards | wc -l
            rm {disk}/other
            {command} {disk} --count 300 --dim 256 > /dev/null; echo "exit $?"
        """
        try:
            done = subprocess.run(
                ["unshare", "-rm", "sh", "-c", script],
                cwd=HERE, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
        except FileNotFoundError:
            pytest.skip("no unshare here")
        if done.returncode == 77 or "exit" not in done.stdout:
            pytest.skip(f"may not mount here: {done.stderr}")
        first, shards, second = done.stdout.strip().splitlines()
        assert (first, second) == ("exit 1", "exit 0"), done
        assert int(shards) >= 1
        assert "StoreError: " in done.stderr
        assert "8.8 kB" in done.stderr

    def test_too_little_space_stops_before_computing(self, tmp_path, monkeypatch):
        monkeypatch.setattr("aft.features.store.free_bytes", lambda folder: 1000)
        log = tmp_path / "log"
        with pytest.raises(StoreError) as error:
            extract(numbered_teacher(log=log), range(100), tmp_path)
        assert says(error.value, "100 ", "3.2 kB", "1.0 kB")
        assert not computed(log)

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
    def test_memory_does_not_grow_with_the_data(self, tmp_path):
        options = ("--dim", 512, "--batch-size", 64, "--shard-rows", 1024)
        runs = [start(tmp_path / str(n), "--count", n, *options) for n in (2_000, 40_000)]
        few, many = (int(finish(process)[0].split()[-1]) for process in runs)
        assert many - few < 20e6  # the features take 41 MB in fp16, the inputs as much
