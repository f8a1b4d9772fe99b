"""Run a student on samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from aft.backbones.batches import Inputs, to_device
from aft.devices import choose_num_workers, worker_errors
from aft.students.inputs import StudentInputs, unchanged
from aft.students.student import Student


@worker_errors()
def compute_logits(
    student: Student | nn.Module,
    inputs: StudentInputs,
    *,
    batch_size: int = 64,
    num_workers: int | None = 0,
    device: torch.device | None = None,
    progress: bool = False,
) -> NDArray[np.float32]:
    """The student's outputs, shape ``(n, num_outputs)``, in the order of the samples.

    Arguments are those of :func:`run_student`.
    """
    batches = run_student(
        student,
        inputs,
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
        progress=progress,
    )
    return np.concatenate([logits.float().cpu().numpy() for logits, _ in batches])


@torch.no_grad()
def choose_workers(
    student: nn.Module, inputs: StudentInputs, batches: int, size: int, passes: int = 1
) -> int:
    """Number of processes that read inputs, see :func:`aft.devices.choose_num_workers`.

    Args:
        student: The network, on its device.
        inputs: Its inputs for the samples.
        batches: How many batches will be read.
        size: Inputs per batch.
        passes: Forward passes that take as long as what is done with a batch.
    """
    device, some = next(student.parameters()).device, range(min(size, len(inputs)))

    def run(batch: Inputs) -> None:
        for _ in range(passes):
            student(to_device(batch, device))[0].cpu()

    was_training = student.training
    student.eval()
    number = choose_num_workers(device, batches, lambda: inputs.batch(some, some), run)
    student.train(was_training)
    return number


@torch.no_grad()  # not inference mode: a network may cache tensors that training uses later
def run_student(
    student: Student | nn.Module,
    inputs: StudentInputs,
    *,
    batch_size: int = 64,
    num_workers: int | None = 0,
    device: torch.device | None = None,
    progress: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and features of the samples, batch by batch, in order.

    Args:
        student: The network.
        inputs: Its inputs for the samples.
        batch_size: Inputs per batch.
        num_workers: Number of processes that read inputs; chosen by measurement if None.
        device: Device of the network.
        progress: Whether to show a progress bar.
    """
    device = device or torch.device("cpu")
    if num_workers is None:
        num_workers = choose_workers(student, inputs, len(inputs) // batch_size, batch_size)
    was_training = student.training
    student.eval()
    loader = DataLoader(inputs, batch_size, num_workers=num_workers, collate_fn=unchanged)
    bar = tqdm(loader, "student", leave=False, delay=1, disable=not progress)
    try:
        for batch in bar:
            yield student(to_device(batch, device))
    finally:
        student.train(was_training)
