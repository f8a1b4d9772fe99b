"""Choice of the device and of the number of worker processes."""

from __future__ import annotations

import os

import torch

from aft.errors import ConfigError


def choose_device(name: str = "auto") -> torch.device:
    """Return the requested device; ``auto`` prefers CUDA, then Apple MPS, then the CPU.

    Raises:
        ConfigError: If the device is not available.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, found in available.items() if found)
    if not available.get(name, False):
        kinds = ", ".join(kind for kind, found in available.items() if found)
        raise ConfigError(f"device {name} is not available; available devices: {kinds}")
    return torch.device(name)


def choose_num_workers(asked: int | None, device: torch.device) -> int:
    """Number of processes that load images: the requested number, or one that suits the machine.

    On the CPU the network itself needs the cores, so only few processes load images.
    """
    if asked is not None:
        return asked
    cores = os.cpu_count() or 1
    return min(4, cores // 4) if device.type == "cpu" else min(8, max(1, cores - 1))
