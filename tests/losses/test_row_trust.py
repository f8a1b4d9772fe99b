"""Row-wise trust: each row learns from the teachers or keeps to the student's start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from aft.errors import InputError
from aft.losses import RowTrustLoss
from aft.losses.heads import LinearHead
from aft.training.transfer_model import TransferModel


class Passing(nn.Module):
    """Its inputs are its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * inputs, inputs


def make(classes: int = 2) -> RowTrustLoss:
    """The teacher's features are its logits."""
    return RowTrustLoss(
        [classes], LinearHead(torch.eye(classes), torch.zeros(classes), 1.0), Passing()
    )


def logs(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows).log()


TEACHER = logs((0.9, 0.1), (0.6, 0.4), (0.2, 0.8), (0.7, 0.3))
START = logs((0.7, 0.3), (0.8, 0.2), (0.1, 0.9), (0.5, 0.5))


def chosen(loss_fn: RowTrustLoss, labels: Tensor | None) -> list[str]:
    known = loss_fn.with_start(TEACHER, START, labels)
    soft = loss_fn._logits(known)
    return ["teacher" if torch.equal(a, b) else "start" for a, b in zip(soft, TEACHER, strict=True)]


def test_the_true_label_decides() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    assert chosen(make(), labels) == ["teacher", "start", "teacher", "start"]
    assert chosen(make(), 1 - labels) == ["start", "teacher", "start", "teacher"]


def test_without_labels_the_higher_confidence_decides() -> None:
    assert chosen(make(), None) == ["teacher", "start", "start", "teacher"]
    assert chosen(make(), torch.full((4,), -1)) == chosen(make(), None)


def test_the_value_by_hand() -> None:
    loss_fn = make()
    student = logs(*[(0.5, 0.5)] * 4)
    found = loss_fn(student, loss_fn.with_start(TEACHER, START))
    rows = [(0.9, 0.1), (0.8, 0.2), (0.1, 0.9), (0.7, 0.3)]
    expected = sum(p * math.log(p / 0.5) for row in rows for p in row) / 4
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_a_student_as_sure_as_the_chosen_ones_has_no_loss() -> None:
    loss_fn = make()
    known = loss_fn.with_start(TEACHER, START)
    student = (loss_fn._logits(known) + 3).requires_grad_()
    loss = loss_fn(student, known)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert student.grad is not None and float(student.grad.abs().max()) < 1e-6


def test_the_start_is_frozen_and_stays_in_evaluation_mode() -> None:
    loss_fn = make()
    model = TransferModel(Passing(), loss_fn).train()
    assert not loss_fn.start.training and loss_fn.training
    out = model(START, [TEACHER], torch.tensor([0, 0, 0, 1]), START, [TEACHER])
    out["loss"].backward()
    assert [p.grad for p in loss_fn.parameters()] == [None]
    student = torch.cat([START, START])
    soft = [
        loss_fn.with_start(TEACHER, START, labels) for labels in (torch.tensor([0, 0, 0, 1]), None)
    ]
    torch.testing.assert_close(out["transfer_loss"], loss_fn(student, torch.cat(soft)))


def test_labels_survive_half_precision() -> None:
    loss_fn = make(3000)
    features = torch.zeros(1, 3000, dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        known = loss_fn.with_start(features, torch.zeros(1, 3000).bfloat16(), torch.tensor([2999]))
    assert known.dtype == torch.float32 and known[0, -1] == 2999


def test_wrong_batches() -> None:
    loss_fn = make()
    with pytest.raises(InputError, match=r"`teacher_features`.*\(4, 5\).*\(4, 2\)"):
        loss_fn(START, TEACHER)
    with pytest.raises(InputError, match=r"\(4, 2\).*\(3, 2\)"):
        loss_fn.with_start(TEACHER[:3], START)
    with pytest.raises(InputError, match="`temperature`"):
        RowTrustLoss([2], LinearHead(torch.eye(2), torch.zeros(2), 1.0), Passing(), temperature=0)
