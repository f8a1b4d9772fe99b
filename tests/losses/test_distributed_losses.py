"""Two processes with parts of a batch give the same loss as one process with the whole batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from aft import functional as AF
from aft.errors import InputError
from aft.losses import (
    AFTLoss,
    AFTSoftLoss,
    Autoencoder,
    BTuningLoss,
    CKALoss,
    FTLoss,
    KDEPLoss,
    KDLoss,
    KernelKDLoss,
    LogitKDLoss,
    NoKernelAFTLoss,
    RKDLoss,
    SoftLabelLoss,
)
from aft.losses.heads import LinearHead
from helpers.errors import says

STATISTICS = [(torch.arange(4.0), torch.ones(4)), (torch.zeros(3), torch.full((3,), 2.0))]


def random_head() -> LinearHead:
    return LinearHead(torch.randn(5, 7), torch.randn(5), 1.0)


class OfBoth(nn.Module):
    """Passes the same tensor as outputs and as features."""

    def __init__(self) -> None:
        super().__init__()
        labels = SoftLabelLoss([4, 3], random_head(), kind="classification")
        self.loss = AFTSoftLoss.fit(labels, [torch.randn(30, 4), torch.randn(30, 3)])

    def forward(self, student: Tensor, teachers: list[Tensor]) -> Tensor:
        loss: Tensor = self.loss((student, student), teachers)
        return loss


class Narrow(nn.Module):
    """Passes so few dimensions that covariances are cheaper than Gram matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = AFTLoss([1, 1])

    def forward(self, student: Tensor, teachers: list[Tensor]) -> Tensor:
        assert AF.covariances_pay(torch.empty(8, 2), torch.empty(8, 2))
        loss: Tensor = self.loss(student[:, :2], [teacher[:, :1] for teacher in teachers])
        return loss


class Tiled(nn.Module):
    """Computes the kernel in tiles of two rows."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = AFTLoss([4, 3], combine="product")

    def forward(self, student: Tensor, teachers: list[Tensor]) -> Tensor:
        with mock.patch.object(AF, "TILE", 16):
            loss: Tensor = self.loss(student, teachers)
        return loss


# For a student of width 5 and teachers of widths 4 and 3. Add new losses here.
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "kd": lambda: KDLoss(5, [4, 3]),
    "kd_statistics": lambda: KDLoss(5, [4, 3], statistics=STATISTICS),
    "kernel_kd": lambda: KernelKDLoss(5, [4, 3]),
    "kernel_kd_none": lambda: KernelKDLoss(5, [4, 3], normalize="none"),
    "aft_no_kernel": lambda: NoKernelAFTLoss(5, [4, 3]),
    "aft_no_kernel_statistics": lambda: NoKernelAFTLoss(5, [4, 3], statistics=STATISTICS),
    "rkd": RKDLoss,
    "rkd_statistics": lambda: RKDLoss(statistics=STATISTICS),
    "factor": lambda: FTLoss(5, 7),
    "factor_encoder": lambda: FTLoss(5, 6, encoder=Autoencoder(7, 6, statistics=STATISTICS)),
    "btuning": lambda: BTuningLoss(
        torch.randn(3, 5), [torch.randn(3, 4), torch.randn(3, 3)], [0.3, 0.4]
    ),
    "logit_kd": lambda: LogitKDLoss([4, 3], random_head()),
    "soft_classes": lambda: SoftLabelLoss([4, 3], random_head(), kind="classification"),
    "soft_labels": lambda: SoftLabelLoss([4, 3], random_head(), kind="multilabel"),
    "soft_targets": lambda: SoftLabelLoss(
        [4, 3], random_head(), kind="regression", target_std=torch.arange(1.0, 6.0)
    ),
    "kdep": lambda: KDEPLoss(5, [4, 3], mean=torch.randn(7), components=torch.randn(7, 5)),
    "aft": lambda: AFTLoss([4, 3]),
    "aft_covariances": Narrow,
    "aft_tiles": Tiled,
    "aft_soft": OfBoth,
    "cka": CKALoss,
    "cka_statistics": lambda: CKALoss(statistics=STATISTICS),
}
SIZES = ((4, 4), (5, 3), (1, 7))  # rows of each process


class Model(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.student = nn.Linear(6, 5)
        self.loss = LOSSES[name]()

    def forward(self, inputs: Tensor, teachers: list[Tensor]) -> Tensor:
        loss = self.loss(self.student(inputs), teachers)
        assert isinstance(loss, Tensor)
        return loss


def run(
    name: str, process: int | None = None, sizes: tuple[int, int] = (4, 4)
) -> dict[str, Tensor]:
    """Loss and gradients for all rows, or for one of two processes."""
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


def complains_everywhere(name: str, process: int) -> bool:
    """Whether a NaN on the other rank is also reported here, so that no rank waits forever."""
    student = torch.randn(4, 5)
    student[0, 0] = torch.nan if process == 1 else 0.0
    try:
        LOSSES[name]()(student, [torch.randn(4, 4), torch.randn(4, 3)])
    except InputError as error:
        return says(error, "1 of 8")
    return False


def work(process: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=process, world_size=2)
    results = {}
    for name in LOSSES:
        for sizes in SIZES:
            for key, value in run(name, process, sizes).items():
                results[f"{name}/{sizes}/{key}"] = value.contiguous()
        results[f"{name}/complains"] = torch.tensor(complains_everywhere(name, process))
    save_file(results, f"{folder}/{process}.safetensors")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    results = [load_file(tmp_path / f"{process}.safetensors") for process in range(2)]
    for name in LOSSES:
        expected = run(name)
        assert expected["student.weight"].any()
        for result in results:
            assert result.pop(f"{name}/complains"), name
            for sizes in SIZES:
                for key, value in expected.items():
                    got = result.pop(f"{name}/{sizes}/{key}")
                    torch.testing.assert_close(
                        got, value, rtol=1e-5, atol=1e-7, msg=f"{name} {sizes} {key}"
                    )
    assert not any(results)
