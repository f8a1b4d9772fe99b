"""DistillWeighted and DistillNearest: hand-computed values, and which teacher counts."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from aft.errors import InputError
from aft.losses import DistillWeightedLoss, SoftLabelLoss
from aft.losses.distill_weighted import parc
from aft.losses.heads import LinearHead, fit_head


def stored(rows: int = 90) -> tuple[list[Tensor], Tensor]:
    """Features of a teacher that knows the classes, one that knows a little, and one of noise."""
    labels = torch.arange(rows) % 3
    means = 2 * torch.eye(3)[labels]
    good = means + 0.3 * torch.randn(rows, 3)
    poor = torch.cat([means, torch.zeros(rows, 2)], dim=1) + 2 * torch.randn(rows, 5)
    return [torch.randn(rows, 4), good, poor], labels


def test_the_value_by_hand() -> None:
    # Two teachers of width 1 whose heads give log probabilities.
    logs = [torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()]
    heads = [LinearHead(torch.zeros(2, 1), bias, 1.0) for bias in logs]
    loss_fn = DistillWeightedLoss([1, 1], heads, [0.25, 0.75])
    soft = torch.tensor([0.8, 0.2])  # .25 * .5 + .75 * .9
    assert torch.allclose(loss_fn.teacher_logits(torch.zeros(1, 2)).exp(), soft)
    student = torch.tensor([[0.6, 0.4]]).log()
    expected = 0.8 * math.log(0.8 / 0.6) + 0.2 * math.log(0.2 / 0.4)
    assert float(loss_fn(student, torch.zeros(1, 2))) == pytest.approx(expected, rel=1e-6)


def test_the_gradient_is_that_of_one_divergence_per_teacher() -> None:
    teachers, labels = stored()
    loss_fn = DistillWeightedLoss.fit(teachers, labels, power=1)
    student = torch.randn(90, 3, requires_grad=True)
    (found,) = torch.autograd.grad(loss_fn(student, teachers), student)
    total = torch.zeros(())
    for part, share in zip(teachers, loss_fn.shares, strict=True):
        head = fit_head(part, labels)
        soft = (part @ head.weight.T + head.bias).softmax(1)
        total = total + share * F.kl_div(student.log_softmax(1), soft, reduction="batchmean")
    torch.testing.assert_close(found, torch.autograd.grad(total, student)[0], rtol=1e-4, atol=1e-6)


def test_powers() -> None:
    teachers, labels = stored()
    known = torch.tensor([parc(part, labels) for part in teachers]).clamp(min=0)
    assert known.argmax() == 1 and known[2] > known[0]
    weighted = DistillWeightedLoss.fit(teachers, labels, power=2)
    torch.testing.assert_close(weighted.shares, known**2 / (known**2).sum())
    nearest = DistillWeightedLoss.fit(teachers, labels, power=math.inf)
    assert nearest.shares.tolist() == [0, 1, 0]
    assert (
        DistillWeightedLoss.fit(teachers, labels, power=0).shares.tolist()
        == [pytest.approx(1 / 3)] * 3
    )
    alone = SoftLabelLoss.fit(teachers[1], labels, kind="classification", num_outputs=3)
    logits = torch.randn(90, 3)
    torch.testing.assert_close(nearest(logits, teachers), alone(logits, teachers[1]))


def test_teachers_that_know_nothing_count_alike() -> None:
    labels = torch.arange(30) % 3
    blank = [torch.ones(30, 2), torch.zeros(30, 4)]
    assert DistillWeightedLoss.fit(blank, labels).shares.tolist() == [0.5, 0.5]


def test_parc_is_the_published_measure() -> None:
    # As in the authors' code: 1 - corrcoef of standardized features and of one-hot labels;
    # rounded, since rounding errors would order equal distances.
    from scipy.stats import spearmanr

    (_, good, poor), labels = stored(40)
    for part in (good, poor, 100 * poor + 7):
        scaled = torch.from_numpy(StandardScaler().fit_transform(part.double().numpy()))
        pairs = torch.triu_indices(40, 40, 1).unbind()
        distances = [
            (1 - torch.corrcoef(one))[pairs].round(decimals=9).numpy()
            for one in (scaled, F.one_hot(labels).double())
        ]
        assert parc(part, labels) == pytest.approx(spearmanr(*distances).statistic, abs=1e-6)
    assert parc(torch.ones(6, 3), torch.arange(6) % 2) == 0
    assert parc(torch.randn(6, 3), torch.zeros(6).long()) == 0


def test_absent_classes_and_resuming() -> None:
    teachers, labels = stored()
    loss_fn = DistillWeightedLoss.fit(teachers, labels, num_classes=5)
    assert not loss_fn.teacher_logits(teachers).softmax(1)[:, 3:].any()
    logits = torch.randn(90, 5, requires_grad=True)
    loss_fn(logits, teachers).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    other = DistillWeightedLoss.fit(teachers, labels.flip(0), num_classes=5)
    other.load_state_dict(loss_fn.state_dict())
    assert torch.equal(other(logits, teachers), loss_fn(logits, teachers))


def test_wrong_arguments() -> None:
    teachers, labels = stored(12)
    heads = [LinearHead(torch.ones(3, 4), torch.ones(3), 1.0)] * 2
    for shares in ([0.5, 0.6], [1.0], [1.5, -0.5]):
        with pytest.raises(InputError, match="`shares`"):
            DistillWeightedLoss([4, 4], heads, shares)
    with pytest.raises(InputError, match=r"`power`.*-1"):
        DistillWeightedLoss.fit(teachers, labels, power=-1)
    with pytest.raises(InputError, match=r"`labels`.*float32"):
        DistillWeightedLoss.fit(teachers, torch.randn(12))
    with pytest.raises(InputError, match=r"`student_logits`.*\(batch, 3\)"):
        DistillWeightedLoss.fit(teachers, labels)(torch.randn(12, 2), teachers)
