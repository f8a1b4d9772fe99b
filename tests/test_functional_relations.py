"""Distances and angles computed from inner products, against their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aft import functional as AF


def features(rows: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cosines(x: Tensor, corners: slice = slice(None)) -> Tensor:
    gram = AF.gram(AF.centre(x))
    return AF.angle_cosines(gram, AF.squared_distances(gram), corners)


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**31))
def test_squared_distances(rows: int, dim: int, seed: int) -> None:
    x = features(rows, dim, seed)
    expected = (x[:, None] - x[None]).square().sum(dim=2)
    got = AF.squared_distances(AF.gram(x))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-12)
    assert not got.diagonal().any()


@given(st.integers(2, 10), st.integers(1, 9), st.integers(0, 2**31))
def test_angle_cosines(rows: int, dim: int, seed: int) -> None:
    x = features(rows, dim, seed)
    unit = torch.nn.functional.normalize(x[None] - x[:, None], dim=2)
    expected = unit @ unit.transpose(1, 2)
    torch.testing.assert_close(cosines(x), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(cosines(x, slice(1, 2)), expected[1:2], rtol=1e-5, atol=1e-6)
    assert float(cosines(x.float()).abs().max()) <= 1


@given(st.integers(2, 10), st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_relative_distances_ignore_scale_and_average_to_1(
    rows: int, scale: float, seed: int
) -> None:
    x = features(rows, 4, seed)
    got = AF.relative_distances(AF.squared_distances(AF.gram(x)))
    scaled = AF.relative_distances(AF.squared_distances(AF.gram(scale * x)))
    torch.testing.assert_close(scaled, got)
    assert float(got.sum()) == pytest.approx(rows * (rows - 1))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: AF.squared_distances(AF.gram(x)),
        lambda x: AF.relative_distances(AF.squared_distances(AF.gram(x))),
        cosines,
    ],
    ids=["squared_distances", "relative_distances", "angle_cosines"],
)
def test_gradients(function: object) -> None:
    assert torch.autograd.gradcheck(function, features(5, 4).requires_grad_())  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_equal_rows_have_no_distance_angle_or_gradient(dtype: torch.dtype, offset: float) -> None:
    x = (features(3, 200, 0, dtype) + offset)[[0, 0, 1, 2]].requires_grad_()
    gram = AF.gram(AF.centre(x))
    squared = AF.squared_distances(gram)
    assert float(squared[0, 1].detach()) == 0 and squared[0, 2] > 0
    relative = AF.relative_distances(squared)
    assert 0 < float(relative[0, 1].detach()) < 1e-6
    angles = AF.angle_cosines(gram, squared, slice(None))
    assert not angles[0, 1].any() and not angles[0, :, 1].any()
    (gradient,) = torch.autograd.grad(relative[0, 1], x, retain_graph=True)
    assert gradient.isfinite().all() and float(gradient.norm()) < 1e-5
    (gradient,) = torch.autograd.grad(angles.sum(), x)
    assert gradient.isfinite().all() and float(gradient.norm()) < 100


def test_nan_is_not_hidden() -> None:
    x = features(4, 3)
    x[1, 2] = torch.nan
    gram = AF.gram(AF.centre(x))
    squared = AF.squared_distances(gram)
    assert squared.isnan().any()
    assert AF.relative_distances(squared).isnan().any()
    assert AF.angle_cosines(gram, squared, slice(None)).isnan().any()
