"""Checks for NaN and infinity, which a GPU is not waited for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aft import functional as AF
from aft.errors import InputError
from aft.losses import checks
from aft.training.row_adam import clip_gradients
from helpers.losses import LOSSES


@pytest.mark.parametrize("name", LOSSES)
def test_no_value_is_read_in_a_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the device `meta` have no values; reading one raises an error."""
    monkeypatch.setattr(AF, "matmul", torch.matmul)  # autocast does not know this device
    student, loss_fn = nn.Linear(6, 5).to("meta"), LOSSES[name]().to("meta")
    teachers = [torch.empty(8, dim, device="meta") for dim in (4, 3)]
    loss = loss_fn(student(torch.empty(8, 6, device="meta")), teachers)
    loss.backward()
    assert loss.shape == () and student.weight.grad is not None
    clip_gradients(student.parameters(), 1.0)


def on_gpu(finite: bool) -> Any:
    """What a bool tensor on a GPU shows."""
    here = torch.tensor(finite)
    return SimpleNamespace(dtype=torch.bool, is_meta=False, is_cuda=True, to=lambda *_, **__: here)


class Event:
    read = 0

    def record(self) -> None: ...

    def synchronize(self) -> None:
        Event.read += 1


def test_a_gpu_is_read_two_calls_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    student = torch.ones(2, 5, requires_grad=True) * 2
    explained: list[Any] = []

    def explain(student: Tensor, _: Tensor, dims: Any, *__: Any) -> InputError:
        explained.append((student.requires_grad, dims))
        return InputError(f"call {dims}")

    monkeypatch.setattr(checks, "explain_non_finite", explain)

    def call(number: int, finite: bool) -> None:
        checks.check_finite(on_gpu(finite), student, student, [number], nn.Identity())

    for number, finite in enumerate((True, False, False)):
        call(number, finite)
        assert Event.read == max(0, number - 1)
    with pytest.raises(InputError, match="1"):
        call(3, True)
    assert explained == [(False, [1])]
    checks.read_checks()  # later ones are forgotten
    call(4, False)
    with pytest.raises(InputError, match="4"):
        checks.read_checks()
