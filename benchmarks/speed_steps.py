"""How much of a training step is the student's own work? Steps of aft beside a bare loop.

The bare loop has every input decoded or tokenized in memory, and does the same arithmetic: random
views, forward and backward pass, losses, clipping and optimizer. Blocks of steps of both alternate
in one process, so that other load on the machine affects both equally. Figures are medians of the
blocks, in CPU milliseconds per step summed over threads.

    python benchmarks/speed_steps.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import aft
import tables
from aft.backbones.batches import to_device
from aft.demo_data.models import fetch_minilm
from aft.ids import default_cache_dir
from aft.students.inputs import Images
from aft.training.row_adam import clip_gradients
from aft.training.schedule import make_optimizer
from aft.training.trainer import Trainer
from data_sets import DATA_SETS

RESULTS = Path(__file__).parent / "results"
BLOCK = 10


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
        import copy

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


def photos(folder: Path, width: int, height: int, number: int = 64) -> str:
    """A folder of two classes of JPEG photos."""
    rng = np.random.default_rng(0)
    for i in range(number):
        path = folder / f"{width}x{height}" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (60, 90, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
    return str(folder / f"{width}x{height}")


def measure(name: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train with these options beside the bare loop."""
    from aft.commands import train as command

    command.Trainer = Beside  # type: ignore[misc]
    out = folder / f"run-{len(list(folder.glob('run-*')))}"
    aft.train(out=out, progress=False, device="cpu", baselines=False, eval_every=50, **options)
    seconds = Beside.newest.seconds
    kept = {key: one[2:] for key, one in seconds.items()}  # the first blocks warm up
    ratios = [a / b for a, b in zip(kept["aft"], kept["bare"], strict=True)]
    row = {
        "task": name,
        **{
            f"{key}_milliseconds": round(1e3 * statistics.median(one) / BLOCK, 2)
            for key, one in kept.items()
        },
        "ratio": round(statistics.median(ratios), 3),
        "quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)[::2]],
    }
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    cache = default_cache_dir() / "demo"
    trec = str(DATA_SETS["trec"](cache, False).folder)
    teacher = f"st:{fetch_minilm(cache, False)}?max_tokens=64"
    texts = {"data": trec, "train_fraction": 0.12, "unlabelled": "left-out"}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["AFT_CACHE"] = os.environ.get("AFT_CACHE", str(default_cache_dir()))
        for size, (width, height) in ((64, (3000, 2000)), (128, (3000, 2000)), (64, (500, 375))):
            data = photos(folder, width, height)
            options = {"data": data, "student": f"small:cnn?size={size}", "batch_size": 32}
            label = f"photos {width}x{height}, small:cnn at {size} px"
            rows.append(measure(label, {**options, "steps": steps}, folder))
        for student in ("small:static", "small:ngrams"):
            options = {**texts, "student": student, "steps": steps}
            rows.append(measure(f"texts, {student}, labels alone", options, folder))
            options["teachers"] = teacher
            rows.append(measure(f"texts, {student}, default with MiniLM", options, folder))
    found = {
        "command": f"python benchmarks/speed_steps.py --steps {steps}",
        "version": aft.__version__,
        "machine": tables.machine(),
        "threads": torch.get_num_threads(),
        "rows": rows,
    }
    (RESULTS / "speed_steps.json").write_text(json.dumps(found, indent=1) + "\n")
    tables.put("speed of steps", as_markdown(found), ["docs/training.md"])


def as_markdown(found: dict[str, Any]) -> str:
    lines = [
        "| task | step of aft, CPU ms | bare loop | ratio | quartiles |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        low, high = row["quartiles"]
        lines.append(
            f"| {row['task']} | {row['aft_milliseconds']} | {row['bare_milliseconds']} | "
            f"{row['ratio']:.2f} | {low:.2f} to {high:.2f} |"
        )
    return "\n".join(lines) + f"\n\nMade by `{found['command']}` ({found['machine']}).\n"


if __name__ == "__main__":
    main()
