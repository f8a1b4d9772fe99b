from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aft import functional as AF


def features(rows: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def kernel(x: Tensor) -> Tensor:
    return AF.gram(AF.normalize_rows(AF.centre(x)))


def outer(*parts: Tensor) -> Tensor:
    joined = parts[0]
    for part in parts[1:]:
        joined = (joined[:, :, None] * part[:, None]).flatten(1)
    return joined


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    rows = draw(st.integers(2, 12))
    seed = draw(st.integers(0, 2**31))
    return (
        features(rows, draw(st.integers(1, 9)), seed),
        features(rows, draw(st.integers(1, 9)), seed + 1),
    )


@given(pairs(), st.integers(0, 2**31))
def test_distance_ignores_the_order_of_rows(pair: tuple[Tensor, Tensor], seed: int) -> None:
    x, y = pair
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        AF.kernel_distance(kernel(x[order]), kernel(y[order])),
        AF.kernel_distance(kernel(x), kernel(y)),
    )


@given(pairs(), st.floats(0.1, 1e3), st.integers(0, 2**31))
def test_distance_ignores_rotation_shift_and_scale(
    pair: tuple[Tensor, Tensor], scale: float, seed: int
) -> None:
    x, y = pair
    rotation, _ = torch.linalg.qr(features(x.shape[1], x.shape[1], seed))
    shift = features(1, x.shape[1], seed + 1)
    torch.testing.assert_close(
        AF.kernel_distance(kernel(scale * x @ rotation + shift), kernel(y)),
        AF.kernel_distance(kernel(x), kernel(y)),
        rtol=1e-5,
        atol=1e-5,  # the epsilon in normalize_rows counts where rows nearly coincide
    )


@given(pairs())
def test_distance_is_symmetric_and_bounded(pair: tuple[Tensor, Tensor]) -> None:
    a, b = kernel(pair[0]), kernel(pair[1])
    distance = AF.kernel_distance(a, b)
    torch.testing.assert_close(distance, AF.kernel_distance(b, a), rtol=0, atol=0)
    assert 0 < float(distance) <= 2 + 1e-6


@given(pairs())
def test_equal_features_have_distance_of_the_epsilon(pair: tuple[Tensor, Tensor]) -> None:
    k = kernel(pair[0]).requires_grad_()
    distance = AF.kernel_distance(k, k.detach())
    assert float(distance.detach()) == pytest.approx(math.sqrt(AF.DISTANCE_EPS))
    (gradient,) = torch.autograd.grad(distance, k)
    assert not gradient.any()


@pytest.mark.parametrize(
    "function",
    [
        AF.centre,
        AF.standardize,
        AF.normalize_rows,
        AF.gram,
        lambda x: AF.rbf_from_gram(AF.gram(x)),
        lambda x: AF.normalize_gram(AF.gram(x)),
        lambda x: AF.product_gram([x, x[:, :2] + 1]),
        lambda x: AF.cka(x, x[:, :2].square()),
        lambda x: AF.kernel_distance(AF.gram(x), AF.rbf_from_gram(AF.gram(x))),
    ],
    ids=[
        "centre",
        "standardize",
        "normalize_rows",
        "gram",
        "rbf_from_gram",
        "normalize_gram",
        "product_gram",
        "cka",
        "kernel_distance",
    ],
)
def test_gradients(function: object) -> None:
    assert torch.autograd.gradcheck(function, features(5, 4).requires_grad_())  # type: ignore[arg-type]


def test_rbf_from_gram_is_the_textbook_formula() -> None:
    x = features(7, 3)
    expected = torch.exp(-(x[:, None] - x[None]).square().sum(-1))
    torch.testing.assert_close(AF.rbf_from_gram(AF.gram(x)), expected)


@pytest.mark.parametrize("dims", [(3,), (4, 6), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_product_equals_the_outer_product(dims: tuple[int, ...], mean: float) -> None:
    parts = [mean + features(9, dim, seed, torch.float32) for seed, dim in enumerate(dims)]
    for part in parts:
        part.requires_grad_()
    exact = [part.detach().double().requires_grad_() for part in parts]
    against = kernel(features(9, 5, 99, torch.float32))
    got = AF.kernel_distance(AF.normalize_gram(AF.product_gram(parts)), against)
    expected = AF.kernel_distance(kernel(outer(*exact)), against)
    got.backward()
    expected.backward()
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=0)
    for part, reference in zip(parts, exact, strict=True):
        assert part.grad is not None
        assert reference.grad is not None
        error = (part.grad - reference.grad).norm() / reference.grad.norm()
        assert float(error) < 1e-5 * max(1.0, mean / 3)


def test_product_of_centred_grams_matches_before_normalisation() -> None:
    x, y = features(6, 3), features(6, 4, 1)
    torch.testing.assert_close(AF.product_gram([x, y]), AF.gram(AF.centre(outer(x, y))))


def test_product_never_builds_the_outer_product() -> None:
    x, y = features(16, 20_000, 0, torch.float32), features(16, 20_000, 1, torch.float32)
    result = AF.product_gram([x, y])  # the outer product alone would take 26 GB
    torch.testing.assert_close(
        result, AF.centre(AF.centre(AF.gram(x) * AF.gram(y)).T), rtol=1e-4, atol=100
    )


def test_normalize_gram_of_constant_rows_has_finite_gradients() -> None:
    x = torch.zeros(4, 3, requires_grad=True)
    result = AF.normalize_gram(AF.gram(x))
    result.sum().backward()
    assert not result.any()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_standardize_gives_mean_0_and_deviation_1() -> None:
    x = 5 + 3 * features(50, 4)
    result = AF.standardize(x)
    torch.testing.assert_close(result.mean(0), torch.zeros(4, dtype=x.dtype))
    torch.testing.assert_close(result.std(0, correction=0), torch.ones(4, dtype=x.dtype))
    torch.testing.assert_close(AF.standardize(x, x.mean(0), x.std(0, correction=0)), result)


def test_standardize_turns_constants_into_zeros_not_noise() -> None:
    x = torch.full((7, 3), 0.1)
    x[:, 1] = 1e6 + 0.1
    x[:, 2] = torch.arange(7)
    x.requires_grad_()
    result = AF.standardize(x)
    assert not result[:, :2].any()
    assert result[:, 2].any()
    result.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_standardize_does_not_hide_nan_in_constant_dimensions() -> None:
    x = torch.tensor([[1.0], [torch.nan]])
    assert AF.standardize(x, torch.ones(1), torch.zeros(1)).isnan().any()


@pytest.mark.parametrize(("rows", "dims"), [(6, (9, 4)), (50, (4, 7))])
def test_cka_is_the_same_by_either_route(rows: int, dims: tuple[int, int]) -> None:
    x, y = features(rows, dims[0]), features(rows, dims[1], 1)
    a, b = AF.gram(AF.centre(x)), AF.gram(AF.centre(y))
    expected = (a * b).sum() / (a.norm() * b.norm())
    torch.testing.assert_close(AF.cka(x, y), expected)


def test_cka_is_1_for_a_rotation_and_0_for_a_constant() -> None:
    x = features(20, 4)
    rotation, _ = torch.linalg.qr(features(4, 4, 1))
    assert float(AF.cka(x, 3 * x @ rotation + 1)) == pytest.approx(1)
    assert float(AF.cka(x, torch.ones(20, 2, dtype=x.dtype))) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_lifted_even_under_autocast(dtype: torch.dtype) -> None:
    x = features(8, 5, 0, torch.float32).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = kernel(x)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, kernel(x.float()), rtol=0, atol=0)
