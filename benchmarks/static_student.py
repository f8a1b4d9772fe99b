"""`small:static` alone: accuracy beside TF-IDF, texts a second on one core.

Both learn from the labels of the same training texts; TF-IDF with logistic regression chooses its
regularisation on a tenth of them. No teacher takes part. About ten minutes on two cores.

    python benchmarks/static_student.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
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
from aft.batches import collate
from aft.data import Samples, default_cache_dir, load_data
from aft.demo_data import fetch_newsgroups, fetch_reuters, fetch_trec
from aft.model import SavedStudent

RESULTS = Path(__file__).parent / "results"
FETCH = {"reuters": fetch_reuters, "newsgroups": fetch_newsgroups, "trec": fetch_trec}
REGULARISATION = (1.0, 10.0, 100.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(FETCH), choices=FETCH)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=8)
    options = parser.parse_args()
    rows = [measure(name, options.seeds, options.epochs) for name in options.data]
    RESULTS.mkdir(exist_ok=True)
    found = {
        "command": f"python benchmarks/static_student.py --data {' '.join(options.data)} "
        f"--seeds {options.seeds} --epochs {options.epochs:g}",
        "version": aft.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "rows": rows,
    }
    (RESULTS / "static_student.json").write_text(json.dumps(found, indent=1) + "\n")


def measure(name: str, seeds: int, epochs: float) -> dict[str, Any]:
    folder = str(FETCH[name](default_cache_dir() / "demo", False).folder)
    scores, speeds = [], []
    with tempfile.TemporaryDirectory() as place:
        for seed in range(seeds):
            result = aft.train(
                data=folder,
                student="small:static",
                epochs=epochs,
                seed=seed,
                out=Path(place, str(seed)),
                device="cpu",
                progress=False,
            )
            scores.append(round(result.metrics["accuracy"], 4))
        data = load_data(folder, seed=0, progress=False)
        speeds = texts_per_second(result.student(), data.splits["test"])
    row = {
        "data": name,
        "train": len(data.splits["train"]),
        "test": len(data.splits["test"]),
        "accuracy": scores,
        "tfidf_accuracy": round(tfidf(data), 4),
        **speeds,
    }
    print(row, flush=True)
    return row


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
    """From text to class, tokenization included, one thread, batches of 64."""
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    texts = [str(samples.input(i)) for i in range(min(len(samples), 2048))]
    tokenization = student.backbone.preprocessing
    rates, length = [], 0.0
    with torch.inference_mode():
        for _ in range(rounds):
            start, tokens = time.perf_counter(), 0
            for first in range(0, len(texts), 64):
                encoded = tokenization.encode_batch(texts[first : first + 64])
                tokens += sum(map(len, encoded))
                student.module(collate([torch.from_numpy(one) for one in encoded]))
            rates.append(len(texts) / (time.perf_counter() - start))
            length = tokens / len(texts)
    torch.set_num_threads(os.cpu_count() or 1)
    return {
        "tokens_per_text": round(length, 1),
        "texts_per_second_one_core": round(statistics.median(rates)),
    }


if __name__ == "__main__":
    main()
