"""Some of the faults that `benchmarks/faults.py` injects: nothing is silently wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import faults

EXPECTED = {
    2: ("code", "extract", "equal"),
    4: ("killed", "extract", "equal"),
    14: ("killed", "predict", "equal"),
    16: ("damaged", "inspect", "refused"),
    20: ("changed data", "finished", "refused"),
    23: ("changed data", "evaluate", "refused"),
    41: ("damaged", "extract", "refused"),
    42: ("damaged", "verify", "equal"),
    68: ("full disk", "predict", "equal"),
    74: ("two writers", "extract", "equal"),
    78: ("read-only", "train", "refused"),
    207: ("damaged", "predict", "refused"),
}


def test_a_dozen_faults(tmp_path: Path) -> None:
    out = tmp_path / "faults.json"
    command = [sys.executable, faults.__file__, "--jobs", "1", "--out", str(out)]
    done = subprocess.run(
        [*command, "--only", *map(str, EXPECTED)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["faults"]
    assert {
        one["number"]: (one["kind"], one["command"], one["outcome"]) for one in found
    } == EXPECTED
