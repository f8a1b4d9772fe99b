"""Batches of inputs: images of one size, texts of any length, and several columns together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

PADDING = -1
"""What fills up shorter texts in a batch; never a token."""

Inputs = Tensor | dict[str, Tensor]
"""One input, or a batch of them: a tensor, or one tensor a column."""

T = TypeVar("T", bound=Inputs)


def collate(inputs: Sequence[Inputs]) -> Inputs:
    """Make a batch of inputs.

    Args:
        inputs: Images ``(3, H, W)`` of one size; or the tokens of texts, int64 ``(L,)`` or
            ``(2, L)``, of any lengths; or a dictionary of these for several columns.

    Returns:
        ``(B, 3, H, W)``; ``(B, L)`` or ``(B, 2, L)``, filled up with :data:`PADDING` on the right;
        or a dictionary of these.

    Raises:
        RuntimeError: If images differ in size.
    """
    first = inputs[0]
    if isinstance(first, dict):
        return {name: _stack([one[name] for one in inputs]) for name in first}  # type: ignore[index]
    return _stack(inputs)  # type: ignore[arg-type]


def to_device(batch: T, device: torch.device) -> T:
    """A batch where the network is; images with channels last, which convolutions run faster on."""
    if isinstance(batch, dict):
        return {name: to_device(part, device) for name, part in batch.items()}  # type: ignore[return-value]
    moved = batch.to(device, non_blocking=True)
    return moved.contiguous(memory_format=torch.channels_last) if moved.ndim == 4 else moved  # type: ignore[return-value]


def _stack(inputs: Sequence[Tensor]) -> Tensor:
    if inputs[0].is_floating_point():
        return torch.stack(list(inputs))
    length = max(one.shape[-1] for one in inputs)
    batch = torch.full((len(inputs), *inputs[0].shape[:-1], length), PADDING, dtype=torch.int64)
    for row, one in zip(batch, inputs, strict=True):
        row[..., : one.shape[-1]] = one
    return batch
