from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aft.losses import NoKernelAFTLoss

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.mark.parametrize("file", ["one_teacher", "two_teachers"])
def test_matches_the_published_code(file: str) -> None:
    reference = {
        name.removeprefix("aft_no_kernel/"): value
        for name, value in load_file(REFERENCE / f"{file}.safetensors").items()
    }
    student, teacher = reference["student"].requires_grad_(), reference["teacher"]
    loss_fn = NoKernelAFTLoss(
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


def test_shifting_either_side_changes_nothing() -> None:
    student, teacher = torch.randn(16, 5), torch.randn(16, 4)
    loss_fn = NoKernelAFTLoss(5, [4], normalize="none")
    expected = loss_fn(student, teacher)
    torch.testing.assert_close(loss_fn(student + 3, teacher - 2), expected)


def test_noise_dimensions_lose_weight() -> None:
    useful = torch.randn(256, 4)
    student = useful @ torch.randn(4, 5)
    loss_fn = NoKernelAFTLoss(5, [4, 4])
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=2e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss = loss_fn(student, [useful, torch.randn(256, 4)])
        loss.backward()
        optimizer.step()
    weights = loss_fn.projection.weight.detach().abs()
    assert float(weights[:, 4:].mean()) < 0.1 * float(weights[:, :4].mean())
    assert float(loss.detach()) < 0.05
