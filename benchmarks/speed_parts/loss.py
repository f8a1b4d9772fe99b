"""What the loss costs: large batches and widths, many teachers, and in a whole training step.

One pass is AFT's loss, forward and backward, for the student's features and the gates. The bare
products are the four that the Gram matrices need: two forward and two backward.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aft import functional as AF
from aft.losses import AFTLoss
from aft.students.backbone import load_backbone
from aft.students.student import new_student
from aft.tasks import Task
from aft.training.transfer_model import TransferModel
from speed_parts.store import DIM, fill
from speed_parts.timing import MiB, alternate, curve, forget_peak, in_child, peak_bytes, row

BATCHES, AT_WIDTH = (64, 256, 1024, 4096, 16384), 384
WIDTHS, AT_ROWS = (256, 512, 1024, 2048, 6144), 512
TEACHERS = (1, 2, 4, 8)
LARGEST_BARE = 4096
"""Rows up to which the bare products are computed: beyond they take too long."""
STUDENTS = {
    "`squeezenet1_1` at 96 px": "torchvision:squeezenet1_1?weights=random&size=96",
    "`resnet18` at 224 px": "timm:resnet18?weights=random",
}
PRODUCT_WIDTH, PRODUCT_ROWS, STUDENT_WIDTH = 1024, 32, 512


def measure(quick: bool) -> dict[str, Any]:
    rounds = 1 if quick else 5
    large, width = (256, 64) if quick else (4096, 1536)
    taken = time_pass(large, [width], rounds)
    what = f"`AFTLoss` forward and backward, {large:,} rows, width {width:,}"
    rows = [row(what, "ms", taken["loss"], "bare products", taken["bare"], scale=1e3, aim=1.0)]
    for name, spec in list(STUDENTS.items())[: 1 if quick else None]:
        taken = time_steps(spec, 4 if quick else 16, rounds)
        what = f"step of {name}, 16 images, with `AFTLoss`"
        rows.append(row(what, "ms", taken["with"], "without", taken["without"], scale=1e3))
    width = 64 if quick else PRODUCT_WIDTH
    peaks = [in_child(product_peak, width=width, written_out=one) for one in (False, True)]
    what = f'peak memory of `AFTLoss(combine="product")`, two teachers of width {width:,}'
    rows.append(row(what, "MiB", peaks[:1], "outer product written out", peaks[1:], scale=1 / MiB))
    return {"rows": rows, "curves": grow(quick)}


def grow(quick: bool) -> list[dict[str, Any]]:
    """Time and memory of a pass against rows, width and teachers."""
    most = 2 if quick else None
    by_rows = {n: in_child(time_and_peak, rows=n) for n in BATCHES[:most]}
    by_width = {n: median(time_pass(AT_ROWS, [n], 1 if quick else 3)) for n in WIDTHS[:most]}
    by_teachers = {
        n: median(time_pass(128, [AT_WIDTH] * n, 1 if quick else 9)) for n in TEACHERS[:most]
    }
    rows, unit, features = "B, rows of a batch", "CPU milliseconds", f"features of width {AT_WIDTH}"
    peaks = {"AFTLoss": [[n, max(one["peak"], 1) / MiB] for n, one in by_rows.items()]}
    return [
        curve(f"AFTLoss forward and backward, width {AT_WIDTH}", rows, unit, lines(by_rows)),
        curve("Peak memory that this adds", rows, "MiB", peaks),
        curve(f"Time with {AT_ROWS} rows", "D, width of the features", unit, lines(by_width)),
        curve(f"Time with 128 rows, {features}", "number of teachers", unit, lines(by_teachers)),
    ]


def median(taken: dict[str, list[float]]) -> dict[str, float]:
    return {name: float(np.median(values)) for name, values in taken.items()}


def lines(found: dict[int, dict[str, float]]) -> dict[str, list[list[float]]]:
    names = {"loss": "AFTLoss", "bare": "bare products"}
    return {
        words: [[n, 1e3 * one[name]] for n, one in found.items() if name in one]
        for name, words in names.items()
    }


def time_pass(
    rows: int, widths: list[int], rounds: int, bare: bool = True
) -> dict[str, list[float]]:
    """CPU seconds of a pass and of the bare products; the student is as wide as one teacher."""
    student, teachers, loss_fn = make_pass(rows, widths)

    def loss() -> None:
        loss_fn.zero_grad()
        loss_fn(student.detach().requires_grad_(), teachers).backward()

    joined = torch.cat(teachers, dim=1)
    sides = {"loss": loss}
    if bare:
        sides["bare"] = lambda: bare_products(student, joined)
    return alternate(sides, rounds, max(1, 2**27 // (rows * rows * sum(widths))))


def make_pass(rows: int, widths: list[int]) -> tuple[Tensor, list[Tensor], AFTLoss]:
    generator = torch.Generator().manual_seed(0)
    student, *teachers = (
        torch.randn(rows, width, generator=generator) for width in (widths[0], *widths)
    )
    return (
        student,
        teachers,
        AFTLoss(widths, statistics=[(one.mean(0), one.std(0)) for one in teachers]),
    )


def bare_products(student: Tensor, teacher: Tensor) -> None:
    """Two Gram matrices and their two gradients."""
    difference = student @ student.T
    difference -= teacher @ teacher.T
    difference @ student
    difference @ teacher


def time_and_peak(rows: int) -> dict[str, float]:
    """Median times for one batch size, and what the first pass adds to peak memory."""
    torch.set_num_threads(1)
    student, teachers, loss_fn = make_pass(4, [AT_WIDTH])
    loss_fn(student.requires_grad_(), teachers).backward()  # libraries are loaded
    student, teachers, loss_fn = make_pass(rows, [AT_WIDTH])
    before = forget_peak()
    loss_fn(student.requires_grad_(), teachers).backward()
    peak = peak_bytes() - before
    rounds = 2 if rows > LARGEST_BARE else 5
    return {"peak": peak, **median(time_pass(rows, [AT_WIDTH], rounds, rows <= LARGEST_BARE))}


def time_steps(spec: str, batch: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds per step with and without the loss, with features read from a store."""
    torch.manual_seed(0)
    backbone = load_backbone(spec)
    student = new_student(backbone, Task("classification", tuple(map(str, range(10)))))
    student = student.to(memory_format=torch.channels_last)
    size = backbone.preprocessing.size
    inputs = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        store, ids = fill(Path(folder), 4096)
        loss = AFTLoss([DIM], statistics=[store.statistics(ids)])
        models = {"with": TransferModel(student, loss, beta=3.0), "without": TransferModel(student)}
        optimizers = {k: torch.optim.AdamW(m.parameters(), lr=1e-4) for k, m in models.items()}

        def step(side: str) -> None:
            chosen = ids[rng.integers(0, len(ids), batch)]
            out = models[side](inputs, store.gather(chosen) if side == "with" else None, labels)
            optimizers[side].zero_grad()
            out["loss"].backward()
            optimizers[side].step()

        return alternate({side: lambda side=side: step(side) for side in models}, rounds + 1)


def product_peak(width: int, written_out: bool) -> int:
    """What one pass with the product of two teachers adds to peak memory, in bytes."""
    torch.set_num_threads(1)
    product_pass(4, written_out)
    before = forget_peak()
    product_pass(width, written_out)
    return max(peak_bytes() - before, 1)


def product_pass(width: int, written_out: bool) -> None:
    student = torch.randn(PRODUCT_ROWS, STUDENT_WIDTH).requires_grad_()
    teachers = [torch.randn(PRODUCT_ROWS, width) for _ in range(2)]
    if not written_out:
        AFTLoss([width] * 2, combine="product", normalize="none")(student, teachers).backward()
        return
    gates = [torch.zeros(width, requires_grad=True) for _ in teachers]
    a, b = (part * gate.sigmoid() for part, gate in zip(teachers, gates, strict=True))
    outer = (a[:, :, None] * b[:, None, :]).flatten(1)
    mine, theirs = (AF.gram(AF.normalize_rows(AF.centre(part))) for part in (student, outer))
    AF.kernel_distance(mine, theirs).backward()
