"""Extraction of image features beside the bare network: milliseconds per image, and decodings.

    python benchmarks/speed_extract.py

All ways take turns, in changing order, over the same JPEG photos of 500 x 375 pixels: the bare
network on resident inputs, and the whole extraction (reading, decoding, network, store), each by
torch and by ONNX Runtime. Results go to results/speed_extract.json; see text_extraction.py for
texts. Takes about three minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import aft
from aft.data.loading import load_inputs
from aft.data.samples import Samples
from aft.data.views import make_views
from aft.features.engine import run_by_onnx
from aft.features.extraction import extract_features
from aft.teachers.teacher import Teacher

RESULTS = Path(__file__).parent / "results" / "speed_extract.json"
BATCH, VIEWS, VIEWED = 64, 4, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="timm:tf_efficientnet_lite0?size=96")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    teacher = aft.load_teacher(options.teacher)
    teachers = {"torch": teacher, "onnx": run_by_onnx(teacher)}
    with tempfile.TemporaryDirectory() as folder:
        draw_photos(Path(folder), options.images)
        samples, _ = load_inputs(folder, progress=False)
        ways = make_ways(teachers, samples)
        took = measure(ways, options.rounds, len(samples))
        ours, theirs = (ways[f"extraction, {name}"]().double() for name in teachers)
        found = {
            "command": f"python benchmarks/speed_extract.py --teacher '{options.teacher}' "
            f"--images {options.images} --rounds {options.rounds}",
            "version": aft.__version__,
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "threads": torch.get_num_threads(),
            "libraries": {name: version(name) for name in ("torch", "onnxruntime", "timm")},
            "unit": "milliseconds per image: quartiles over the rounds; ratios within a round",
            "ways": took,
            "smallest_cosine_of_engines": float(torch.cosine_similarity(ours, theirs).min()),
            "views": {"pictures": VIEWED, "views": VIEWS, "decodings": decodings(teacher, samples)},
        }
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def draw_photos(folder: Path, count: int) -> None:
    """Smooth colours with some noise, as large on disk as a photo."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(int)
        pixels = (smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.jpg", quality=88)


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
        for name, run in (("bare network", bare), ("extraction", whole))
        for engine, teacher in teachers.items()
    }


def measure(
    ways: dict[str, Callable[[], torch.Tensor]], rounds: int, images: int
) -> dict[str, dict[str, list[float]]]:
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):  # the first one is the warm-up
        for name in sorted(ways, reverse=turn % 2 == 1):
            wall, cpu = time.perf_counter(), time.process_time()
            ways[name]()
            took[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    times = {name: np.asarray(values[1:]) * 1000 / images for name, values in took.items()}
    base = times["bare network, torch"]
    return {
        name: {
            "wall": quartiles(values[:, 0]),
            "cpu": quartiles(values[:, 1]),
            "wall_ratio_to_bare_torch": quartiles(values[:, 0] / base[:, 0]),
            "cpu_ratio_to_bare_torch": quartiles(values[:, 1] / base[:, 1]),
        }
        for name, values in times.items()
    }


def quartiles(values: np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in np.quantile(values, [0.25, 0.5, 0.75])]


def decodings(teacher: Teacher, samples: Samples) -> int:
    """How often pictures are decoded for the features of several views of each."""
    views = make_views(samples.subset(range(VIEWED)), VIEWS, 0, "standard")
    read, count = Samples._read, []

    def counting(*arguments: Any) -> Any:
        count.append(1)
        return read(*arguments)

    Samples._read = counting  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            extract_features(teacher, views, folder, num_workers=0, progress=False)
    finally:
        Samples._read = read  # type: ignore[method-assign]
    return len(count)


if __name__ == "__main__":
    main()
