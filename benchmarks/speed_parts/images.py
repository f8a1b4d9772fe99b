"""Extraction of image features beside the bare network, by torch and by ONNX Runtime.

The bare network has its inputs in memory; the extraction reads and decodes JPEG photos of
500 x 375, and writes the store.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import aft
from aft.data.loading import load_inputs
from aft.data.samples import Samples
from aft.data.views import make_views
from aft.features.engine import run_by_onnx
from aft.features.extraction import extract_features
from aft.teachers.teacher import Teacher
from speed_parts.timing import alternate, draw_photos, row

BATCH, VIEWS = 64, 4
LEAST_COSINE = 0.9999
TEACHERS = {
    "EfficientNet-Lite0 at 96 px": ("timm:tf_efficientnet_lite0?size=96", 1536, 3),
    "ResNet-18 at 224 px": ("timm:resnet18?weights=random", 512, 3),
    "ViT-Ti at 224 px": ("timm:vit_tiny_patch16_224?weights=random", 512, 3),
}
"""Specification, images and rounds; nothing overlaps with reading the first batch."""


def measure(quick: bool) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        number = 4 if quick else max(images for _, images, _ in TEACHERS.values())
        photos = draw_photos(Path(folder), 500, 375, number)
        samples, _ = load_inputs(str(photos), progress=False)
        for name, (spec, images, rounds) in list(TEACHERS.items())[: 1 if quick else None]:
            some = samples.subset(range(min(images, number)))
            rows += compare(name, spec, some, 1 if quick else rounds)
        rows.append(count_decodings(samples.subset(range(min(32, number)))))
    return {"rows": rows}


def compare(name: str, spec: str, samples: Samples, rounds: int) -> list[dict[str, Any]]:
    """Each engine's extraction beside its bare network, and one engine beside the other."""
    teacher = aft.load_teacher(spec)
    teachers = {"torch": teacher, "onnx": run_by_onnx(teacher)}
    ways = make_ways(teachers, samples)
    ours, theirs = (ways[f"extraction, {engine}"]().double() for engine in teachers)
    assert float(torch.cosine_similarity(ours, theirs).min()) > LEAST_COSINE
    taken = {way: np.stack(one) for way, one in alternate(ways, rounds, clock=clocks).items()}
    scale, rows = 1e3 / len(samples), []
    words = {"torch": "torch", "onnx": "ONNX Runtime"}
    for engine, label in words.items():
        both = [taken[f"{part}, {engine}"] for part in ("extraction", "bare")]
        for column, time_words in enumerate(("CPU", "wall clock")):
            mine, bare = (one[:, column] for one in both)
            what = f"`aft extract`, {name}, {label}, per image, {time_words}"
            aim = 1.05 if column else None
            rows.append(row(what, "ms", mine, "bare network", bare, scale=scale, aim=aim))
    mine, bare = (taken[f"bare, {engine}"][:, 0] for engine in ("onnx", "torch"))
    what = f"network of {name} by ONNX Runtime, per image"
    return [*rows, row(what, "ms", mine, "by torch", bare, scale=scale)]


def clocks() -> Any:
    """CPU time and wall-clock time: decoding runs beside the network."""
    return np.array([time.process_time(), time.perf_counter()])


def make_ways(
    teachers: dict[str, Teacher], samples: Samples
) -> dict[str, Callable[[], torch.Tensor]]:
    prepare: Any = teachers["torch"].preprocess
    inputs = torch.stack([prepare(samples.input(row)) for row in range(len(samples))])
    inputs = inputs.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def bare(teacher: Teacher) -> torch.Tensor:
        return torch.cat([teacher.module(batch) for batch in inputs.split(BATCH)])

    def whole(teacher: Teacher) -> torch.Tensor:
        with tempfile.TemporaryDirectory() as folder:
            store = extract_features(teacher, samples, folder, dtype="fp32", progress=False)
            return store.gather(samples.ids)

    return {
        f"{name}, {engine}": lambda run=run, teacher=teacher: run(teacher)  # type: ignore[misc]
        for name, run in (("bare", bare), ("extraction", whole))
        for engine, teacher in teachers.items()
    }


def count_decodings(samples: Samples) -> dict[str, Any]:
    """How often pictures are decoded for the features of several views of each."""
    teacher = aft.load_teacher(TEACHERS["EfficientNet-Lite0 at 96 px"][0])
    views = make_views(samples, VIEWS, 0, "standard")
    counted = mock.Mock()
    read = Samples._read

    def counting(*arguments: Any) -> Any:
        counted()
        return read(*arguments)

    with mock.patch.object(Samples, "_read", counting), tempfile.TemporaryDirectory() as folder:
        extract_features(teacher, views, folder, num_workers=0, progress=False)
    what = f"decodings for {VIEWS} views of {len(samples)} pictures"
    counts = [counted.call_count], "one per picture", [len(samples)]
    return row(what, "decodings", *counts, aim=1.0)
