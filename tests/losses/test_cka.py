from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aft import functional as AF
from aft.errors import InputError
from aft.losses.cka import CKALoss


def batch(rows: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    student = torch.randn(rows, 5, dtype=dtype)
    return student, [torch.randn(rows, dim, dtype=dtype) for dim in (4, 3)]


def test_is_the_transcribed_formula() -> None:
    student, (a, b) = batch(dtype=torch.float64)
    centring = torch.eye(8, dtype=torch.float64) - 1 / 8
    k = centring @ student @ student.T @ centring
    teacher = torch.cat([a, b], dim=1)
    l = centring @ teacher @ teacher.T @ centring  # noqa: E741
    expected = 1 - (k * l).sum() / ((k * k).sum() * (l * l).sum()).sqrt()
    torch.testing.assert_close(CKALoss(normalize="none")(student, [a, b]), expected)
    torch.testing.assert_close(CKALoss(normalize="none")(student, teacher), expected)


@pytest.mark.parametrize("normalize", ["standardize", "none"])
@pytest.mark.parametrize("rows", [4, 12])
def test_gradcheck(normalize: Any, rows: int) -> None:
    student, teachers = batch(rows, torch.float64)
    loss_fn = CKALoss(normalize=normalize)
    assert torch.autograd.gradcheck(
        lambda s, *t: loss_fn(s, list(t)),
        (student.requires_grad_(), *(t.requires_grad_() for t in teachers)),
    )


@settings(max_examples=25)
@given(st.integers(2, 12), st.integers(0, 2**31), st.sampled_from(["standardize", "none"]))
def test_row_order_rotation_and_scale_do_not_matter(rows: int, seed: int, normalize: Any) -> None:
    torch.manual_seed(seed)
    student, teachers = batch(rows, torch.float64)
    loss_fn = CKALoss(normalize=normalize)
    expected = loss_fn(student, teachers)
    assert -1e-9 < float(expected) < 1 + 1e-9
    order = torch.randperm(rows)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    moved = loss_fn(3 * student[order] @ rotation + 1, [t[order] for t in teachers])
    torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-9)


def test_same_features_give_zero_and_unrelated_ones_about_one() -> None:
    student = torch.randn(2000, 4)
    loss_fn = CKALoss(normalize="none")
    assert float(loss_fn(student, 2 * student.flip(1) - 3)) == pytest.approx(0, abs=1e-5)
    assert float(loss_fn(student, torch.randn(2000, 4))) > 0.95
    symmetric = loss_fn(student[:20], student[20:40])
    torch.testing.assert_close(loss_fn(student[20:40], student[:20]), symmetric)


def test_statistics_and_units() -> None:
    student, (a, b) = batch()
    expected = CKALoss()(student, [a, b])
    own = [(x.mean(0), x.std(0, correction=0)) for x in (a, b)]
    torch.testing.assert_close(CKALoss(statistics=own)(student, [a, b]), expected)
    torch.testing.assert_close(CKALoss()(student, [1e3 * a + 5, b]), expected, rtol=1e-4, atol=1e-5)
    assert not list(CKALoss().parameters())


@pytest.mark.parametrize("value", [0.0, 0.1, 3e4])
@pytest.mark.parametrize("rows", [4, 12])
def test_constant_features_stay_finite(rows: int, value: float) -> None:
    _, teachers = batch(rows)
    student = torch.full((rows, 5), value, requires_grad=True)
    for teacher in (teachers, [torch.full((rows, 4), value), torch.full((rows, 3), value)]):
        loss = CKALoss()(student, teacher)
        loss.backward()
        assert 0 <= float(loss.detach()) <= 1
        assert student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_the_scale_of_the_student_may_be_anything(scale: float) -> None:
    student, teachers = batch()
    expected = CKALoss()(student, teachers)
    torch.testing.assert_close(CKALoss()(scale * student, teachers), expected)


def test_training_on_it_aligns_the_student() -> None:
    inputs = torch.randn(64, 10)
    teacher = torch.tanh(inputs @ torch.randn(10, 6))
    student = torch.nn.Linear(10, 4)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = CKALoss()(student(inputs), teacher)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert losses[-1] == pytest.approx(
        1 - float(AF.cka(student(inputs), AF.standardize(teacher)).detach()), abs=0.02
    )


def test_bfloat16_is_close_to_float32() -> None:
    student, teachers = batch(16)
    expected = CKALoss()(student, teachers)
    half = student.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = CKALoss()(half, [teacher.bfloat16() for teacher in teachers])
        torch.testing.assert_close(CKALoss()(student, teachers), expected, rtol=0, atol=0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    loss.backward()
    assert half.grad is not None and half.grad.isfinite().all()


def test_errors() -> None:
    student, teachers = batch()
    with pytest.raises(InputError, match=r"\b2\b.*\b1\b.*drop_last"):
        CKALoss()(student[:1], [t[:1] for t in teachers])
    with pytest.raises(InputError, match=r"`teacher_features\[1\]`.*\(8, 3\).*\(7, 3\)"):
        CKALoss()(student, [teachers[0], teachers[1][1:]])
    with pytest.raises(InputError, match="`normalize`.*'standardize', 'none'.*'cosine'"):
        CKALoss(normalize="cosine")  # type: ignore[arg-type]
    student[2] = torch.nan
    with pytest.raises(InputError, match=r"`student_features`.*\b1 of 8\b"):
        CKALoss()(student, teachers)
    student, teachers = batch()
    teachers[1][3] = torch.inf
    with pytest.raises(InputError, match=r"`teacher_features`.*\b1\b.*\b1 of 8\b"):
        CKALoss()(student, teachers)
