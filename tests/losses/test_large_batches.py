"""Large batches: the cheaper form of the kernel distance, tiles, and what is kept in memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from aft import functional as AF
from aft.losses import AFTLoss, CKALoss, KernelKDLoss

KERNELS: list[dict[str, Any]] = [
    {"kernel": kernel, "combine": combine}
    for kernel in ("linear", "rbf")
    for combine in ("concat", "product")
]
SHAPES = [(40, 5, 7), (300, 16, 24), (600, 24, 8), (100, 60, 90)]


def rows(*shape: int) -> Tensor:
    return AF.normalize_rows(AF.centre(torch.randn(*shape, dtype=torch.float64)))


def near(a: Tensor, distance: float) -> Tensor:
    """Rows whose kernel differs little from that of ``a``."""
    rotation, _ = torch.linalg.qr(torch.randn(a.shape[1], a.shape[1], dtype=a.dtype))
    return AF.normalize_rows(a + distance * torch.randn_like(a)) @ rotation


def run(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Value and gradients."""
    leaves = [one.detach().clone().requires_grad_() for one in inputs]
    value = function(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def exact(a: Tensor, b: Tensor) -> Tensor:
    return ((a @ a.T - b @ b.T).square().mean() + AF.DISTANCE_EPS).sqrt()


def error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


def force(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(AF, "covariances_pay", lambda a, b: form == "covariances")
    if form == "tiles":
        monkeypatch.setattr(AF, "TILE", 1000)


@pytest.mark.parametrize("form", ["gram", "covariances", "tiles"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_forms_are_exact(
    form: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    count, *widths = shape
    inputs = [rows(count, width) for width in widths]
    expected = run(exact, *inputs)
    force(monkeypatch, form)
    got = run(AF.gram_distance, *(one.float() for one in inputs))
    for mine, theirs in zip(got, expected, strict=True):
        assert error(mine, theirs) < 1e-5


@pytest.mark.parametrize("distance", [0.3, 0.1, 0.03])
@pytest.mark.parametrize("shape", [(300, 16), (1000, 48)], ids=str)
def test_covariances_of_close_kernels_are_exact(
    shape: tuple[int, int], distance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = rows(*shape)
    b = near(a, distance)
    expected = run(exact, a, b)
    force(monkeypatch, "covariances")
    got = run(AF.gram_distance, a.float(), b.float())
    for mine, theirs in zip(got, expected, strict=True):
        assert error(mine, theirs) < 1e-5


def test_covariances_of_equal_kernels_give_the_epsilon() -> None:
    a = rows(200, 8).float()
    assert AF.covariances_pay(a, a)
    value, *gradients = run(AF.gram_distance, a, near(a, 0.0))
    assert float(value) == pytest.approx(AF.DISTANCE_EPS**0.5, rel=1e-3)
    for gradient in gradients:
        assert gradient.isfinite().all()
    same = a.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(AF.gram_distance(same, a), same)
    assert not gradient.any()


def operations(a: Tensor, b: Tensor) -> int:
    """Multiplications in matrix products, forward and backward."""
    counter = FlopCounterMode(display=False)
    with counter:
        AF.gram_distance(a, b).backward()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("both", [True, False], ids=["both learn", "one learns"])
@pytest.mark.parametrize(
    "shape", [(40, 16, 16), (40, 24, 24), (40, 4, 30), (40, 30, 4), (60, 30, 40)], ids=str
)
def test_the_form_with_fewer_operations_is_chosen(
    shape: tuple[int, int, int], both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, wide_a, wide_b = shape
    a, b = rows(count, wide_a).requires_grad_(), rows(count, wide_b).requires_grad_(both)
    chosen = operations(a, b)
    by_form = {}
    for form in ("gram", "covariances"):
        with monkeypatch.context() as patch:
            force(patch, form)
            by_form[form] = operations(a, b)
    assert chosen == min(by_form.values())
    products = 1 + a.requires_grad, 1 + b.requires_grad  # no product more than needed
    assert by_form["gram"] == count**2 * (products[0] * wide_a + products[1] * wide_b)


def test_both_forms_are_chosen() -> None:
    assert AF.covariances_pay(torch.empty(200, 100), torch.empty(200, 100))
    assert not AF.covariances_pay(torch.empty(100, 100), torch.empty(100, 100))
    learns = torch.empty(160, 100, requires_grad=True)
    assert AF.covariances_pay(torch.empty(160, 100), torch.empty(160, 100))
    assert not AF.covariances_pay(learns, learns)


class Kept:
    """A tensor that is kept for the backward pass, as long as this object lives."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept_squares(function: Callable[[], Tensor], count: int) -> int:
    """Number of different ``count x count`` tensors that are kept for the backward pass."""
    living: weakref.WeakSet[Kept] = weakref.WeakSet()

    def pack(tensor: Tensor) -> Kept:
        kept = Kept(tensor)
        living.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        loss = function()
    squares = [one.tensor for one in living if one.tensor.numel() == count**2]
    assert loss.requires_grad
    return len({one.data_ptr() for one in squares})


@pytest.mark.parametrize("tiled", [False, True])
def test_at_most_one_matrix_is_kept(tiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    student = torch.randn(31, 40, requires_grad=True)
    teachers = [torch.randn(31, 35), torch.randn(31, 45)]
    if tiled:
        monkeypatch.setattr(AF, "TILE", 100)
    for loss_fn in (AFTLoss([35, 45]), KernelKDLoss(40, [35, 45])):
        assert kept_squares(lambda: loss_fn(student, teachers), 31) == (0 if tiled else 1)  # noqa: B023


@pytest.mark.parametrize("options", KERNELS, ids=lambda o: "-".join(o.values()))
def test_tiles_keep_no_matrix(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AF, "TILE", 100)
    student = torch.randn(31, 40, requires_grad=True)
    loss_fn = AFTLoss([35, 45], **options)
    teachers = [torch.randn(31, 35), torch.randn(31, 45)]
    assert kept_squares(lambda: loss_fn(student, teachers), 31) == 0


def test_covariances_keep_no_matrix() -> None:
    student = torch.randn(61, 4, requires_grad=True)
    for loss_fn in (AFTLoss([4]), KernelKDLoss(4, [4]), CKALoss()):
        assert kept_squares(lambda: loss_fn(student, torch.randn(61, 4)), 61) == 0  # noqa: B023


@pytest.mark.parametrize("tile", [1, 150, 1000])
@pytest.mark.parametrize("normalize", ["standardize", "none"])
@pytest.mark.parametrize("options", KERNELS, ids=lambda o: "-".join(o.values()))
def test_tiles_equal_the_whole(
    options: dict[str, Any], normalize: Any, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss_fn = AFTLoss([16, 13, 12], normalize=normalize, **options)
    torch.nn.init.normal_(loss_fn.feature_weights)
    inputs = [torch.randn(33, 20), *(2 + torch.randn(33, width) for width in (16, 13, 12))]
    weights = loss_fn.feature_weights.detach()

    def loss(student: Tensor, weights: Tensor, *teachers: Tensor) -> Tensor:
        state = {"feature_weights": weights}
        value: Tensor = torch.func.functional_call(loss_fn, state, (student, list(teachers)))
        return value

    in_double = [one.double() for one in (inputs[0], weights, *inputs[1:])]
    whole = run(loss, *in_double)
    monkeypatch.setattr(AF, "TILE", tile)
    for mine, theirs in zip(run(loss, *in_double), whole, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(run(loss, inputs[0], weights, *inputs[1:]), whole, strict=True):
        assert error(mine, theirs) < 1e-5


@pytest.mark.parametrize("options", KERNELS, ids=lambda o: "-".join(o.values()))
def test_tiles_have_the_right_gradient(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AF, "TILE", 12)
    loss_fn = AFTLoss([6, 7], **options).double()
    inputs = [torch.randn(5, width, dtype=torch.float64, requires_grad=True) for width in (6, 6, 7)]
    assert torch.autograd.gradcheck(lambda a, b, c: loss_fn(a, [b, c]), inputs)


def test_tiles_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = torch.randn(30, 40), torch.randn(30, 50)
    for options in KERNELS:
        loss_fn = AFTLoss([20, 30], **options)
        with monkeypatch.context() as patch:
            patch.setattr(AF, "TILE", 100)
            expected = run(lambda one: loss_fn(one, teacher), student)  # noqa: B023
            with torch.autocast("cpu", dtype=torch.bfloat16):
                got = run(lambda one: loss_fn(one, teacher), student)  # noqa: B023
        for mine, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("width", "tile"), [(4, 1000), (40, 1000), (40, 100)], ids=["covariances", "gram", "tiles"]
)
@pytest.mark.parametrize("options", KERNELS, ids=lambda o: "-".join(o.values()))
def test_differentiating_twice_is_an_error(
    options: dict[str, Any], width: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AF, "TILE", tile)
    student = torch.randn(20, width, requires_grad=True)
    loss = AFTLoss([width], **options)(student, torch.randn(20, width))
    (gradient,) = torch.autograd.grad(loss, student, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()
