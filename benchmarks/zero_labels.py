"""Students from the names of the classes, with no labels and with a few; beside labels alone.

    python benchmarks/zero_labels.py

The template and the scale of the names, and how a few labels join them, were chosen on Reuters
topics; docs/zero_labels.md says what was seen of emoji names and TREC questions. Each training set
has at most 1,000 texts. Takes about ten minutes on one core; run it again to resume.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import aft
import tables
from aft.commands.class_names import ABOUT
from aft.config.commands import ScoreConfig
from aft.data.loading import load_inputs
from aft.demo_data.models import fetch_minilm
from aft.features.stored import extract_teachers
from aft.ids import default_cache_dir
from aft.losses.class_names import ClassNameLoss, EmbeddedClasses
from aft.losses.heads import fit_head
from aft.metrics import compute_metrics
from aft.tasks import Task
from data_sets import DATA_SETS

RESULT = Path(__file__).parent / "results" / "zero_labels.json"
LABELS = (0, 1, 5, 20)
MOST_ROWS = 1000
DESCRIPTIONS = {
    "reuters": {
        "acq": "mergers and acquisitions of companies",
        "crude": "crude oil",
        "earn": "company earnings and dividends",
        "grain": "grain and wheat",
        "interest": "interest rates of banks",
        "money-fx": "foreign exchange and currencies",
        "ship": "shipping",
        "trade": "international trade",
    },
    "emoji-names": {
        "activities": "activities, sports and games",
        "animals_and_nature": "animals and nature",
        "food_and_drink": "food and drink",
        "objects": "objects and tools",
        "people_and_body": "people and body parts",
        "smileys_and_emotion": "smileys, faces and emotions",
        "symbols": "symbols and signs",
        "travel_and_places": "travel, vehicles and places",
    },
    "trec": {
        "ABBR": "an abbreviation",
        "DESC": "a description or definition",
        "ENTY": "a thing, such as an animal, a food or a product",
        "HUM": "a person or a group of people",
        "LOC": "a place",
        "NUM": "a number, date or amount",
    },
}
WORDS = {"reuters": "Reuters topics", "emoji-names": "emoji names", "trec": "TREC questions"}
ROWS = {
    "labels": "TF-IDF with a linear model, labels alone",
    "probe": "linear model on the teacher's features, labels alone",
    "teacher": "the teacher with the names",
    "student": "**student with the names**",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(DESCRIPTIONS), choices=DESCRIPTIONS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--features", type=Path, help="folder of the feature store")
    parser.add_argument("--tables", action="store_true", help="only write the table")
    options = parser.parse_args()
    found: dict[str, Any] = {
        "command": "python benchmarks/zero_labels.py",
        "version": aft.__version__,
        "machine": tables.machine(),
        "steps": options.steps,
        "scores": {name: {} for name in DESCRIPTIONS},
    }
    if RESULT.exists():
        found["scores"] |= json.loads(RESULT.read_text())["scores"]
    for seed in range(options.seeds if not options.tables else 0):
        for name in options.data:
            known = found["scores"][name].setdefault(str(seed), {})
            for scores in measure(name, seed, known, options):
                known |= scores
                RESULT.write_text(json.dumps(found, indent=1) + "\n")
    write_table(found)


def measure(
    name: str, seed: int, known: Mapping[str, Any], options: argparse.Namespace
) -> Iterator[dict[str, dict[str, float]]]:
    """Test metrics of one seed, by method and number of labels per class; not those known."""
    lacking = [number for number in LABELS if f"student {number}" not in known]
    if not lacking:
        return
    rows = read(name)
    train, test = rows[rows.split == "train"], rows[rows.split == "test"]
    train = train.sample(frac=1, random_state=seed)[:MOST_ROWS]
    classes = DESCRIPTIONS[name]
    about = embed([ABOUT.format(text) for text in classes.values()], options.features)
    features = embed([*train.text, *test.text], options.features)
    for number in lacking:
        train["labelled"] = train.groupby("label").cumcount() < number
        found = {"student": train_student(name, train, test, seed, options)}
        found |= score_others(train, test, features, about, list(classes))
        print(name, seed, number, found, flush=True)
        yield {f"{key} {number}": value for key, value in found.items()}


def read(name: str) -> pd.DataFrame:
    """Different texts with their labels and splits."""
    folder = DATA_SETS[name](default_cache_dir() / "demo", False).folder
    if (folder / "metadata.jsonl").exists():
        rows = pd.read_json(folder / "metadata.jsonl", lines=True)
    else:
        parts = {split: folder / f"{split}.jsonl" for split in ("train", "test")}
        read = (pd.read_json(path, lines=True).assign(split=split) for split, path in parts.items())
        rows = pd.concat(read)
    rows = rows[rows.text.fillna("").str.strip() != ""]
    return rows[["text", "label", "split"]].drop_duplicates("text").reset_index(drop=True)


def teacher() -> str:
    return f"st:{fetch_minilm(default_cache_dir() / 'demo', False)}?max_tokens=64"


def embed(texts: list[str], store: Path | None) -> Tensor:
    """The teacher's features of texts, ``(n, 384)``."""
    options = ScoreConfig(
        data="", teachers=(teacher(),), features=store, device="cpu", progress=False, num_workers=0
    )
    samples, _ = load_inputs({"text": texts}, progress=False)
    ((found,),) = extract_teachers(options, [samples], torch.device("cpu"))
    return found.gather(np.arange(len(texts)))


