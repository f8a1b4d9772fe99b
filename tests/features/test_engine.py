"""What runs a teacher: torch or ONNX Runtime, never both in one store."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from aft.commands.extract import extract
from aft.commands.inspect import inspect
from aft.config.commands import ExtractConfig
from aft.data.loading import load_inputs
from aft.errors import AftError, ModelError
from aft.features import engine
from aft.features.engine import choose_engine, run_by_onnx
from aft.features.extraction import extract_features, store_identity
from aft.features.store import FeatureStore, find_stores
from aft.teachers.loading import load_teacher

SPEC = "timm:resnet10t?weights=random&size=32"
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def folder(picture_folder):
    return picture_folder(classes=2, train=10, test=0, size=40)


@pytest.fixture
def pays(monkeypatch):
    """Any number of samples is worth measuring, and ONNX Runtime always fast enough."""
    monkeypatch.setattr(engine, "_FEWEST_ROWS", 1)
    monkeypatch.setattr(engine, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(engine, "_FASTER", 1e9)


def run(folder, features, **options):
    config = {"data": str(folder), "teachers": SPEC, "features": features, "device": "cpu"}
    (facts,) = extract(**config, **options)
    return FeatureStore.at(facts["folder"])


def engines(features):
    return {one.identity.get("engine", "torch"): len(one) for one in find_stores(features)}


@pytest.mark.parametrize(
    "spec",
    [SPEC, "torchvision:vit_b_32?weights=random&size=32", "timm:test_vit?weights=random&size=160"],
)
def test_both_engines_compute_the_same(spec):
    teacher = load_teacher(spec)
    other = run_by_onnx(teacher)
    size = teacher.identity["preprocessing"]["size"]
    for count in (5, 1, 3):
        images = torch.randn(count, 3, size, size)
        with torch.inference_mode():
            ours, theirs = teacher.module(images), other.module(images)
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def test_the_engine_is_part_of_the_identity():
    teacher = load_teacher(SPEC)
    before = dict(teacher.identity)
    other = run_by_onnx(teacher)
    assert teacher.identity == before and "engine" not in before
    assert other.identity["engine"] == "onnx" and "onnxruntime" in other.identity["versions"]
    rest = {key: value for key, value in other.identity.items() if key != "engine"}
    assert {**rest, "versions": before["versions"]} == before


def test_each_engine_has_its_store(folder, tmp_path):
    torch_store = run(folder, tmp_path, engine="torch")
    onnx_store = run(folder, tmp_path, engine="onnx")
    assert engines(tmp_path) == {"torch": 20, "onnx": 20}
    plain = store_identity(load_teacher(SPEC))
    assert FeatureStore.open(tmp_path, plain, create=False).path == torch_store.path
    samples, _ = load_inputs(str(folder), progress=False)
    one, two = (store.gather(samples.ids) for store in (torch_store, onnx_store))
    assert nn.functional.cosine_similarity(one, two).min() > 0.9999


def test_features_do_not_depend_on_the_batch(folder, tmp_path):
    samples, _ = load_inputs(str(folder), progress=False)
    whole, part = (
        extract_features(run_by_onnx(load_teacher(SPEC)), some, tmp_path / name, dtype="fp32")
        for name, some in (("whole", samples), ("part", samples.subset([7, 3])))
    )
    chosen = samples.ids[[3, 7]]
    assert torch.equal(whole.gather(chosen), part.gather(chosen))


@pytest.mark.usefixtures("pays")
def test_auto_takes_the_faster_and_stays_with_it(folder, tmp_path, capsys, monkeypatch):
    run(folder, tmp_path)
    assert engines(tmp_path) == {"onnx": 20}
    assert "ms an image" in capsys.readouterr().err
    monkeypatch.setattr(engine, "_measure", None)  # never again
    run(folder, tmp_path)
    assert engines(tmp_path) == {"onnx": 20}
    checked = inspect(data=str(folder), teachers=SPEC, features=tmp_path, device="cpu", verify=True)
    assert checked and engines(tmp_path) == {"onnx": 20}


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize("why", ["slower", "stored", "few", "little", "ranks", "other"])
def test_auto_takes_torch(folder, tmp_path, monkeypatch, why):
    if why == "stored":
        run(folder, tmp_path, engine="torch")
    names = {"slower": "_FASTER", "few": "_FEWEST_ROWS", "little": "_LEAST_SECONDS"}
    if why in names:
        monkeypatch.setattr(engine, names[why], 0.0 if why == "slower" else 1e9)
    if why == "other":  # features that are not the same
        monkeypatch.setattr("aft.backbones.onnx_export._run", lambda *_: torch.randn(16, 512))
    samples, _ = load_inputs(str(folder), progress=False)
    config = ExtractConfig(data=str(folder), teachers=(SPEC,))
    teacher = load_teacher(SPEC)
    size = 2 if why == "ranks" else 1
    chosen = choose_engine(teacher, samples, config, tmp_path, torch.device("cpu"), 0, size)
    assert chosen is teacher


@pytest.mark.usefixtures("pays")
def test_what_cannot_be_exported_is_run_by_torch(folder, tmp_path, capsys):
    class Odd(nn.Module):
        def forward(self, images):
            return torch.linalg.lu_factor(images[..., :8, :8])[0].flatten(1)

    samples, _ = load_inputs(str(folder), progress=False)
    config = ExtractConfig(data=str(folder), teachers=(SPEC,))
    teacher = load_teacher(SPEC)
    teacher.module = Odd()
    assert choose_engine(teacher, samples, config, tmp_path, torch.device("cpu")) is teacher
    said = capsys.readouterr()
    assert "torch" in said.err and not said.out


def test_other_teachers_stay_as_they_are(tmp_path):
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    samples, _ = load_inputs(str(tmp_path / "texts.txt"), progress=False)
    config = ExtractConfig(data="texts.txt", engine="onnx")
    teacher = load_teacher(SPEC)
    teacher.spec = "python:own.py:teacher"
    assert choose_engine(teacher, samples, config, tmp_path, torch.device("cpu")) is teacher
    teacher.modality = "text"
    assert choose_engine(teacher, samples, config, tmp_path, torch.device("cpu")) is teacher


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_a_missing_library_is_named_with_its_extra(folder, tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModelError) as caught:
        run(folder, tmp_path, engine="onnx")
    assert library in str(caught.value) and "[onnx]" in str(caught.value)


def test_other_features_are_an_error(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "aft.backbones.onnx_export._run", lambda _, images: torch.randn(len(images), 512)
    )
    with pytest.raises(AftError) as caught:
        run(folder, tmp_path, engine="onnx")
    assert "0.9999" in str(caught.value) and "--engine torch" in str(caught.value)
    assert engines(tmp_path) == {"onnx": 0}
    run(folder, tmp_path)  # by torch
    assert engines(tmp_path) == {"onnx": 0, "torch": 20}
