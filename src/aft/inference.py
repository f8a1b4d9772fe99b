"""Run a trained student over samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from aft.data import Samples
from aft.preprocessing import Transform

if TYPE_CHECKING:
    from aft.model import Student


def on_device(inputs: Tensor, device: torch.device) -> Tensor:
    """A batch where the network is; images with channels last, which convolutions run faster on."""
    inputs = inputs.to(device, non_blocking=True)
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs


class Inputs(Dataset[Tensor]):
    """The transformed inputs of samples, by position."""

    def __init__(self, samples: Samples, transform: Transform) -> None:
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.samples.input(index))


@torch.inference_mode()
def compute_logits(
    student: Student | nn.Module,
    transform: Transform,
    samples: Samples,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    device: torch.device | None = None,
    progress: bool = False,
) -> NDArray[np.float32]:
    """The student's outputs, shape ``(n, num_outputs)``, in the order of the samples."""
    device = device or torch.device("cpu")
    was_training = student.training
    student.eval()
    loader = DataLoader(Inputs(samples, transform), batch_size, num_workers=num_workers)
    logits = []
    try:
        for inputs in tqdm(loader, "student", leave=False, delay=1, disable=not progress):
            logits.append(student(on_device(inputs, device)).logits.float().cpu().numpy())
    finally:
        student.train(was_training)
    return np.concatenate(logits)
