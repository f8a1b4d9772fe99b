"""Does the safety net hold? Teachers made harmful on purpose, and mixtures of both students.

Every run trains a student with a teacher and one from the labels alone. The teachers are

- real: as in suite.py;
- shuffled: the features of each row are those of another row;
- another task: the features are those of another data set's rows;
- wrong labels: the head of the soft labels is fitted to shuffled labels, and beta is 10.

For each, the test scores of both students and of the one that the safety net keeps; and of the
students whose weights are a mixture of both, chosen on the validation rows: the best, and the one
nearest to the labels alone within a standard error of the best. Takes half an hour on two cores.

    python benchmarks/harm.py
    python benchmarks/harm.py --tasks trec --seeds 2
    python benchmarks/harm.py --table       # only the table, from the stored results
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

import aft
import suite
import tables
from aft.comparison.statistics import compare_paired
from aft.config.commands import ExtractConfig
from aft.data.loading import load_data
from aft.features.stored import StoredFeatures, extract_teachers
from aft.losses.soft_labels import SoftLabelLoss
from aft.metrics import compute_metrics
from aft.students.saved import SavedStudent
from aft.training import safety_net
from data_sets import DATA_SETS

RESULTS = suite.RESULTS / "harm.json"
TASKS = ("trec", "reuters", "tweets", "sms")
OTHER = {
    **{"trec": "reuters", "reuters": "trec", "tweets": "trec", "sms": "trec", "stamps": "clipart"},
}
"""The data set whose rows give the features of another task."""
TEACHERS = ("real", "shuffled", "another task", "wrong labels")
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the student with the teacher in a mixture."""
FIT = SoftLabelLoss.fit.__func__  # type: ignore[attr-defined]
GATHER = StoredFeatures.gather
CHOOSE = safety_net.choose_student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=suite.TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="tasks at once, with a core each")
    parser.add_argument("--table", action="store_true", help="only write the table")
    options = parser.parse_args()
    if not options.table:
        known = json.loads(RESULTS.read_text())["tasks"] if RESULTS.exists() else {}
        with ProcessPoolExecutor(options.jobs) as pool:
            for name, found in pool.map(measure, options.tasks, [options.seeds] * len(TASKS)):
                known[name] = found
                document = {
                    "command": "python benchmarks/harm.py",
                    "version": aft.__version__,
                    "machine": tables.machine(),
                    "tasks": {task: known[task] for task in suite.TASKS if task in known},
                }
                RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    tables.put("harm", as_table(json.loads(RESULTS.read_text())), ["docs/benchmarks.md"])


def measure(name: str, seeds: int) -> tuple[str, dict[str, Any]]:
    """Test scores on a task, for each teacher one per seed."""
    torch.set_num_threads(1)
    found = {}
    for teacher in TEACHERS:
        runs = [train(name, teacher, seed) for seed in range(seeds)]
        found[teacher] = {key: [run[key] for run in runs] for key in runs[0]}
        print(
            name, teacher, {key: round(fmean(values), 3) for key, values in found[teacher].items()}
        )
    return name, found


def train(name: str, teacher: str, seed: int) -> dict[str, float]:
    """Test scores of one run."""
    task, cache = suite.TASKS[name], suite._cache()
    options = {k: v for k, v in task.options.items() if k not in ("leave_out", "train_fractions")}
    fraction = task.options.get("train_fractions", (1.0,))[0]
    found: dict[str, float] = {}

    def choose(model: Any, data: Any, saved: Any, progress: Any, metric: str, score: Any) -> Any:
        found.update(score_mixtures(model, data, saved, metric, score))
        kept, values = CHOOSE(model, data, saved, progress, metric, score)
        found["kept"] = found["alone" if values["safety_net"]["fell_back"] else "with teacher"]
        return kept, values

    with (
        tempfile.TemporaryDirectory() as place,
        harmful(name, teacher) as more,
        mock.patch("aft.commands.train.choose_student", choose),
    ):
        aft.train(
            data=str(DATA_SETS[task.data](cache, False).folder),
            student=task.student(cache),
            teachers=task.teachers(cache),
            seed=seed,
            train_fraction=fraction,
            out=Path(place, "run"),
            num_workers=0,
            baselines=False,
            progress=False,
            device="cpu",
            **{**options, **more},
        )
    return found


