"""Training with decoded images that were kept: the same student, to the bit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import aft
from aft.data.samples import Samples
from aft.training import keep_images as policy


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "student" / "model.safetensors").read_bytes()).hexdigest()


def test_the_student_is_the_same_with_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(policy, "FEWEST_SECONDS", -1e9)
    rng = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = rng.integers(0, 200, (6, 6, 3), np.uint8) + np.uint8(50 * (number % 2))
        Image.fromarray(colours).resize((130, 100)).save(path)
    options: dict[str, Any] = {
        **{"data": str(tmp_path / "data"), "student": "small:cnn?size=16", "device": "cpu"},
        **{"steps": 12, "eval_every": 4, "batch_size": 8, "progress": False, "baselines": False},
    }
    aft.train(**options, image_cache=0, out=tmp_path / "without")
    assert not list((tmp_path / "cache").glob("images/*/*"))
    assert "--image-cache 0" in capsys.readouterr().err
    aft.train(**options, out=tmp_path / "with")
    assert "decoded" in capsys.readouterr().err
    # Training crops at random, and evaluation does not: two sizes of every picture.
    assert len(list((tmp_path / "cache").glob("images/*/*.images"))) == 2
    expected = weights(tmp_path / "without")
    assert weights(tmp_path / "with") == expected

    read: list[str] = []
    original = Samples._read

    def counted(self: Samples, index: int, *rest: Any) -> Any:
        read.append(self.files[index])
        return original(self, index, *rest)

    monkeypatch.setattr(Samples, "_read", counted)
    aft.train(**options, out=tmp_path / "again", num_workers=0)
    assert weights(tmp_path / "again") == expected
    assert len(read) < 24  # the report and the final score read some
    aft.train(**options, image_cache=0, num_workers=1, out=tmp_path / "workers")
    assert weights(tmp_path / "workers") == expected
