"""A store that a Ray cluster computed must be the one of a single process, whoever dies."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import aft
from aft.data.loading import load_data
from aft.errors import ModelError, TeacherError
from aft.features.store import FeatureStore, find_stores

TEACHER = """
import os, signal
from pathlib import Path
import numpy as np, torch
from torch import nn

HERE = Path(__file__).parent
BATCHES = []


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 5))

    def forward(self, pixels):
        BATCHES.append(os.getpid())
        if len(BATCHES) == 3 and (HERE / "armed").exists():  # once, in a worker
            (HERE / "armed").rename(HERE / f"killed-{os.getpid()}")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.layers(pixels)


def prepare(image):
    if (HERE / "broken").exists():
        raise ValueError("no such picture")
    pixels = np.array(image.resize((16, 16)), np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


def teacher():
    torch.manual_seed(0)
    return Net(), prepare
"""


def extract(folder: Path, data: Path, name: str, **options: str) -> FeatureStore:
    aft.extract(
        data=str(data),
        teachers=[f"python:{folder / 'net.py'}:teacher"],
        features=folder / name,
        extract_batch_size=4,
        progress=False,
        device="cpu",
        **options,
    )
    (store,) = find_stores(folder / name)
    return store


def local(folder: Path, data: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    return extract(folder, data, name, ray="local")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of Ray
def test_a_killed_worker_changes_nothing(tmp_path, picture_folder, monkeypatch) -> None:
    pytest.importorskip("ray")
    data = picture_folder(classes=2, train=20)
    (tmp_path / "net.py").write_text(TEACHER)
    alone = extract(tmp_path, data, "alone")
    (tmp_path / "armed").touch()
    cluster = local(tmp_path, data, "cluster", monkeypatch)
    (killed,) = tmp_path.glob("killed-*")
    assert not Path(f"/proc/{killed.name.removeprefix('killed-')}").exists()
    assert cluster.identity == alone.identity
    ids = load_data(str(data)).splits["train"].ids
    assert len(cluster) == len(alone) >= len(ids) > 0
    assert torch.equal(cluster.gather(ids), alone.gather(ids))

    (tmp_path / "broken").touch()
    with pytest.raises(TeacherError, match="no such picture"):
        local(tmp_path, data, "broken-inputs", monkeypatch)


def test_without_ray_the_extra_is_named(tmp_path, picture_folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "net.py").write_text(TEACHER)
    with pytest.raises(ModelError, match=r"adaptive-feature-transfer\[ray\]"):
        extract(tmp_path, picture_folder(classes=2, train=2), "none", ray="local")


@pytest.mark.parametrize("table", [False, True])
def test_blocks_carry_their_inputs(tmp_path, picture_folder, table) -> None:
    data = picture_folder(classes=2, train=5)
    if table:
        data = tmp_path / "texts.csv"
        data.write_text("text,label\n" + "".join(f"Wort {i} äöü,{i % 2}\n" for i in range(20)))
    samples = load_data(str(data)).splits["train"]
    rows = np.asarray([3, 0, 2])
    block = samples.read_block(rows, 2**20)
    assert len(samples.read_block(rows, 1)) == 1
    expected = [np.asarray(samples.input(int(row))) for row in rows]
    if not table:
        for file in data.rglob("*.png"):
            file.unlink()
    assert np.array_equal(block.ids, samples.ids[rows])
    assert all(np.array_equal(np.asarray(block.input(i)), expected[i]) for i in range(3))
