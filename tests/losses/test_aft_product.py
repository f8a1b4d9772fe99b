"""``AFTLoss(combine="product")`` against an explicit outer product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from aft.losses import AFTLoss

REFERENCE = Path(__file__).parents[1] / "reference" / "two_teachers.safetensors"
KERNELS = ("linear", "rbf")
WIDTHS = [(4, 3), (6, 1), (5,), (4, 3, 5), (2, 3, 2, 3)]


def naive_loss(
    student: Tensor,
    teachers: list[Tensor],
    weights: list[Tensor],
    *,
    kernel: str = "linear",
    statistics: list[tuple[Tensor, Tensor]] | None = None,
    standardize: bool = False,
) -> Tensor:
    """Reference implementation that builds the outer product, as in the paper."""
    product = torch.ones(len(student), 1, dtype=student.dtype)
    for t, (teacher, weight) in enumerate(zip(teachers, weights, strict=True)):
        if standardize:
            own = (teacher.mean(0), teacher.std(0, correction=0))
            mean, std = statistics[t] if statistics else own
            teacher = (teacher - mean) / std
        gated = teacher * weight.sigmoid()
        product = (product[:, :, None] * gated[:, None, :]).flatten(1)
    kernels = []
    for features in (student, product):
        centred = features - features.mean(0)
        rows = centred / (centred.norm(dim=1, keepdim=True) + 1e-8)
        if kernel == "rbf":
            kernels.append(torch.exp(-(rows[:, None] - rows[None]).square().sum(-1)))
        else:
            kernels.append(rows @ rows.T)
    return ((kernels[0] - kernels[1]).square().mean() + 1e-8).sqrt()


def check(got: Tensor | None, expected: Tensor | None) -> None:
    assert got is not None and expected is not None
    assert float((got.double() - expected.double()).norm() / expected.double().norm()) < 1e-5


def compare(widths: tuple[int, ...], offset: float, naive: dict[str, Any], **options: Any) -> None:
    """Value and gradients in float32 match the reference in float64."""
    student = torch.randn(12, 6, dtype=torch.float64)
    teachers = [torch.randn(12, width, dtype=torch.float64) + offset for width in widths]
    weights = [torch.randn(width, dtype=torch.float64) for width in widths]
    leaves = [tensor.clone().requires_grad_() for tensor in (student, *weights, *teachers)]
    count = len(widths)
    expected = naive_loss(leaves[0], leaves[1 + count :], leaves[1 : 1 + count], **naive)
    expected.backward()

    loss_fn = AFTLoss(widths, combine="product", **options)
    with torch.no_grad():
        loss_fn.feature_weights.copy_(torch.cat(weights))
    given = [tensor.float().requires_grad_() for tensor in (student, *teachers)]
    loss = loss_fn(given[0], given[1:])
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    check(given[0].grad, leaves[0].grad)
    check(loss_fn.feature_weights.grad, torch.cat([w.grad for w in leaves[1 : 1 + count]]))  # type: ignore[misc]
    for mine, theirs in zip(given[1:], leaves[1 + count :], strict=True):
        check(mine.grad, theirs.grad)


def test_matches_the_published_code() -> None:
    reference = load_file(REFERENCE)
    dims = reference["meta/teacher_dims"].tolist()
    case = {k.removeprefix("aft_product/"): v for k, v in reference.items()}
    loss_fn = AFTLoss(dims, combine="product", normalize="none")
    with torch.no_grad():
        loss_fn.feature_weights.copy_(case["param_s"])
    student = case["student"].requires_grad_()
    teachers = list(case["teacher"].split(dims, dim=1))
    loss = loss_fn(student, teachers)
    loss.backward()
    torch.testing.assert_close(loss, case["loss"].squeeze(), rtol=1e-5, atol=0)
    check(student.grad, case["grad_student"])
    check(loss_fn.feature_weights.grad, case["grad_param_s"])
    weights = list(case["param_s"].split(dims))
    naive = naive_loss(student.detach(), teachers, weights)
    torch.testing.assert_close(loss.detach(), naive, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_raw_features(kernel: Any, widths: tuple[int, ...], offset: float) -> None:
    compare(widths, offset, {"kernel": kernel}, kernel=kernel, normalize="none")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_standardized_features(kernel: Any, widths: tuple[int, ...]) -> None:
    compare(widths, 1.0, {"kernel": kernel, "standardize": True}, kernel=kernel)


def test_features_standardized_by_the_training_set() -> None:
    widths = (4, 3, 5)
    statistics = [(torch.randn(w).double(), torch.rand(w).double() + 0.5) for w in widths]
    naive = {"standardize": True, "statistics": statistics}
    compare(widths, 1.0, naive, statistics=statistics)


def test_one_teacher_is_the_same_as_side_by_side() -> None:
    student, teacher = torch.randn(8, 5), torch.randn(8, 7)
    expected = AFTLoss([7])(student, [teacher])
    torch.testing.assert_close(AFTLoss([7], combine="product")(student, [teacher]), expected)


@pytest.mark.parametrize("widths", [(50_000, 50_000), (3_000, 3_000, 3_000)], ids=str)
def test_widths_whose_outer_product_would_not_fit(widths: tuple[int, ...]) -> None:
    """8 rows of 50,000 x 50,000 values would take 80 GB, of 3,000³ values 864 GB."""
    student = torch.randn(8, 5, requires_grad=True)
    loss_fn = AFTLoss(widths, combine="product")
    loss = loss_fn(student, [torch.randn(8, width) for width in widths])
    loss.backward()
    assert loss.isfinite()
    for gradient in (student.grad, loss_fn.feature_weights.grad):
        assert gradient is not None and gradient.isfinite().all() and gradient.any()


def test_rows_where_a_teacher_has_its_mean() -> None:
    """A row of zeros after standardization, as for a missing input, has a zero product."""
    student = torch.randn(8, 5, requires_grad=True)
    image, text = torch.randn(8, 6), torch.randn(8, 4)
    statistics = [(x.mean(0), x.std(0, correction=0)) for x in (image, text)]
    text = torch.cat([text[:6], statistics[1][0].expand(2, -1)])
    loss_fn = AFTLoss([6, 4], combine="product", statistics=statistics)
    loss = loss_fn(student, [image, text])
    loss.backward()
    assert loss.isfinite()
    gradient = loss_fn.feature_weights.grad
    assert gradient is not None and gradient.isfinite().all() and gradient.any()
    # The product of such rows does not depend on the other teacher.
    other = torch.cat([image[:6], torch.randn(2, 6)])
    torch.testing.assert_close(loss_fn(student, [other, text]), loss)
