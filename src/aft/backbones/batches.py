"""Collate inputs into batches: images, tokenized texts, or several columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

PADDING = -1
"""Value that pads shorter texts in a batch; never a valid token id."""

Inputs = Tensor | dict[str, Tensor]
"""One input or a batch of inputs: a tensor, or one tensor per column."""

T = TypeVar("T", bound=Inputs)


def collate(inputs: Sequence[Inputs]) -> Inputs:
    """Collate inputs into a batch.

    Args:
        inputs: Images ``(3, H, W)`` of the same size; or token tensors, int64 ``(L,)`` or
            ``(2, L)``, of any length; or dictionaries of these with one entry per column.

    Returns:
        ``(B, 3, H, W)`` for images; ``(B, L)`` or ``(B, 2, L)`` for tokens, padded on the right
        with :data:`PADDING`; or a dictionary of these.

    Raises:
        RuntimeError: If the images differ in size.
    """
    first = inputs[0]
    if isinstance(first, dict):
        return {name: _stack([one[name] for one in inputs]) for name in first}  # type: ignore[index]
    return _stack(inputs)  # type: ignore[arg-type]


def to_device(batch: T, device: torch.device) -> T:
    """Move a batch to a device; images are stored channels-last, which speeds up convolutions."""
    if isinstance(batch, dict):
        return {name: to_device(part, device) for name, part in batch.items()}  # type: ignore[return-value]
    moved = batch.to(device, non_blocking=True)
    return moved.contiguous(memory_format=torch.channels_last) if moved.ndim == 4 else moved  # type: ignore[return-value]


def _stack(inputs: Sequence[Tensor]) -> Tensor:
    if inputs[0].is_floating_point():
        return torch.stack(list(inputs))
    if inputs[0].ndim == 1:
        return nn.utils.rnn.pad_sequence(list(inputs), batch_first=True, padding_value=PADDING)
    length = max(one.shape[-1] for one in inputs)
    batch = torch.full((len(inputs), *inputs[0].shape[:-1], length), PADDING, dtype=torch.int64)
    for row, one in zip(batch, inputs, strict=True):
        row[..., : one.shape[-1]] = one
    return batch
