"""The README's way from a data frame to an ONNX file runs as it is pasted."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aft.demo_data.models import MINILM
from helpers.text_data import make_text_table

pytest.importorskip("onnxruntime")
README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)


def test_from_a_data_frame_to_an_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [block for block in BLOCKS if "pandas" in block]
    assert len(block.splitlines()) <= 10
    minilm = MINILM.file()
    assert minilm is not None
    (tmp_path / "minilm").symlink_to(minilm)
    (tmp_path / "questions").mkdir()
    table = make_text_table(tmp_path / "questions" / "train.jsonl", train=90, test=0)
    lines = [re.sub(r', "split": "\w+"', "", line) for line in table.read_text().splitlines()]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(block.replace("loc[400:", "loc[60:"), str(README), "exec"), {})

    line = [sys.executable, "model/predict.py", "--text", "the team and the goal of the match"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    (row,) = csv.DictReader(done.stdout.splitlines())
    assert row["label"] in ("sport", "food", "space") and 0 < float(row["probability"]) <= 1
