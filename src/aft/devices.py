"""Where to compute, and with how many helpers."""

from __future__ import annotations

import os

import torch

from aft.errors import ConfigError


def choose_device(name: str = "auto") -> torch.device:
    """The device asked for; ``auto`` prefers CUDA, then Apple MPS, then the CPU.

    Raises:
        ConfigError: If the device is not there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, found in there.items() if found)
    if not there.get(name, False):
        found = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise ConfigError(f"there is no {name} device here; found {found}")
    return torch.device(name)


def choose_num_workers(asked: int | None, device: torch.device) -> int:
    """Processes that read images: those asked for, or what the machine bears.

    On the CPU the network itself wants the cores, so few are taken from it.
    """
    if asked is not None:
        return asked
    cores = os.cpu_count() or 1
    return min(4, cores // 4) if device.type == "cpu" else min(8, max(1, cores - 1))