@contextmanager
def harmful(name: str, teacher: str) -> Iterator[dict[str, Any]]:
    """Makes the teachers harmful; yields options of the run."""
    with ExitStack() as stack:
        if teacher in ("shuffled", "another task"):
            other = other_features(name) if teacher == "another task" else None

            def gather(self: StoredFeatures, rows: NDArray[np.int64]) -> torch.Tensor:
                order = np.random.default_rng(0).permutation(len(self.samples))[rows]
                if other is None:
                    return GATHER(self, order)
                return GATHER(other, order % len(other.samples))

            stack.enter_context(mock.patch.object(StoredFeatures, "gather", gather))
        if teacher == "wrong labels":

            def fit(cls: Any, features: Any, labels: torch.Tensor, **options: Any) -> Any:
                order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
                return FIT(cls, features, labels[order], **options)

            stack.enter_context(mock.patch.object(SoftLabelLoss, "fit", classmethod(fit)))
        yield {"beta": 10.0} if teacher == "wrong labels" else {}


def other_features(name: str) -> StoredFeatures:
    """The teacher's features of the rows of another data set."""
    cache = suite._cache()
    folder = str(DATA_SETS[OTHER[name]](cache, False).folder)
    specs = suite.TASKS[name].teachers(cache)
    rows = load_data(folder, progress=False).splits["train"]
    config = ExtractConfig(data=folder, teachers=specs, progress=False)
    ((found,),) = extract_teachers(config, [rows], torch.device("cpu"))
    return found


def score_mixtures(model: Any, data: Any, saved: SavedStudent, metric: str, score: Any) -> Any:
    """Test scores of both students, and of the mixtures that the validation rows choose."""
    both = [copy.deepcopy(one.state_dict()) for one in (model.alone, model.student)]
    mixed = copy.deepcopy(model.student)
    validation, test, rows = [], [], []
    labels = {split: np.asarray(data.splits[split].labels) for split in ("validation", "test")}
    for share in SHARES:
        weights = {
            key: torch.lerp(one.double(), both[1][key].double(), share).to(one.dtype)
            if one.is_floating_point()
            else both[1][key]
            for key, one in both[0].items()
        }
        mixed.load_state_dict(weights)
        student = SavedStudent(mixed, data.task, saved.columns, saved.backbone)
        logits = {split: score(student, split) for split in labels}
        rows.append(logits["validation"])
        scores = [compute_metrics(logits[s], labels[s], data.task)[metric] for s in labels]
        validation.append(scores[0])
        test.append(scores[1])
    best = int(np.nanargmax(validation))
    within = (
        safety_net.judge(rows[best], one, labels["validation"], data.task, metric) for one in rows
    )
    near = next(i for i, one in enumerate(within) if one.difference <= one.standard_error)
    return {
        "alone": test[0],
        "with teacher": test[-1],
        "half": test[2],
        "best mixture": test[best],
        "near mixture": test[near],
    }


def as_table(document: dict[str, Any]) -> str:
    """Differences to the labels alone, with 95 % intervals."""
    columns = {
        **{"with teacher": "with the teacher", "kept": "kept by the safety net"},
        **{"half": "half of both", "best mixture": "best mixture", "near mixture": "near mixture"},
    }
    lines = [
        f"| task | teacher | labels alone | {' | '.join(columns.values())} |",
        "|---|---|---" + "|---" * len(columns) + "|",
    ]
    for name, found in document["tasks"].items():
        for teacher, scores in found.items():
            cells = [_difference(scores[key], scores["alone"]) for key in columns]
            words = suite.TASKS[name].words[0]
            lines.append(
                f"| {words} | {teacher} | {fmean(scores['alone']):.3f} | {' | '.join(cells)} |"
            )
    seeds = len(next(iter(next(iter(document["tasks"].values())).values()))["alone"])
    return (
        "\n".join(lines)
        + "\n\nTest scores from the labels alone, and differences to them with 95 % intervals over "
        f"{seeds} seeds. Made by `{document['command']}` ({document['machine']}).\n"
    )


def _difference(scores: list[float], alone: list[float]) -> str:
    if len(scores) < 2:
        return f"{fmean(scores) - fmean(alone):+.3f}"
    found = compare_paired("", alone, scores)
    if math.isclose(found.difference, 0, abs_tol=1e-12):
        return "0"
    return f"{found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
