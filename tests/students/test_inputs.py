"""Inputs in batches, with and without kept images and tokens."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aft.backbones.preprocessing import Preprocessing
from aft.backbones.small_texts import train_tokenizer
from aft.backbones.tokenization import Tokenization
from aft.data.loading import load_data
from aft.data.samples import Samples
from aft.data.views import make_views
from aft.ids import content_id, default_cache_dir
from aft.students import inputs as inputs_module
from aft.students import kept_images
from aft.students.inputs import Images, StudentInputs, Texts
from aft.students.kept_images import KeptImages, remove_oldest
from aft.students.towers import ColumnPreprocessing
from aft.training import keep_images as policy
from aft.training.keep_images import keep_images

NUMBER = 12


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Samples:
    monkeypatch.setenv("AFT_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for number in range(NUMBER):
        path = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(60, 200, 2)
        colours = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(colours).resize((int(width), int(height))).save(path)
    return load_data(str(tmp_path / "pictures"), validation_fraction=0, progress=False).splits[
        "train"
    ]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep images even if that saves no time."""
    monkeypatch.setattr(policy, "FEWEST_SECONDS", -1e9)


def files() -> list[Path]:
    return sorted((default_cache_dir() / "images").glob("*/*.images"))


@pytest.mark.parametrize("augment", ["none", "flip", "standard"])
@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.usefixtures("always")
def test_kept_images_change_nothing(
    samples: Samples, augment: str, views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = make_views(samples, views, 0, "standard") if views else samples
    transform = Preprocessing(16).augment(augment)  # type: ignore[arg-type]
    rows, seeds = list(range(len(chosen)))[::-1], list(range(len(chosen)))
    expected = StudentInputs(chosen, transform).batch(rows, seeds)
    decoded: list[int] = []
    read = Samples._read
    monkeypatch.setattr(Samples, "_read", lambda *a: decoded.append(1) or read(*a))  # type: ignore[func-returns-value]
    for number in (NUMBER, 0):  # the second time they are found
        decoded.clear()
        inputs = StudentInputs(chosen, transform)
        (note,) = keep_images([(inputs, 1000)], 1.0, False) if number else ("",)
        if not number:
            assert keep_images([(inputs, 1000)], 1.0, False) == []
        assert (f"{len(chosen)} images" in note) == bool(number)
        assert number <= len(decoded) <= number + 16 * bool(number)  # one decoding of all views
        decoded.clear()
        again = pickle.loads(pickle.dumps(inputs))
        for one in (inputs, again):
            found = one.batch(rows, seeds)
            assert isinstance(found, torch.Tensor) and torch.equal(found, expected)  # type: ignore[arg-type]
        assert not decoded


@pytest.mark.usefixtures("always")
def test_what_does_not_pay_or_fit_is_not_kept(
    samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = StudentInputs(samples, Preprocessing(16).augment("standard"))
    (note,) = keep_images([(inputs, 1000)], 1e-6, False)
    assert "--image-cache 1e-06" in note
    monkeypatch.setattr(policy, "free_bytes", lambda _: 1000)
    (note,) = keep_images([(inputs, 1000)], 1.0, False)
    assert "disk" in note
    monkeypatch.setattr(policy, "FEWEST_SECONDS", 1e9)
    assert keep_images([(inputs, 1000)], 1.0, False) == []
    assert not files()


@pytest.mark.usefixtures("always")
def test_a_folder_that_cannot_be_written_is_said(samples: Samples) -> None:
    default_cache_dir().mkdir(parents=True, exist_ok=True)
    (default_cache_dir() / "images").write_text("")
    inputs = StudentInputs(samples, Preprocessing(16).evaluate())
    (note,) = keep_images([(inputs, 1000)], 1.0, False)
    assert "cannot write" in note
    assert len(inputs.batch([0, 1])) == 2


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("place", [0, -60, -1])
def test_a_damaged_file_is_made_again(
    samples: Samples, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    transform = Preprocessing(16).evaluate()
    inputs = StudentInputs(samples, transform)
    keep_images([(inputs, 1000)], 1.0, False)
    (file,) = files()
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)
    again = StudentInputs(samples, transform)
    assert len(keep_images([(again, 1000)], 1.0, False)) == 1
    assert str(file) in capsys.readouterr().err
    assert not file.exists() and len(files()) == 1
    assert torch.equal(again.batch([3]), StudentInputs(samples, transform).batch([3]))  # type: ignore[arg-type]


def test_those_not_used_for_long_are_deleted(tmp_path: Path) -> None:
    pixels = np.zeros((10, 10, 3), np.uint8)
    for number in range(3):
        kept = KeptImages(tmp_path, {"size": number})
        kept.write(iter([(content_id(b"%d" % number), pixels)]))
    oldest = KeptImages(tmp_path, {"size": 0})
    for file in tmp_path.glob("*/*.images"):
        hours = 3 if file.parent == oldest.folder else 2
        os.utime(file, (time.time() - hours * 3600,) * 2)
    (place,) = oldest.find(np.array([content_id(b"0")], "S16"))
    size = next(tmp_path.glob("*/*.images")).stat().st_size
    remove_oldest(tmp_path, size)  # number 0 was just used
    assert {path.parent for path in tmp_path.glob("*/*.images")} == {oldest.folder}
    remove_oldest(tmp_path, 0)
    assert place == 0 and (oldest[0] == 0).all()  # it was mapped before it was deleted
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(oldest))[0]


def test_several_files_and_unknown_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_images, "_FILE_BYTES", 500)
    rng = np.random.default_rng(0)
    images = [
        (content_id(bytes([i])), rng.integers(0, 256, (5 + i, 7, 3), np.uint8)) for i in range(9)
    ]
    kept = KeptImages(tmp_path, {})
    kept.write(iter(images))
    assert len(list(tmp_path.glob("*/*.images"))) > 2
    again = KeptImages(tmp_path, {})
    ids = [images[7][0], content_id(b"?"), images[1][0]]
    places = again.find(np.array(ids, "S16"))
    assert places[1] == -1
    for place, number in ((places[0], 7), (places[2], 1)):
        assert np.array_equal(again[int(place)], images[number][1])


