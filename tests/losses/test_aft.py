from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from aft.errors import InputError
from aft.losses import AFTLoss

REFERENCE = Path(__file__).parents[1] / "reference"
CASES: dict[str, dict[str, Any]] = {
    "aft_linear": {},
    "aft_rbf": {"kernel": "rbf"},
    "aft_dense": {"weights": "dense"},
    "aft_product": {"combine": "product"},
}
OPTIONS = [
    {"kernel": kernel, "weights": weights, "combine": combine, "normalize": normalize}
    for kernel in ("linear", "rbf")
    for weights in ("diagonal", "dense", "fixed")
    for combine in ("concat", "product")
    for normalize in ("standardize", "none")
]


def batch(
    rows: int = 8,
    student_dim: int = 5,
    dims: Sequence[int] = (4, 3),
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, list[Tensor]]:
    student = torch.randn(rows, student_dim, dtype=dtype)
    return student, [torch.randn(rows, dim, dtype=dtype) for dim in dims]


def relative_error(got: Tensor | None, expected: Tensor) -> float:
    assert got is not None
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("file", "case"),
    [
        *(("one_teacher", case) for case in CASES if case != "aft_product"),
        *(("two_teachers", case) for case in CASES),
    ],
)
@pytest.mark.parametrize("as_list", [True, False], ids=["tensors", "tensor"])
def test_matches_the_published_code(file: str, case: str, as_list: bool) -> None:
    reference = load_file(REFERENCE / f"{file}.safetensors")
    dims = reference["meta/teacher_dims"].tolist()
    loss_fn = AFTLoss(dims, normalize="none", **CASES[case])
    with torch.no_grad():
        loss_fn.feature_weights.copy_(reference[f"{case}/param_s"])
    student = reference[f"{case}/student"].requires_grad_()
    teacher = reference[f"{case}/teacher"]
    loss = loss_fn(student, teacher.split(dims, dim=1) if as_list else teacher)
    loss.backward()
    torch.testing.assert_close(loss, reference[f"{case}/loss"].squeeze(), rtol=1e-5, atol=0)
    assert relative_error(student.grad, reference[f"{case}/grad_student"]) < 1e-5
    assert relative_error(loss_fn.feature_weights.grad, reference[f"{case}/grad_param_s"]) < 1e-5


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
def test_gradcheck(options: dict[str, Any]) -> None:
    student, teachers = batch(5, 3, (2, 3), torch.float64)
    loss_fn = AFTLoss([2, 3], **options).double()
    weights = loss_fn.feature_weights.detach().clone().requires_grad_()

    def loss(student: Tensor, weights: Tensor, *teachers: Tensor) -> Tensor:
        state = {"feature_weights": weights}
        result = torch.func.functional_call(loss_fn, state, (student, list(teachers)))
        assert isinstance(result, Tensor)
        return result

    inputs = (student, weights, *teachers)
    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in inputs))


def test_gates_start_at_a_half_and_learn() -> None:
    student, teachers = batch()
    loss_fn = AFTLoss([4, 3])
    assert [gate.tolist() for gate in loss_fn.gates()] == [[0.5] * 4, [0.5] * 3]
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=1e-1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = loss_fn(student, teachers)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(((gate >= 0) & (gate <= 1)).all() for gate in loss_fn.gates())
    assert not loss_fn.gates()[0].requires_grad


def test_gates_of_noise_shrink() -> None:
    torch.manual_seed(1)
    student = torch.randn(256, 6)
    loss_fn = AFTLoss([6, 6])
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=5e-2)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6))
    for _ in range(100):
        optimizer.zero_grad()
        loss_fn(student, [student @ rotation, torch.randn(256, 6)]).backward()
        optimizer.step()
    useful, noise = loss_fn.gates()
    assert float(noise.max()) < 0.5 * float(useful.min())
    shares = loss_fn.kernel_shares([student @ rotation, torch.randn(256, 6)])
    assert shares[0] > 0.9
    assert sum(shares) == pytest.approx(1)


def test_dense_matrix_has_variance_1_over_dim() -> None:
    weights = AFTLoss([300, 100], weights="dense").feature_weights
    assert weights.shape == (400, 400)
    assert float(weights.detach().var()) == pytest.approx(1 / 400, rel=0.05)
    gates = AFTLoss([30, 10], weights="dense").gates()
    assert [len(gate) for gate in gates] == [30, 10]
    assert float(torch.cat(gates).max()) == 1


def test_fixed_learns_nothing_but_keeps_its_place_in_the_state() -> None:
    loss_fn = AFTLoss([4, 3], weights="fixed")
    assert not list(loss_fn.parameters())
    AFTLoss([4, 3], weights="diagonal").load_state_dict(loss_fn.state_dict())


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_identical_features_give_almost_zero(kernel: Any) -> None:
    student, _ = batch(16, 6)
    loss_fn = AFTLoss([6], kernel=kernel, normalize="none")
    assert float(loss_fn(student, 3 * student + 1).detach()) < 1.01e-4


