"""The linear model of the soft labels with many classes: time, and likelihood of new rows.

The exact optimum of logistic regression is compared with the fit for many classes and rows, on the
teachers' features of real data; then the time of the latter is measured on made-up features. The
constants of the fit were chosen with `trec-fine` (and on `trec`, `reuters` and the glosses of
WordNet), but not with `newsgroups` and `fashion`. Beside wall-clock seconds there are CPU seconds,
summed over threads, which other processes affect less. Takes ten minutes on two cores.

    python benchmarks/many_classes.py
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import aft
import survey
import tables
from aft.data.loading import load_data
from aft.ids import default_cache_dir
from aft.losses import heads
from data_sets import DATA_SETS

RESULTS = Path(__file__).parent / "results"
TASKS = ("trec-fine", "newsgroups", "fashion")
CLASSES = (250, 1000, 5000)
ROWS, DIM = 50_000, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS)
    parser.add_argument("--classes", nargs="*", type=int, default=CLASSES)
    parser.add_argument("--rows", type=int, default=ROWS)
    options = parser.parse_args()
    real = [row for name in options.tasks for row in compare(name)]
    made_up = [time_fit(classes, options.rows) for classes in options.classes]
    command = (
        f"python benchmarks/many_classes.py --tasks {' '.join(options.tasks)} --classes "
        f"{' '.join(map(str, options.classes))} --rows {options.rows}"
    )
    found: dict[str, Any] = {"command": command, "version": aft.__version__}
    found["machine"] = tables.machine()
    found |= {"threads": torch.get_num_threads(), "real": real, "made_up": made_up}
    (RESULTS / "many_classes.json").write_text(json.dumps(found, indent=1) + "\n")
    tables.put("many classes", as_markdown(found), tables.PAGE)


def compare(name: str) -> list[dict[str, Any]]:
    """Both fits on the features of a data set's texts."""
    folder = str(DATA_SETS[name](default_cache_dir() / "demo", False).folder)
    data = load_data(folder, validation_fraction=0.0, progress=False)
    known = {split: survey.known(folder, data, split) for split in ("train", "test")}
    (x, labels), (new, expected) = (
        (next(iter(one.features.values())).float(), torch.from_numpy(one.labels))
        for one in known.values()
    )
    return [
        {"data": name, **measure(words, x, labels, new, expected, data.task.num_outputs)}
        for words in ("exact optimum", "many classes")
    ]


def time_fit(classes: int, rows: int) -> dict[str, Any]:
    """The fit for many classes on made-up features of overlapping classes."""
    x, labels = make_up(classes, rows + 2000, DIM)
    parts = x[:rows], labels[:rows], x[rows:], labels[rows:]
    return {"classes": classes, **measure("many classes", *parts, classes)}


def make_up(classes: int, rows: int, dim: int) -> tuple[Tensor, Tensor]:
    """Features and labels of overlapping classes."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1.0, dim + 1).rsqrt()
    labels = torch.arange(rows) % classes
    means = 0.1 * torch.randn(classes, dim, generator=generator)
    return (means[labels] + torch.randn(rows, dim, generator=generator)) * scale, labels


def measure(
    words: str, x: Tensor, labels: Tensor, new: Tensor, expected: Tensor, classes: int
) -> dict[str, Any]:
    """Fit one head; its seconds, and its predictions of new rows."""
    usual = heads.MOST_WORK, heads.MANY_CLASSES
    heads.MOST_WORK, heads.MANY_CLASSES = 0 if words == "many classes" else 10**18, 1
    wall, cpu = time.perf_counter(), time.process_time()
    head = heads.fit_head(x, labels, num_classes=classes, progress=True)
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    heads.MOST_WORK, heads.MANY_CLASSES = usual
    outputs = new @ head.weight.T + head.bias
    row = {
        "fit": words,
        "classes": classes,
        "rows": len(x),
        "dim": x.shape[1],
        **{name: round(value, 1) for name, value in seconds.items()},
        "log_likelihood": round(-float(F.cross_entropy(outputs, expected)), 4),
        "accuracy": round(float((outputs.argmax(1) == expected).float().mean()), 4),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(row, flush=True)
    return row


def as_markdown(found: dict[str, Any]) -> str:
    lines = [
        "| data | classes | rows x features | fit | seconds | CPU seconds | "
        "log likelihood per new row | accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in (*found["real"], *found["made_up"]):
        lines.append(
            f"| {row.get('data', 'made up')} | {row['classes']:,} | {row['rows']:,} x "
            f"{row['dim']:,} | {row['fit']} | {row['seconds']} | {row['cpu_seconds']} | "
            f"{row['log_likelihood']:.3f} | {row['accuracy']:.3f} |"
        )
    return "\n".join(lines) + f"\n\nMade by `{found['command']}` ({found['machine']}).\n"


if __name__ == "__main__":
    main()
