"""Choice of the device and of the number of worker processes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from aft.errors import AftError, ConfigError, DataError

_FEWEST_BATCHES, _LEAST_SECONDS, _MOST_WORKERS = 16, 5.0, 16
T = TypeVar("T")
_ENDED = "DataLoader worker (pid"
"""Part of the error of torch when a process that reads inputs has ended."""


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


def choose_num_workers(
    device: torch.device, batches: int, read: Callable[[], T], run: Callable[[T], object]
) -> int:
    """Number of processes that read inputs, so that the network seldom waits for them.

    On a GPU, reading keeps up with the network. On the CPU, it gets its share of the cores, that
    of its part of the work.

    Args:
        device: Device of the network.
        batches: Number of batches to read; it is 0 for few, or if that takes less than 5 s.
        read: Reads a batch.
        run: Runs the network on it.
    """
    cores, on_cpu = os.cpu_count() or 1, device.type == "cpu"
    if batches < _FEWEST_BATCHES or cores == 1:
        return 0
    times = [time.perf_counter()]
    batch = read()
    times.append(time.perf_counter())
    reading = times[1] - times[0]
    if batches * reading < _LEAST_SECONDS:
        return 0
    for _ in range(1 if on_cpu else 2):  # the first time includes a warm-up
        run(batch)
        times.append(time.perf_counter())
    network = max(times[-1] - times[-2], 1e-9)
    share = cores * reading / (cores * network + reading) if on_cpu else -(-reading // network)
    return min(int(share), cores - 1, _MOST_WORKERS)


def available_memory() -> int:
    """Bytes of memory that can be used without swapping, within the limit of the container."""
    available = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # other systems, or no limit ("max")
        available = min(available, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return available


@contextmanager
def worker_errors() -> Iterator[None]:
    """Turn errors of the processes that read inputs for a DataLoader into one sentence.

    That a process has ended is raised anywhere in the code that runs meanwhile.

    Raises:
        AftError: The error of an input, without the stack trace of the process.
        DataError: If a process has ended, for example because the memory was full.
    """
    usual = sys.unraisablehook

    def quiet(ignored: Any) -> None:
        """It may be raised where Python can only print it; it will be raised again."""
        if _ENDED not in str(ignored.exc_value):
            usual(ignored)

    sys.unraisablehook = quiet
    try:
        yield
    except (AftError, RuntimeError, ConnectionError, EOFError) as error:
        kind, text = type(error), str(error)
        ended = _ENDED in text and not isinstance(error, AftError)
        if isinstance(error, ConnectionError | EOFError) or ended:
            raise DataError(
                f"a process that reads inputs has ended ({text}), perhaps because the memory was "
                "full: use fewer with --num-workers, or none with --num-workers 0"
            ) from None
        if issubclass(kind, AftError) and " in DataLoader worker process " in text:
            _, _, message = text.rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")
            raise kind(message.strip()) from None
        raise
    finally:
        sys.unraisablehook = usual
