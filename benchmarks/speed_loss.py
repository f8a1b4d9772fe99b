"""What the loss costs where it is large, compared with bare matrix products.

    python benchmarks/speed_loss.py

One pass is AFT's loss, forward and backward, for the student's features and the gates. It is
compared with the four matrix products that the Gram matrices need, two forward and two backward,
and with each form of the loss. All alternate in one process, in processor time; each ratio is the
median over rounds of the ratio within a round. Results go to
results/speed_loss.json, the table to docs/benchmarks.md. Takes about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import aft
import tables
from aft import functional as AF
from aft.losses import AFTLoss

RESULTS = Path(__file__).parent / "results" / "speed_loss.json"
ROWS = (128, 512, 2048, 4096)
WIDTHS = (384, 768, 1536)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    document = {
        "command": f"python benchmarks/speed_loss.py --rounds {options.rounds}",
        "version": aft.__version__,
        "machine": tables.machine(),
        "rows": measure(options.rounds),
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    tables.put("speed loss", as_table(document), ["docs/benchmarks.md"])
    print(as_table(document))


def measure(rounds: int) -> list[dict[str, Any]]:
    """Milliseconds and ratios to the bare products for every batch size and width."""
    return [measure_one(rows, width, rounds) for rows in ROWS for width in WIDTHS]


def measure_one(rows: int, width: int, rounds: int) -> dict[str, Any]:
    """The same for one batch size; student and teacher have the same width."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(rows, width, generator=generator) for _ in range(2))
    loss_fn = AFTLoss([width], statistics=[(teacher.mean(0), teacher.std(0))])
    choose: dict[str, Callable[[Tensor, Tensor], bool]] = {
        "bare": AF.covariances_pay,
        "loss": AF.covariances_pay,
        "gram": lambda a, b: False,
        "covariances": lambda a, b: True,
    }
    repeats = max(1, 2**28 // (rows * rows * width))
    seconds: dict[str, list[float]] = {name: [] for name in choose}
    for number in range(rounds + 1):
        for name in choose if number % 2 else reversed(choose):
            with mock.patch.object(AF, "covariances_pay", new=choose[name]):
                start = time.process_time()
                for _ in range(repeats):
                    if name == "bare":
                        bare_products(student, teacher)
                    else:
                        step(loss_fn, student, teacher)
                taken = (time.process_time() - start) / repeats
            if number:  # the first round warms up
                seconds[name].append(taken)
    learned = student.clone().requires_grad_()
    found: dict[str, Any] = {
        "rows": rows,
        "width": width,
        "form": "covariances" if AF.covariances_pay(learned, learned) else "gram",
        "milliseconds": {k: round(1e3 * float(np.median(v)), 3) for k, v in seconds.items()},
        "ratios": {},
    }
    for name in list(choose)[1:]:
        quotients = np.divide(seconds[name], seconds["bare"])
        low, middle, high = np.percentile(quotients, [25, 50, 75]).round(3).tolist()
        found["ratios"][name] = {"median": middle, "quartiles": [low, high]}
    print(found, flush=True)
    return found


def step(loss_fn: AFTLoss, student: Tensor, teacher: Tensor) -> None:
    loss_fn.zero_grad()
    loss_fn(student.detach().requires_grad_(), teacher).backward()


def bare_products(student: Tensor, teacher: Tensor) -> None:
    """Two Gram matrices and their two gradients."""
    difference = student @ student.T
    difference -= teacher @ teacher.T
    difference @ student
    difference @ teacher


def as_table(document: dict[str, Any]) -> str:
    lines = [
        "| rows | width | bare products | loss | Gram form | covariances | chosen |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in document["rows"]:
        ratios = " | ".join(f"{ratio['median']:.2f}" for ratio in one["ratios"].values())
        lines.append(
            f"| {one['rows']:,} | {one['width']:,} | {one['milliseconds']['bare']:.2f} ms "
            f"| {ratios} | {one['form']} |"
        )
    return "\n".join(lines) + (
        f"\n\nMedian ratio of processor time, one thread.\n"
        f"Made by `{document['command']}` ({document['machine']}).\n"
    )


if __name__ == "__main__":
    main()
