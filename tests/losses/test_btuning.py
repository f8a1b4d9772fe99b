from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from aft.errors import InputError
from aft.losses.btuning import BTuningLoss
from aft.losses.logme import log_me

REFERENCE = Path(__file__).parents[1] / "reference"


def make(student_dim: int = 5, dims: Sequence[int] = (4, 3), classes: int = 6) -> BTuningLoss:
    weights = [torch.randn(classes, dim) for dim in dims]
    scores = torch.randn(len(dims)).tolist()
    return BTuningLoss(torch.randn(classes, student_dim), weights, scores)


def batch(rows: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    student = torch.randn(rows, 5, dtype=dtype)
    return student, [torch.randn(rows, dim, dtype=dtype) for dim in (4, 3)]


@pytest.mark.parametrize("file", ["one_teacher", "two_teachers"])
@pytest.mark.parametrize("as_list", [True, False], ids=["tensors", "tensor"])
def test_matches_the_published_code(file: str, as_list: bool) -> None:
    reference = load_file(REFERENCE / f"{file}.safetensors")
    dims = reference["meta/teacher_dims"].tolist()
    case = {
        name.removeprefix("b_tuning/"): value
        for name, value in reference.items()
        if name.startswith("b_tuning/")
    }
    weights = [case[f"teacher_mean_weights_{t}"] for t in range(len(dims))]
    loss_fn = BTuningLoss(case["student_mean_weights"], weights, case["logme_scores"].tolist())
    student, teacher = case["student"].requires_grad_(), case["teacher"]
    loss = loss_fn(student, teacher.split(dims, dim=1) if as_list else teacher)
    loss.backward()
    torch.testing.assert_close(loss, case["loss"].squeeze(), rtol=1e-5, atol=0)
    assert student.grad is not None
    error = (student.grad - case["grad_student"]).norm() / case["grad_student"].norm()
    assert float(error) < 1e-5


def test_is_the_transcribed_formula() -> None:
    w_student, w_a, w_b = torch.randn(6, 5), torch.randn(6, 4), torch.randn(6, 3)
    loss_fn = BTuningLoss(w_student, [w_a, w_b], [0.2, 0.3], temperature=0.5)
    student, (a, b) = batch()
    share = torch.softmax(torch.tensor([0.4, 0.6]), dim=0)
    target = share[0] * a @ w_a.T + share[1] * b @ w_b.T
    expected = (student @ w_student.T - target).square().mean()
    torch.testing.assert_close(loss_fn(student, [a, b]), expected)
    torch.testing.assert_close(loss_fn.shares, share)


def test_gradcheck() -> None:
    student, teachers = batch(4, torch.float64)
    loss_fn = make().double()
    assert torch.autograd.gradcheck(lambda s: loss_fn(s, teachers), student.requires_grad_())


def test_only_the_student_learns() -> None:
    loss_fn = make()
    assert not list(loss_fn.parameters())
    student, teachers = batch()
    for x in (student, *teachers):
        x.requires_grad_()
    loss_fn(student, teachers).backward()
    assert student.grad is not None
    assert all(teacher.grad is None for teacher in teachers)
    assert set(loss_fn.state_dict()) == {"shares", "student_mean_weights", "teacher_mean_weights"}


def test_fit_runs_log_me_on_everything() -> None:
    labels = torch.arange(60) % 3
    good = torch.randn(3, 4)[labels] + 0.3 * torch.randn(60, 4)
    noise, student = torch.randn(60, 3), torch.randn(3, 5)[labels] + torch.randn(60, 5)
    loss_fn = BTuningLoss.fit(student, [good, noise], labels)
    found = [log_me(x, labels) for x in (student, good, noise)]
    expected = BTuningLoss(
        found[0].mean_weights,
        [found[1].mean_weights, found[2].mean_weights],
        [found[1].score, found[2].score],
    )
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(loss_fn.state_dict()[name], value)
    assert float(loss_fn.shares[0]) > 0.9
    loss = loss_fn(student, [good, noise])
    torch.testing.assert_close(loss, expected(student, torch.cat([good, noise], dim=1)))
    # If the student equals the teacher, the loss is 0.
    assert float(BTuningLoss.fit(good, good, labels)(good, good)) < 1e-10


def test_fit_takes_targets_and_absent_classes() -> None:
    student, teachers = batch(30)
    targets = torch.randn(30, 2)
    assert BTuningLoss.fit(student, teachers, targets).student_mean_weights.shape == (2, 5)
    labels = torch.arange(30) % 3
    loss_fn = BTuningLoss.fit(student, teachers, labels, num_classes=7)
    assert loss_fn.student_mean_weights.shape == (7, 5)
    assert loss_fn(student, teachers).isfinite()


def test_temperature_decides_how_evenly_teachers_share() -> None:
    weights = [torch.randn(6, 4), torch.randn(6, 3)]
    even = BTuningLoss(torch.randn(6, 5), weights, [0.0, 1.0], temperature=100.0)
    single = BTuningLoss(torch.randn(6, 5), weights, [0.0, 1.0], temperature=0.01)
    torch.testing.assert_close(even.shares, torch.full((2,), 0.5), atol=1e-2, rtol=0)
    torch.testing.assert_close(single.shares, torch.tensor([0.0, 1.0]))


def test_bfloat16_is_close_to_float32() -> None:
    loss_fn = make()
    student, teachers = batch(16)
    expected = loss_fn(student, teachers)
    half = student.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_fn(half, [teacher.bfloat16() for teacher in teachers])
        torch.testing.assert_close(loss_fn(student, teachers), expected, rtol=0, atol=0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)


def test_a_single_row_will_do() -> None:
    assert make()(*batch(1)).isfinite()
    with pytest.raises(InputError, match=r"\b0\b"):
        make()(*batch(0))


def test_wrong_shapes_and_values() -> None:
    loss_fn = make()
    student, teachers = batch()
    with pytest.raises(InputError, match=r"`student_features`.*\(batch, 5\).*\(8, 4\)"):
        loss_fn(student[:, :4], teachers)
    with pytest.raises(InputError, match=r"`teacher_features\[1\]`.*\(8, 3\).*\(8, 4\)"):
        loss_fn(student, [teachers[0], teachers[0]])
    student[2] = torch.nan
    with pytest.raises(InputError, match=r"`student_features`.*\b1 of 8\b"):
        loss_fn(student, teachers)
    student, teachers = batch()
    teachers[1][3] = torch.inf
    with pytest.raises(InputError, match=r"`teacher_features`.*\b1\b.*\b3\b.*\b1 of 8\b"):
        loss_fn(student, teachers)


@pytest.mark.parametrize(
    ("student", "teachers", "scores", "temperature", "match"),
    [
        (torch.ones(3, 2), [], [], 0.1, "`teacher_mean_weights`"),
        (torch.ones(3, 2), [torch.ones(4, 2)], [0.0], 0.1, r"`teacher_mean_weights\[0\]`.*\(4, 2"),
        (torch.ones(3), [torch.ones(3, 2)], [0.0], 0.1, "`student_mean_weights`"),
        (torch.ones(3, 2), [torch.ones(3, 2) / 0], [0.0], 0.1, r"`teacher_mean_weights\[0\]`"),
        (torch.ones(3, 2), [torch.ones(3, 2)], [0.0, 1.0], 0.1, r"`log_me_scores`.*\b1\b.*\b2\b"),
        (torch.ones(3, 2), [torch.ones(3, 2)], [float("nan")], 0.1, r"`log_me_scores`.*\[nan\]"),
        (torch.ones(3, 2), [torch.ones(3, 2)], [0.0], 0.0, r"`temperature`.*\b0\.0\b"),
    ],
)
def test_wrong_arguments(
    student: Tensor, teachers: Any, scores: Any, temperature: float, match: str
) -> None:
    with pytest.raises(InputError, match=match):
        BTuningLoss(student, teachers, scores, temperature=temperature)
