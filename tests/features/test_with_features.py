from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import aft
from aft.errors import DataError, InputError, StoreError
from aft.ids import content_id
from helpers.errors import says

TEXTS = [f"text {i}" for i in range(7)]
TEACHER = """
import zlib
def teacher(dim="3", sign="1"):
    def features(texts):
        return [[int(sign) * (zlib.crc32(text.encode()) % 97)] * int(dim) for text in texts]
    return features, int(dim)
"""


def made(tmp_path: Path, *options: str) -> list[aft.FeatureStore]:
    file = tmp_path / "teacher.py"
    file.write_text(TEACHER)
    teachers = [f"python:{file}:teacher{one}" for one in options]
    found = aft.extract(data=TEXTS, teachers=teachers, features=tmp_path / "f", progress=False)
    return [aft.FeatureStore.at(one["folder"]) for one in found]


def test_ids_are_those_of_the_content(tmp_path: Path) -> None:
    ids = aft.sample_ids([TEXTS[1], TEXTS[0], TEXTS[1]])
    assert ids.shape == (3, 16) and ids.dtype == np.uint8
    assert [row.tobytes() for row in ids] == [content_id(TEXTS[i].encode()) for i in (1, 0, 1)]
    image = Image.new("RGB", (4, 4), "red")
    image.save(tmp_path / "a.png")
    (path,) = aft.sample_ids([str(tmp_path / "a.png")])
    assert path.tobytes() == content_id((tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(*aft.sample_ids([image, np.asarray(image)]))
    with pytest.raises(DataError) as error:
        aft.sample_ids(["a", "", "b"])
    assert says(error.value, "[1]")


def test_batches_hold_the_features_of_their_rows(tmp_path: Path) -> None:
    stores = made(tmp_path, "", "?dim=2&sign=-1")
    order = [5, 3, 3, 0]
    rows = TensorDataset(torch.arange(4.0), torch.tensor(order))
    data = aft.WithFeatures(rows, aft.sample_ids([TEXTS[i] for i in order]), stores)
    assert data.dims == [3, 2] and len(data) == 4
    wanted = stores[0].gather(aft.sample_ids(TEXTS))[:, 0]
    loader = DataLoader(data, batch_size=3, shuffle=True)
    seen = []
    for (number, text), features in loader:
        assert features.shape == (len(text), 5) and features.dtype == torch.float32
        torch.testing.assert_close(features[:, 0], wanted[text])
        torch.testing.assert_close(features[:, 4], -wanted[text])
        seen += number.tolist()
    assert sorted(seen) == [0, 1, 2, 3]
    assert data[1][1].tolist() == data[-2][1].tolist() == data[2][1].tolist()
    assert len(list(data)) == 4  # the first row that is not there ends it
    assert [one.shape for one in data.features()] == [(4, 3), (4, 2)]
    torch.testing.assert_close(data.features([3])[0][0, 0], wanted[0])
    mean, std = data.statistics()[0]
    distinct = wanted[[5, 3, 0]]
    torch.testing.assert_close(mean[0], distinct.mean())
    torch.testing.assert_close(std[0], distinct.std(correction=0))
    again = pickle.loads(pickle.dumps(data))
    torch.testing.assert_close(again[0][1], data[0][1])
    halves = Subset(data, [2, 1])
    assert [float(one[0][0]) for one in halves] == [2, 1]


class Rows(Dataset[Any]):
    """A dataset of dictionaries that reads a batch at once."""

    asked: list[list[int]]

    def __init__(self) -> None:
        self.asked = []

    def __len__(self) -> int:
        return 3

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        self.asked.append(rows)
        return [{"row": row, "labels": row % 2} for row in rows]


def test_dictionaries_get_a_key(tmp_path: Path) -> None:
    rows = Rows()
    data = aft.WithFeatures(rows, aft.sample_ids(TEXTS[:3]), made(tmp_path, ""))
    (batch,) = DataLoader(data, batch_size=3)
    assert set(batch) == {"row", "labels", "teacher_features"} and rows.asked == [[0, 1, 2]]
    torch.testing.assert_close(batch["teacher_features"], data.features()[0])


def test_every_row_needs_an_id_and_features(tmp_path: Path) -> None:
    stores = made(tmp_path, "")
    with pytest.raises(InputError) as error:
        aft.WithFeatures(range(3), aft.sample_ids(TEXTS[:2]), stores)
    assert says(error.value, "(3, 16)", "(2, 16)")
    with pytest.raises(StoreError) as missing:
        aft.WithFeatures(range(2), aft.sample_ids([TEXTS[0], "another"]), stores)
    assert says(missing.value, "1 of 1", str(stores[0].path))
