"""The built-in text students without a teacher: accuracy beside TF-IDF, texts per second, size.

All are trained on the labels of the same training texts. TF-IDF with a linear model is the one that
each run scores beside its student. Takes about 15 minutes on two cores.

    python benchmarks/text_students.py
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import aft
import tables
from aft.backbones.batches import collate
from aft.data.loading import load_data
from aft.data.samples import Samples
from aft.demo_data import fetch_reuters, fetch_trec
from aft.ids import default_cache_dir
from aft.students.saved import SavedStudent
from aft.training.run_folder import STUDENT
from data_sets import fetch_newsgroups

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "models.md"
FETCH = {"reuters": fetch_reuters, "newsgroups": fetch_newsgroups, "trec": fetch_trec}
STUDENTS = ("small:ngrams", "small:static")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(FETCH), choices=FETCH)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=8)
    options = parser.parse_args()
    rows = []
    for name in options.data:
        for student in STUDENTS:
            rows.append(measure(name, student, options.seeds, options.epochs))
            print(rows[-1], flush=True)
    found = {
        "command": f"python benchmarks/text_students.py --data {' '.join(options.data)} "
        f"--seeds {options.seeds} --epochs {options.epochs:g}",
        "version": aft.__version__,
        "machine": tables.machine(),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "text_students.json").write_text(json.dumps(found, indent=1) + "\n")
    write_table(found)


def write_table(found: dict[str, Any]) -> None:
    """Write the table between the marks of docs/models.md."""
    lines = [
        "| data, train + test | student | accuracy | TF-IDF with a linear model "
        "| tokens per text | texts per second | size |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        scores = [
            f"{statistics.mean(row[one]):.3f} ± {statistics.stdev(row[one]):.3f}"
            for one in ("accuracy", "tf_idf")
        ]
        lines.append(
            f"| {row['data']}, {row['train']:,} + {row['test']:,} | `{row['student']}` "
            f"| {scores[0]} | {scores[1]} | {row['tokens_per_text']:.0f} "
            f"| {row['texts_per_second_one_core']:,} | {row['megabytes']:.0f} MB |"
        )
    seeds = len(found["rows"][0]["accuracy"])
    text = (
        "\n".join(lines)
        + f"\n\nTest accuracy, mean ± standard deviation over {seeds} seeds. Texts per second on "
        "one core, from text to predicted class; size of the folder of the student.\n"
        f"Made by `{found['command']}` ({found['machine']}).\n"
    )
    block = f"<!-- text students -->\n{text}<!-- /text students -->"
    marks = re.compile("<!-- text students -->.*?<!-- /text students -->", re.DOTALL)
    PAGE.write_text(marks.sub(lambda _: block, PAGE.read_text()))


def measure(name: str, student: str, seeds: int, epochs: float) -> dict[str, Any]:
    """Train a student with several seeds; its scores, those of TF-IDF, its speed and its size."""
    folder = str(FETCH[name](default_cache_dir() / "demo", False).folder)
    data = load_data(folder, seed=0, progress=False)
    accuracy, tf_idf = [], []
    with tempfile.TemporaryDirectory() as place:
        for seed in range(seeds):
            run = aft.train(
                data=folder,
                student=student,
                seed=seed,
                epochs=epochs,
                out=Path(place, str(seed)),
                device="cpu",
                progress=False,
            )
            accuracy.append(run.metrics["accuracy"])
            tf_idf.append(run.summary["baselines"][0]["metrics"]["accuracy"])
        files = (run.out / STUDENT).iterdir()
        return {
            "data": name,
            "student": student,
            "train": len(data.splits["train"]),
            "test": len(data.splits["test"]),
            "accuracy": accuracy,
            "tf_idf": tf_idf,
            "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 1),
            **texts_per_second(run.student(), data.splits["test"]),
        }


def texts_per_second(student: SavedStudent, samples: Samples, rounds: int = 5) -> dict[str, Any]:
    """Speed from text to predicted class with tokenization, in one thread and batches of 64.

    Measured in CPU time of this process, so that other load on the machine is not counted.
    """
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    texts = [str(samples.input(i)) for i in range(min(len(samples), 2048))]
    tokenization = student.backbone.preprocessing
    rates, length = [], 0.0
    with torch.inference_mode():
        for _ in range(rounds):
            start, tokens = time.process_time(), 0
            for first in range(0, len(texts), 64):
                encoded = tokenization.encode_batch(texts[first : first + 64])
                tokens += sum(map(len, encoded))
                student.module(collate([torch.from_numpy(one) for one in encoded]))
            rates.append(len(texts) / (time.process_time() - start))
            length = tokens / len(texts)
    torch.set_num_threads(os.cpu_count() or 1)
    return {
        "tokens_per_text": round(length, 1),
        "texts_per_second_one_core": round(statistics.median(rates)),
    }


if __name__ == "__main__":
    main()
