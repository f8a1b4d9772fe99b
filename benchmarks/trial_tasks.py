"""A task of the trials in memory: inputs, labels, teachers' features, and the initial student."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import suite
from aft.backbones.batches import collate
from aft.backbones.preprocessing import ImageTransform
from aft.config.commands import ExtractConfig
from aft.data.loading import load_data
from aft.data.readers.find_columns import Columns
from aft.data.samples import Samples
from aft.data.views import make_views
from aft.demo_data.models import fetch_minilm
from aft.features.stored import extract_teachers
from aft.losses import SoftLabelLoss
from aft.metrics import MAIN_METRIC, compute_metrics
from aft.students.backbone import Backbone
from aft.students.build import build_student
from aft.students.student import Student, new_student
from aft.tasks import Task
from aft.training.sampling import UNLABELLED, Batches, ViewBatch, stream
from aft.training.schedule import Schedule
from data_sets import DATA_SETS

VIEWS = 4

Split = Literal["train", "pool", "validation", "test"]
SCORED: tuple[Split, ...] = ("train", "validation", "test")


@dataclass
class Bench:
    """A task in memory.

    Attributes:
        task: The prediction task.
        backbone: The student's backbone, with its initial weights.
        schedule: The training schedule.
        inputs: Inputs of each split; ``pool`` contains the unlabelled rows.
        labels: Labels of each split except the pool.
        features: Features of each teacher for train and pool; the last is the second teacher.
        heads: Fitted soft-label losses, by the indices of their teachers.
    """

    task: Task
    backbone: Backbone
    schedule: Schedule
    inputs: dict[Split, Held]
    labels: dict[Split, Tensor]
    features: list[dict[Split, Tensor]]
    heads: dict[tuple[int, ...], SoftLabelLoss] = field(default_factory=dict)


class Held:
    """Inputs in memory.

    Args:
        values: Inputs of the student; or, for a random transform, small images.
        transform: The random transform, if there is one.
    """

    def __init__(self, values: Sequence[Any], transform: ImageTransform | None) -> None:
        self.values = values
        self.transform = transform

    def __len__(self) -> int:
        return len(self.values)


def load_bench(name: str, seed: int) -> Bench:
    """Load a task of the suite; if all labels are used, the pool consists of views of its rows."""
    entry, cache = suite.TASKS[name], suite._cache()
    given, student = entry.options, entry.student(cache)
    if student == ("small:ngrams",):  # it would start from a linear model, which is not done here
        given, student = {"lr": 2e-3, **given}, ("small:static",)
    fraction = given.get("train_fractions", (1.0,))[0]
    data = load_data(
        folder := str(DATA_SETS[entry.data](cache, False).folder),
        Columns(label=given.get("label_column", ())),
        validation_fraction=given.get("validation_fraction", 0.1),
        train_fraction=fraction,
        unlabelled="left-out" if fraction < 1 else None,
        seed=seed,
        progress=False,
    )
    rows: dict[Split, Samples] = {
        "train": data.splits["train"],
        "pool": data.unlabelled or make_views(data.splits["train"], VIEWS, seed, "standard"),
        "validation": data.splits["validation"],
        "test": data.splits["test"],
    }
    second = f"hf:{fetch_minilm(cache, False)}?layer=1&max_tokens=64"
    if rows["train"].columns[0].modality == "image":
        second = suite.squeezenet(cache)
    if len(rows["train"].columns) > 1:
        second = f"image={second}"
    config = ExtractConfig(data=folder, teachers=(*entry.teachers(cache), second), progress=False)
    features: list[dict[Split, Tensor]] = [{} for _ in config.teachers]
    for split in ("train", "pool"):
        stored = extract_teachers(config, [rows[split]], torch.device("cpu"))[0]
        for one, teacher in zip(features, stored, strict=True):
            one[split] = teacher.gather(np.arange(len(rows[split])))
    backbone, _ = build_student(student, rows["train"], data.unlabelled, seed=seed)
    anew = ("train",) if data.unlabelled is None else ("train", "pool")
    inputs = {split: hold(samples, backbone, split in anew) for split, samples in rows.items()}
    labels = {s: torch.from_numpy(rows[s].labels) for s in SCORED}
    schedule = Schedule(
        steps=given["steps"],
        batch_size=given["batch_size"],
        unlabelled_batch_size=2 * given["batch_size"],
        lr=given.get("lr", 3e-4),
        head_lr=given.get("head_lr", given.get("lr", 3e-3)),
    )
    return Bench(data.task, backbone, schedule, inputs, labels, features)


def hold(samples: Samples, backbone: Backbone, anew: bool) -> Held:
    """Preprocessed inputs; or, if ``anew``, raw images with a transform that augments them."""
    values = (samples.input(row) for row in range(len(samples)))
    if anew and samples.columns[0].modality == "image":
        random = backbone.preprocessing.augment("standard")
        assert isinstance(random, ImageTransform)
        return Held([random.keep(image) for image in values], random)
    transform = backbone.preprocessing.evaluate()
    return Held([transform(value) for value in values], None)


def start(bench: Bench, seed: int) -> Student:
    """A new student, initialized as in `aft train`."""
    torch.manual_seed(seed)
    mean = std = None
    if bench.task.kind == "regression":
        targets = bench.labels["train"]
        mean, std = targets.mean(0), targets.std(0, correction=0)
    student = new_student(copy.deepcopy(bench.backbone), bench.task, mean, std)
    if bench.backbone.info["weights"] != "random":
        for parameter in student.head.parameters():
            nn.init.zeros_(parameter)
    return student


def draw(
    bench: Bench, split: Split, steps: int, seed: int, purpose: int = UNLABELLED
) -> Iterator[ViewBatch]:
    """Batches of a split; seed and purpose determine their order and augmentations."""
    held, schedule = bench.inputs[split], bench.schedule
    size = schedule.batch_size if split == "train" else schedule.unlabelled_batch_size
    for epoch, rows in Batches(len(held), size, range(steps), seed, 0, 1, purpose):
        values = [held.values[row] for row in rows]
        if held.transform is None:
            yield collate(values), rows
        else:
            seeds = [stream(seed, purpose, epoch, int(row)) for row in rows]
            yield held.transform.finish(values, seeds), rows


def features_of(bench: Bench, split: Split, rows: NDArray[np.int64], teachers: int) -> list[Tensor]:
    """Features of rows by the task's teachers; with ``teachers=2`` also by the second teacher."""
    return [one[split][rows] for one in bench.features[: len(bench.features) - 2 + teachers]]


@torch.no_grad()
def evaluate(student: nn.Module, bench: Bench, split: Split) -> float:
    """Accuracy, or R² for numeric labels."""
    held = bench.inputs[split]
    student.eval()
    batches = (held.values[at : at + 256] for at in range(0, len(held), 256))
    logits = torch.cat([student(collate(batch)).logits for batch in batches])
    metrics = compute_metrics(logits.numpy(), bench.labels[split].numpy(), bench.task)
    return float(metrics[MAIN_METRIC[bench.task.kind]])


def uncertainty(score: float, bench: Bench) -> float:
    """Standard error of an accuracy as in training; 0 for other metrics."""
    if bench.task.kind != "classification":
        return 0.0
    return math.sqrt(max(0.0, score * (1 - score)) / len(bench.inputs["validation"]))
