"""Names of classes in the space of an image-text model, with a tiny CLIP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

transformers = pytest.importorskip("transformers")

import aft  # noqa: E402
from aft.backbones.huggingface_classes import embed_texts  # noqa: E402
from aft.backbones.specs import Spec  # noqa: E402
from aft.errors import ModelError  # noqa: E402
from aft.losses.class_names import ClassNameLoss, EmbeddedClasses  # noqa: E402
from aft.teachers.loading import load_teacher  # noqa: E402
from helpers.pictures import draw_picture  # noqa: E402
from helpers.text_models import make_clip, make_vit  # noqa: E402

NAMES = ["a photo of a bird", "a photo of the garden", "quiet"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("models") / "clip")


def test_logits_are_those_of_clip(clip: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = [draw_picture(label, 32, generator) for label in range(3)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    processor = transformers.AutoImageProcessor.from_pretrained(clip)
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    tokens = tokenizer(NAMES, padding=True, return_tensors="pt")
    with torch.no_grad():
        pixels = processor(pictures, return_tensors="pt").pixel_values
        expected = model(**tokens, pixel_values=pixels).logits_per_image

    teacher = load_teacher(f"hf:{clip}")
    assert not callable(getattr(teacher.preprocess, "encode_batch", None))
    with torch.no_grad():
        features = teacher.module(torch.stack([teacher.preprocess(one) for one in pictures]))  # type: ignore[operator]
    found = EmbeddedClasses(*embed_texts(Spec.parse(f"hf:{clip}"), NAMES))
    assert found.scale == pytest.approx(float(model.logit_scale.exp().detach()))
    logits = ClassNameLoss([teacher.dim], [found]).teacher_logits(features)
    torch.testing.assert_close(logits, expected, atol=2e-2, rtol=2e-2)
    assert F.cosine_similarity(logits.flatten(), expected.flatten(), dim=0) > 0.9999


def test_other_features_are_refused(clip: Path, tmp_path: Path) -> None:
    for option in ("pooling=mean", "layer=1"):
        with pytest.raises(ModelError):
            embed_texts(Spec.parse(f"hf:{clip}?{option}"), NAMES)
    with pytest.raises(ModelError):
        embed_texts(Spec.parse(f"hf:{make_vit(tmp_path / 'vit')}"), NAMES)


def test_pictures_without_labels(clip: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(20):
        draw_picture(number % 3, 32, generator).save(folder / f"{number}.png")
    classes = tmp_path / "names.txt"
    classes.write_text("bird\ngarden\nstory\n")
    run = aft.train(
        data=folder,
        classes=classes,
        teachers=f"hf:{clip}",
        student="small:cnn-tiny?size=32",
        out=tmp_path / "run",
        features=tmp_path / "features",
        steps=3,
        batch_size=8,
        device="cpu",
        num_workers=0,
        progress=False,
    )
    assert run.summary["splits_without_labels"] == ["train", "validation"]
    assert set(run.metrics) == {"agreement", "divergence"}
    assert run.summary["teachers"][0]["dim"] == 32