def train_student(
    name: str, train: pd.DataFrame, test: pd.DataFrame, seed: int, options: argparse.Namespace
) -> dict[str, float]:
    """Test metrics of a student of the names and of the labels of some rows."""
    table = pd.concat([train.assign(label=train.label.where(train.labelled)), test])
    with tempfile.TemporaryDirectory() as place:
        data, names = Path(place, "data.csv"), Path(place, "classes.txt")
        table[["text", "label", "split"]].to_csv(data, index=False)
        names.write_text("".join(f"{k}\t{v}\n" for k, v in DESCRIPTIONS[name].items()))
        run = aft.train(
            data=data,
            classes=names,
            teachers=teacher(),
            student="small:ngrams",
            features=options.features,
            steps=options.steps,
            seed=seed,
            out=Path(place, "run"),
            device="cpu",
            baselines=False,
            progress=False,
        )
    assert run.split == "test"
    return run.metrics


def score_others(
    train: pd.DataFrame, test: pd.DataFrame, features: Tensor, about: Tensor, classes: list[str]
) -> dict[str, dict[str, float]]:
    """Test metrics of the teacher with the names, and of models of the labels alone."""
    known = torch.from_numpy(train.labelled.to_numpy())
    labels = torch.tensor([classes.index(one) for one in train.label[train.labelled]]).long()
    few, new = features[: len(train)][known], features[len(train) :]
    embedded = [EmbeddedClasses(about)]
    outputs = {"teacher": ClassNameLoss([few.shape[1]], embedded).teacher_logits(new)}
    if len(labels):
        outputs["teacher"] = ClassNameLoss.fit_few(few, labels, embedded).teacher_logits(new)
        head = fit_head(few, labels, num_classes=len(classes))
        outputs["probe"] = new @ head.weight.T + head.bias
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        vectors = vectorizer.fit_transform(train.text)  # of all rows, only some of them labelled
        model = LogisticRegression(C=10, max_iter=1000).fit(vectors[known.numpy()], labels)
        scores = model.predict_log_proba(vectorizer.transform(test.text))
        outputs["labels"] = torch.from_numpy(scores)[:, np.argsort(model.classes_)]
    task = Task("classification", tuple(classes))
    true = np.array([classes.index(one) for one in test.label])
    return {key: compute_metrics(x.double().numpy(), true, task) for key, x in outputs.items()}


def write_table(found: Mapping[str, Any]) -> None:
    """Write the table of docs/zero_labels.md."""
    parts = []
    measured = {
        name: [one for one in seeds.values() if one]
        for name, seeds in found["scores"].items()
        if any(seeds.values())
    }
    for name, scores in measured.items():
        title = f"{WORDS[name]}, {len(scores)} seed{'s' if len(scores) > 1 else ''}"
        parts.append(f"| {title} | no labels | 1 per class | 5 per class | 20 per class |")
        parts.append("|---|---|---|---|---|")
        for key, words in ROWS.items():
            cells = [
                show([one[f"{key} {number}"] for one in scores if f"{key} {number}" in one])
                for number in LABELS
            ]
            parts.append(f"| {words} | {' | '.join(cells)} |")
        parts.append("")
    text = "\n".join(parts) + (
        "\nTest accuracy / balanced accuracy, means over seeds (of labelled rows and students), "
        "with the standard deviation of the accuracy. Student: `small:ngrams`, "
        f"{found['steps']} steps; teacher: all-MiniLM-L6-v2.\n"
        f"Made by `{found['command']}` ({found['machine']}).\n"
    )
    tables.put("zero labels", text, ["docs/zero_labels.md"])


def show(scores: Sequence[Mapping[str, float]]) -> str:
    if not scores:
        return tables.NONE
    accuracy, balanced = (
        [one[metric] for one in scores] for metric in ("accuracy", "balanced_accuracy")
    )
    spread = f" ± {statistics.stdev(accuracy):.3f}" if len(scores) > 1 else ""
    return f"{statistics.mean(accuracy):.3f}{spread} / {statistics.mean(balanced):.3f}"


if __name__ == "__main__":
    main()