@settings(max_examples=25)
@given(st.integers(2, 10), st.integers(0, 2**31), st.sampled_from(OPTIONS))
def test_row_order_and_student_rotation_do_not_matter(
    rows: int, seed: int, options: dict[str, Any]
) -> None:
    torch.manual_seed(seed)
    student, teachers = batch(rows, 4, (3, 2), torch.float64)
    loss_fn = AFTLoss([3, 2], **options)
    expected = loss_fn(student, teachers)
    order = torch.randperm(rows)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    moved = loss_fn(3 * student[order] @ rotation, [teacher[order] for teacher in teachers])
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("combine", ["concat", "product"])
def test_standardize_ignores_the_teachers_units(combine: Any) -> None:
    student, (a, b) = batch()
    loss_fn = AFTLoss([4, 3], combine=combine)
    torch.testing.assert_close(
        loss_fn(student, [1e3 * a + 50, b]), loss_fn(student, [a, b]), rtol=1e-4, atol=0
    )


def test_without_standardizing_the_largest_teacher_rules() -> None:
    _, (a, b) = batch()
    raw = AFTLoss([4, 3], normalize="none").kernel_shares([100 * a, b])
    balanced = AFTLoss([4, 3]).kernel_shares([100 * a, b])
    assert raw[0] > 0.999
    assert balanced[0] == pytest.approx(4 / 7, abs=0.1)


def test_statistics_replace_the_batchs_own() -> None:
    student, teachers = batch()
    own = [(x.mean(0), x.std(0, correction=0)) for x in teachers]
    other = [(x.mean(0), torch.rand(x.shape[1]) + 0.1) for x in teachers]
    expected = AFTLoss([4, 3])(student, teachers)
    torch.testing.assert_close(AFTLoss([4, 3], statistics=own)(student, teachers), expected)
    loss_fn = AFTLoss([4, 3], statistics=other)
    assert float((loss_fn(student, teachers) - expected).detach().abs()) > 1e-4
    loss_fn.set_statistics(own)
    torch.testing.assert_close(loss_fn(student, teachers), expected)
    assert set(loss_fn.state_dict()) == {"feature_weights", "feature_mean", "feature_std"}


def test_constant_dimensions_count_for_nothing() -> None:
    student, (a, _) = batch()
    constant = torch.full((8, 2), 0.3)
    zeros = [(a.mean(0), a.std(0)), (torch.full((2,), 0.3), torch.zeros(2))]
    for statistics in (None, zeros):
        with_constant = AFTLoss([4, 2], statistics=statistics)(student, [a, constant])
        without = AFTLoss([4], statistics=statistics[:1] if statistics else None)(student, [a])
        torch.testing.assert_close(with_constant, without)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
@pytest.mark.parametrize("value", [0.0, 0.1, 3e4])
def test_constant_features_stay_finite(options: dict[str, Any], value: float) -> None:
    student = torch.full((6, 5), value, requires_grad=True)
    loss_fn = AFTLoss([4, 3], **options)
    for teachers in (batch(6)[1], [torch.full((6, 4), value), torch.full((6, 3), value)]):
        loss = loss_fn(student, teachers)
        loss.backward()
        assert loss.isfinite()
        for gradient in (student.grad, loss_fn.feature_weights.grad):
            assert gradient is None or gradient.isfinite().all()


def test_product_equals_the_naive_outer_product() -> None:
    student, (a, b) = batch(12)
    gates = torch.randn(7)
    wide = [torch.sigmoid(gates[:4]) * a, torch.sigmoid(gates[4:]) * b]
    naive = AFTLoss([12], weights="fixed", normalize="none")
    expected = naive(student, (wide[0][:, :, None] * wide[1][:, None]).flatten(1))
    loss_fn = AFTLoss([4, 3], combine="product", normalize="none")
    loss_fn.load_state_dict({"feature_weights": gates})
    torch.testing.assert_close(loss_fn(student, [a, b]), expected, rtol=1e-5, atol=0)
    assert loss_fn.kernel_shares([a, b]) == [0.5, 0.5]


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_product_of_wide_teachers_fits(kernel: Any) -> None:
    student, teachers = batch(16, 5, (20_000, 20_000))
    loss_fn = AFTLoss([20_000, 20_000], kernel=kernel, combine="product")
    loss = loss_fn(student.requires_grad_(), teachers)
    loss.backward()
    assert loss.isfinite()
    assert loss_fn.feature_weights.grad is not None
    assert loss_fn.feature_weights.grad.any()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
