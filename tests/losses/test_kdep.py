from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from aft.errors import InputError
from aft.losses.kdep import KDEPLoss


def stored(n: int = 60, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Features of two teachers, with a decaying spectrum and a nonzero mean."""
    factors = torch.randn(n, 5, dtype=dtype) * torch.tensor([3, 2, 1, 0.5, 0.2], dtype=dtype)
    joined = factors @ torch.randn(5, 9, dtype=dtype) + torch.randn(n, 9, dtype=dtype) / 10 + 2
    return list(joined.split([6, 3], dim=1))


def power_temperature_scaling(x: Tensor, temperature: float = 0.1, power: float = 3) -> Tensor:
    return x.sign() * (x.abs() / temperature) ** (1 / power)


@pytest.mark.parametrize("n", [60, 7], ids=["tall", "wide"])
def test_is_the_transcribed_formula(n: int) -> None:
    teachers = stored(n, torch.float64)
    joined = torch.cat(teachers, dim=1)
    loss_fn = KDEPLoss.fit(4, teachers, normalize="none").double()
    _, _, right = torch.linalg.svd(joined - joined.mean(dim=0), full_matrices=False)
    reduced = (joined - joined.mean(dim=0)) @ right[:4].T
    signs = (
        (reduced * loss_fn.targets(joined)).sum(dim=0).sign()
    )  # singular vectors have an arbitrary sign
    expected = power_temperature_scaling(reduced) * signs
    torch.testing.assert_close(loss_fn.targets(teachers), expected, rtol=1e-4, atol=1e-2)
    student = torch.randn(n, 4, dtype=torch.float64)
    loss = (student - expected).square().mean()
    torch.testing.assert_close(loss_fn(student, teachers), loss, rtol=1e-3, atol=0)
    torch.testing.assert_close(loss_fn(student, joined), loss, rtol=1e-3, atol=0)


def test_power_temperature_scaling() -> None:
    options: dict[str, Any] = {"mean": torch.ones(2), "components": torch.eye(2)}
    teacher = torch.tensor([[1.8, 0.9], [1.0, -5.4]])
    loss_fn = KDEPLoss(2, [2], **options)
    expected = torch.tensor([[2.0, -1.0], [0.0, -4.0]])
    torch.testing.assert_close(loss_fn.targets(teacher), expected)
    plain = KDEPLoss(2, [2], **options, temperature=1.0, power=1.0)
    torch.testing.assert_close(plain.targets(teacher), teacher - 1)


def test_scaling_evens_out_the_spectrum() -> None:
    teachers = stored(500)
    ratios = []
    for power in (1.0, 3.0):
        std = KDEPLoss.fit(5, teachers, power=power).targets(teachers).std(dim=0)
        assert (std.diff() < 1e-3).all()  # the order is preserved
        ratios.append(float(std.max() / std.min()))
    assert ratios[1] < 0.5 * ratios[0]


def test_gradcheck() -> None:
    teachers = stored(dtype=torch.float64)
    loss_fn = KDEPLoss.fit(4, teachers).double()
    student = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: loss_fn(s, [t[:6] for t in teachers]), student)


def test_only_the_student_learns() -> None:
    teachers = stored()
    loss_fn = KDEPLoss.fit(4, teachers)
    assert not list(loss_fn.parameters())
    assert set(loss_fn.state_dict()) == {"feature_mean", "components"}
    # The root has an infinite slope at 0.
    constant = [t.mean(dim=0, keepdim=True).requires_grad_() for t in teachers]
    student = torch.randn(1, 4, requires_grad=True)
    loss_fn(student, constant).backward()
    assert student.grad is not None and student.grad.isfinite().all()
    assert constant[0].grad is None


def test_standardize_ignores_the_teachers_units() -> None:
    a, b = stored()
    expected = KDEPLoss.fit(4, [a, b]).targets([a, b])
    found = KDEPLoss.fit(4, [1e3 * a + 50, b]).targets([1e3 * a + 50, b])
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    assert 0.1 < float(expected.square().mean()) < 10
    raw = KDEPLoss.fit(1, [100 * a, b], normalize="none").components
    assert float(raw[:6].norm()) > 0.999


@pytest.mark.parametrize("n", [60, 10])
def test_adding_dead_dimensions_or_repeated_ones_keeps_the_rank(n: int) -> None:
    a, b = stored(n)
    dead = [torch.cat([a, torch.full((n, 2), 0.3), a], dim=1), b]
    loss_fn = KDEPLoss.fit(12, dead)
    assert loss_fn.components.shape == (17, 9)
    assert not loss_fn.components[6:8].any()


def test_a_narrow_teacher_leaves_the_other_dimensions_free() -> None:
    a, _ = stored()
    loss_fn = KDEPLoss.fit(8, [a])
    student = torch.randn(60, 8, requires_grad=True)
    loss_fn(student, [a]).backward()
    assert student.grad is not None
    assert student.grad[:, :6].any() and not student.grad[:, 6:].any()


def test_fit_is_deterministic_and_blind_to_the_order_of_rows() -> None:
    teachers = stored()
    first, second = (KDEPLoss.fit(4, teachers).state_dict() for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    order = torch.randperm(60)
    shuffled = KDEPLoss.fit(4, [t[order] for t in teachers]).state_dict()
    torch.testing.assert_close(shuffled, first, rtol=1e-4, atol=1e-5)


def test_half_precision() -> None:
    teachers = stored()
    loss_fn = KDEPLoss.fit(4, [t.half() for t in teachers])
    full = KDEPLoss.fit(4, teachers)
    torch.testing.assert_close(loss_fn.components, full.components, rtol=0.05, atol=0.01)
    student = torch.randn(60, 4)
    expected = full(student, teachers)
    half = student.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = full(half, [t.bfloat16() for t in teachers])
        torch.testing.assert_close(full(student, teachers), expected, rtol=0, atol=0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=5e-2, atol=0)


def test_wrong_batches() -> None:
    teachers = stored()
    loss_fn = KDEPLoss.fit(4, teachers)
    with pytest.raises(InputError, match=r"`student_features`.*\(batch, 4\).*\(60, 5\)"):
        loss_fn(torch.randn(60, 5), teachers)
    with pytest.raises(InputError, match=r"`teacher_features\[1\]`.*\(60, 3\).*\(60, 6\)"):
        loss_fn(torch.randn(60, 4), [teachers[0], teachers[0]])
    with pytest.raises(InputError, match=r"\b0\b"):
        loss_fn(torch.randn(0, 4), [t[:0] for t in teachers])
    bad = [teachers[0], teachers[1].clone()]
    bad[1][3] = torch.nan
    with pytest.raises(InputError, match=r"`teacher_features`.*\b1\b.*\b3\b.*\b1 of 60\b"):
        loss_fn(torch.randn(60, 4), bad)
    student = torch.randn(60, 4)
    student[2] = torch.inf
    with pytest.raises(InputError, match=r"`student_features`.*\b1 of 60\b"):
        loss_fn(student, teachers)
    with pytest.raises(InputError, match=r"`teacher_features`.*\b1 of 60\b"):
        KDEPLoss.fit(4, bad)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"student_dim": 0}, r"`student_dim`.*\b0\b"),
        ({"normalize": "cosine"}, "`normalize`.*'standardize', 'none'.*'cosine'"),
        ({"temperature": 0.0}, r"`temperature`.*\b0\.0\b"),
        ({"power": -1.0}, r"`power`.*-1\.0\b"),
        ({"teacher_features": torch.ones(6, 3)}, "`teacher_features`"),
        ({"teacher_features": torch.ones(1, 3)}, r"`teacher_features`.*\b2\b.*\b1\b"),
        (
            {"teacher_features": [torch.ones(6, 3), torch.ones(5, 3)]},
            r"`teacher_features`.*\[6, 5\]",
        ),
        ({"teacher_features": []}, "`teacher_features`"),
    ],
)
def test_wrong_arguments_of_fit(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        KDEPLoss.fit(**{"student_dim": 2, "teacher_features": torch.randn(6, 3), **options})


@pytest.mark.parametrize(
    ("mean", "components", "match"),
    [
        (torch.ones(4), torch.ones(3, 2), r"`mean`.*\(3,\).*\(4,\)"),
        (torch.ones(3), torch.ones(4, 2), r"`components`.*\(3, k\).*\(4, 2\)"),
        (torch.ones(3), torch.ones(3, 4), r"`components`.*\b2\b.*\(3, 4\)"),
    ],
)
def test_wrong_components(mean: Tensor, components: Tensor, match: str) -> None:
    with pytest.raises(InputError, match=match):
        KDEPLoss(2, [3], mean=mean, components=components)


def test_repr_shows_the_options() -> None:
    shown = "student_dim=4, teacher_dims=[6, 3]"
    assert shown in repr(KDEPLoss.fit(4, stored()))
