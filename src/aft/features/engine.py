"""What runs a teacher of images on the CPU: torch, or ONNX Runtime where it is faster."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aft.backbones.checks import FAULTS, first_line
from aft.backbones.network import versions
from aft.backbones.onnx_export import ExportedNetwork
from aft.backbones.specs import Spec, split_column
from aft.config.groups import FeatureOptions
from aft.data.samples import Samples
from aft.features.extraction import store_identity
from aft.features.run_teacher import Positions
from aft.features.store import FeatureStore
from aft.teachers.feature_table import FeatureTable
from aft.teachers.teacher import Teacher

_SOURCES = ("timm", "torchvision")
_FEWEST_ROWS, _LEAST_SECONDS = 500, 20.0  # with less work, exporting costs more than it saves
_TIMED_ROWS = 16
_FASTER = 0.9  # at most this share of torch's time, as measurements vary


def choose_engine(
    teacher: Teacher | FeatureTable,
    samples: Samples,
    config: FeatureOptions,
    folder: Path,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> Teacher | FeatureTable:
    """The teacher, run by the engine that was asked for.

    It only concerns teachers of images from timm and torchvision. ``auto`` keeps the engine of the
    features that are stored, of which it takes the larger store. Without any, it measures both, in
    one process on the CPU, if torch would take more than some seconds.

    Args:
        teacher: The teacher, run by torch.
        samples: The samples, with the teacher's input columns.
        config: The engine that was asked for, and the type of the stored features.
        folder: Folder of the feature stores.
        device: Device of the teacher.
        rank: Rank of this process.
        world_size: Number of processes, which all choose the same.

    Raises:
        ModelError: If ``onnx`` is asked for and a library is missing.
    """
    if config.engine == "torch" or config.extract_precision != "fp32":
        return teacher
    if isinstance(teacher, FeatureTable) or teacher.modality != "image":
        return teacher
    if Spec.parse(split_column(teacher.spec)[1]).source not in _SOURCES:
        return teacher
    if config.engine == "onnx":
        return run_by_onnx(teacher)
    if device.type != "cpu" or not (find_spec("onnx") and find_spec("onnxruntime")):
        return teacher
    other = run_by_onnx(teacher)
    stored, exported = (_stored(folder, one, config.features_dtype) for one in (teacher, other))
    if stored or exported:
        return other if exported > stored else teacher
    rows = np.flatnonzero(samples.present.any(axis=1))
    if world_size > 1 or len(rows) < _FEWEST_ROWS:
        return teacher
    better, why = _measure(teacher, other, samples, rows)
    if why and config.progress and rank == 0:
        print(f"{teacher.spec}: {'ONNX Runtime' if better else 'torch'}, {why}", file=sys.stderr)
    return other if better else teacher


def run_by_onnx(teacher: Teacher) -> Teacher:
    """The teacher with its network run by ONNX Runtime, which is part of its identity."""
    module = ExportedNetwork(teacher.module, teacher.spec).eval()
    identity = {**teacher.identity, "engine": "onnx"}
    identity["versions"] = {**identity["versions"], **versions("onnxruntime")}
    return replace(teacher, module=module, identity=identity)


def _stored(folder: Path, teacher: Teacher, dtype: str) -> int:
    """Number of rows in the teacher's store, 0 without a store."""
    identity = store_identity(teacher, dtype)
    if not FeatureStore.place(folder, identity).exists():
        return 0
    return len(FeatureStore.open(folder, identity))


@torch.inference_mode()
def _measure(
    teacher: Teacher, other: Teacher, samples: Samples, rows: Positions
) -> tuple[bool, str]:
    """Whether the other teacher is faster with the same features, and why; '' if unimportant."""
    try:
        prepare: Callable[[Any], Tensor] = teacher.preprocess
        batch = torch.stack([prepare(samples.input(int(row))) for row in rows[:_TIMED_ROWS]])
        batch = batch.contiguous(memory_format=torch.channels_last)
        teacher.module(batch)
        ours = _seconds(teacher, batch)
        if ours * len(rows) < _LEAST_SECONDS:
            return False, ""
        other.module(batch)  # exports it, and compares both
        theirs = _seconds(other, batch)
        ours, theirs = min(ours, _seconds(teacher, batch)), min(theirs, _seconds(other, batch))
    except FAULTS as error:
        return False, f"as ONNX Runtime cannot run it: {first_line(error)}"
    why = f"{1000 * theirs:.3g} ms an image with ONNX Runtime and {1000 * ours:.3g} with torch"
    return theirs < _FASTER * ours, why


def _seconds(teacher: Teacher, batch: Tensor) -> float:
    start = time.perf_counter()
    teacher.module(batch)
    return (time.perf_counter() - start) / len(batch)
