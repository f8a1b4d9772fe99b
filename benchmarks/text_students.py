"""The built-in text students: accuracy beside TF-IDF, texts per second, size; and with a teacher.

Without a teacher, all are trained on the labels of the same training texts. TF-IDF with a linear
model is the one that each run scores beside its student. With a teacher, few rows have labels, as
in suite.py; each run also trains a student on the labels alone from the same start, its safety
net. Takes about 25 minutes on one core.

    python benchmarks/text_students.py

That word vectors from a teacher start with the spread of random ones was chosen on TREC questions;
the other tasks had no part in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import aft
import suite
import tables
from aft.backbones.batches import collate
from aft.data.loading import load_data
from aft.data.samples import Samples
from aft.demo_data import fetch_reuters, fetch_trec
from aft.ids import default_cache_dir
from aft.students.saved import SavedStudent
from aft.training.run_folder import STUDENT
from data_sets import DATA_SETS, fetch_newsgroups

RESULTS = Path(__file__).parent / "results"
FETCH = {"reuters": fetch_reuters, "newsgroups": fetch_newsgroups, "trec": fetch_trec}
STUDENTS = ("small:ngrams", "small:static")
WITH_TEACHER = (*STUDENTS, "small:static?init=teacher")
TASKS = ("trec", "snippets", "reuters", "amazon")


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
    taught = [
        measure_taught(task, student, options.seeds) for task in TASKS for student in WITH_TEACHER
    ]
    found = {
        "command": f"python benchmarks/text_students.py --data {' '.join(options.data)} "
        f"--seeds {options.seeds} --epochs {options.epochs:g}",
        "version": aft.__version__,
        "machine": tables.machine(),
        "rows": rows,
        "with_teacher": taught,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "text_students.json").write_text(json.dumps(found, indent=1) + "\n")
    write_table(found)


def write_table(found: dict[str, Any]) -> None:
    """Write the tables of docs/models.md."""
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
    tables.put("text students", text, ["docs/models.md"])
    lines = [
        "| data | student | from the labels alone | with all-MiniLM-L6-v2 |",
        "|---|---|---|---|",
    ]
    for row in found["with_teacher"]:
        scores = [f"{statistics.mean(s):.3f} ± {statistics.stdev(s):.3f}" for s in row["scores"]]
        lines.append(f"| {row['data']} | `{row['student']}` | {' | '.join(scores)} |")
    text = (
        "\n".join(lines)
        + f"\n\nTest accuracy (R² for ratings; balanced accuracy for Reuters), mean ± standard "
        f"deviation over {seeds} seeds, with the labelled and unlabelled rows of the "
        "[suite](benchmarks.md). Both students of a row start from the same word vectors.\n"
        f"Made by `{found['command']}` ({found['machine']}).\n"
    )
    tables.put("text students with a teacher", text, ["docs/models.md"])


def measure_taught(name: str, student: str, seeds: int) -> dict[str, Any]:
    """Test scores of a student on a task of the suite, from the labels alone and with a teacher."""
    task, cache = suite.TASKS[name], default_cache_dir() / "demo"
    left_out = ("betas", "seeds", "leave_out", "train_fractions")
    options = {key: value for key, value in task.options.items() if key not in left_out}
    scores: tuple[list[float], list[float]] = ([], [])
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as place:
            run = aft.train(
                data=str(DATA_SETS[task.data](cache, False).folder),
                student=student,
                teachers=task.teachers(cache),
                train_fraction=task.options["train_fractions"][0],
                seed=seed,
                out=Path(place, "run"),
                device="cpu",
                baselines=False,
                progress=False,
                **options,
            )
        for kept, which in zip(scores, ("alone", "with_transfer"), strict=True):
            kept.append(run.summary["safety_net"][which]["final"])
    print(name, student, scores, flush=True)
    return {"data": task.words[0], "student": student, "scores": scores}


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