def test_bfloat16_is_close_to_float32(options: dict[str, Any]) -> None:
    student, teachers = batch(16)
    loss_fn = AFTLoss([4, 3], **options)
    expected = loss_fn(student, teachers)
    half = student.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_fn(half, [teacher.bfloat16() for teacher in teachers])
        same_inputs = loss_fn(student, teachers)
    torch.testing.assert_close(same_inputs, expected, rtol=0, atol=0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    loss.backward()
    assert half.grad is not None
    assert half.grad.isfinite().all()


def test_bfloat16_of_equal_features_has_finite_gradients() -> None:
    student = torch.randn(8, 4).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        AFTLoss([4])(student, student.detach()).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_teacher_features_may_have_another_type() -> None:
    student, teachers = batch()
    loss_fn = AFTLoss([4, 3], weights="dense")
    expected = loss_fn(student, teachers)
    torch.testing.assert_close(loss_fn(student, [t.double() for t in teachers]), expected)


@pytest.mark.parametrize("rows", [0, 1])
def test_too_small_a_batch(rows: int) -> None:
    with pytest.raises(InputError, match=rf"\b2\b.*\b{rows}\b.*drop_last"):
        AFTLoss([4, 3])(*batch(rows))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
def test_non_finite_features_are_named(options: dict[str, Any], bad: float) -> None:
    loss_fn = AFTLoss([4, 3], **options)
    student, teachers = batch()
    student[2, 1] = student[5, 0] = bad
    with pytest.raises(InputError, match=r"`student_features`.*\b2 of 8\b"):
        loss_fn(student, teachers)
    student, teachers = batch()
    teachers[1][3] = bad
    with pytest.raises(InputError, match=r"`teacher_features`.*\b1\b.*\b3\b.*\b1 of 8\b"):
        loss_fn(student, teachers)


def test_non_finite_gates_and_overflow_are_named() -> None:
    loss_fn = AFTLoss([4, 3], normalize="none")
    student, teachers = batch()
    with pytest.raises(InputError, match=r"float32.*`teacher_features`.*\b3e\+38\b"):
        loss_fn(student, [torch.full((8, 4), 3e38), teachers[1]])
    with torch.no_grad():
        loss_fn.feature_weights[2] = torch.nan
    with pytest.raises(InputError, match="`feature_weights`"):
        loss_fn(student, teachers)


def test_wrong_shapes_name_the_teacher_and_both_shapes() -> None:
    loss_fn = AFTLoss([4, 3])
    student, (a, b) = batch()
    with pytest.raises(InputError, match=r"`teacher_features\[1\]`.*\(8, 3\).*\(8, 4\)"):
        loss_fn(student, [a, a])
    with pytest.raises(InputError, match=r"4 \+ 3 = 7.*\(8, 7\).*\(8, 4\)"):
        loss_fn(student, a)
    with pytest.raises(InputError, match=r"`teacher_features\[0\]`.*\(8, 4\).*\(7, 4\)"):
        loss_fn(student, [a[1:], b])
    with pytest.raises(InputError, match=r"`teacher_features`.*\b2\b.*\b1\b"):
        loss_fn(student, [a])
    with pytest.raises(InputError, match=r"`teacher_features\[1\]`.*int64.*\(8, 3\)"):
        loss_fn(student, [a, b.long()])
    with pytest.raises(InputError, match=r"`student_features`.*\(8, 5, 1, 1\)"):
        loss_fn(student[:, :, None, None], [a, b])


@pytest.mark.parametrize("dims", [[], [0], [4, -1], [2.5], 4])
def test_wrong_teacher_dims(dims: Any) -> None:
    with pytest.raises(InputError, match="`teacher_dims`"):
        AFTLoss(dims)


@pytest.mark.parametrize("name", ["kernel", "weights", "combine", "normalize"])
def test_wrong_choice_lists_the_right_ones(name: str) -> None:
    with pytest.raises(InputError, match=rf"`{name}`.*'\w+', '\w+'.*'cosine'"):
        AFTLoss([4], **{name: "cosine"})  # type: ignore[arg-type]


def test_wrong_statistics() -> None:
    good = (torch.zeros(4), torch.ones(4))
    with pytest.raises(InputError, match=r"`statistics`.*\b2\b.*\b1\b"):
        AFTLoss([4, 3], statistics=[good])
    with pytest.raises(InputError, match=r"mean.*`statistics\[1\]`.*\(3,\).*\(4,\)"):
        AFTLoss([4, 3], statistics=[good, good])
    with pytest.raises(InputError, match=r"std.*`statistics\[0\]`"):
        AFTLoss([4], statistics=[(torch.zeros(4), -torch.ones(4))])
    with pytest.raises(InputError, match="`statistics`.*normalize='none'"):
        AFTLoss([4], normalize="none", statistics=[good])


def test_repr_shows_the_options() -> None:
    assert "teacher_dims=[4, 3], kernel='rbf'" in repr(AFTLoss([4, 3], kernel="rbf"))
