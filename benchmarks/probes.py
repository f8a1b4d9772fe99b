"""What the teachers of the demos know: a linear classifier on their features, scored on test.

It learns from all rows of train; its regularisation is chosen on a tenth of them. A student that is
better than this has nothing to take over. About five minutes on two cores.

    python benchmarks/probes.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

import numpy as np
import torch

import aft
from aft.commands.demo import DEMONSTRATIONS
from aft.config.commands import ExtractConfig
from aft.data.loading import load_data
from aft.demo_data.models import fetch_minilm
from aft.features.stored import extract_teachers
from aft.ids import default_cache_dir
from aft.losses.heads import fit_head

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["clipart", "reuters", "clipart-titles"]
    parser.add_argument("--data", nargs="+", default=names, choices=DEMONSTRATIONS)
    options = parser.parse_args()
    found = {
        "command": f"python benchmarks/probes.py --data {' '.join(options.data)}",
        "version": aft.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "rows": [row for name in options.data for row in probe(name)],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "probes.json").write_text(json.dumps(found, indent=1) + "\n")


def probe(name: str) -> list[dict[str, object]]:
    cache = default_cache_dir() / "demo"
    shown = DEMONSTRATIONS[name]
    data = str(shown.fetch(cache, False).folder)
    config = ExtractConfig(data=data, teachers=shown.teachers(cache), progress=False)
    splits = load_data(data, validation_fraction=0.0, progress=False).splits
    features = {}
    for split in ("train", "test"):
        found = extract_teachers(config, splits[split], torch.device("cpu"))
        rows = np.arange(len(splits[split]))
        features[split] = [one.gather(rows) for one in found]
    labels = {split: torch.from_numpy(splits[split].labels) for split in features}
    scores = []
    folder = str(fetch_minilm(cache))
    teachers = [text.replace(folder, "all-MiniLM-L6-v2") for text in shown.teachers(cache)]
    choices = {teacher: [i] for i, teacher in enumerate(teachers)}
    if len(teachers) > 1:
        choices["all teachers"] = list(range(len(teachers)))
    for teacher, chosen in choices.items():
        train, test = (torch.cat([features[s][i] for i in chosen], 1) for s in ("train", "test"))
        head = fit_head(train, labels["train"])
        right = (test @ head.weight.T + head.bias).argmax(1) == labels["test"]
        row = {"data": name, "teacher": teacher, "accuracy": float(right.float().mean())}
        print(row, flush=True)
        scores.append(row)
    return scores


if __name__ == "__main__":
    main()
