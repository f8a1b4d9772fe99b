"""Does `aft inspect --labels` find wrong labels? Labels of real texts, flipped on purpose.

    python benchmarks/label_errors.py           # everything
    python benchmarks/label_errors.py --tables  # only the table, from results/

Takes some minutes on one core; run the same command again to resume. In each task, 5 % of the
labels of at most 2,000 training rows are replaced: by another class at random, or, as people
confuse them, by the class that the text resembles most, which is the most probable other class of a
linear model on the clean labels, out of fold. For regression they are replaced by those of other
rows. The features are those of all-MiniLM-L6-v2. Rows found by `aft inspect --labels` are compared
with equally many rows with the lowest probability of the given label, and with the rows that
confident learning finds as published. The data sets have wrong labels of their own, which count as
false alarms here. How rows are ranked was chosen on TREC.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

import advice
import aft
import suite
import tables
from aft.config.commands import ExtractConfig
from aft.data.loading import load_data
from aft.data.options import asked_columns
from aft.features.stored import extract_teachers
from aft.scoring.label_errors import find_label_errors
from aft.scoring.measures import predict_out_of_fold
from aft.tasks import Task
from data_sets import DATA_SETS

FILE = advice.RESULTS / "label_errors.json"
TASKS = ("trec", "reuters", "sms", "tweets")
RUNS = Path("runs") / "label-errors"
SHARE, SEEDS, MOST_ROWS = 0.05, 5, 2000
FIRST = 20
"""So many of the worst rows are judged by themselves: those that people look at."""
KINDS = {"random": "another class at random", "similar": "the most similar class"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--tables", action="store_true", help="only the table, without training")
    options = parser.parse_args()
    found = json.loads(FILE.read_text()) if FILE.exists() else {"tasks": {}}
    for name in () if options.tables else options.tasks:
        found["tasks"][name] = measure(name)
        print(name, json.dumps(found["tasks"][name]), flush=True)
        document = {
            "command": "python benchmarks/label_errors.py",
            "version": aft.__version__,
            "machine": tables.machine(),
            "share": SHARE,
            "seeds": SEEDS,
            "tasks": {name: found["tasks"][name] for name in TASKS if name in found["tasks"]},
        }
        FILE.write_text(json.dumps(document, indent=1) + "\n")
    document = json.loads(FILE.read_text())
    tables.put("label errors", write_table(document), ["docs/data.md"])


def measure(name: str) -> dict[str, Any]:
    """Precision and recall on one task, for each kind of flipped labels."""
    task, cache = suite.TASKS[name], advice._cache()
    config = ExtractConfig(
        data=str(DATA_SETS[task.data](cache, False).folder),
        teachers=(suite.minilm(cache, 64),),
        label_column=task.options.get("label_column", ()),
        num_workers=0,
        progress=False,
    )
    data = load_data(config.data, asked_columns(config), validation_fraction=0.0, progress=False)
    train = data.splits["train"]
    ((stored,),) = extract_teachers(config, [train], torch.device("cpu"))
    rows = np.sort(np.random.default_rng(0).permutation(len(train))[:MOST_ROWS])
    features = stored.gather(rows)
    labels = torch.from_numpy(np.asarray(train.labels)[rows])

    def predict(given: Tensor, seed: int, file: str) -> Tensor:
        """The out-of-fold logits for labels; kept in a file, since they take longest."""
        path = RUNS / f"{name}-{file}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            found = predict_out_of_fold(features, given, data.task, seed=seed, logits=True)
            np.save(path, found.numpy())
        return torch.from_numpy(np.load(path))

    clean = predict(labels, 0, "clean")
    several = data.task.kind == "classification" and data.task.num_outputs > 2
    kinds = tuple(KINDS) if several else ("random",)  # of two classes, there is one other
    return {
        "rows": len(rows),
        "kind": data.task.kind,
        "outputs": data.task.num_outputs,
        "found_before": len(find_label_errors(clean, labels, data.task)),
        "flipped": {
            kind: [
                try_once(predict, labels, data.task, None if kind == "random" else clean, seed)
                for seed in range(SEEDS)
            ]
            for kind in kinds
        },
    }


def try_once(
    predict: Callable[[Tensor, int, str], Tensor],
    labels: Tensor,
    task: Task,
    clean: Tensor | None,
    seed: int,
) -> dict[str, Any]:
    """Flip labels, and find them again.

    Args:
        predict: Returns out-of-fold logits for labels, a seed and the name of a file.
        labels: The labels of the data set.
        task: The task.
        clean: Out-of-fold logits for these labels, which name the most similar class; None draws
            another class at random.
        seed: Seed of the rows, the new labels and the folds.
    """
    generator = torch.Generator().manual_seed(seed)
    n = len(labels)
    rows = torch.randperm(n, generator=generator)[: round(SHARE * n)]
    given = labels.clone()
    if task.kind == "regression":
        given[rows] = labels[rows[torch.randperm(len(rows), generator=generator)]]
    elif clean is None:
        steps = torch.randint(1, task.num_outputs, (len(rows),), generator=generator)
        given[rows] = (labels[rows] + steps) % task.num_outputs
    else:
        others = clean[rows].scatter(1, labels[rows, None], -torch.inf)
        given[rows] = others.argmax(1)
    flipped = torch.zeros(n, dtype=torch.bool)
    flipped[rows] = True
    outputs = predict(given, seed, f"{'random' if clean is None else 'similar'}-{seed}")
    found = torch.tensor([one.row for one in find_label_errors(outputs, given, task)])
    values = {"flipped": len(rows), "found": len(found), **score(flipped, found, "ours")}
    if task.kind == "regression":
        farthest = (given - given.mean()).abs().sum(1).argsort(descending=True)
        return values | score(flipped, farthest[: len(found)], "simple")
    chances = outputs.double().softmax(1)
    own = chances[torch.arange(n), given]
    return {
        **values,
        **score(flipped, own.argsort(stable=True)[: len(found)], "simple"),
        **score(flipped, confident_rows(chances, own, given), "published"),
    }


def confident_rows(chances: Tensor, own: Tensor, given: Tensor) -> Tensor:
    """The rows outside the diagonal of the confident joint, by their margin, as published."""
    thresholds = torch.stack([own[given == j].mean() for j in range(chances.shape[1])])
    sure, confident = chances.where(chances >= thresholds, -1.0).max(dim=1)
    rows = ((sure >= 0) & (confident != given) & (chances.argmax(1) != given)).nonzero()[:, 0]
    return rows[(own - chances.max(dim=1).values)[rows].argsort(stable=True)]


def score(flipped: Tensor, rows: Tensor, name: str) -> dict[str, float]:
    """Precision, recall, and precision of the first rows, of rows from the worst to the best."""
    right = flipped[rows].double()
    return {
        f"{name}_precision": float(right.mean()),
        f"{name}_recall": float(right.sum() / flipped.sum()),
        f"{name}_first": float(right[:FIRST].mean()),
    }


def write_table(document: Mapping[str, Any]) -> str:
    """One row per task and kind of flips: means over the seeds."""
    lines = [
        "| data | labels replaced by | replaced | found | precision | recall | precision of the "
        f"first {FIRST} | compared with: precision, recall, first {FIRST} |",
        "|---" * 8 + "|",
    ]
    for name, one in document["tasks"].items():
        for kind, tries in one["flipped"].items():
            words = KINDS[kind] if one["outputs"] > 2 else "the other class"
            words = "those of other rows" if one["kind"] == "regression" else words
            cells = [f"{tries[0]['flipped']} of {one['rows']:,}", f"{_mean(tries, 'found'):.0f}"]
            cells += [_spread(tries, f"ours_{key}") for key in ("precision", "recall", "first")]
            other = "simple" if one["kind"] == "regression" else "published"
            cells.append(_means(tries, *(f"{other}_{k}" for k in ("precision", "recall", "first"))))
            lines.append(f"| {suite.TASKS[name].words[0]} | {words} | {' | '.join(cells)} |")
    return "\n".join(lines) + (
        f"\n\nMeans over {document['seeds']} seeds, ± standard deviation. *Compared with*: for "
        "classes, confident learning as published (the rows outside the diagonal of the confident "
        "joint, by the difference of both probabilities); for regression, as many labels farthest "
        "from their mean.\n"
        f"Made by `{document['command']}` ({document['machine']}).\n"
    )


def _means(tries: Sequence[Mapping[str, float]], *keys: str) -> str:
    return ", ".join(f"{_mean(tries, key):.3f}" for key in keys)


def _mean(tries: Sequence[Mapping[str, float]], key: str) -> float:
    return fmean(one[key] for one in tries)


def _spread(tries: Sequence[Mapping[str, float]], key: str) -> str:
    return f"{_mean(tries, key):.3f} ± {np.std([one[key] for one in tries], ddof=1):.3f}"


if __name__ == "__main__":
    main()
