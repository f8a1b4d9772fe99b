"""Properties shared by all losses; add a new loss to ``LOSSES``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aft.errors import InputError
from aft.losses import (
    FTLoss,
    KDLoss,
    KernelKDLoss,
    LogitKDLoss,
    NoKernelAFTLoss,
    RKDLoss,
    SoftLabelLoss,
)
from aft.losses.heads import LinearHead

# For a student of width 5 and teachers of widths 4 and 3.
LOSSES: dict[str, Callable[..., nn.Module]] = {
    "KDLoss": lambda **options: KDLoss(5, [4, 3], **options),
    "KernelKDLoss": lambda **options: KernelKDLoss(5, [4, 3], **options),
    "NoKernelAFTLoss": lambda **options: NoKernelAFTLoss(5, [4, 3], **options),
    "RKDLoss": lambda **options: RKDLoss(**options),
    "FTLoss": lambda: FTLoss(5, 7),
}
# For a student with 5 logits.
WITH_HEAD: dict[str, Callable[..., nn.Module]] = {
    "LogitKDLoss": lambda: LogitKDLoss([4, 3], random_head()),
    "SoftLabelLoss classes": lambda: SoftLabelLoss([4, 3], random_head(), kind="classification"),
    "SoftLabelLoss labels": lambda: SoftLabelLoss([4, 3], random_head(), kind="multilabel"),
    "SoftLabelLoss targets": lambda: SoftLabelLoss(
        [4, 3], random_head(), kind="regression", target_std=torch.arange(1.0, 6.0)
    ),
}
ALL = {**LOSSES, **WITH_HEAD}
NORMALIZED = [name for name in LOSSES if name != "FTLoss"]
COMPARING = ["KernelKDLoss", "NoKernelAFTLoss", "RKDLoss"]
WITH_STUDENT_DIM = ["KDLoss", "KernelKDLoss", "NoKernelAFTLoss", "FTLoss"]


def random_head() -> LinearHead:
    return LinearHead(torch.randn(5, 7), torch.randn(5), 1.0)


def batch(rows: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    return torch.randn(rows, 5, dtype=dtype), [
        torch.randn(rows, dim, dtype=dtype) for dim in (4, 3)
    ]


@pytest.mark.parametrize("name", ALL)
def test_gradcheck(name: str) -> None:
    loss_fn = ALL[name]()
    student, teachers = batch(5, torch.float64)
    parameters = {
        key: value.detach().double().requires_grad_() for key, value in loss_fn.named_parameters()
    }

    def loss(student: Tensor, *values: Tensor) -> Tensor:
        state = dict(zip(parameters, values, strict=True))
        result = torch.func.functional_call(loss_fn, state, (student, teachers))
        assert isinstance(result, Tensor)
        return result

    assert torch.autograd.gradcheck(loss, (student.requires_grad_(), *parameters.values()))


@pytest.mark.parametrize("name", ALL)
def test_float64_in_float64_out(name: str) -> None:
    loss_fn = ALL[name]()
    student, teachers = batch(8, torch.float64)
    loss = loss_fn(student, [teacher.float() for teacher in teachers])
    assert loss.dtype == torch.float64 and loss.ndim == 0
    loss = loss_fn(student.float(), teachers)
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("name", ALL)
def test_autocast_changes_nothing(name: str) -> None:
    student, teachers = batch(16)
    loss_fn = ALL[name]()
    expected = loss_fn(student, teachers)
    half = student.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same_inputs = loss_fn(student, teachers)
        loss = loss_fn(half, [teacher.bfloat16() for teacher in teachers])
    torch.testing.assert_close(same_inputs, expected, rtol=0, atol=0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    loss.backward()
    assert half.grad is not None and half.grad.isfinite().all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [0.0, 0.1, 3e4])
def test_constant_features_stay_finite(name: str, value: float) -> None:
    loss_fn = ALL[name]()
    student = torch.full((6, 5), value, requires_grad=True)
    for teachers in (batch(6)[1], [torch.full((6, 4), value), torch.full((6, 3), value)]):
        loss = loss_fn(student, teachers)
        loss.backward()
        assert loss.isfinite()
        for tensor in (student, *loss_fn.parameters()):
            assert tensor.grad is not None and tensor.grad.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_row_order_does_not_matter(name: str) -> None:
    loss_fn = ALL[name]()
    student, teachers = batch(8, torch.float64)
    order = torch.randperm(8)
    moved = loss_fn(student[order], [teacher[order] for teacher in teachers])
    torch.testing.assert_close(moved, loss_fn(student, teachers))


@pytest.mark.parametrize("name", NORMALIZED)
def test_standardize_ignores_the_teachers_units(name: str) -> None:
    student, (a, b) = batch()
    loss_fn = LOSSES[name]()
    moved = loss_fn(student, [1e3 * a + 50, b])
    torch.testing.assert_close(moved, loss_fn(student, [a, b]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", NORMALIZED)
def test_statistics_replace_the_batchs_own(name: str) -> None:
    student, teachers = batch()
    loss_fn = LOSSES[name]()
    own = [(x.mean(0), x.std(0, correction=0)) for x in teachers]
    other = [(x.mean(0), torch.rand(x.shape[1]) + 0.1) for x in teachers]
    expected = loss_fn(student, teachers)
    same = LOSSES[name](statistics=own)
    same.load_state_dict({**same.state_dict(), **loss_fn.state_dict()})
    torch.testing.assert_close(same(student, teachers), expected, rtol=1e-5, atol=0)
    different = LOSSES[name](statistics=other)
    different.load_state_dict({**different.state_dict(), **loss_fn.state_dict()})
    assert float((different(student, teachers) - expected).detach().abs()) > 1e-5
    assert {"standardize.feature_mean", "standardize.feature_std"} <= set(same.state_dict())


@pytest.mark.parametrize("name", NORMALIZED)
def test_wrong_options(name: str) -> None:
    good = (torch.zeros(4), torch.ones(4))
    with pytest.raises(InputError, match="`normalize`.*'standardize', 'none'.*'l2'"):
        LOSSES[name](normalize="l2")
    with pytest.raises(InputError, match="`statistics`.*normalize='none'"):
        LOSSES[name](normalize="none", statistics=[good, good])
    with pytest.raises(InputError, match=r"std.*`statistics\[0\]`"):
        LOSSES[name](statistics=[(torch.zeros(4), -torch.ones(4)), good])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_features_are_named(name: str, bad: float) -> None:
    loss_fn = LOSSES[name]()
    student, teachers = batch()
    student[2, 1] = student[5, 0] = bad
    with pytest.raises(InputError, match=r"`student_features`.*\b2 of 8\b"):
        loss_fn(student, teachers)
    student, teachers = batch()
    teachers[1][3] = bad
    with pytest.raises(InputError, match=r"`teacher_features`.*\b1\b.*\b3\b.*\b1 of 8\b"):
        loss_fn(student, teachers)


@pytest.mark.parametrize("name", WITH_STUDENT_DIM)
def test_non_finite_parameters_are_named(name: str) -> None:
    loss_fn = LOSSES[name]()
    key, parameter = next(iter(loss_fn.named_parameters()))
    with torch.no_grad():
        parameter.view(-1)[0] = torch.nan
    with pytest.raises(InputError, match=f"`{re.escape(key)}`"):
        loss_fn(*batch())


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("rows", [0, 1])
def test_too_small_a_batch(name: str, rows: int) -> None:
    with pytest.raises(InputError, match=rf"\b2\b.*\b{rows}\b.*drop_last"):
        LOSSES[name]()(*batch(rows))


@pytest.mark.parametrize("name", LOSSES)
def test_wrong_shapes(name: str) -> None:
    loss_fn = LOSSES[name]()
    student, (a, b) = batch()
    with pytest.raises(InputError, match=r"`teacher_features\[0\]`.*\(8, 4\).*\(7, 4\)"):
        loss_fn(student, [a[1:], b])
    with pytest.raises(InputError, match=r"`student_features`.*\(8, 5, 1, 1\)"):
        loss_fn(student[:, :, None, None], [a, b])
    with pytest.raises(InputError, match=r"`teacher_features\[1\]`.*int64.*\(8, 3\)"):
        loss_fn(student, [a, b.long()])


@pytest.mark.parametrize("name", WITH_STUDENT_DIM)
def test_wrong_student_width(name: str) -> None:
    student, teachers = batch()
    with pytest.raises(InputError, match=r"`student_features`.*\(batch, 5\).*\(8, 4\)"):
        LOSSES[name]()(student[:, :4], teachers)
    assert "student_dim=5" in repr(LOSSES[name]())


@pytest.mark.parametrize("student_dim", [0, -1, 2.5, None])
@pytest.mark.parametrize("loss", [KDLoss, KernelKDLoss, NoKernelAFTLoss])
def test_wrong_dims(loss: Any, student_dim: Any) -> None:
    with pytest.raises(InputError, match=f"`student_dim`.*{re.escape(repr(student_dim))}"):
        loss(student_dim, [4])
    with pytest.raises(InputError, match=r"`teacher_dims`.*\[\]"):
        loss(5, [])
