"""What the parts of `speed.py` share: alternating rounds, rows of the table, curves, children."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import aft

MiB = 2**20
_FOLDERS = (Path(aft.__file__).parents[1], Path(__file__).parents[1])
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(map(str, _FOLDERS)),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
_CHILD = """
import importlib, json, sys
module, name = sys.argv[1].split(":")
result = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
print("\\n" + json.dumps(result))
"""


def alternate(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    repeats: int = 1,
    clock: Callable[[], Any] = time.process_time,
    warm: bool = True,
) -> dict[str, list[Any]]:
    """Seconds per call of each side, round by round.

    All sides run in every round, in an order that changes, so that other load on the machine
    affects all of them.

    Args:
        sides: What to measure, by name.
        rounds: Rounds that count.
        repeats: Calls per round.
        clock: Returns the time so far: CPU seconds of this process by default. It may return an
            array of several times.
        warm: Whether one more round comes first, which does not count.
    """
    seconds: dict[str, list[Any]] = {name: [] for name in sides}
    for number in range(0 if warm else 1, rounds + 1):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            started = clock()
            for _ in range(repeats):
                sides[name]()
            if number:
                seconds[name].append((clock() - started) / repeats)
    return seconds


def children_seconds() -> float:
    """CPU seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(
    what: str,
    unit: str,
    ours: Sequence[float],
    limit: str = "",
    theirs: Sequence[float] = (),
    *,
    scale: float = 1.0,
    aim: float | None = None,
) -> dict[str, Any]:
    """One row of the table.

    Args:
        what: What was measured.
        unit: Unit of the values after multiplication by ``scale``.
        ours: The values of `aft`, one per round.
        limit: What it is compared with.
        theirs: The values of that, from the same rounds; empty if there is none.
        scale: Factor from the values to the unit.
        aim: The largest ratio that is good enough.

    Returns:
        Medians of both sides, and the quartiles of the ratios within a round.
    """
    found: dict[str, Any] = {"what": what, "unit": unit, "limit": limit, "aim": aim}
    found["ours"] = _round(scale * float(np.median(ours)))
    found["theirs"] = _round(scale * float(np.median(theirs))) if len(theirs) else None
    ratios = np.divide(ours, theirs) if len(theirs) else []
    found["ratio"] = (
        [_round(q) for q in np.quantile(ratios, [0.25, 0.5, 0.75])] if any(ratios) else None
    )
    print(found, file=sys.stderr, flush=True)
    return found


def curve(
    title: str, x: str, y: str, lines: Mapping[str, Sequence[Sequence[float]]]
) -> dict[str, Any]:
    """One picture: its title, the names of both axes, and the points ``[x, y]`` of each line."""
    points = {name: [[x, _round(y)] for x, y in line] for name, line in lines.items()}
    found = {"title": title, "x": x, "y": y, "lines": points}
    print(found, file=sys.stderr, flush=True)
    return found


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def in_child(function: Callable[..., Any], **options: Any) -> Any:
    """The result of a function, which is JSON, from a process of its own.

    What a function leaves in memory, such as libraries, then affects no other measurement.
    """
    target = f"{function.__module__}:{function.__name__}"
    command = [sys.executable, "-c", _CHILD, target, json.dumps(options)]
    done = subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_bytes() -> int:
    """Peak resident memory since the start of this process, or since :func:`forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(s.split()[1]) for s in status.splitlines() if s.startswith("VmHWM"))


def forget_peak() -> int:
    """Count peaks from here; returns the memory that is in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def draw_photos(folder: Path, width: int, height: int, number: int, classes: str = "ab") -> Path:
    """A folder of JPEG photos by class: smooth colours with some noise, as large as real ones."""
    rng = np.random.default_rng(0)
    for i in range(number):
        path = folder / classes[i % len(classes)] / f"{i:04}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        pixels = (smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=88)
    return folder


def write_texts(folder: Path, rows: int) -> Path:
    """A table of short texts in two classes, for `--data`."""
    file = folder / f"{rows}.jsonl"
    with file.open("w") as stream:
        for i in range(rows):
            words = " ".join(f"word{i * factor % 997}" for factor in range(1, 11))
            text = f"row {i} of a table with a text of about twenty words {words}"
            stream.write(json.dumps({"text": text, "label": "ab"[i % 2]}) + "\n")
    return file
