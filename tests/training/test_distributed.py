"""Two real processes over gloo must give what one process gives with all rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from aft.errors import InputError
from aft.losses import AFTLoss
from aft.losses.distributed import gather_rows, rank, world_size

CASES: list[tuple[dict[str, Any], tuple[int, int]]] = [
    ({}, (4, 4)),
    ({"kernel": "rbf", "weights": "dense"}, (4, 4)),
    ({"combine": "product", "normalize": "none"}, (5, 3)),  # ranks hold different numbers of rows
    ({"weights": "fixed"}, (1, 7)),  # too few for a kernel on its own, enough together
]


class Model(nn.Module):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.student = nn.Linear(6, 5)
        self.loss = AFTLoss([4, 3], **options)

    def forward(self, inputs: Tensor, teachers: Tensor) -> Tensor:
        loss = self.loss(self.student(inputs), teachers)
        assert isinstance(loss, Tensor)
        return loss


def run(case: int, process: int | None = None) -> dict[str, Tensor]:
    """Loss and gradients of a case, of all rows or as seen by one of two processes."""
    options, sizes = CASES[case]
    torch.manual_seed(case)
    model: nn.Module = Model(options)
    inputs, teachers = torch.randn(8, 6), torch.randn(8, 7)
    plain = model
    if process is not None:
        inputs, teachers = (x.split(list(sizes))[process] for x in (inputs, teachers))
        model = DistributedDataParallel(plain)
    loss = model(inputs, teachers)
    loss.backward()
    gradients = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def complains_everywhere(process: int) -> bool:
    """Whether a NaN on the other rank is reported here too, so that no rank waits for ever."""
    student = torch.randn(4, 5)
    student[0, 0] = torch.nan if process == 1 else 0.0
    try:
        AFTLoss([7])(student, torch.randn(4, 7))
    except InputError as error:
        return "1 of 8 rows" in str(error)
    return False


def work(process: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=process, world_size=2)
    assert (rank(), world_size()) == (process, 2)
    results = {
        f"{case}/{name}": value.contiguous()
        for case in range(len(CASES))
        for name, value in run(case, process).items()
    }
    results["complains"] = torch.tensor(complains_everywhere(process))
    save_file(results, f"{folder}/{process}.safetensors")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    for process in range(2):
        results = load_file(tmp_path / f"{process}.safetensors")
        assert results.pop("complains")
        expected = {
            f"{case}/{name}": value
            for case in range(len(CASES))
            for name, value in run(case).items()
        }
        assert results.keys() == expected.keys()
        assert "0/loss.feature_weights" in expected
        for name, value in expected.items():
            torch.testing.assert_close(results[name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_a_single_process_gathers_nothing() -> None:
    x = torch.randn(3, 2)
    assert gather_rows(x)[0] is x
    assert (rank(), world_size()) == (0, 1)
