from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aft.losses import AFTLoss, KernelKDLoss

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.mark.parametrize("file", ["one_teacher", "two_teachers"])
def test_matches_the_published_code(file: str) -> None:
    reference = {
        name.removeprefix("kernel_kd/"): value
        for name, value in load_file(REFERENCE / f"{file}.safetensors").items()
    }
    student, teacher = reference["student"].requires_grad_(), reference["teacher"]
    loss_fn = KernelKDLoss(
        student.shape[1], reference["meta/teacher_dims"].tolist(), normalize="none"
    )
    loss_fn.projection.load_state_dict({"weight": reference["param_weight"]})
    loss = loss_fn(student, teacher)
    loss.backward()
    torch.testing.assert_close(loss, reference["loss"].squeeze(), rtol=1e-5, atol=0)
    for tensor, name in ((student, "student"), (loss_fn.projection.weight, "param_weight")):
        expected = reference[f"grad_{name}"]
        assert tensor.grad is not None
        assert float((tensor.grad - expected).norm() / expected.norm()) < 1e-5
    # The published map has a bias, which centring removes up to rounding.
    assert float(reference["grad_param_bias"].abs().max()) < 1e-7


def test_without_a_map_it_is_the_adaptive_loss_with_fixed_gates() -> None:
    student, teachers = torch.randn(16, 5), [torch.randn(16, 4), torch.randn(16, 3)]
    loss_fn = KernelKDLoss(5, [4, 3])
    torch.nn.init.eye_(loss_fn.projection.weight)
    expected = AFTLoss([4, 3], weights="fixed")(student, teachers)
    torch.testing.assert_close(loss_fn(student, teachers).detach(), expected)


def test_the_map_learns_to_find_what_the_teacher_knows() -> None:
    teacher = torch.randn(64, 3)
    student = torch.cat([teacher, 3 * torch.randn(64, 3)], dim=1)
    loss_fn = KernelKDLoss(6, [3], normalize="none")
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=2e-2)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = loss_fn(student, teacher)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
