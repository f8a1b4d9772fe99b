"""What it costs to start: a mistake beside `aft --help`, one prediction beside its imports.

Each command runs in a process of its own, all of them once a round; times are CPU seconds of that
process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from speed_parts.timing import ENVIRONMENT, alternate, children_seconds, row

AFT = [sys.executable, "-m", "aft"]
HELP, IMPORTS = "aft --help", "import torch, PIL.Image"
TRAIN = "train --data pictures --student small:cnn"
MISTAKES = {
    "a folder that does not exist": "train --data missing --student small:cnn",
    "a value of the wrong type": f"{TRAIN} --steps many",
    "a result folder in use": f"{TRAIN} --out run",
    "a misspelled student": "train --data pictures --student small:cn",
    "a teacher's folder that does not exist": f"{TRAIN} --teachers st:./missing",
}
PREDICT = "predict --run run --data one.png --overwrite"


def measure(quick: bool) -> dict[str, Any]:
    mistakes = dict(list(MISTAKES.items())[: 1 if quick else None])
    commands = {
        HELP: [*AFT, "--help"],
        **{name: [*AFT, *line.split()] for name, line in mistakes.items()},
        IMPORTS: [sys.executable, "-c", IMPORTS],
        PREDICT: [*AFT, *PREDICT.split()],
    }
    with tempfile.TemporaryDirectory() as folder:
        make_world(Path(folder))
        sides = {name: partial(run, line, folder) for name, line in commands.items()}
        seconds = alternate(sides, 1 if quick else 7, clock=children_seconds, warm=not quick)
    rows = [
        row(f"`aft train`: {name}", "s", seconds[name], f"`{HELP}`", seconds[HELP], aim=1.3)
        for name in mistakes
    ]
    limit = f'`python -c "{IMPORTS}"`'
    one = row(
        "`aft predict` of one picture", "s", seconds[PREDICT], limit, seconds[IMPORTS], aim=1.3
    )
    return {"rows": [*rows, one]}


def make_world(folder: Path) -> None:
    """A folder of pictures, a run on them, and a picture to predict."""
    rng = np.random.default_rng(0)
    for number in range(24):
        place = folder / "pictures" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(place)
    Image.fromarray(rng.integers(0, 256, (375, 500, 3), np.uint8)).save(folder / "one.png")
    arguments = [*TRAIN.split(), "--steps", "1", "--out", "run", "--no-progress"]
    subprocess.run([*AFT, *arguments], cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)


def run(command: list[str], folder: str) -> None:
    """A command, which may end with an error."""
    subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True)
