"""Transfer losses: one file per paper, each loss a plain ``nn.Module``.

All losses follow the conventions below; their docstrings describe only what differs.

- **Features**: The student's features ``(B, S)`` are the input of its last linear layer. The
  teachers' features are one ``(B, D_t)`` tensor per teacher, or a single tensor
  ``(B, sum of D_t)`` with the teachers' features concatenated.
- **Precision**: Inputs may have any floating-point type. Losses compute in float32, or in float64
  if the student's tensor is float64, even under ``torch.autocast``. They return a scalar.
- **Several processes**: In a ``torch.distributed`` process group, the batch consists of the rows
  of all ranks. Every rank must call the loss equally often. The loss and its gradients (after
  DistributedDataParallel has averaged them) equal those of a single process with the whole batch.
- **Normalization**: ``normalize="standardize"`` scales every teacher dimension to mean 0 and
  standard deviation 1, so that teachers with large values do not dominate; ``"none"`` leaves the
  features as they are.
- **Statistics**: ``statistics`` is one ``(mean, std)`` pair per teacher, each ``(D_t,)``, computed
  over the training set, for ``normalize="standardize"``. Without it, each batch is standardized
  by its own mean and standard deviation.
- **Errors**: A loss raises :class:`aft.errors.InputError` if an argument is invalid, shapes do not
  match, the batch has too few rows, or features are NaN or infinite. On a GPU, NaN and infinity
  are reported two calls later, so that a step does not wait for the device.
"""

from __future__ import annotations

from aft.losses.aft import AFTLoss
from aft.losses.aft_no_kernel import NoKernelAFTLoss
from aft.losses.aft_soft import AFTSoftLoss
from aft.losses.btuning import BTuningLoss
from aft.losses.cka import CKALoss
from aft.losses.distill_weighted import DistillWeightedLoss
from aft.losses.ft import Autoencoder, FTLoss, fit_autoencoder
from aft.losses.kd import KDLoss
from aft.losses.kdep import KDEPLoss
from aft.losses.kernel_kd import KernelKDLoss
from aft.losses.logit_kd import LogitKDLoss
from aft.losses.rkd import RKDLoss
from aft.losses.row_trust import RowTrustLoss
from aft.losses.soft_labels import SoftLabelLoss

__all__ = [
    "AFTLoss",
    "AFTSoftLoss",
    "Autoencoder",
    "BTuningLoss",
    "CKALoss",
    "DistillWeightedLoss",
    "FTLoss",
    "KDEPLoss",
    "KDLoss",
    "KernelKDLoss",
    "LogitKDLoss",
    "NoKernelAFTLoss",
    "RKDLoss",
    "RowTrustLoss",
    "SoftLabelLoss",
    "fit_autoencoder",
]
