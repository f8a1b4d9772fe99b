"""One of each loss, for a student of width 5 and teachers of widths 4 and 3."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor, nn

from aft import functional as AF
from aft.losses import (
    AFTLoss,
    AFTSoftLoss,
    Autoencoder,
    BTuningLoss,
    CKALoss,
    DistillWeightedLoss,
    FTLoss,
    KDEPLoss,
    KDLoss,
    KernelKDLoss,
    LogitKDLoss,
    NoKernelAFTLoss,
    RKDLoss,
    RowTrustLoss,
    SoftLabelLoss,
)
from aft.losses.heads import LinearHead

STATISTICS = [(torch.arange(4.0), torch.ones(4)), (torch.zeros(3), torch.full((3,), 2.0))]


def random_head(dim: int = 7) -> LinearHead:
    return LinearHead(torch.randn(5, dim), torch.randn(5), 1.0)


class OfBoth(nn.Module):
    """Passes the same tensor as outputs and as features."""

    def __init__(self) -> None:
        super().__init__()
        labels = SoftLabelLoss([4, 3], random_head(), kind="classification")
        self.loss = AFTSoftLoss.fit(labels, [torch.randn(30, 4), torch.randn(30, 3)])

    def forward(self, student: Tensor, teachers: list[Tensor]) -> Tensor:
        loss: Tensor = self.loss((student, student), teachers)
        return loss


class WithStart(nn.Module):
    """Adds the start's logits and the labels; the start sees the student's tensor as its input."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = RowTrustLoss([4, 3], random_head(), Start())

    def forward(self, student: Tensor, teachers: list[Tensor]) -> Tensor:
        known = self.loss.with_start(teachers, student.detach(), student.argmax(dim=1))
        loss: Tensor = self.loss(student, known)
        return loss


class Start(nn.Module):
    """Returns its input as logits."""

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs.flip(1), inputs


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


# Add new losses here.
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
    "distill_weighted": lambda: DistillWeightedLoss(
        [4, 3], [random_head(4), random_head(3)], [0.25, 0.75]
    ),
    "row_trust": WithStart,
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
