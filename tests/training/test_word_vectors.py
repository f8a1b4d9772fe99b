"""Word vectors that start from a text teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import aft
from aft.students.saved import SavedStudent
from aft.training.word_vectors import _reduce
from helpers.text_data import FILLERS, TOPICS, make_picture_text_folder, make_text_table
from helpers.training import TEACHERS, assert_same, weights

SMALL = 1e-9  # a learning rate that leaves the start as it is


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "teachers.py"
    file.write_text(TEACHERS)
    return {
        **{
            "out": tmp_path / "run",
            "features": tmp_path / "features",
            "steps": 2,
            "batch_size": 16,
        },
        **{"device": "cpu", "num_workers": 0, "progress": False, "lr": SMALL, "head_lr": SMALL},
        "data": str(make_text_table(tmp_path / "texts.jsonl")),
        "teachers": f"python:{file}:words",
        "student": "small:static?dim=24&init=teacher",
    }


def test_reduced_vectors_keep_what_they_can() -> None:
    """With enough dimensions, all inner products of centred features; else the largest part."""
    drawn = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = drawn * torch.tensor([9.0, 5.0, 3.0, 1.0, 0.5, 0.1]).double() + 7
    counts = torch.arange(50).double()
    centred = features - (counts / counts.sum()) @ features
    vectors, share = _reduce(features, counts, 8)
    scale = centred.square().sum() / vectors.double().square().sum()
    torch.testing.assert_close(
        scale * vectors.double() @ vectors.double().T, centred @ centred.T, rtol=1e-4, atol=1e-3
    )
    assert share == pytest.approx(1.0) and vectors.shape == (50, 8)
    assert 0.9 < _reduce(features, counts, 2)[1] < 1
    nothing, _ = _reduce(torch.ones(4, 3).double(), torch.zeros(4).double(), 2)
    assert torch.equal(nothing, torch.zeros(4, 2))


def _vectors(folder: Path) -> tuple[dict[str, int], torch.Tensor]:
    """Numbers and vectors of the words of a run's student."""
    student = SavedStudent.load(folder / "student")
    network, words = student.module.backbone, student.backbone.preprocessing.words  # type: ignore[union-attr]
    return {word: i for i, word in enumerate(words)}, network.embedding.weight.detach()  # type: ignore[union-attr, return-value]


def test_words_start_as_the_teacher_sees_them(texts: dict[str, Any], tmp_path: Path) -> None:
    aft.train(**texts)
    numbers, vectors = _vectors(texts["out"])
    torch.manual_seed(0)
    table = torch.nn.Embedding(500, 24).weight.detach()  # of the teacher, see TEACHERS
    known = [*FILLERS, *(word for words in TOPICS.values() for word in words)]
    shared = [word for word in known if word in numbers]
    own = vectors[[numbers[word] for word in shared]]
    theirs = table[[known.index(word) for word in shared]]
    assert len(shared) > 30
    torch.testing.assert_close(  # distances are the same but for a factor
        torch.cdist(own, own) / torch.cdist(own, own).mean(),
        torch.cdist(theirs, theirs) / torch.cdist(theirs, theirs).mean(),
        rtol=0.01,
        atol=0.01,
    )
    again = aft.train(**{**texts, "out": tmp_path / "again"})
    assert_same(weights(texts["out"]), weights(again.out))


def test_without_a_text_teacher_they_start_at_random(texts: dict[str, Any], capsys: Any) -> None:
    del texts["teachers"]
    aft.train(**texts)
    _, vectors = _vectors(texts["out"])
    assert vectors.std() == pytest.approx(0.02, rel=0.1)
    assert "text" in capsys.readouterr().err


def test_one_of_two_networks_may_start_from_a_teacher(
    texts: dict[str, Any], tmp_path: Path
) -> None:
    data = make_picture_text_folder(tmp_path / "pairs", missing=3)
    words = texts["teachers"]
    texts |= {
        "data": str(data),
        "teachers": (f"image={words.replace(':words', ':colours')}", f"text={words}"),
        "student": ("image=small:cnn-tiny?size=32", f"text={texts['student']}"),
    }
    aft.train(**texts)
    towers = SavedStudent.load(texts["out"] / "student").module.backbone
    vectors = towers.towers[1].embedding.weight  # type: ignore[union-attr, index]
    spread = torch.linalg.svdvals(vectors)
    assert spread[-1] < 0.5 * spread[0]  # unlike random ones
