"""The command `score`: estimate, before training, which teachers will help."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aft.commands.checks import DOCUMENT, check, out_folder
from aft.config.commands import ScoreConfig
from aft.config.typed import command
from aft.data.options import load_training_data
from aft.devices import Processes, separate_processes
from aft.errors import AftError, DataError
from aft.files import write_json
from aft.metrics import choose_metric
from aft.report import score_as_text, write_score_report
from aft.scoring.measures import chance_level
from aft.scoring.read_features import describe_cost, read_student, read_teachers, say, score_layers
from aft.scoring.recommendation import Candidate, Recommendation, recommend
from aft.scoring.teacher_sets import (
    FOLDS,
    ScoredRows,
    compare_sources,
    say_more_labels,
    score_sets,
    score_student,
)
from aft.version import __version__

PAGE = "score.html"
MOST_KERNEL_ROWS = 2000


@dataclass
class ScoreResult:
    """Result of :func:`score`.

    Attributes:
        document: Content of ``score.json``.
        recommendation: The recommendation with its numbers; ``str()`` gives it as sentences.
        out: Folder with ``score.json`` and ``score.html``.
        text: The printed table and recommendation.
    """

    document: dict[str, Any]
    recommendation: Recommendation
    out: Path
    text: str = field(repr=False, default="")

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row per scored set of teachers, and one for the student."""
        student = self.document["student"]
        return [*self.document["table"], *([student] if student else [])]

    def to_dict(self) -> dict[str, Any]:
        """Content of ``score.json``, as plain JSON values."""
        return self.document


@command(ScoreConfig)
def score(config: ScoreConfig) -> ScoreResult:
    """Score teachers.

    Computes missing features of training rows, scores single teachers, sets of teachers and the
    untrained student's features, and writes ``score.json`` and ``score.html``. With torchrun, the
    processes share the extraction; then each scores, and the first one writes.

    Raises:
        AftError: If options, data or models are invalid, or if no linear model can be fitted on
            any teacher's features.
    """
    check(config)
    with separate_processes(config.device) as processes:
        return _score(config, processes)


def _score(config: ScoreConfig, processes: Processes) -> ScoreResult:
    out, first = out_folder(config), processes.rank == 0
    started = time.perf_counter()
    data = load_training_data(config)
    train = data.splits["train"]
    drawn = np.random.default_rng(config.seed).permutation(len(train))[: config.rows]
    samples = train.subset(np.sort(drawn))
    generator = np.random.default_rng([config.seed, 1])
    some = np.sort(generator.permutation(len(samples))[:MOST_KERNEL_ROWS])
    labels = torch.from_numpy(np.asarray(samples.labels))
    metric = choose_metric("auto", data.task, labels.numpy())
    balanced = metric == "balanced_accuracy"
    rows = ScoredRows(labels, data.task, torch.from_numpy(some), config.seed, balanced)
    if first:
        say([*data.lines(), f"scoring on {len(samples):,} of {len(train):,} training rows"])

    wanted = data.unlabelled
    everything = [train] if wanted is None else [train, wanted]
    teachers = read_teachers(config, samples, everything, processes)
    student = read_student(config, train, samples, data.task, processes.device)
    table, candidates = score_sets(teachers, rows)
    own: dict[str, Any] | None = None
    own_candidate = None
    if student is not None:
        own, probe = score_student(student, rows)
        own |= {"names": [student.name], "teachers": [], **student.facts}
        if probe is not None:
            own_candidate = Candidate((student.name,), (), own["dim"], probe)
    if not candidates:
        why = next(iter(table[0]["undefined"].values()))
        raise DataError(f"cannot score these teachers: {why}")
    layers = score_layers(config, teachers, table, samples, rows, processes)
    chance = chance_level(labels, data.task, balanced)
    advice = recommend(
        candidates,
        own_candidate,
        chance=chance,
        metric=metric,
        rows=len(samples),
        weights="random" if student is None else str(student.facts["weights"]),
        unlabelled=wanted is not None,
    )
    chosen = [one for one in teachers if one.spec in advice.teachers]
    cost = describe_cost(chosen, len(train), 0 if wanted is None else len(wanted))
    added = [cost] if advice.verdict != "don't" else []
    if half := say_more_labels(chosen, rows, advice.probe[0]):
        added.insert(0, half)
    advice = Recommendation(**{**vars(advice), "sentences": (*advice.sentences, *added)})
    document = {
        "version": __version__,
        "data": str(config.data),
        "task": {"kind": data.task.kind, "num_outputs": data.task.num_outputs},
        "metric": metric,
        "chance": chance,
        "rows": {
            "train": len(train),
            "unlabelled": 0 if wanted is None else len(wanted),
            "scored": len(samples),
            "compared": len(some),
        },
        "seed": config.seed,
        "folds": FOLDS,
        "teachers": [{"spec": one.spec, "name": one.name, **one.facts} for one in teachers],
        "table": table,
        "student": own,
        "similarity": compare_sources([*teachers, *([student] if student else [])], rows),
        "layers": layers,
        "recommendation": {**advice.to_dict(), "cost": cost},
        "seconds": round(time.perf_counter() - started, 1),
        "json": str(out / DOCUMENT),
        "report": str(out / PAGE),
    }
    if first:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / DOCUMENT, document, sealed=False)
        try:
            say([f"report: {write_score_report(out, document)}"])
        except AftError as error:  # no matplotlib
            say([f"no report: {error}"])
    return ScoreResult(document, advice, out, score_as_text(document))
