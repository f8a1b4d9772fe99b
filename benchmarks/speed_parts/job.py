"""The whole of `aft train` beside a script that does nothing but train (`minimal.py`).

Both start Python, read 240 photos of 1000 x 750 and the stored features of EfficientNet-Lite0, take
60 steps of 32 with AFT's loss and no second student, evaluate ten times and save the student. aft
also checks the data, scores a constant and a linear model, writes checkpoints and the report.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import aft
from aft.data.loading import load_inputs
from aft.features.extraction import extract_features
from speed_parts.timing import ENVIRONMENT, alternate, children_seconds, draw_photos, row

SCRIPT = Path(__file__).with_name("minimal.py")
TEACHER = "timm:tf_efficientnet_lite0?size=96"


def measure(quick: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder, number = Path(name), itertools.count()
        photos = draw_photos(folder / "photos", 1000, 750, 40 if quick else 240)
        samples, _ = load_inputs(str(photos), progress=False)
        store = extract_features(
            aft.load_teacher(TEACHER), samples, folder / "store", progress=False
        )
        order = np.argsort(samples.files)
        np.save(folder / "features.npy", store.gather(samples.ids[order]).numpy())
        steps = "4" if quick else "60"
        options = f"--student small:cnn --loss aft --beta 3 --teachers {TEACHER} --features store"
        options += f" --data photos --steps {steps} --batch-size 32 --engine torch"
        options += " --no-safety-net --no-progress --out"
        train = [sys.executable, "-m", "aft", "train", *options.split()]
        minimal = [sys.executable, str(SCRIPT), "photos", "features.npy", steps]

        def run(command: list[str]) -> None:
            out = f"out-{next(number)}"
            cache = {"AFT_CACHE": str(folder / f"{out}-cache")}  # photos are decoded in every run
            where: dict[str, Any] = {"cwd": folder, "env": ENVIRONMENT | cache}
            subprocess.run([*command, out], check=True, capture_output=True, **where)

        sides = {"aft": lambda: run(train), "minimal": lambda: run(minimal)}
        taken = alternate(sides, 1 if quick else 3, clock=children_seconds, warm=not quick)
    what = "whole `aft train`, 60 steps of `small:cnn`, features stored"
    return {"rows": [row(what, "s", taken["aft"], "minimal script", taken["minimal"])]}
