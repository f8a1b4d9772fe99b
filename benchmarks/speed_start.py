"""What it costs to start: the help, mistakes, and the prediction of one picture.

    python benchmarks/speed_start.py

Each command runs in a process of its own, all of them once a round; the figures are processor
seconds of that process. Ratios are taken within a round: mistakes to `aft --help`, the prediction
to importing torch and Pillow. Results go to results/speed_start.json, the table to
docs/benchmarks.md. Takes about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import aft
import tables

RESULTS = Path(__file__).parent / "results" / "speed_start.json"
AFT = [sys.executable, "-m", "aft"]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(aft.__file__).parents[1]),
    "HF_HUB_OFFLINE": "1",
}
HELP, IMPORTS = "aft --help", 'python -c "import torch, PIL.Image"'
TRAIN = "train --data pictures --student small:cnn"
MISTAKES = [
    "train --data missing --student small:cnn",
    "train --data ./missing --student small:cnn",
    f"{TRAIN} --steps many",
    f"{TRAIN} --config missing.yaml",
    f"{TRAIN} --out run",
    "train --data pictures --student small:cn",
    f"{TRAIN} --teachers st:./missing",
    "predict --run missing --data one.png",
]
PREDICT = "predict --run run --data one.png --overwrite"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    commands = {
        HELP: [*AFT, "--help"],
        **{f"aft {line}": [*AFT, *line.split()] for line in MISTAKES},
        'python -c "import torch"': [sys.executable, "-c", "import torch"],
        IMPORTS: [sys.executable, "-c", "import torch, PIL.Image"],
        f"aft {PREDICT}": [*AFT, *PREDICT.split()],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        make_world(Path(folder))
        for number in range(options.rounds + 1):
            for name in list(commands)[:: 1 if number % 2 else -1]:
                taken = processor_seconds(commands[name], Path(folder))
                if number:  # the first round fills caches
                    seconds[name].append(round(taken, 4))
    document = {
        "command": f"python benchmarks/speed_start.py --rounds {options.rounds}",
        "version": aft.__version__,
        "machine": tables.machine(),
        "seconds": seconds,
        "ratios": {name: spread(seconds, name) for name in seconds if name.startswith("aft ")},
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    tables.put("speed_start", as_table(document), ["docs/benchmarks.md"])
    print(as_table(document))


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


def processor_seconds(command: list[str], folder: Path) -> float:
    """User and system time of a process, which may end with an error."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def spread(seconds: dict[str, list[float]], name: str) -> dict[str, Any]:
    """Ratio of a command to its baseline: median, smallest and largest of the rounds."""
    baseline = IMPORTS if name.endswith(PREDICT) else HELP
    ratios = np.asarray(seconds[name]) / np.asarray(seconds[baseline])
    values = {"median": np.median(ratios), "least": ratios.min(), "most": ratios.max()}
    return {"to": baseline, **{key: round(float(value), 3) for key, value in values.items()}}


def as_table(document: dict[str, Any]) -> str:
    lines = ["| | seconds | ratio to | median | range |", "|---|---|---|---|---|"]
    for name, taken in document["seconds"].items():
        found = document["ratios"].get(name)
        cells = [f"`{name}`", f"{float(np.median(taken)):.2f}", "", "", ""]
        if found is not None and name != HELP:
            cells[2:] = [f"`{found['to']}`", f"{found['median']:.2f}"]
            cells.append(f"{found['least']:.2f} to {found['most']:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    rounds = len(next(iter(document["seconds"].values())))
    return "\n".join(lines) + (
        f"\n\nProcessor seconds: medians of {rounds} rounds.\n"
        f"Made by `{document['command']}` ({document['machine']}).\n"
    )


if __name__ == "__main__":
    main()
