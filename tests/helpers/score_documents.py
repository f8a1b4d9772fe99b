"""A synthetic `score.json`: teachers of known quality, without data or models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from aft.scoring.measures import chance_level
from aft.scoring.recommendation import Candidate, recommend
from aft.scoring.teacher_sets import (
    FOLDS,
    FeatureSource,
    ScoredRows,
    compare_sources,
    score_parts,
    score_sets,
)
from aft.tasks import Task


def make_score_document(
    noises: Sequence[float] = (1.0, 3.0, 1.5),
    specs: Sequence[str] = (),
    student_noise: float | None = 2.5,
    layers: int = 0,
    rows: int = 120,
) -> dict[str, Any]:
    """A document with the keys that :func:`aft.commands.score.score` writes.

    Args:
        noises: One noise level per teacher; more noise means less information about the classes.
        specs: Names of the teachers.
        student_noise: Noise level of the student; None for no student.
        layers: Number of scored layers of the first teacher.
        rows: Number of rows.
    """
    specs = specs or [f"timm:teacher_{i}?size=96" for i in range(len(noises))]
    generator = torch.Generator().manual_seed(0)
    task, labels = Task("classification", ("a", "b", "c")), torch.arange(rows) % 3
    scored = ScoredRows(labels, task, torch.arange(rows), 0)

    def features(noise: float, dim: int = 16) -> torch.Tensor:
        centres = torch.randn(3, dim, generator=generator)
        return centres[labels] + noise * torch.randn(rows, dim, generator=generator)

    facts = {"rows_computed": rows, "seconds": 3.2, "rows_left": 40, "seconds_left": 1.1}
    facts |= {"rows_without_input": 0, "layers": None, "notes": ["A note on long texts."]}
    sources = [
        FeatureSource(
            spec, spec.partition(":")[2].partition("?")[0], features(noise), {"dim": 16, **facts}
        )
        for spec, noise in zip(specs, noises, strict=True)
    ]
    table, candidates = score_sets(sources, scored)
    student: dict[str, Any] | None = None
    own: list[FeatureSource] = []
    own_candidate = None
    if student_noise is not None:
        name = "student before training"
        own = [FeatureSource("small:cnn", name, features(student_noise), {})]
        student, probe = score_parts([own[0].values], scored)
        student |= {"names": [name], "teachers": [], "spec": "small:cnn", "weights": "random"}
        assert probe is not None
        own_candidate = Candidate((name,), (), 16, probe)
    chance = chance_level(labels, task)
    advice = recommend(candidates, own_candidate, chance=chance, metric="accuracy", rows=rows)
    found = []
    for number in range(1, layers + 1):
        row, _ = score_parts([features(4.0 / number)], scored)
        found.append({"layer": number, "names": [f"layer {number}"], "teachers": [], **row})
    return {
        "version": "0",
        "data": "/data/in/a/deep/folder/flowers",
        "task": {"kind": "classification", "num_outputs": 3},
        "metric": "accuracy",
        "chance": chance,
        "rows": {"train": 160, "unlabelled": 30, "scored": rows, "compared": 100},
        "seed": 0,
        "folds": FOLDS,
        "teachers": [{"spec": one.spec, "name": one.name, **one.facts} for one in sources],
        "table": table,
        "student": student,
        "similarity": compare_sources([*sources, *own], scored),
        "layers": [{"teacher": specs[0], "name": sources[0].name, "layers": found}] * bool(layers),
        "recommendation": {**advice.to_dict(), "cost": "Cost: none."},
        "seconds": 12.0,
        "json": "score.json",
        "report": "score.html",
    }
