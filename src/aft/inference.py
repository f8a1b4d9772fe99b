"""Run a trained student over samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from aft.batches import Inputs, collate, to_device
from aft.data import Samples

if TYPE_CHECKING:
    from aft.model import Student


class Prepared(Dataset[Inputs]):
    """The transformed inputs of samples, by position."""

    def __init__(self, samples: Samples, transform: Callable[[Any], Inputs]) -> None:
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Inputs:
        return self.transform(self.samples.input(index))


@torch.inference_mode()
def compute_logits(
    student: Student | nn.Module,
    transform: Callable[[Any], Inputs],
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
    loader = DataLoader(
        Prepared(samples, transform), batch_size, num_workers=num_workers, collate_fn=collate
    )
    logits = []
    try:
        for inputs in tqdm(loader, "student", leave=False, delay=1, disable=not progress):
            logits.append(student(to_device(inputs, device)).logits.float().cpu().numpy())
    finally:
        student.train(was_training)
    return np.concatenate(logits)
