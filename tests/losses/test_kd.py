from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from aft.errors import InputError
from aft.losses import KDLoss

REFERENCE = Path(__file__).parents[1] / "reference"


def relative_error(got: Tensor | None, expected: Tensor) -> float:
    assert got is not None
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("file", ["one_teacher", "two_teachers"])
@pytest.mark.parametrize("as_list", [True, False], ids=["tensors", "tensor"])
def test_matches_the_published_code(file: str, as_list: bool) -> None:
    reference = load_file(REFERENCE / f"{file}.safetensors")
    dims = reference["meta/teacher_dims"].tolist()
    student = reference["kd/student"].requires_grad_()
    teacher = reference["kd/teacher"]
    loss_fn = KDLoss(student.shape[1], dims, normalize="none")
    loss_fn.projection.load_state_dict(
        {"weight": reference["kd/param_weight"], "bias": reference["kd/param_bias"]}
    )
    loss = loss_fn(student, teacher.split(dims, dim=1) if as_list else teacher)
    loss.backward()
    torch.testing.assert_close(loss, reference["kd/loss"].squeeze(), rtol=1e-5, atol=0)
    assert relative_error(student.grad, reference["kd/grad_student"]) < 1e-5
    for name, parameter in loss_fn.projection.named_parameters():
        assert relative_error(parameter.grad, reference[f"kd/grad_param_{name}"]) < 1e-5


def test_a_map_to_nothing_has_about_1() -> None:
    loss_fn = KDLoss(5, [4, 3])
    with torch.no_grad():
        for parameter in loss_fn.parameters():
            parameter.zero_()
    teachers = [100 * torch.randn(64, 4) + 7, torch.randn(64, 3)]
    assert float(loss_fn(torch.randn(64, 5), teachers).detach()) == pytest.approx(1)


def test_learns_a_linear_relation() -> None:
    student = torch.randn(64, 5)
    teacher = student @ torch.randn(5, 4) + 2
    loss_fn = KDLoss(5, [4])
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=5e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss = loss_fn(student, teacher)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1e-3


def test_a_single_row_will_do_if_it_is_not_standardized_by_itself() -> None:
    student, teacher = torch.randn(1, 5), torch.randn(1, 4)
    statistics = [(torch.zeros(4), torch.ones(4))]
    a, b = KDLoss(5, [4], normalize="none"), KDLoss(5, [4], statistics=statistics)
    b.load_state_dict(a.state_dict(), strict=False)
    torch.testing.assert_close(a(student, teacher), b(student, teacher))
    with pytest.raises(InputError, match=r"\b2\b.*\b1\b.*drop_last"):
        KDLoss(5, [4])(student, teacher)
    with pytest.raises(InputError, match=r"\b1\b.*\b0\b"):
        a(student[:0], teacher[:0])
