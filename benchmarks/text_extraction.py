"""Texts per second of feature extraction, compared with `encode` of sentence-transformers.

Both use the same model, texts, maximum length and number of threads. They take turns over all
texts, so that other load on the machine affects both equally. The time of aft includes reading the
texts and writing the features to disk. `encode` runs with its default batch size of 32 and with
several others, of which the best is reported. Takes about eight minutes on two cores.

    python benchmarks/text_extraction.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

import aft
from aft.data.loading import load_inputs
from aft.data.samples import Samples
from aft.demo_data import fetch_reuters, fetch_trec
from aft.demo_data.models import fetch_minilm
from aft.features.extraction import extract_features
from aft.ids import default_cache_dir

RESULTS = Path(__file__).parent / "results"
BATCH_SIZES = (16, 32, 64)
CASES = {
    "TREC questions": (fetch_trec, 128),
    "Reuters R8": (fetch_reuters, 128),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cache = default_cache_dir() / "demo"
    folder = fetch_minilm(cache)
    rows = []
    for name, (fetch, max_tokens) in CASES.items():
        samples, _ = load_inputs(str(fetch(cache, False).folder / "train.jsonl"), progress=False)
        chosen = np.random.default_rng(0).permutation(len(samples))[: options.texts]
        samples = samples.subset(np.sort(chosen))
        rows.append({"texts": name, **compare(folder, samples, max_tokens, options.rounds)})
        print(rows[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    found = {
        "command": f"python benchmarks/text_extraction.py --texts {options.texts} "
        f"--rounds {options.rounds}",
        "version": aft.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "libraries": {name: version(name) for name in ("torch", "sentence-transformers")},
        "model": "all-MiniLM-L6-v2",
        "rows": rows,
    }
    (RESULTS / "text_extraction.json").write_text(json.dumps(found, indent=1) + "\n")


def compare(folder: Path, samples: Samples, max_tokens: int, rounds: int) -> dict[str, object]:
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = max_tokens
    texts = [str(samples.input(i)) for i in range(len(samples))]
    teacher = aft.load_teacher(f"st:{folder}?max_tokens={max_tokens}")
    seconds: dict[object, list[float]] = {"aft": [], **{size: [] for size in BATCH_SIZES}}
    ours = theirs = np.empty(0)
    model.encode(texts[:64]), extract(teacher, samples.subset(np.arange(64)))  # warm-up
    for turn in range(rounds):
        for name in sorted(seconds, key=str, reverse=turn % 2 == 1):
            start = time.perf_counter()
            if name == "aft":
                ours = extract(teacher, samples)
            else:
                theirs = np.asarray(model.encode(texts, batch_size=int(str(name))))
            seconds[name].append(time.perf_counter() - start)
    ratios = {
        name: [b / a for a, b in zip(seconds["aft"], seconds[name], strict=True)]
        for name in BATCH_SIZES
    }
    best = min(BATCH_SIZES, key=lambda name: statistics.median(ratios[name]))
    return {
        "max_tokens": max_tokens,
        "number": len(texts),
        "texts_per_second": round(len(texts) / statistics.median(seconds["aft"]), 1),
        "encode_texts_per_second": {
            str(size): round(len(texts) / statistics.median(seconds[size]), 1)
            for size in BATCH_SIZES
        },
        "speed_ratio_to_encode": round(statistics.median(ratios[32]), 3),
        "each_round": [round(ratio, 3) for ratio in ratios[32]],
        "speed_ratio_to_best_encode": round(statistics.median(ratios[best]), 3),
        "best_encode_batch_size": best,
        "largest_difference": float(np.abs(ours - theirs).max()),
    }


def extract(teacher: object, samples: Samples) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        store = extract_features(teacher, samples, folder, dtype="fp32", progress=False)
        return store.gather(samples.ids).numpy()


if __name__ == "__main__":
    main()
