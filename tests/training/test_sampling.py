"""Random views: from the seed alone, and without a trace."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aft.students.inputs import StudentInputs
from aft.training.sampling import Views, seed_everything


class Numbers:
    """Stands for samples."""

    def input(self, index: int) -> int:
        return index


def draw(value: int) -> Tensor:
    return value + torch.rand(3)


def test_views_leave_nothing_behind() -> None:
    """Neither the state of the generator nor, where CUDA was never used, a note for it."""
    views = Views(StudentInputs(Numbers(), draw), seed=3)  # type: ignore[arg-type]
    state, noted = torch.get_rng_state(), len(torch.cuda._queued_calls)
    inputs, rows = views[0, np.array([5, 6])]
    assert torch.equal(torch.get_rng_state(), state)
    assert len(torch.cuda._queued_calls) == noted
    assert rows.tolist() == [5, 6] and isinstance(inputs, Tensor)
    assert torch.equal(views[0, np.array([6, 5])][0], inputs[[1, 0]])
    later, _ = views[1, np.array([5])]
    every = torch.cat([inputs - torch.tensor([[5.0], [6.0]]), later - 5])
    assert len(every.unique()) == 9


def test_the_seed_is_that_of_torch() -> None:
    torch.manual_seed(11)
    expected = torch.rand(4)
    for device in ("cpu", "cuda"):
        seed_everything(11, device)
        assert torch.equal(torch.rand(4), expected)
