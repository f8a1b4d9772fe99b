from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from aft.errors import InputError
from aft.losses import RKDLoss, rkd

REFERENCE = Path(__file__).parents[1] / "reference"


def naive_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The paper's formula, with difference vectors of all pairs and triplets."""
    distances, cosines = [], []
    for features in (student, teacher):
        difference = features[None] - features[:, None]
        squared = difference.square().sum(dim=2)
        distance = squared.clamp_min(1e-12).sqrt() * (1 - torch.eye(len(features)))
        distances.append(distance / distance[distance > 0].mean())
        unit = F.normalize(difference, dim=2)
        cosines.append(unit @ unit.transpose(1, 2))
    distance, angle = F.smooth_l1_loss(*distances), F.smooth_l1_loss(*cosines)
    return (distance + 2 * angle) / 2


def relative_error(got: Tensor | None, expected: Tensor | None) -> float:
    assert got is not None and expected is not None
    return float((got - expected).norm() / expected.norm())


def rotation(dim: int) -> Tensor:
    matrix: Tensor = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64))[0]
    return matrix


@pytest.mark.parametrize("file", ["one_teacher", "two_teachers"])
@pytest.mark.parametrize("as_list", [True, False], ids=["tensors", "tensor"])
def test_matches_the_published_code(file: str, as_list: bool) -> None:
    reference = load_file(REFERENCE / f"{file}.safetensors")
    dims = reference["meta/teacher_dims"].tolist()
    student, teacher = reference["rkd/student"].requires_grad_(), reference["rkd/teacher"]
    loss = RKDLoss(normalize="none")(student, teacher.split(dims, dim=1) if as_list else teacher)
    loss.backward()
    torch.testing.assert_close(loss, reference["rkd/loss"].squeeze(), rtol=1e-5, atol=0)
    assert relative_error(student.grad, reference["rkd/grad_student"]) < 1e-5


@pytest.mark.parametrize("rows", [2, 3, 5, 16, 33])
@pytest.mark.parametrize("angles_at_once", [1, 700, 2**20])
@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_equals_the_naive_formula(
    rows: int, angles_at_once: int, mean: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rkd, "ANGLES_AT_ONCE", angles_at_once)
    student = (torch.randn(rows, 7) + mean).requires_grad_()
    teacher = (torch.randn(rows, 9) - mean).requires_grad_()
    inputs = [x.detach().double().requires_grad_() for x in (student, teacher)]
    expected = naive_loss(*inputs)
    loss = RKDLoss(normalize="none")(student, teacher)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-8)
    loss.backward()
    expected.backward()
    if rows > 2:  # two rows have one distance, which is always the mean
        assert relative_error(student.grad, inputs[0].grad) < 1e-5
        assert relative_error(teacher.grad, inputs[1].grad) < 1e-5


def test_gradcheck() -> None:
    student = torch.randn(5, 3, dtype=torch.float64).requires_grad_()
    teachers = [torch.randn(5, dim, dtype=torch.float64).requires_grad_() for dim in (2, 3)]
    for normalize in ("standardize", "none"):
        loss_fn = RKDLoss(normalize=normalize)  # type: ignore[arg-type]
        assert torch.autograd.gradcheck(lambda s, *t, f=loss_fn: f(s, t), (student, *teachers))


