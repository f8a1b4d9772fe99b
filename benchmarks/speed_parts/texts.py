"""Extraction of text features beside `encode` of sentence-transformers.

Both use the same model, texts and maximum length. The time of aft includes reading the texts and
writing the store. `encode` runs with its default batch size and with a smaller one; the faster one
is the limit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

import aft
from aft.data.loading import load_inputs
from aft.data.samples import Samples
from aft.demo_data import fetch_reuters, fetch_trec
from aft.demo_data.models import fetch_minilm
from aft.features.extraction import extract_features
from aft.ids import default_cache_dir
from speed_parts.timing import alternate, row, write_texts

BATCH_SIZES = (16, 32)
MAX_TOKENS = 128
CLOSE = 1e-5
CASES = {"TREC questions": (fetch_trec, 1000), "Reuters news": (fetch_reuters, 250)}


def measure(quick: bool) -> dict[str, Any]:
    if quick:
        with tempfile.TemporaryDirectory() as folder:
            samples, _ = load_inputs(str(write_texts(Path(folder), 16)), progress=False)
            return {"rows": [compare("made up", samples, 1)]}
    rows = []
    for name, (fetch, number) in CASES.items():
        file = fetch(default_cache_dir() / "demo", False).folder / "train.jsonl"
        samples, _ = load_inputs(str(file), progress=False)
        chosen = np.random.default_rng(0).permutation(len(samples))[:number]
        rows.append(compare(name, samples.subset(np.sort(chosen)), 4))
    return {"rows": rows}


def compare(name: str, samples: Samples, rounds: int) -> dict[str, Any]:
    weights = fetch_minilm(default_cache_dir() / "demo", False)
    model = SentenceTransformer(str(weights), device="cpu")
    model.max_seq_length = MAX_TOKENS
    texts = [str(samples.input(i)) for i in range(len(samples))]
    teacher = aft.load_teacher(f"st:{weights}?max_tokens={MAX_TOKENS}")
    assert float(np.abs(extract(teacher, samples) - model.encode(texts)).max()) < CLOSE
    sides: dict[str, Any] = {
        f"{size}": lambda size=size: model.encode(texts, batch_size=size) for size in BATCH_SIZES
    }
    taken = alternate({**sides, "aft": lambda: extract(teacher, samples)}, rounds)
    best = min(sides, key=lambda size: np.median(taken[size]))
    what, limit = f"`aft extract`, MiniLM, {name}, per text", "`encode` of sentence-transformers"
    scale = 1e3 / len(texts)
    return row(what, "ms", taken["aft"], limit, taken[best], scale=scale, aim=1.0)


def extract(teacher: Any, samples: Samples) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        store = extract_features(teacher, samples, folder, dtype="fp32", progress=False)
        return store.gather(samples.ids).numpy()
