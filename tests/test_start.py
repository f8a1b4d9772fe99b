"""What commands import: nothing heavy before a mistake is reported, and only what is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

import aft
from helpers.pictures import make_picture_folder

SLOW = {
    *("torch", "numpy", "scipy", "sklearn", "pandas", "pyarrow", "datasets", "PIL", "matplotlib"),
    *("torchvision", "timm", "transformers", "sentence_transformers", "accelerate", "tokenizers"),
}
NOT_FOR_PICTURES = SLOW - {"torch", "numpy", "PIL"}
"""What the prediction of a picture by a small network has no use for."""
PROGRAM = """
import contextlib, io, json, sys
from aft.cli import main
for line in map(str.split, sys.argv[1:]):
    before, said = set(sys.modules), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(line)
        except SystemExit as stop:
            code = stop.code
    imported = {name.partition(".")[0] for name in sys.modules.keys() - before}
    print(json.dumps([code, said.getvalue(), *imported]))
"""
TRAIN = "train --data pictures --student small:cnn"
SCORE, EXTRACT = "score --data pictures", "extract --data pictures"
COMPARE = "compare --data pictures --student small:cnn --teachers timm:resnet18"
TEACHER = f"{TRAIN} --teachers"
PREDICT = "predict --run run --data pictures"
MISTAKES = {
    "trian": 2,
    "train --data pictures": 2,
    f"{TRAIN} --stepz 3": 2,
    f"{TRAIN} --steps many": 2,
    f"{TRAIN} --resume": 1,
    f"{TRAIN} --steps 3 --epochs 3": 1,
    f"{TRAIN} --unlabelled left-out": 1,
    f"{TRAIN} --student-layers 3": 1,
    f"{TRAIN} --from spaced": 1,
    f"{TRAIN} --from last": 2,
    f"{TRAIN} --fusion product": 1,
    f"{TRAIN} --config missing.yaml": 1,
    f"{TRAIN} --config file": 1,
    "train --data missing --student small:cnn": 1,
    "train --data ./missing --student small:cnn": 1,
    f"{TRAIN} --unlabelled missing": 1,
    f"{TRAIN} --out file": 1,
    f"{TRAIN} --out file/run": 1,
    f"{TRAIN} --out foreign": 1,
    f"{TRAIN} --out locked": 1,
    f"{TRAIN} --out run": 1,
    f"{TRAIN} --out run --resume": 1,
    f"{TRAIN} --features file": 1,
    "train --data pictures --student cnn": 1,
    "train --data pictures --student smal:cnn": 1,
    "train --data pictures --student small:cn": 1,
    "train --data pictures --student small:cnn?side=8": 1,
    "train --data pictures --student small:cnn?size=big": 1,
    "train --data pictures --student small:cnn?weights=missing.pt": 1,
    "train --data pictures --student timm:resnet18?weights=missing.pt": 1,
    "train --data pictures --student hf:./missing": 1,
    "train --data pictures --student python:missing.py:net": 1,
    f"{TEACHER} tim:resnet18": 1,
    f"{TEACHER} st:./missing": 1,
    f"{TEACHER} hf:foreign": 1,
    f"{TEACHER} onnx:missing.onnx": 1,
    f"{TEACHER} features:missing.npy": 1,
    f"{TEACHER} features:file.csv": 1,
    EXTRACT: 1,
    f"{EXTRACT} --teachers tim:resnet18": 1,
    SCORE: 1,
    f"{SCORE} --teachers timm:resnet18 --out foreign": 1,
    f"{COMPARE} --methods alone": 1,
    f"{COMPARE} --out foreign": 1,
    f"{COMPARE} --out locked": 1,
    "evaluate --run missing": 1,
    "evaluate --run run/student": 1,
    "evaluate --run run --data missing": 1,
    "predict --run missing --data pictures": 1,
    "predict --run run --data missing": 1,
    f"{PREDICT} --out p.txt": 1,
    f"{PREDICT} --out file.csv": 1,
    "inspect missing": 1,
    "inspect --run missing": 1,
    "inspect run --run run": 1,
    "inspect --ids ids.csv": 1,
    "demo --data films": 2,
    "demo --out foreign": 1,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a finished run, and folders and files that are neither."""
    folder = tmp_path_factory.mktemp("world")
    pictures = make_picture_folder(folder / "pictures")
    student = "small:cnn-tiny?size=16"
    aft.train(data=str(pictures), student=student, steps=1, out=folder / "run", progress=False)
    (folder / "foreign").mkdir()
    (folder / "locked").mkdir()
    for file in ("file", "file.csv", "foreign/file"):
        (folder / file).write_text("- nothing")
    return folder


def run(world: Path, *lines: str) -> list[tuple[int, str, set[str]]]:
    """Exit code, messages and newly imported modules of commands, one after another."""
    command = [sys.executable, "-c", PROGRAM, *lines]
    environment = os.environ | {"PYTHONPATH": str(Path(aft.__file__).parents[1])}
    done = subprocess.run(command, cwd=world, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = map(json.loads, done.stdout.splitlines())
    return [(code, said, set(modules)) for code, said, *modules in found]


@pytest.fixture(scope="module")
def reports(world: Path) -> dict[str, tuple[int, str, set[str]]]:
    """What each mistake leads to; the files stay as they were."""
    before = sorted(world.rglob("*"))
    with FileLock(world / "locked" / ".lock"):
        found = run(world, *MISTAKES)
    (world / "locked" / ".lock").unlink(missing_ok=True)
    assert sorted(world.rglob("*")) == before
    return dict(zip(MISTAKES, found, strict=True))


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_reported_before_anything_slow_is_imported(
    line: str, reports: dict[str, tuple[int, str, set[str]]]
) -> None:
    code, said, modules = reports[line]
    assert code == MISTAKES[line]
    assert said.startswith("aft") and len(said.splitlines()) == 1
    assert not modules & SLOW


@pytest.mark.parametrize("out", ["one.csv", "two.csv --json"])
def test_a_picture_is_predicted_with_few_imports(out: str, world: Path) -> None:
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(world / "one.png")
    [(code, said, modules)] = run(world, f"predict --run run --data one.png --out {out}")
    assert code == 0, said
    assert "torch" in modules and not modules & NOT_FOR_PICTURES
    assert len((world / out.split()[0]).read_text().splitlines()) == 2
