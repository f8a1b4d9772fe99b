"""The same training by several processes, which share every batch over gloo.

The loss of a step is that of the whole batch, so it does not depend on the number of processes
(without dropout, whose masks do).
With more processes than cores, only this and the overhead can be seen, not a gain of speed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from torch import nn

import aft
from aft.commands import train as command
from aft.demo_data.models import fetch_minilm
from aft.ids import default_cache_dir
from aft.training.trainer import Trainer
from speed_parts.timing import ENVIRONMENT, curve, row, write_texts

PROCESSES = (1, 2, 4)
BATCH, WARM = 256, 5


class Timed(Trainer):
    """A trainer that notes both clocks at the beginning of every step, and its losses."""

    clocks: list[tuple[float, float]]
    losses: list[tuple[float, float]]
    newest: Timed

    def _step(self, *batch: Any) -> dict[str, Any]:
        Timed.newest = self
        if self.progress.step == 0:
            self.clocks, self.losses = [], []
            for module in self.module.modules():
                if isinstance(module, nn.Dropout):  # its masks differ between processes
                    module.p = 0.0
        self.clocks.append((time.process_time(), time.perf_counter()))
        values = super()._step(*batch)
        self.losses.append((float(values["task_loss"]), float(values["transfer_loss"])))
        return values


def measure(quick: bool) -> dict[str, Any]:
    steps, numbers = (8, PROCESSES[:2]) if quick else (60, PROCESSES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = 300 if quick else 2000
        write_texts(folder, rows)
        found = {n: start(n, folder, folder / f"{rows}.jsonl", steps) for n in numbers}
    alone = found[1]
    table = []
    for n in numbers[1:]:
        losses = [abs(a / b - 1) for a, b in zip(found[n]["losses"], alone["losses"], strict=True)]
        assert losses[0] < 1e-6, losses
        what = f"training step of {n} processes, CPU of all, batch of {BATCH}"
        table.append(row(what, "ms", found[n]["cpu"], "one process", alone["cpu"], scale=1e3))
        what = f"difference of the loss after {steps} steps, {n} processes and one"
        table.append(row(what, "(relative)", losses[-1:]))
    lines = {
        words: [[n, 1e3 * float(np.median(one[key]))] for n, one in found.items()]
        for key, words in (("cpu", "CPU, all processes"), ("wall", "wall clock"))
    }
    title = f"Training step, batch of {BATCH}"
    return {"rows": table, "curves": [curve(title, "processes", "milliseconds", lines)]}


def start(number: int, folder: Path, data: Path, steps: int) -> dict[str, list[float]]:
    """Train with so many processes: seconds of each step, and the losses that were logged."""
    out = folder / f"run-{number}"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", str(number), __file__, str(data), str(out), str(steps)]
    subprocess.run(launch, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    ranks = [json.loads(file.read_text()) for file in out.glob("rank-*.json")]
    taken = np.diff([rank["clocks"] for rank in ranks], axis=1)[:, WARM:]
    # Each process knows the task loss of its own rows, and the transfer loss of all rows.
    losses = np.mean([rank["losses"] for rank in ranks], axis=0).sum(1)
    return {
        "cpu": taken[:, :, 0].sum(0).tolist(),
        "wall": taken[:, :, 1].max(0).tolist(),
        "losses": losses.tolist(),
    }


def work(data: str, out: str, steps: str) -> None:
    with mock.patch.object(command, "Trainer", Timed):
        aft.train(
            data=data,
            teachers=[f"st:{fetch_minilm(default_cache_dir() / 'demo', False)}?max_tokens=32"],
            student="small:static",
            loss="aft",
            safety_net=False,
            steps=int(steps),
            batch_size=BATCH,
            out=out,
            features=str(Path(out).parent / "features"),
            **{"device": "cpu", "progress": False, "baselines": False, "eval_every": int(steps)},
        )
    found = {"clocks": Timed.newest.clocks, "losses": Timed.newest.losses}
    Path(out, f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    work(*sys.argv[1:])
