"""How much time does the transfer loss add to a training step?

Steps with and without the loss alternate in one process, so that other load on the machine affects
both equally. Teacher features are read from a store on disk, as in training.

    python benchmarks/overhead.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import aft
from aft.features.store import FeatureStore, FeatureWriter
from aft.losses import AFTLoss
from aft.students.backbone import load_backbone
from aft.students.student import new_student
from aft.tasks import Task
from aft.training.transfer_model import TransferModel

RESULTS = Path(__file__).parent / "results"
STUDENTS = ("torchvision:squeezenet1_1?weights=random&size=96", "timm:resnet18?weights=random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--teacher-dim", type=int, default=1280)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), options.teacher_dim)
        for spec in STUDENTS:
            with_loss, without = time_steps(spec, store, options.batch_size, options.steps)
            ratios = [a / b for a, b in zip(with_loss, without, strict=True)]
            rows.append(
                {
                    "student": spec,
                    "milliseconds_without": round(1e3 * statistics.median(without), 2),
                    "milliseconds_with": round(1e3 * statistics.median(with_loss), 2),
                    "median_ratio": round(statistics.median(ratios), 4),
                    "quartiles": [round(q, 4) for q in statistics.quantiles(ratios, n=4)[::2]],
                }
            )
            print(rows[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    command = (
        f"python benchmarks/overhead.py --steps {options.steps} --batch-size "
        f"{options.batch_size} --teacher-dim {options.teacher_dim}"
    )
    found = {"command": command, "version": aft.__version__, "torch": torch.__version__}
    found |= {"threads": torch.get_num_threads(), "rows": rows}
    (RESULTS / "overhead.json").write_text(json.dumps(found, indent=1) + "\n")


def make_store(folder: Path, dim: int, rows: int = 4096) -> FeatureStore:
    store = FeatureStore.open(folder, {"spec": "random", "dim": dim})
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 256, (rows, 16), dtype=np.uint8)
    with FeatureWriter(store) as writer:
        writer.add(ids, rng.normal(size=(rows, dim)).astype(np.float32))
    store.ids = ids  # type: ignore[attr-defined]
    return store


def time_steps(
    spec: str, store: FeatureStore, batch_size: int, steps: int
) -> tuple[list[float], list[float]]:
    """Seconds per step with the loss, and without it."""
    torch.manual_seed(0)
    backbone = load_backbone(spec)
    task = Task("classification", tuple(map(str, range(10))))
    student = new_student(backbone, task).to(memory_format=torch.channels_last)
    ids = store.ids
    loss = AFTLoss([store.dim], statistics=[store.statistics(ids)])
    size = backbone.preprocessing.size
    inputs = torch.randn(batch_size, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch_size,))
    models = {True: TransferModel(student, loss, beta=3.0), False: TransferModel(student)}
    optimizers = {k: torch.optim.AdamW(m.parameters(), lr=1e-4) for k, m in models.items()}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    rng = np.random.default_rng(1)
    for step in range(steps + 2):
        for transfer in (True, False) if step % 2 else (False, True):
            start = time.perf_counter()
            features = None
            if transfer:
                features = store.gather(ids[rng.integers(0, len(ids), batch_size)])
            out = models[transfer](inputs, features, labels)
            optimizers[transfer].zero_grad()
            out["loss"].backward()
            optimizers[transfer].step()
            if step >= 2:  # the first two warm up
                seconds[transfer].append(time.perf_counter() - start)
    return seconds[True], seconds[False]


if __name__ == "__main__":
    main()
