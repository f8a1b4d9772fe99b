from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import aft
from aft.errors import ConfigError, InputError
from aft.losses.given_labels import Given, GivenLabelLoss
from aft.training.run_folder import TrainResult

B, C = 7, 3


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_given_probabilities_are_the_target() -> None:
    logits, teacher = draws(0, B, C), draws(1, B, C).softmax(1)
    order = [2, 0, 1]
    loss = GivenLabelLoss([C], [Given("probabilities", order)], kind="classification")
    target = teacher[:, order]
    expected = (target * (target.log() - logits.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(loss(logits, teacher), expected)
    same = GivenLabelLoss([C], [Given("logits", order)], kind="classification")
    torch.testing.assert_close(same(logits, teacher.log()), expected)
    torch.testing.assert_close(same.teacher_logits(teacher.log() + 5).softmax(1), target)


def test_certain_probabilities_stay_finite() -> None:
    logits = draws(0, 2, 2).requires_grad_()
    certain = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    for kind in ("classification", "multilabel"):
        given = [Given("probabilities", [0, 1])]
        value = GivenLabelLoss([2], given, kind=kind)(logits, certain)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.isfinite() and gradient.isfinite().all()


def test_independent_probabilities_of_labels() -> None:
    logits, teacher = draws(0, B, C), draws(1, B, C).sigmoid()
    loss = GivenLabelLoss([C], [Given("probabilities", range(C))], kind="multilabel")
    expected = F.binary_cross_entropy_with_logits(logits, teacher)
    expected = expected - F.binary_cross_entropy(teacher, teacher)
    torch.testing.assert_close(loss(logits, teacher), expected)


def test_several_teachers_are_averaged_and_others_left_out() -> None:
    first, second, features = draws(1, B, C), draws(2, B, C), draws(3, B, 5)
    given = [Given("logits", range(C)), None, Given("probabilities", range(C))]
    loss = GivenLabelLoss([C, 5, C], given, kind="classification")
    found = loss.teacher_logits([first, features, second.softmax(1)])
    torch.testing.assert_close(found.softmax(1), ((first + second) / 2).softmax(1))


def test_values_are_for_regression() -> None:
    values, predicted, std = draws(1, B, 1), draws(2, B, 1), torch.tensor([2.0])
    loss = GivenLabelLoss([1], [Given("values", [0])], kind="regression", target_std=std)
    torch.testing.assert_close(loss(predicted, values), ((predicted - values) / 2).square().mean())
    with pytest.raises(InputError):
        GivenLabelLoss([C], [Given("values", range(C))], kind="classification")
    with pytest.raises(InputError):
        GivenLabelLoss([1], [Given("logits", [0])], kind="regression", target_std=std)
    with pytest.raises(InputError):
        GivenLabelLoss([C], [None], kind="classification")
    with pytest.raises(InputError):
        GivenLabelLoss([C], [Given("logits", [0, 1])], kind="classification")


COLOURS = ("red", "green", "blue")


def write_table(path: Path, wrong: str = "") -> dict[str, list[str]]:
    """300 texts whose class no label of the first 12 rows tells, but the soft labels do."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.arange(300) % 3)
    texts = [f"{COLOURS[c]}ish{rng.integers(40)} thing {i}" for i, c in enumerate(classes)]
    soft = np.full((300, 3), 0.05)
    soft[np.arange(300), classes] = 0.9
    names = ("red", "green", wrong or "blue")
    pq.write_table(
        pa.table({"text": texts, **{f"p_{name}": soft[:, i] for i, name in enumerate(names)}}),
        path,
    )
    return {"text": texts, "label": [COLOURS[c] for c in classes]}


def train(table: dict[str, list[str]], out: Path, teacher: str) -> TrainResult:
    labelled = {name: values[:24] for name, values in table.items()}
    return aft.train(
        data={"train": labelled, "test": {k: v[200:] for k, v in table.items()}},
        unlabelled=table["text"][24:200],
        teachers=[teacher],
        student="small:ngrams?dim=16",
        steps=30,
        baselines=False,
        features=out.parent / "features",
        out=out,
        progress=False,
        device="cpu",
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_table_of_soft_labels_teaches_a_student(tmp_path: Path) -> None:
    table = write_table(tmp_path / "soft.parquet")
    spec = f"features:{tmp_path / 'soft.parquet'}?soft=probabilities&prefix=p_"
    taught = train(table, tmp_path / "taught", spec)
    # from the labels alone: 0.37
    assert taught.split == "test" and taught.metrics["accuracy"] > 0.85
    for wrong in ("?soft=values&prefix=p_", "?soft=logits&prefix=p_r"):
        with pytest.raises(ConfigError):
            train(table, tmp_path / "wrong", spec.replace("?soft=probabilities&prefix=p_", wrong))
    write_table(tmp_path / "soft.parquet", wrong="grey")
    with pytest.raises(ConfigError) as error:
        train(table, tmp_path / "wrong", spec)
    assert "blue" in str(error.value) and "grey" in str(error.value)
