"""On which data sets can teachers help? Linear models with and without the teachers' features.

For each number of labels, a linear model on the teachers' features is compared with the best of the
baselines that need no teacher: the majority class, TF-IDF with logistic regression (ridge
regression for numeric labels), a linear model on the features of a small network trained on the
same photos as the image teacher, and the last two combined. All are fitted on the same drawn
labels, three draws each; regularisation is chosen on a part of them. If the teacher is no better
than the baselines, a student can gain nothing from it.

At most 4,000 training rows and 2,000 test rows are used. Takes up to 20 minutes on two cores;
stored features are not computed again.

    python benchmarks/survey.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score

import aft
import tables
from aft.config.commands import ExtractConfig
from aft.data.loading import DataSet, load_data
from aft.data.readers.find_columns import Columns
from aft.data.samples import Samples
from aft.demo_data.models import fetch_minilm
from aft.features.stored import extract_teachers
from aft.ids import default_cache_dir
from aft.scoring.measures import linear_probe
from aft.tasks import Task
from data_sets import DATA_SETS
from data_sets.models import fetch_squeezenet

RESULTS = Path(__file__).parent / "results"
LABELS = dict.fromkeys(("snippets", "amazon", "tweets", "editorials"), "score")
MOST_ROWS = {"train": 4000, "test": 2000}
STRENGTHS = (1.0, 10.0, 100.0)  # inverse regularisation of logistic regression
SHRINKAGE = (0.1, 1.0, 10.0)  # regularisation of ridge regression
FLOORS = ("majority", "TF-IDF", "SqueezeNet", "TF-IDF and SqueezeNet")


class Known(NamedTuple):
    """Features, texts and labels of the rows of one split."""

    features: dict[str, torch.Tensor]
    texts: list[str] | None
    labels: NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(DATA_SETS), choices=DATA_SETS)
    parser.add_argument("--labels", nargs="+", type=int, default=[200, 1000, 4000])
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "survey.json"
    before = json.loads(file.read_text())["rows"] if file.exists() else []
    print(line("data", "labels", "test", "teachers", "baseline", "gap", "all models"), flush=True)
    for name in options.data:
        rows = survey(name, options.labels, options.draws)
        before = [row for row in before if row["data"] != name] + rows
        for row in rows:
            show(row)
        file.write_text(json.dumps(result(before, options), indent=1) + "\n")
    tables.put("survey", as_markdown(before, options), ["docs/benchmarks.md"])


def result(rows: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """The document to write: results of this run and of earlier ones."""
    there = {row["data"] for row in rows}
    names = [name for name in DATA_SETS if name in there]
    return {
        "command": f"python benchmarks/survey.py --data {' '.join(names)} "
        f"--labels {' '.join(map(str, options.labels))} --draws {options.draws}",
        "version": aft.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "rows": sorted(rows, key=lambda row: names.index(row["data"])),
    }


def survey(name: str, numbers: list[int], draws: int) -> list[dict[str, Any]]:
    start = time.perf_counter()
    columns = Columns(label=(LABELS[name],)) if name in LABELS else None
    folder = str(DATA_SETS[name](default_cache_dir() / "demo", False).folder)
    data = load_data(folder, columns, validation_fraction=0.0, progress=False)
    splits = {split: known(folder, data, split) for split in MOST_ROWS}
    seconds = time.perf_counter() - start
    train, test = splits["train"], splits["test"]
    sizes = sorted({min(number, len(train.labels)) for number in numbers})
    rows = []
    for number in sizes:
        scores: dict[str, list[float]] = {}
        for seed in range(draws if number < len(train.labels) else 1):
            drawn = np.random.default_rng(seed).permutation(len(train.labels))[:number]
            for model, score in compare(train, test, np.sort(drawn), data.task).items():
                scores.setdefault(model, []).append(round(score, 4))
        rows.append(
            {
                "data": name,
                "classes": len(data.task.names) if data.task.kind == "classification" else 0,
                "metric": "accuracy" if data.task.kind == "classification" else "r2",
                "labels": number,
                "test": len(test.labels),
                "scores": scores,
                "seconds_to_read_and_extract": round(seconds),
            }
        )
    return rows


def known(folder: str, data: DataSet, split: str) -> Known:
    samples = data.splits[split]
    order = np.random.default_rng(0).permutation(len(samples))[: MOST_ROWS[split]]
    samples = samples.subset(np.sort(order))
    cache = default_cache_dir() / "demo"
    kinds = {column.modality: column.name for column in samples.columns}
    several = len(kinds) > 1
    specs = {}
    if "image" in kinds:
        student = f"torchvision:squeezenet1_1?weights={fetch_squeezenet(cache)}&size=64"
        at = f"{kinds['image']}=" if several else ""
        specs["EfficientNet-Lite0"] = f"{at}timm:tf_efficientnet_lite0?size=128"
        specs["SqueezeNet"] = at + student
    if "text" in kinds:
        at = f"{kinds['text']}=" if several else ""
        specs["MiniLM"] = f"{at}st:{fetch_minilm(cache)}?max_tokens=64"
    config = ExtractConfig(data=folder, teachers=tuple(specs.values()), progress=False)
    stored = extract_teachers(config, [samples], torch.device("cpu"))[0]
    rows = np.arange(len(samples))
    features = {name: one.gather(rows) for name, one in zip(specs, stored, strict=True)}
    texts = texts_of(samples, kinds["text"]) if "text" in kinds else None
    return Known(features, texts, samples.labels)


def texts_of(samples: Samples, column: str) -> list[str]:
    texts = samples.only(column)
    return [str(texts.input(i) or "") for i in range(len(texts))]


def compare(train: Known, test: Known, drawn: NDArray[np.int64], task: Task) -> dict[str, float]:
    """Test score of each model fitted on the drawn training rows."""
    labels = train.labels[drawn]
    predicted = {"majority": majority(labels, len(test.labels), task)}
    if train.texts is not None and test.texts is not None:
        texts = [train.texts[i] for i in drawn]
        predicted["TF-IDF"] = tfidf(texts, labels, test.texts, task)
    features = {name: rows[torch.from_numpy(drawn)] for name, rows in train.features.items()}
    for name, rows in features.items():
        predicted[name] = probe(rows, labels, test.features[name], task)
    teachers = [name for name in features if name != "SqueezeNet"]
    if len(teachers) > 1:
        rows, new = (torch.cat([of[name] for name in teachers], 1) for of in (features, test[0]))
        predicted[" and ".join(teachers)] = probe(rows, labels, new, task)
        predicted[FLOORS[-1]] = predicted["TF-IDF"] + predicted["SqueezeNet"]
    return {name: score(values, test.labels, task) for name, values in predicted.items()}


def probe(
    features: torch.Tensor, labels: NDArray[Any], new: torch.Tensor, task: Task
) -> NDArray[Any]:
    """Log probabilities of the classes, or predicted targets."""
    outputs = linear_probe(features, torch.from_numpy(labels), new, task)
    return (outputs.log_softmax(1) if task.kind == "classification" else outputs).numpy()


def majority(labels: NDArray[Any], rows: int, task: Task) -> NDArray[Any]:
    if task.kind == "classification":
        return np.tile(np.bincount(labels, minlength=task.num_outputs), (rows, 1))
    return np.tile(labels.mean(0), (rows, 1))


def tfidf(texts: list[str], labels: NDArray[Any], new: list[str], task: Task) -> NDArray[Any]:
    """As :func:`probe`, with TF-IDF; regularisation is chosen on a fifth of the texts."""
    order = np.random.default_rng(0).permutation(len(texts))
    held_out, kept = np.split(order, [len(texts) // 5])
    strengths = STRENGTHS if task.kind == "classification" else SHRINKAGE
    scores = {}
    for strength in strengths:
        part = learn([texts[i] for i in kept], labels[kept], strength, task)
        scores[strength] = score(part([texts[i] for i in held_out]), labels[held_out], task)
    best = max(strengths, key=lambda strength: scores[strength])
    return learn(texts, labels, best, task)(new)


def learn(texts: list[str], labels: NDArray[Any], strength: float, task: Task) -> Any:
    vectors = TfidfVectorizer(sublinear_tf=True)
    inputs = vectors.fit_transform(texts)
    if task.kind != "classification":
        ridge = Ridge(alpha=strength).fit(inputs, labels)
        return lambda new: ridge.predict(vectors.transform(new)).reshape(len(new), -1)
    model = LogisticRegression(C=strength, max_iter=1000).fit(inputs, labels)

    def predict(new: list[str]) -> NDArray[Any]:
        values = np.full((len(new), task.num_outputs), -1e4)
        values[:, model.classes_] = model.predict_log_proba(vectors.transform(new))
        return values

    return predict


def score(predicted: NDArray[Any], labels: NDArray[Any], task: Task) -> float:
    if task.kind == "classification":
        return float(accuracy_score(labels, predicted.argmax(1)))
    return float(r2_score(labels, predicted))


def line(*cells: Any) -> str:
    data, labels, test, teachers, floor, gain, each = cells
    return f"{data:<16} {labels:>6} {test:>5}  {teachers:>8}  {floor:>8}  {gain:>6}  {each}"


def best_of(row: dict[str, Any]) -> tuple[str, str, dict[str, float]]:
    """The best teacher, the best baseline without a teacher, and the mean score of each model."""
    means = {name: statistics.mean(values) for name, values in row["scores"].items()}
    floor = max((name for name in means if name in FLOORS), key=means.__getitem__)
    teacher = max((name for name in means if name not in FLOORS), key=means.__getitem__)
    return teacher, floor, means


def as_markdown(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """One row per data set: the best teacher and the best baseline for each number of labels."""
    cells: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: (list(DATA_SETS).index(row["data"]), row["labels"])):
        teacher, floor, means = best_of(row)
        known = f"{row['labels']:,}: {means[teacher]:.3f} / {means[floor]:.3f}"
        cells.setdefault(row["data"], []).append(known)
    width = max(map(len, cells.values()))
    head = ["few labels", "more", "most"][:width]
    lines = [f"| data | {' | '.join(head)} |", "|---" * (width + 1) + "|"]
    for name, found in cells.items():
        padded = [*found[:-1], *[""] * (width - len(found)), found[-1]]
        lines.append(f"| {name} | {' | '.join(padded)} |")
    return (
        "\n".join(lines) + "\n\nEach cell gives the number of labels: best score with the "
        "teachers' features / best score without. Test accuracy (R² for numeric labels), mean over "
        f"{options.draws} draws of the labels (one draw if all rows are used). Baselines without "
        "teachers: the majority class, TF-IDF, a linear model on the features of the small "
        "network that image students start from, and the last two combined.\n"
        "Made by `python benchmarks/survey.py`.\n"
    )


def show(row: dict[str, Any]) -> None:
    teacher, floor, means = best_of(row)
    each = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
    gain = f"{means[teacher] - means[floor]:+.3f}"
    best = f"{means[teacher]:.3f}", f"{means[floor]:.3f}"
    print(line(row["data"], row["labels"], row["test"], *best, gain, each), flush=True)


if __name__ == "__main__":
    main()
