"""The main job on real pictures with a real pre-trained teacher, small enough for every run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import aft

TEACHER = "timm:tf_efficientnet_lite0?size=64"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 handwritten digits of scikit-learn, 8 x 8 pixels, as an image folder."""
    root = tmp_path_factory.mktemp("digits")
    pictures, labels = load_digits(return_X_y=True)
    for i, (picture, label) in enumerate(zip(pictures[:500], labels[:500], strict=True)):
        folder = root / ("test" if i % 5 == 0 else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        grey = (picture.reshape(8, 8) * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).resize((32, 32)).save(folder / f"{i}.png")
    return root


def test_real_teacher_real_pictures(digits: Path, tmp_path: Path) -> None:
    result = aft.train(
        data=str(digits),
        teachers=(TEACHER,),
        student="small:cnn-tiny?size=32",
        features=tmp_path / "features",
        out=tmp_path / "run",
        steps=150,
        batch_size=32,
        augment="none",
        device="cpu",
        progress=False,
    )
    assert result.split == "test" and result.metrics["accuracy"] > 0.8

    # The stored rows belong to their samples: a linear probe on them knows the digits.
    store = aft.FeatureStore.at(next((tmp_path / "features").iterdir()))
    data = aft.load_data(str(digits), progress=False)
    probe = LogisticRegression(max_iter=300)
    train, held_out = data.splits["train"], data.splits["validation"]
    features = store.gather(train.ids).numpy()
    scale = features.std() * np.sqrt(features.shape[1] / 10)
    probe.fit(features / scale, train.labels)
    aft.extract(
        data=str(digits),
        teachers=(TEACHER,),
        features=tmp_path / "features",
        splits=("train", "test"),
        progress=False,
    )
    store.refresh()
    assert probe.score(store.gather(held_out.ids).numpy() / scale, held_out.labels) > 0.7
    test = data.splits["test"]
    assert probe.score(store.gather(test.ids).numpy() / scale, test.labels) > 0.8

    gates = load_file(tmp_path / "run" / "feature_weights.safetensors")["0"]
    assert gates.shape == (1280,) and gates.std() > 0.01
