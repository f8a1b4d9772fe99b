"""Several teachers of the same images: one decoding of each, and the features of each alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aft.backbones.preprocessing import Preprocessing
from aft.config.commands import ExtractConfig
from aft.data.loading import load_data
from aft.data.samples import Samples
from aft.data.views import make_views
from aft.errors import TeacherError
from aft.features import stored as module
from aft.features.extraction import extract_features
from aft.features.stored import extract_teachers
from aft.teachers.teacher import Teacher, share_images

CPU = torch.device("cpu")


def teacher_of(name: str, size: int) -> Teacher:
    torch.manual_seed(size)
    return Teacher(
        spec=f"python:{name}.py:teacher",
        dim=4,
        module=nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        preprocess=Preprocessing(size, bgr=size > 20).evaluate(),
        identity={"spec": name, "dim": 4},
    )


@pytest.fixture
def samples(picture_folder) -> Samples:
    return load_data(str(picture_folder(classes=2, train=11, test=2, size=40))).splits["train"]


@pytest.fixture
def teachers() -> list[Teacher]:
    return [teacher_of("one", 16), teacher_of("two", 24)]


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    """A file with the names of the images that were decoded, in worker processes too."""
    path, read = tmp_path / "log", Samples._read

    def logged(self, index, *rest):
        with path.open("a") as file:
            file.write(f"{self.files[index].partition(' (')[0]}\n")
        return read(self, index, *rest)

    monkeypatch.setattr(Samples, "_read", logged)
    return path


def alone(teacher, samples, folder):
    store = extract_features(teacher, samples, folder, dtype="fp32", progress=False, batch_size=4)
    return store.gather(samples.ids)


@pytest.mark.parametrize("workers", [0, 2])
def test_one_decoding_and_the_same_features(samples, teachers, log, tmp_path, workers):
    expected = [alone(teacher, samples, tmp_path / "alone") for teacher in teachers]
    log.unlink()
    one, two = teachers
    options = {"dtype": "fp32", "batch_size": 4, "num_workers": workers, "progress": False}
    for rank in (1, 0):
        extract_features(
            one, samples, tmp_path / "new", **options, rank=rank, world_size=2, beside=[two]
        )
    assert sorted(log.read_text().splitlines()) == sorted(samples.files)
    stores = [extract_features(each, samples, tmp_path / "new", dtype="fp32") for each in teachers]
    assert len({store.path for store in stores}) == 2
    for store, features in zip(stores, expected, strict=True):
        assert torch.equal(store.gather(samples.ids), features)


def test_each_gets_only_what_it_lacks(samples, teachers, log, tmp_path, capsys):
    """As after an interruption: three rows of one teacher are stored, and five of the other."""
    one, two = teachers
    expected = [alone(teacher, samples, tmp_path / "alone") for teacher in teachers]
    alone(one, samples.subset([0, 1, 2]), tmp_path / "new")
    alone(two, samples.subset([2, 3, 4, 5, 6]), tmp_path / "new")
    log.unlink()
    capsys.readouterr()
    extract_features(one, samples, tmp_path / "new", dtype="fp32", batch_size=4, beside=[two])
    error, n = capsys.readouterr().err, len(samples)
    assert f"{n - 3} of {n}" in error and f"{n - 5} of {n}" in error
    assert sorted(log.read_text().splitlines()) == sorted(np.delete(samples.files, 2))
    for teacher, features in zip(teachers, expected, strict=True):
        assert torch.equal(alone(teacher, samples, tmp_path / "new"), features)


def test_a_fault_of_one_keeps_the_rows_of_both(samples, teachers, tmp_path):
    one, two = teachers

    class Fails(nn.Module):
        def forward(self, images):
            self.seen = getattr(self, "seen", 0) + 1
            return torch.full((len(images), 4), float("nan" if self.seen == 3 else "1"))

    two.module = Fails()
    options = {"batch_size": 4, "progress": False, "num_workers": 0}
    with pytest.raises(TeacherError, match="two"):
        extract_features(one, samples, tmp_path, **options, beside=[two])
    assert len(extract_features(one, samples.subset([0]), tmp_path)) == 12
    assert len(extract_features(two, samples.subset([0]), tmp_path)) == 8


def test_which_teachers_share(teachers):
    one, two = teachers
    own = Teacher("own", 4, one.module, torch.as_tensor, {"spec": "own"})
    assert share_images(teachers) and share_images([one])
    assert not share_images([one, own]) and not share_images([one, two, one])
    weights = 2 * 4 * (4 * 3 * 9 + 4)
    assert share_images(teachers, weights) and not share_images(teachers, weights - 1)


@pytest.mark.parametrize("fits", [True, False])
def test_teachers_views_and_originals_share(samples, log, tmp_path, monkeypatch, fits):
    sizes = {"python:one.py:a": 16, "python:two.py:a": 24}
    monkeypatch.setattr(module, "load_teacher", lambda spec, **_: teacher_of(spec, sizes[spec]))
    monkeypatch.setattr(module, "MOST_KEPT_BYTES", 2**30 if fits else 1)
    config = ExtractConfig(
        data="pictures", teachers=tuple(sizes), features=tmp_path, progress=False, num_workers=0
    )
    views, n = make_views(samples, 3, 0, "standard"), len(samples)
    found = extract_teachers(config, [samples, views], CPU)
    assert len(log.read_text().split("\n")) - 1 == (n if fits else 2 * n)
    for part, rows in zip(found, (samples, views), strict=True):
        assert [one.spec for one in part] == list(sizes)
        for one in part:
            teacher = teacher_of(one.spec, sizes[one.spec])
            inputs = torch.stack([teacher.preprocess(rows.input(i)) for i in range(len(rows))])
            with torch.no_grad():
                expected = teacher.module(inputs)
            features = one.gather(np.arange(len(rows)))
            torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)
