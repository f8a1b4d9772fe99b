"""Which metric should choose checkpoints, and what helps rare classes, if class sizes differ?

    python benchmarks/metric_choice.py --seeds 5

Trains the text student of the suite with the default loss on few labels, once per metric and class
weighting, and evaluates every metric on the test split. The table is written to docs/training.md.
Takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import aft
import tables
from aft.demo_data.models import fetch_minilm
from aft.ids import default_cache_dir
from aft.metrics import metric_words
from data_sets import DATA_SETS

RESULTS = Path(__file__).parent / "results" / "metric_choice.json"
TASKS = {"trec": 0.1, "sms": 0.1}
"""Imbalanced data sets, and the share of their labels to use."""
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "nll")
CHOICES = (
    ("accuracy", "none"),
    ("balanced_accuracy", "none"),
    ("balanced_accuracy", "balanced"),
    ("balanced_accuracy", "auto"),
)
"""Metrics that choose the checkpoint, and class weights."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    cache = default_cache_dir() / "demo"
    teacher = f"st:{fetch_minilm(cache, False)}?max_tokens=64"
    found: dict[str, Any] = {}
    for task, share in TASKS.items():
        data = str(DATA_SETS[task](cache, False).folder)
        for metric, weights in CHOICES:
            runs = []
            for seed in range(options.seeds):
                with tempfile.TemporaryDirectory() as folder:
                    result = aft.train(
                        data=data,
                        student="small:ngrams",
                        teachers=teacher,
                        train_fraction=share,
                        unlabelled="left-out",
                        validation_fraction=0.25,
                        safety_net=False,
                        baselines=False,
                        steps=100,
                        eval_every=10,
                        metric=metric,
                        class_weights=weights,
                        seed=seed,
                        out=Path(folder) / "run",
                        progress=False,
                    )
                runs.append(result.metrics)
            key = f"{task}, {metric}, {weights}"
            found[key] = {name: [run[name] for run in runs] for name in SCORES}
            print(key, {name: round(float(np.mean(v)), 3) for name, v in found[key].items()})
    document = {
        "command": f"python benchmarks/metric_choice.py --seeds {options.seeds}",
        "version": aft.__version__,
        "machine": tables.machine(),
        "scores": found,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    tables.put("metric choice", as_table(document), ["docs/training.md"])


def as_table(document: dict[str, Any]) -> str:
    lines = [
        f"| data | checkpoint metric | class weights | {' | '.join(map(metric_words, SCORES))} |",
        "|---|---|---" + "|---" * len(SCORES) + "|",
    ]
    for key, scores in document["scores"].items():
        task, metric, weights = key.split(", ")
        cells = [
            f"{np.mean(scores[name]):.3f} ± {np.std(scores[name], ddof=1):.3f}" for name in SCORES
        ]
        lines.append(f"| {task} | {metric_words(metric)} | {weights} | {' | '.join(cells)} |")
    seeds = len(next(iter(document["scores"].values()))["nll"])
    return "\n".join(lines) + (
        f"\n\nTest split, mean ± standard deviation over {seeds} seeds; lower is better for log "
        f"loss.\nMade by `{document['command']}` ({document['machine']}).\n"
    )


if __name__ == "__main__":
    main()
