"""How much of a training step is the student's own work? Steps of aft beside a bare loop.

The bare loop has every input decoded or tokenized in memory, and does the same arithmetic: random
views, forward and backward pass, losses, clipping and optimizer. Blocks of steps of both alternate
in one process. Runs on the labels alone alternate with runs by default.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import aft
from aft.backbones.batches import to_device
from aft.commands import train as command
from aft.demo_data.models import fetch_minilm
from aft.ids import default_cache_dir
from aft.students.inputs import Images
from aft.training.row_adam import clip_gradients
from aft.training.schedule import make_optimizer
from aft.training.trainer import Trainer
from data_sets import DATA_SETS
from speed_parts.timing import draw_photos, row, write_texts

BLOCK = 10
WARM = 2
"""Blocks at the beginning of a run that do not count."""
PHOTOS = ((64, (3000, 2000), 80), (128, (3000, 2000), 40), (64, (500, 375), 80))
"""Pixels of the student, of the photos, and steps."""
BARE = "bare loop, inputs in memory"


class Beside(Trainer):
    """A trainer that, after each block of steps, runs a block of the bare loop, and times both."""

    seconds: dict[str, list[float]]
    newest: Beside

    def fit(self, log: Any) -> Any:
        self.seconds = {"aft": [], "bare": []}
        self.bare = Bare(self)
        self.started = time.process_time()
        Beside.newest = self
        return super().fit(log)

    def _step(self, *batch: Any) -> dict[str, float]:
        values = super()._step(*batch)
        if (self.progress.step + 1) % BLOCK == 0:
            self.seconds["aft"].append(time.process_time() - self.started)
            started = time.process_time()
            for _ in range(BLOCK):
                self.bare.step()
            self.seconds["bare"].append(time.process_time() - started)
            self.started = time.process_time()
        return values

    def _evaluate(self, log: Any) -> float:
        spent = time.process_time()
        score = super()._evaluate(log)
        self.started += time.process_time() - spent  # evaluations are not steps
        return score

    def save(self) -> None:
        spent = time.process_time()
        super().save()
        self.started += time.process_time() - spent


class Bare:
    """The same arithmetic on inputs in memory."""

    def __init__(self, trainer: Trainer) -> None:
        self.model = copy.deepcopy(trainer.module).train()
        self.optimizer = make_optimizer(self.model, trainer.schedule, sparse=True)
        self.clip = trainer.schedule.clip_norm
        self.labels = torch.from_numpy(np.asarray(trainer.train.samples.labels))
        self.sizes = trainer.schedule.batch_size, trainer.schedule.unlabelled_batch_size
        self.train = self.load(trainer.train)
        self.pool = None if trainer.pool is None else self.load(trainer.pool)
        self.rng = np.random.default_rng(0)

    def load(self, rows: Any) -> tuple[Callable[[Any], Any], list[torch.Tensor]]:
        """A function that makes a batch, and the features of each teacher, all in memory."""
        every = np.arange(len(rows.samples))
        features = [teacher.gather(every) for teacher in rows.teachers]
        (tower,) = rows.inputs.towers.values()
        if isinstance(tower, Images):
            small = [tower.small(int(row)) for row in every]
            small = [None if one is None else one.copy() for one in small]

            def make(chosen: Any) -> Any:
                seeds = [int(row) for row in chosen]
                return tower.transform.finish([small[row] for row in chosen], seeds)
        else:
            whole = rows.inputs.batch(every)
            lengths = (whole >= 0).sum(1)

            def make(chosen: Any) -> Any:
                return whole[chosen, : int(lengths[chosen].max())]

        return make, features

    def draw(self, rows: Any, size: int) -> tuple[Any, Any, list[torch.Tensor]]:
        make, features = rows
        total = len(self.labels) if rows is self.train else len(features[0])
        chosen = self.rng.choice(total, min(size, total), replace=False)
        return to_device(make(chosen), torch.device("cpu")), chosen, [f[chosen] for f in features]

    def step(self) -> None:
        inputs, chosen, features = self.draw(self.train, self.sizes[0])
        more: tuple[Any, ...] = ()
        if self.pool is not None:
            others, _, other_features = self.draw(self.pool, self.sizes[1])
            more = (others, other_features)
        out = self.model(inputs, features or None, self.labels[chosen], *more)
        self.optimizer.zero_grad()
        (out["loss"] + out.get("alone_loss", 0.0)).backward()
        for student in (self.model.student, self.model.alone):
            if student is not None:
                clip_gradients(student.parameters(), self.clip)
        self.optimizer.step()


def measure(quick: bool) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with mock.patch.dict(os.environ, AFT_CACHE=name):  # where decoded photos are kept
            for size, (width, height), steps in PHOTOS[-1:] if quick else PHOTOS:
                data = draw_photos(folder / f"{width}", width, height, 24 if quick else 64)
                options = {"data": str(data), "student": f"small:cnn?size={size}", "batch_size": 32}
                taken = train({**options, "steps": 40 if quick else steps}, folder)
                what = f"training step, photos of {width} x {height}, `small:cnn` at {size} px"
                rows.append(compare(what, taken, 1.11))
        for student in ("small:static",) if quick else ("small:static", "small:ngrams"):
            rows += measure_texts(student, quick, folder)
    return {"rows": rows}


def measure_texts(student: str, quick: bool, folder: Path) -> list[dict[str, Any]]:
    """Steps on TREC questions: on the labels alone, and by default with MiniLM as the teacher."""
    cache = default_cache_dir() / "demo"
    data = write_texts(folder, 100) if quick else DATA_SETS["trec"](cache, False).folder
    labels = {"data": str(data), "student": student, "steps": 40 if quick else 120}
    if not quick:
        labels |= {"train_fraction": 0.12, "unlabelled": "left-out"}
    default = {**labels, "teachers": f"st:{fetch_minilm(cache, False)}?max_tokens=64"}
    default["features"] = str(folder / "features")
    both: dict[str, dict[str, list[float]]] = {}
    ends: dict[str, list[float]] = {"labels": [], "default": []}
    for number in range(1 if quick else 3):
        for name, options in list(zip(ends, (labels, default), strict=True))[:: (-1) ** number]:
            for side, taken in train(options, folder).items():
                both.setdefault(name, {}).setdefault(side, []).extend(taken)
                if side == "aft":
                    ends[name].append(float(np.median(taken)))
    what = f"training step, texts, `{student}`"
    alone = "step of aft on the labels alone"
    return [
        compare(f"{what}, labels alone", both["labels"], 1.11),
        compare(f"{what}, default with MiniLM", both["default"], 1.3),
        row(
            *(f"{what}, default with MiniLM", "ms", ends["default"], alone, ends["labels"]),
            **{"scale": 1e3, "aim": 2.5},
        ),
    ]


def train(options: dict[str, Any], folder: Path) -> dict[str, list[float]]:
    """CPU seconds per step of each block, of aft and of the bare loop."""
    out = folder / f"run-{len(list(folder.glob('run-*')))}"
    with mock.patch.object(command, "Trainer", Beside):
        aft.train(out=out, progress=False, device="cpu", baselines=False, eval_every=50, **options)
    seconds = Beside.newest.seconds
    return {name: [s / BLOCK for s in taken[WARM:]] for name, taken in seconds.items()}


def compare(what: str, taken: dict[str, list[float]], aim: float) -> dict[str, Any]:
    return row(what, "ms", taken["aft"], BARE, taken["bare"], scale=1e3, aim=aim)