@settings(max_examples=40)
@given(st.integers(2, 10), st.integers(0, 2**31), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_rotation_shift_scale_and_row_order_do_not_matter(
    rows: int, seed: int, scale_student: float, scale_teacher: float
) -> None:
    torch.manual_seed(seed)
    student = torch.randn(rows, 4, dtype=torch.float64)
    teacher = torch.randn(rows, 6, dtype=torch.float64)
    loss_fn = RKDLoss(normalize="none")
    order = torch.randperm(rows)
    moved = loss_fn(
        scale_student * student[order] @ rotation(4) + torch.randn(4),
        scale_teacher * teacher[order] @ rotation(6) + torch.randn(6),
    )
    torch.testing.assert_close(moved, loss_fn(student, teacher), rtol=1e-5, atol=1e-9)


@given(st.integers(2, 8), st.integers(0, 2**31))
def test_symmetric_and_zero_for_the_same_figure(rows: int, seed: int) -> None:
    torch.manual_seed(seed)
    a = torch.randn(rows, 5, dtype=torch.float64)
    b = torch.randn(rows, 3, dtype=torch.float64)
    loss_fn = RKDLoss(normalize="none")
    torch.testing.assert_close(loss_fn(a, b), loss_fn(b, a))
    assert float(loss_fn(a, 3 * a @ rotation(5) + 1)) < 1e-12


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("places", [[0, 0, 1, 2, 2, 2, 3], [0] * 7], ids=["some", "all"])
def test_identical_rows_have_finite_gradients(offset: float, places: list[int]) -> None:
    student = (torch.randn(4, 64) + offset)[places].requires_grad_()
    inputs = student.detach().double().requires_grad_()
    teacher = torch.randn(7, 5)
    loss = RKDLoss(normalize="none")(student, teacher)
    expected = naive_loss(inputs, teacher.double())
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)
    assert student.grad is not None and inputs.grad is not None
    assert student.grad.isfinite().all()
    assert float(student.grad.norm()) < 1
    # Gradients of the reference are huge at equal rows, so they are not compared.
    alone = [i for i, place in enumerate(places) if places.count(place) == 1]
    assert float((student.grad - inputs.grad)[alone].norm()) < 1e-5


def test_nearly_identical_rows_have_gradients_of_ordinary_size() -> None:
    student = torch.randn(1, 64).repeat(16, 1)
    student[8:] = torch.randn(8, 64)
    student[:8] += 1e-4 * torch.randn(8, 64)
    student.requires_grad_()
    RKDLoss()(student, torch.randn(16, 32)).backward()
    assert student.grad is not None and student.grad.isfinite().all()
    # A cosine's gradient grows with one over the distance: here 1e3 at most, not 1e6.
    assert float(student.grad.norm()) < 10


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of live tensors, including gradients and intermediate results."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, storage._cdata)
                    self.peak = max(self.peak, sum(self.sizes.values()))
        return result


def test_a_wide_batch_takes_little_memory() -> None:
    student, teacher = torch.randn(512, 2048, requires_grad=True), torch.randn(512, 2048)
    with LiveMemory() as memory:
        RKDLoss(normalize="none")(student, teacher).backward()
    # All differences of two rows alone would take 2 GiB, all cosines 512 MiB.
    assert 16 * 2**20 < memory.peak < 64 * 2**20
    assert student.grad is not None and student.grad.isfinite().all()


def test_a_figure_is_learned() -> None:
    teacher = torch.randn(12, 3)
    student = torch.randn(12, 5, requires_grad=True)
    optimizer = torch.optim.Adam([student], lr=3e-2)
    loss_fn = RKDLoss(normalize="none")
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = loss_fn(student, teacher)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


def test_statistics_say_how_wide_the_teachers_are() -> None:
    statistics = [(torch.zeros(4), torch.ones(4)), (torch.zeros(3), torch.ones(3))]
    loss_fn = RKDLoss(statistics=statistics)
    with pytest.raises(InputError, match=r"4 \+ 3 = 7.*\(8, 7\).*\(8, 5\)"):
        loss_fn(torch.randn(8, 2), torch.randn(8, 5))
    with pytest.raises(InputError, match=r"`teacher_features`.*int64.*\(8,\)"):
        RKDLoss()(torch.randn(8, 2), torch.arange(8))
    with pytest.raises(InputError, match="`teacher_features`"):
        RKDLoss()(torch.randn(8, 2), [])
    assert not list(RKDLoss().parameters())
