"""Processes with parts of a batch give the same loss as one process with the whole batch."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from aft.errors import InputError
from aft.losses.distributed import _between_cpus, gather_rows
from helpers.errors import says
from helpers.losses import LOSSES

# Rows of each process, by number of processes.
SIZES = {2: ((4, 4), (5, 3), (1, 7)), 4: ((2, 2, 2, 2), (1, 3, 2, 2))}


class Model(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.student = nn.Linear(6, 5)
        self.loss = LOSSES[name]()

    def forward(self, inputs: Tensor, teachers: list[Tensor]) -> Tensor:
        loss = self.loss(self.student(inputs), teachers)
        assert isinstance(loss, Tensor)
        return loss


def run(name: str, process: int | None = None, sizes: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """Loss and gradients for all rows, or for one of several processes."""
    torch.manual_seed(0)
    model: nn.Module = Model(name)
    inputs, *teachers = torch.randn(8, 6), torch.randn(8, 4), torch.randn(8, 3)
    plain = model
    if process is not None:
        inputs, *teachers = (x.split(list(sizes))[process] for x in (inputs, *teachers))
        model = DistributedDataParallel(plain)
    loss = model(inputs, teachers)
    loss.backward()
    gradients = {key: p.grad for key, p in plain.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def complains_everywhere(name: str, process: int, rows: int) -> bool:
    """Whether a NaN on another rank is also reported here, so that no rank waits forever."""
    student = torch.randn(rows, 5)
    student[0, 0] = torch.nan if process == 1 else 0.0
    try:
        LOSSES[name]()(student, [torch.randn(rows, 4), torch.randn(rows, 3)])
    except InputError as error:
        return says(error, "1 of 8")
    return False


def gathered_with_nccl(process: int) -> Tensor:
    """Rows of all ranks, with their numbers exchanged in a group of its own."""
    _between_cpus.cache_clear()
    with mock.patch.object(dist, "get_backend", return_value="nccl"):
        (rows,) = gather_rows(torch.full((process + 1,), float(process)))
    return rows


def work(process: int, folder: str, processes: int) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=process, world_size=processes
    )
    results = {}
    for name in LOSSES:
        for sizes in SIZES[processes]:
            for key, value in run(name, process, sizes).items():
                results[f"{name}/{sizes}/{key}"] = value.contiguous()
        results[f"{name}/complains"] = torch.tensor(
            complains_everywhere(name, process, 8 // processes)
        )
    results["apart"] = gathered_with_nccl(process)
    save_file(results, f"{folder}/{process}.safetensors")
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", SIZES)
def test_several_processes_equal_one(processes: int, tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path), processes), nprocs=processes)  # type: ignore[no-untyped-call]
    results = [load_file(tmp_path / f"{process}.safetensors") for process in range(processes)]
    ranks = torch.arange(float(processes))
    for result in results:
        assert torch.equal(result.pop("apart"), ranks.repeat_interleave(ranks.int() + 1))
    for name in LOSSES:
        expected = run(name)
        assert expected["student.weight"].any()
        for result in results:
            assert result.pop(f"{name}/complains"), name
            for sizes in SIZES[processes]:
                for key, value in expected.items():
                    got = result.pop(f"{name}/{sizes}/{key}")
                    torch.testing.assert_close(
                        got, value, rtol=1e-5, atol=1e-7, msg=f"{name} {sizes} {key}"
                    )
    assert not any(results)
