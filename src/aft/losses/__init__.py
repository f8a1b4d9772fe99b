"""Transfer losses, one file a paper; each is a plain ``nn.Module``."""

from __future__ import annotations

from aft.losses.aft import AFTLoss
from aft.losses.aft_no_kernel import NoKernelAFTLoss
from aft.losses.factor import Autoencoder, FTLoss, fit_autoencoder
from aft.losses.kd import KDLoss
from aft.losses.kernel_kd import KernelKDLoss
from aft.losses.rkd import RKDLoss

__all__ = [
    "AFTLoss",
    "Autoencoder",
    "FTLoss",
    "KDLoss",
    "KernelKDLoss",
    "NoKernelAFTLoss",
    "RKDLoss",
    "fit_autoencoder",
]
