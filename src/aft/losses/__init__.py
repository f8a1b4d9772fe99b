"""Transfer losses, one file a paper; each is a plain ``nn.Module``."""

from __future__ import annotations

from aft.losses.aft import AFTLoss
from aft.losses.aft_no_kernel import NoKernelAFTLoss
from aft.losses.aft_soft import AFTSoftLoss
from aft.losses.btuning import BTuningLoss
from aft.losses.cka import CKALoss
from aft.losses.ft import Autoencoder, FTLoss, fit_autoencoder
from aft.losses.kd import KDLoss
from aft.losses.kdep import KDEPLoss
from aft.losses.kernel_kd import KernelKDLoss
from aft.losses.logit_kd import LogitKDLoss
from aft.losses.rkd import RKDLoss
from aft.losses.soft_labels import SoftLabelLoss

__all__ = [
    "AFTLoss",
    "AFTSoftLoss",
    "Autoencoder",
    "BTuningLoss",
    "CKALoss",
    "FTLoss",
    "KDEPLoss",
    "KDLoss",
    "KernelKDLoss",
    "LogitKDLoss",
    "NoKernelAFTLoss",
    "RKDLoss",
    "SoftLabelLoss",
    "fit_autoencoder",
]
