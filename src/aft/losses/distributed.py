"""Helpers for ``torch.distributed``; all of them also work in a single process."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """Number of processes in the process group; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process, from 0; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Concatenate the rows of all processes in rank order, with gradients.

    Ranks may have different numbers of rows (a smaller last batch). Every rank of the default
    process group must call this function, with tensors of the same widths and types.

    The backward pass sums the gradients of all ranks for each row. If all ranks compute the same
    scalar from the result and DistributedDataParallel averages the parameter gradients, the sum
    cancels the average: the gradients equal those of a single process with all rows.

    Args:
        tensors: Each ``(b, ...)``, with the same ``b`` within a rank.

    Returns:
        One tensor ``(B, ...)`` per input, with ``B`` the sum of ``b`` over ranks; in a single
        process the inputs themselves.
    """
    if world_size() == 1:
        return tensors
    counts = _row_counts(len(tensors[0]))
    return tuple(_gather(tensor, counts) for tensor in tensors)


def _row_counts(count: int) -> list[int]:
    counts = torch.zeros(world_size(), dtype=torch.int64)
    counts[rank()] = count
    dist.all_reduce(counts, group=_between_cpus(dist.group.WORLD))
    return [int(n) for n in counts.tolist()]


@lru_cache(maxsize=1)
def _between_cpus(group: Any) -> Any:
    """A group for tensors on the CPU: numbers that GPUs exchange could only be waited for."""
    return group if "gloo" in dist.get_backend(group) else dist.new_group(backend="gloo")


def _gather(tensor: Tensor, counts: list[int]) -> Tensor:
    joined: Tensor = _GatherRows.apply(tensor, counts)  # type: ignore[no-untyped-call]
    return joined


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))  # collectives need equal shapes
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.split(ctx.counts)[rank()], None
