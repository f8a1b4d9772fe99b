"""The linear model of the soft labels: time against the number of classes.

The limit is one gradient of all rows: the product that gives the outputs, and the one that gives
the gradient. The ratio says how many such passes the whole fit is worth, which includes the choice
of its regularization.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from aft.losses import heads
from many_classes import make_up
from speed_parts.timing import alternate, curve, row

ROWS, DIM = 20_000, 384
CLASSES, IN_TABLE = (10, 100, 1000, 5000), 1000


def measure(quick: bool) -> dict[str, Any]:
    rows, points = [], []
    for classes in (5, 10) if quick else CLASSES:
        features, labels = make_up(classes, 500 if quick else ROWS, DIM)
        weight = torch.randn(classes, DIM)
        bare = alternate({"pass": lambda x=features, weight=weight: (x @ weight.T).T @ x}, 5)[
            "pass"
        ]
        started = time.process_time()
        heads.fit_head(features, labels, num_classes=classes, progress=False)
        fit = time.process_time() - started  # once: long enough, and nothing is left to warm up
        points.append([classes, fit])
        if quick or classes == IN_TABLE:
            what = f"head of soft labels, {classes:,} classes, {len(features):,} x {DIM} features"
            limit = "one gradient of all rows"
            rows.append(row(what, "s", [fit] * len(bare), limit, bare))
    x = f"classes, with {ROWS:,} rows of {DIM} features"
    lines = {"head": points}
    return {"rows": rows, "curves": [curve("Head of the soft labels", x, "CPU seconds", lines)]}
