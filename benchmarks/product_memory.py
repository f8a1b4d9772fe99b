"""Peak memory of `AFTLoss(combine="product")` compared with the explicit outer product.

Each measurement is one forward and backward pass of a batch with two teachers of equal width, in
its own process. Peak resident memory is read before the pass, with inputs created and libraries
warmed up, and after it. Takes about a minute and up to 6 GB.

    python benchmarks/product_memory.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import aft
from aft import functional as AF
from aft.losses import AFTLoss

RESULTS = Path(__file__).parent / "results"
WIDTHS = (128, 256, 512, 1024, 2048, 4096, 50_000)
STUDENT_DIM = 512
MiB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--most-gib", type=float, default=1.0, help="largest outer product to compute"
    )
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "WIDTH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        method, width = options.one
        print(json.dumps(measure(method, int(width), options.batch_size)))
        return
    rows = []
    print(
        f"{'width':>7} {'outer product':>14} {'naive peak':>12} {'product peak':>13} {'ratio':>7}"
    )
    for width in WIDTHS:
        outer = options.batch_size * width * width * 4
        row: dict[str, Any] = {"widths": [width, width], "outer_product_bytes": outer}
        row["product"] = in_process("product", width, options.batch_size)
        row["naive"] = row["ratio"] = None
        if outer <= options.most_gib * 2**30:
            row["naive"] = in_process("naive", width, options.batch_size)
            peaks = (row["naive"]["added_bytes"], row["product"]["added_bytes"])
            row["ratio"] = round(peaks[0] / max(peaks[1], 1), 1)
            row["losses_agree_to"] = relative(row["naive"]["loss"], row["product"]["loss"])
        rows.append(row)
        show(row)
    found = {
        "command": (
            f"python benchmarks/product_memory.py --batch-size {options.batch_size} "
            f"--most-gib {options.most_gib:g}"
        ),
        "version": aft.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, no GPU used",
        "threads": 1,
        "batch_size": options.batch_size,
        "student_dim": STUDENT_DIM,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "product_memory.json").write_text(json.dumps(found, indent=1) + "\n")


def in_process(method: str, width: int, batch_size: int) -> dict[str, Any]:
    """The result of :func:`measure` in a new process."""
    command = [sys.executable, __file__, "--one", method, str(width)]
    done = subprocess.run(
        [*command, "--batch-size", str(batch_size)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(method: str, width: int, batch_size: int) -> dict[str, Any]:
    """Peak memory, added peak memory, seconds and loss of one pass."""
    step = {"product": product_step, "naive": naive_step}[method]
    step(*make_inputs(4, batch_size))
    student, teachers = make_inputs(width, batch_size)
    before = peak_bytes()
    start = time.perf_counter()
    loss = step(student, teachers)
    seconds = time.perf_counter() - start
    after = peak_bytes()
    return {
        "peak_bytes": after,
        "added_bytes": after - before,
        "seconds": round(seconds, 4),
        "loss": loss,
    }


def make_inputs(width: int, batch_size: int) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(batch_size, STUDENT_DIM, generator=generator).requires_grad_()
    return student, [torch.randn(batch_size, width, generator=generator) for _ in range(2)]


def product_step(student: Tensor, teachers: list[Tensor]) -> float:
    loss_fn = AFTLoss([part.shape[1] for part in teachers], combine="product", normalize="none")
    loss = loss_fn(student, teachers)
    loss.backward()
    return float(loss.detach())


def naive_step(student: Tensor, teachers: list[Tensor]) -> float:
    gates = [torch.zeros(part.shape[1], requires_grad=True) for part in teachers]
    a, b = (part * gate.sigmoid() for part, gate in zip(teachers, gates, strict=True))
    outer = (a[:, :, None] * b[:, None, :]).flatten(1)
    mine, theirs = (AF.gram(AF.normalize_rows(AF.centre(part))) for part in (student, outer))
    loss = AF.kernel_distance(mine, theirs)
    loss.backward()
    return float(loss.detach())


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def relative(a: float, b: float) -> float:
    return float(f"{abs(a - b) / abs(b):.2g}")


def show(row: dict[str, Any]) -> None:
    naive = f"{row['naive']['added_bytes'] / MiB:.1f} MiB" if row["naive"] else "not run"
    ratio = f"{row['ratio']:.0f}" if row["ratio"] else ""
    print(
        f"{row['widths'][0]:>7} {row['outer_product_bytes'] / MiB:>10.1f} MiB {naive:>12} "
        f"{row['product']['added_bytes'] / MiB:>9.1f} MiB {ratio:>7}",
        flush=True,
    )


if __name__ == "__main__":
    main()
