"""Run a teacher on the machines of a Ray cluster, some of which may fail meanwhile.

This process reads the inputs, sends them in blocks, and receives the features. So the machines need
neither the data nor the feature store, and the store has one writer. The block of a worker that
dies is computed again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.metadata import distributions
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aft.backbones.checks import find_function, first_line
from aft.backbones.network import require
from aft.backbones.specs import Spec, split_column
from aft.backbones.user_file import import_file
from aft.data.samples import Samples
from aft.devices import choose_device
from aft.errors import AftError, ConfigError, TeacherError
from aft.features.run_teacher import Compute, Positions, RunTeacher, compute_features
from aft.features.store import KEPT
from aft.teachers.feature_table import FeatureTable
from aft.teachers.teacher import Teacher

BLOCK_ROWS, BLOCK_BYTES = 4096, 2**26
"""Most rows of a block; it ends before, when its inputs have so many bytes."""
_BLOCKS_EACH = 4  # blocks per worker, at least, so that all end at about the same time


@contextmanager
def connect(address: str | None, device: str) -> Iterator[tuple[torch.device, RunTeacher]]:
    """Connect to a Ray cluster: gives the device of its workers, and what runs a teacher on them.

    Args:
        address: The address as for ``ray.init``; ``local`` starts a cluster on this machine. None
            gives the device of this process and :func:`compute_features`.
        device: The device asked for; ``auto`` is CUDA if the cluster has GPUs, else the CPU.

    Raises:
        ModelError: If Ray is not installed.
        ConfigError: If no cluster answers, or it does not have the device.
    """
    if address is None:
        yield choose_device(device), compute_features
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray: Any = require("ray", "ray")
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--ray {address}: cannot connect to a Ray cluster: {first_line(error)}; expected "
            "auto, HOST:PORT or ray://HOST:PORT of a running one, or local"
        ) from None
    try:
        gpus = ray.cluster_resources().get("GPU", 0)
        if device == "mps" or (device == "cuda" and not gpus):
            raise ConfigError(f"--device {device}: the Ray cluster has {gpus:g} GPUs for CUDA")
        yield torch.device("cuda" if gpus and device != "cpu" else "cpu"), partial(_run, ray)
    finally:
        ray.shutdown()


def _run(
    ray: Any, teacher: Teacher | FeatureTable, samples: Samples, rows: Positions, how: Compute
) -> Iterator[tuple[Positions, Tensor]]:
    """As :func:`compute_features`, with a worker on every core or GPU of the cluster."""
    if isinstance(teacher, FeatureTable):
        return (yield from compute_features(teacher, samples, rows, how))
    kind = "GPU" if how.device.type == "cuda" else "CPU"
    # A block that kills ten workers is at fault itself.
    task = ray.remote(num_cpus=1, num_gpus=int(kind == "GPU"), max_retries=9)(_compute_block)
    known = teacher.identity.get("versions", {})
    needed = frozenset(pair for pair in _installed() if pair[1] == known.get(pair[0]))
    given = [ray.put(teacher)], teacher.spec, needed
    done, running = 0, dict[Any, Positions]()
    while done < len(rows) or running:
        workers = max(1, int(ray.cluster_resources().get(kind, 0)))  # machines may join or leave
        batches = min(BLOCK_ROWS, len(rows) // (_BLOCKS_EACH * workers)) // how.batch_size
        while done < len(rows) and len(running) < workers + 2:
            part = rows[done : done + max(1, batches) * how.batch_size]
            block = samples.read_block(part, BLOCK_BYTES)
            running[task.remote(*given, block, how)] = part[: len(block)]
            done += len(block)
        first = ray.wait(list(running))[0][0]
        try:
            places, features = ray.get(first)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            if isinstance(cause, AftError):
                raise cause from None
            problem = f"{teacher.spec} failed on the Ray cluster: {first_line(cause)}"
            raise TeacherError(f"{problem}. {KEPT}") from error
        yield running.pop(first)[places], features


def _compute_block(
    sent: list[Any], spec: str, needed: frozenset[tuple[str, str]], block: Samples, how: Compute
) -> tuple[Positions, Tensor]:
    """What a worker does with a block; Ray would copy a reference outside a list every time."""
    teacher = _receive(sent[0], spec, needed)
    parts = list(compute_features(teacher, block, np.arange(len(block)), how))
    return np.concatenate([rows for rows, _ in parts]), torch.cat([values for _, values in parts])


@lru_cache(maxsize=1)
def _receive(reference: Any, spec: str, needed: frozenset[tuple[str, str]]) -> Teacher:
    if lacking := sorted(needed - _installed()):
        names = ", ".join(" ".join(pair) for pair in lacking)
        raise TeacherError(f"workers of the Ray cluster need the same versions as here: {names}")
    parsed = Spec.parse(split_column(spec)[1])
    if parsed.source == "python":
        import_file(find_function(parsed)[0], again=False)  # pickles name the file's module
    return require("ray", "ray").get(reference)  # type: ignore[no-any-return]


def _installed() -> set[tuple[str, str]]:
    """The installed libraries and their versions, without build tags."""
    return {(one.name, one.version.partition("+")[0]) for one in distributions()}
