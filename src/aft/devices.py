"""Choice of the device and of the number of worker processes; processes that share work."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from aft.errors import AftError, ConfigError, DataError

_FEWEST_BATCHES, _LEAST_SECONDS, _MOST_WORKERS = 16, 5.0, 16
T = TypeVar("T")
_uses = count()
_ENDED = "DataLoader worker (pid"
"""Part of the error of torch when a process that reads inputs has ended."""


def choose_device(name: str = "auto") -> torch.device:
    """Return the requested device; ``auto`` prefers CUDA, then Apple MPS, then the CPU.

    Raises:
        ConfigError: If the device is not available, or has fewer GPUs than torchrun has processes
            on this machine.
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
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if name == "cuda" and processes > (gpus := torch.cuda.device_count()):
        raise ConfigError(
            f"expected a GPU for each process, got {processes} processes and {gpus} GPUs on this "
            f"machine: use torchrun --nproc-per-node {gpus}, or --device cpu"
        )
    return torch.device(name)


class Processes:
    """Processes that share pieces of work, but otherwise each work alone.

    Args:
        device: As in :func:`choose_device`.
        store: A ``torch.distributed.Store`` that connects them; None for a single process.
        rank: Number of this process.
        size: Number of processes.
    """

    def __init__(
        self, device: str = "cpu", store: Any = None, rank: int = 0, size: int = 1
    ) -> None:
        self.device = choose_device(device)
        self.store = dist.HashStore() if store is None else store  # type: ignore[attr-defined]
        self.rank, self.size = rank, size
        self._waits = 0

    def claim(self, work: str) -> bool:
        """Whether this process is the first to ask for a piece of work."""
        return bool(self.store.add(f"claimed {work}", 1) == 1)

    def wait(self) -> None:
        """Wait until all processes have come as far."""
        self._waits += 1
        key = f"wait {self._waits}"
        self.store.add(key, 1)
        while self.store.add(key, 0) < self.size:
            time.sleep(0.05)  # unlike the store's own waiting, Ctrl-C ends it


@contextmanager
def separate_processes(device: str) -> Iterator[Processes]:
    """The processes that torchrun started; until the end, each is one of its own for torch.

    Args:
        device: As in :func:`choose_device`; if it is a GPU, each process takes its own.

    Raises:
        ConfigError: If they are one process group already.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(device)
        return
    if dist.is_initialized():  # losses would gather the rows of all processes
        raise ConfigError(
            "expected processes without a process group of torch.distributed, got one: with "
            "torchrun, call this before aft.train, or in a script of its own"
        )
    store, rank, size = next(iter(rendezvous("env://")))
    # A store outlives this use of it, and with it what was claimed.
    store = dist.PrefixStore(f"aft {next(_uses)}", store)  # type: ignore[attr-defined]
    processes = Processes(device, store, rank, size)
    if processes.device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    processes.wait()
    names = ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK")
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield processes
        processes.wait()  # for the first one's results
    finally:
        os.environ |= hidden


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
