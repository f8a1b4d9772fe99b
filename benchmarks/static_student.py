"""`small:static` without a teacher: accuracy compared with TF-IDF, and texts per second.

Both are trained on the labels of the same training texts. TF-IDF is used with logistic regression;
its regularisation is chosen on a tenth of the texts. Takes about ten minutes on two cores.

    python benchmarks/static_student.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import aft
from aft.backbones.batches import collate
from aft.data.loading import load_data
from aft.data.samples import Samples
from aft.demo_data import fetch_reuters, fetch_trec
from aft.ids import default_cache_dir
from aft.students.saved import SavedStudent
from aft.training.run_folder import TrainResult
from data_sets import fetch_newsgroups

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "models.md"
FETCH = {"reuters": fetch_reuters, "newsgroups": fetch_newsgroups, "trec": fetch_trec}
REGULARISATION = (1.0, 10.0, 100.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(FETCH), choices=FETCH)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument(
        "--only", choices=["accuracy", "speed"], help="measure only one of the two again"
    )
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "static_student.json"
    found = json.loads(file.read_text()) if options.only and file.exists() else {"rows": []}
    rows = {row["data"]: row for row in found["rows"]}
    for name in options.data:
        row = rows.setdefault(name, {"data": name})
        if options.only != "speed":
            row |= accuracy(name, options.seeds, options.epochs)
        if options.only != "accuracy":
            row |= speed(name)
        print(row, flush=True)
    found = {
        "command": f"python benchmarks/static_student.py --data {' '.join(options.data)} "
        f"--seeds {options.seeds} --epochs {options.epochs:g}",
        "version": aft.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "rows": list(rows.values()),
    }
    file.write_text(json.dumps(found, indent=1) + "\n")
    write_table(found)


def write_table(found: dict[str, Any]) -> None:
    """Write the table between the marks of docs/models.md."""
    lines = [
        "| data | train | test | `small:static` | TF-IDF | tokens per text | texts per second |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        mean, spread = (f(row["accuracy"]) for f in (statistics.mean, statistics.stdev))
        lines.append(
            f"| {row['data']} | {row['train']:,} | {row['test']:,} | {mean:.3f} ± {spread:.3f} "
            f"| {row['tfidf_accuracy']:.3f} | {row['tokens_per_text']:.0f} "
            f"| {row['texts_per_second_one_core']:,} |"
        )
    seeds = len(found["rows"][0]["accuracy"])
    text = (
        "\n".join(lines)
        + f"\n\nTest accuracy, mean ± standard deviation over {seeds} seeds. Texts per second on "
        "one core, from text to predicted class.\n"
        f"Made by `{found['command']}` ({found['machine']}).\n"
    )
    block = f"<!-- static results -->\n{text}<!-- /static results -->"
    marks = re.compile("<!-- static results -->.*?<!-- /static results -->", re.DOTALL)
    PAGE.write_text(marks.sub(lambda _: block, PAGE.read_text()))


def train(name: str, out: Path, **options: Any) -> TrainResult:
    folder = str(FETCH[name](default_cache_dir() / "demo", False).folder)
    student = "small:static"
    return aft.train(data=folder, student=student, out=out, device="cpu", progress=False, **options)


def accuracy(name: str, seeds: int, epochs: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        runs = [
            train(name, Path(place, str(seed)), seed=seed, epochs=epochs) for seed in range(seeds)
        ]
    folder = str(FETCH[name](default_cache_dir() / "demo", False).folder)
    data = load_data(folder, seed=0, progress=False)
    return {
        "train": len(data.splits["train"]),
        "test": len(data.splits["test"]),
        "accuracy": [round(run.metrics["accuracy"], 4) for run in runs],
        "tfidf_accuracy": round(tfidf(data), 4),
    }


def speed(name: str) -> dict[str, Any]:
    """Measure the speed of a student after one step: its weights do not matter."""
    with tempfile.TemporaryDirectory() as place:
        student = train(name, Path(place, "run"), steps=1).student()
    folder = str(FETCH[name](default_cache_dir() / "demo", False).folder)
    samples = load_data(folder, seed=0, progress=False).splits["test"]
    return texts_per_second(student, samples)


def tfidf(data: Any) -> float:
    splits = data.splits.items()
    texts = {name: [split.input(i) for i in range(len(split))] for name, split in splits}
    labels = {name: split.labels for name, split in splits}
    models = []
    for strength in REGULARISATION:
        vectors = TfidfVectorizer(sublinear_tf=True, min_df=2)
        model = make_pipeline(vectors, LogisticRegression(C=strength, max_iter=1000))
        models.append(model.fit(texts["train"], labels["train"]))
    best = max(models, key=lambda model: model.score(texts["validation"], labels["validation"]))
    return float(best.score(texts["test"], labels["test"]))


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
