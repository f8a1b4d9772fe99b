"""How often a run reads and decodes the images of new data."""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import aft
from aft import ids
from aft.data import checking, samples
from aft.training import keep_images as policy


def test_reads_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One read for the id and the check, one decoding for all teachers, one per kept size."""
    monkeypatch.setenv("AFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(policy, "FEWEST_SECONDS", -1e9)
    monkeypatch.setattr(policy, "_TRIED", 1)
    rng = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    seen: Counter[tuple[str, str]] = Counter()

    def count(module: Any, name: str) -> None:
        original = getattr(module, name)

        def counted(first: Any, *rest: Any) -> Any:
            files = {frame.filename.rpartition("/")[2] for frame in traceback.extract_stack()}
            by = files & {"run_teacher.py", "keep_images.py", "ids.py"}
            seen[name, next(iter(by), "")] += 1
            return original(first, *rest)

        monkeypatch.setattr(module, name, counted)

    count(ids, "read_file")
    count(checking, "find_fault")
    count(samples, "open_image")
    teachers = ("torchvision:resnet18?weights=random&size=32", "timm:test_vit?weights=random")
    aft.train(
        **{"data": str(tmp_path / "data"), "student": "small:cnn?size=16", "device": "cpu"},
        **{"teachers": teachers, "features": tmp_path / "features", "num_workers": 0},
        **{"steps": 6, "eval_every": 6, "batch_size": 8, "baselines": False, "progress": False},
        out=tmp_path / "run",
    )
    train, validation = 21, 3  # with 4 views of each row of train
    assert seen["read_file", "ids.py"] == seen["find_fault", "ids.py"] == train + validation
    assert seen["open_image", "run_teacher.py"] == train
    kept = 2 * (train + 1) + validation  # for random crops, and for views; one more to measure
    assert kept - 1 <= seen["open_image", "keep_images.py"] <= kept
    assert seen["open_image", ""] < train  # the report and the final score
