"""Fuzz every reader of files from outside: it may return something or raise an error of aft.

    python benchmarks/fuzz.py                        # five minutes for each reader, one hour in all
    python benchmarks/fuzz.py --seconds 60 --only csv jsonl

Uses atheris (`pip install atheris`), which looks for inputs that reach new code in aft. Any other
exception, and any input that takes longer than ten seconds, is a finding; its input is written to
fuzz-findings/. Results go to results/fuzz.json, the table to docs/promises.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

import aft
import tables
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.backbones.weights import load_weights
from aft.config.commands import TrainConfig, read_config_file, resolve
from aft.data.images import open_image
from aft.data.loading import load_data, load_inputs
from aft.data.readers.find_columns import InputColumn
from aft.errors import AftError
from aft.features.store import FeatureStore, FeatureWriter
from aft.files import read_json, write_json
from aft.students.build import load_backbone
from aft.students.saved import SavedStudent
from aft.students.student import new_student
from aft.tasks import Task
from aft.training.run_folder import read_run

START = """
import sys, atheris
with atheris.instrument_imports(include=["aft"]):
    import fuzz
fuzz.fuzz(sys.argv[2:], sys.argv[1])
"""
RESULTS = Path(__file__).parent / "results" / "fuzz.json"
FINDINGS = Path("fuzz-findings")
ROWS = [{"text": f"a text {i}", "label": ("good", "bad")[i % 2]} for i in range(6)]


def _table(suffix: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        path = folder / f"table{suffix}"
        path.write_bytes(content)
        load_data(str(path), progress=False, cache_dir=folder / "cache")

    return read


def _texts(folder: Path, content: bytes) -> None:
    (folder / "texts.txt").write_bytes(content)
    load_inputs(str(folder / "texts.txt"), progress=False, cache_dir=folder / "cache")


def _picture(folder: Path, content: bytes) -> None:
    (folder / "x.png").write_bytes(content)
    open_image(folder / "x.png")


def _shard(folder: Path, content: bytes) -> None:
    store = FeatureStore.open(folder / "features", {"spec": "made up", "dim": 4})
    (store.path / "shards/part-000-000000.safetensors").write_bytes(content)
    again = FeatureStore.at(store.path)
    again.gather(np.zeros((1, 16), np.uint8))


def _teacher_json(folder: Path, content: bytes) -> None:
    (folder / "teacher.json").write_bytes(content)
    FeatureStore.at(folder)


def _document(folder: Path, content: bytes) -> None:
    (folder / "result.json").write_bytes(content)
    read_json(folder / "result.json", AftError, "Delete it")
    read_run(folder)


def _student(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(whole_student()[1])
    (folder / "student.json").write_bytes(content)
    SavedStudent.load(folder)


def _weights(suffix: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        (folder / f"weights{suffix}").write_bytes(content)
        load_weights(folder / f"weights{suffix}")

    return read


def _config(folder: Path, content: bytes) -> None:
    (folder / "config.yaml").write_bytes(content)
    resolve(TrainConfig, None, read_config_file(folder / "config.yaml", TrainConfig))


def _tokenizer(folder: Path, content: bytes) -> None:
    Tokenization(content.decode("utf-8", "replace"), 16).evaluate()("a text")


READERS: dict[str, Callable[[Path, bytes], None]] = {
    "csv": _table(".csv"),
    "tsv": _table(".tsv"),
    "jsonl": _table(".jsonl"),
    "json": _table(".json"),
    "parquet": _table(".parquet"),
    "txt": _texts,
    "picture": _picture,
    "shard": _shard,
    "teacher.json": _teacher_json,
    "result.json": _document,
    "student.json": _student,
    "safetensors": _weights(".safetensors"),
    "torch file": _weights(".pt"),
    "config.yaml": _config,
    "tokenizer.json": _tokenizer,
}


@lru_cache
def whole_student() -> tuple[bytes, bytes]:
    """`student.json` and `model.safetensors` of a student, without checksums."""
    backbone = load_backbone(Spec.parse("small:cnn-tiny?size=16"))
    task = Task("classification", ("bad", "good"))
    column = (InputColumn("image", "image"),)
    saved = SavedStudent(new_student(backbone, task), task, column, backbone)
    with tempfile.TemporaryDirectory() as folder:
        saved.save(Path(folder))
        description = json.loads((Path(folder) / "student.json").read_text())
        weights = (Path(folder) / "model.safetensors").read_bytes()
    for name in ("sha256", "files"):
        del description[name]
    return json.dumps(description).encode(), weights


def examples() -> dict[str, bytes]:
    """A whole file for each reader, from which fuzzing starts."""
    import pyarrow
    import pyarrow.parquet
    from tokenizers import Tokenizer, models

    parquet, picture, state = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), parquet)
    Image.new("RGB", (9, 7), (200, 30, 60)).save(picture, "PNG")
    torch.save({"a.weight": torch.ones(2, 3)}, state)
    lines = [(row["text"], row["label"]) for row in ROWS]
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore.open(folder, {"spec": "made up", "dim": 4})
        with FeatureWriter(store) as writer:
            writer.add(np.zeros((1, 16), np.uint8), torch.ones(1, 4))
        shard = next(store.path.glob("shards/*")).read_bytes()
        teacher = (store.path / "teacher.json").read_bytes()
        write_json(Path(folder) / "x.json", {"metrics": {"accuracy": 0.5}, "split": "test"})
        document = (Path(folder) / "x.json").read_bytes()
    return {
        "csv": "\n".join(["text,label", *map(",".join, lines)]).encode(),
        "tsv": "\n".join(["text\tlabel", *map("\t".join, lines)]).encode(),
        "jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
        "json": json.dumps(ROWS).encode(),
        "parquet": parquet.getvalue(),
        "txt": b"one text\nanother",
        "picture": picture.getvalue(),
        "shard": shard,
        "teacher.json": teacher,
        "result.json": document,
        "student.json": whole_student()[0],
        "safetensors": save({"a.weight": torch.ones(2, 3)}),
        "torch file": state.getvalue(),
        "config.yaml": b"data: texts.csv\nstudent: [small:static]\nsteps: 10\nbeta: 1.5\n",
        "tokenizer.json": Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]"))
        .to_str()
        .encode(),
    }


def read(name: str, content: bytes) -> str:
    """Read a file; returns ``read`` or ``refused``. Any other exception is a finding."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            READERS[name](Path(folder), content)
        except AftError:
            return "refused"
    return "read"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=240, help="time for each reader")
    parser.add_argument("--only", nargs="+", choices=READERS, default=list(READERS))
    options = parser.parse_args()
    FINDINGS.mkdir(exist_ok=True)
    found: dict[str, Any] = {}
    if RESULTS.exists():  # readers that are not asked for keep their result
        found = json.loads(RESULTS.read_text())["readers"]
    for name in options.only:
        with tempfile.TemporaryDirectory() as corpus:
            (Path(corpus) / "whole").write_bytes(examples()[name])
            prefix = f"{FINDINGS}/{name.replace(' ', '-')}-"
            flags = [f"-max_total_time={options.seconds}", "-timeout=10", "-max_len=8192"]
            flags += [f"-artifact_prefix={prefix}", "-print_final_stats=1", corpus]
            command = [sys.executable, "-c", START, name, *flags]
            path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                env={**os.environ, "PYTHONPATH": path},
            )
        runs = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
        fault = re.findall(r"^[\w.]+(?:Error|Exception).*", done.stderr, re.M)
        found[name] = {
            "seconds": options.seconds,
            "inputs": int(runs.group(1)) if runs else 0,
            "finding": (fault or ["it ended early"])[-1][:200] if done.returncode else None,
        }
        print(name, found[name], flush=True)
    document = {
        "command": f"python benchmarks/fuzz.py --seconds {options.seconds}",
        "version": aft.__version__,
        "machine": tables.machine(),
        "readers": found,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    tables.put("fuzz", as_table(document), ["docs/promises.md"])
    if any(one["finding"] for one in found.values()):
        raise SystemExit(1)


def fuzz(flags: list[str], name: str) -> None:
    """Fuzz one reader in this process until its time is over or something is found."""
    import atheris

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print about broken files
    atheris.Setup(["fuzz", *flags], lambda content: read(name, bytes(content)) and None)
    atheris.Fuzz()


def as_table(document: dict[str, Any]) -> str:
    lines = ["| reader | seconds | inputs | finding |", "|---|---|---|---|"]
    for name, one in document["readers"].items():
        finding = one["finding"] or "none"
        lines.append(f"| {name} | {one['seconds']} | {one['inputs']:,} | {finding} |")
    total = sum(one["seconds"] for one in document["readers"].values())
    return "\n".join(lines) + (
        f"\n\n{total / 60:.0f} minutes in all.\n"
        f"Made by `{document['command']}` ({document['machine']}).\n"
    )


if __name__ == "__main__":
    main()