def test_tokens_are_those_of_each_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["text,other,label", *(f"{'word ' * n}x,y {n},{'ab'[n % 2]}" for n in range(8))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    data = load_data(str(tmp_path / "t.csv"), validation_fraction=0, progress=False)
    samples = data.splits["train"].only("text")
    texts = [str(samples.input(i)) for i in range(8)]
    tokenization = Tokenization(train_tokenizer(texts, 20).to_str(), 6)
    for most in (inputs_module.MOST_TOKENS, 3):
        monkeypatch.setattr(inputs_module, "MOST_TOKENS", most)
        usual, kept = (StudentInputs(samples, tokenization) for _ in range(2))
        kept.tokenize()
        tower = kept.towers[""]
        assert isinstance(tower, Texts) and (tower.tokens is None) == (most == 3)
        for rows in ([3, 0], [7], [1, 1, 5]):
            assert torch.equal(kept.batch(rows), usual.batch(rows))  # type: ignore[arg-type]


def test_pairs_of_texts_are_kept_with_their_types(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    lines = ["premise,hypothesis,label", *(f"a b,{'c ' * n}c,{'xy'[n % 2]}" for n in range(6))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    samples = load_data(str(tmp_path / "t.csv"), validation_fraction=0, progress=False).splits[
        "train"
    ]
    tokenizer = train_tokenizer(["a b c [SEP]"], 9)
    tokenizer.post_processor = TemplateProcessing(
        single="$A [UNK]", pair="$A [UNK] $B:1 [UNK]:1", special_tokens=[("[UNK]", 0)]
    )
    tokenization = Tokenization(tokenizer.to_str(), 12, token_types=True)
    usual, kept = (StudentInputs(samples, tokenization) for _ in range(2))
    kept.tokenize()
    found = kept.batch([4, 1])
    assert isinstance(found, torch.Tensor) and found.shape[:2] == (2, 2)
    assert torch.equal(found, usual.batch([4, 1]))  # type: ignore[arg-type]


def test_several_columns(samples: Samples) -> None:
    transform = ColumnPreprocessing({"image": Preprocessing(8)}).evaluate()
    inputs = StudentInputs(samples, transform)
    found = inputs.batch([2, 0])
    assert isinstance(found, dict) and found["image"].shape == (2, 3, 8, 8)
    assert isinstance(inputs.towers["image"], Images)


@pytest.mark.usefixtures("always")
def test_a_file_deleted_for_another_process_is_decoded_again(samples: Samples) -> None:
    inputs = StudentInputs(samples, Preprocessing(16).evaluate())
    keep_images([(inputs, 1000)], 1.0, False)
    expected = inputs.batch([2, 4])
    sent = pickle.dumps(inputs)
    for file in files():
        file.unlink()
    assert torch.equal(pickle.loads(sent).batch([2, 4]), expected)
