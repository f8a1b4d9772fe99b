"""All scores of all sets of teachers on the same rows, with the time of each score."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aft.errors import InputError
from aft.losses.logme import log_me
from aft.scoring.measures import (
    Probe,
    assign_task_folds,
    cross_validate_probe,
    debiased_cka,
    join_features,
    judge_predictions,
    kernel_ridge_score,
    label_alignment,
    nearest_neighbours,
    tmi,
)
from aft.scoring.recommendation import Candidate
from aft.tasks import Task

FOLDS = 5
MOST_WHOLE_SEARCH = 4
"""Up to this number of teachers all sets are scored; for more, sets grow greedily."""


@dataclass
class FeatureSource:
    """A model and its features of the scored rows.

    Attributes:
        spec: The model as given by the user.
        name: Display name.
        values: Its features, float32 ``(n, dim)``.
        facts: Further facts for the report, as JSON values.
        outputs: ``(n, num_outputs)``, predictions of rows by models fitted without them, of a
            student that starts from a linear model; they are scored instead of a linear model on
            the features, which are fitted to the labels.
    """

    spec: str
    name: str
    values: Tensor
    facts: dict[str, Any]
    outputs: Tensor | None = None


@dataclass
class ScoredRows:
    """The rows that are scored.

    Attributes:
        labels: As in :class:`aft.data.Samples`.
        task: The task of the labels.
        some: Indices of the rows for scores that compare all pairs of rows.
        seed: Seed of the folds.
        balanced: For classes, whether scores are balanced accuracy.
    """

    labels: Tensor
    task: Task
    some: Tensor
    seed: int
    balanced: bool = False


def score_sets(
    teachers: Sequence[FeatureSource], rows: ScoredRows
) -> tuple[list[dict[str, Any]], list[Candidate]]:
    """Scores of each teacher and of sets of teachers, and the candidates with a defined probe."""
    table: list[dict[str, Any]] = []
    probes: dict[tuple[int, ...], Probe] = {}

    def add(chosen: tuple[int, ...]) -> float:
        row, probe = score_parts([teachers[i].values for i in chosen], rows)
        names = [teachers[i].name for i in chosen]
        table.append({"names": names, "teachers": [teachers[i].spec for i in chosen], **row})
        if probe is not None:
            probes[chosen] = probe
        return -math.inf if probe is None else probe.score

    every = tuple(range(len(teachers)))
    if len(teachers) <= MOST_WHOLE_SEARCH:
        for size in range(1, len(teachers) + 1):
            for chosen in itertools.combinations(every, size):
                add(chosen)
    else:
        alone = {i: add((i,)) for i in every}
        best: tuple[int, ...] = (max(alone, key=lambda i: alone[i]),)
        reached = alone[best[0]]
        while len(best) < len(teachers):
            grown = {
                tuple(sorted((*best, i))): _try_probe(
                    [teachers[j].values for j in (*best, i)], rows
                )
                for i in every
                if i not in best
            }
            best = max(grown, key=lambda chosen: grown[chosen])
            if grown[best] <= reached:
                break
            reached = add(best)
        if every not in probes:
            add(every)
    candidates = [
        Candidate(
            tuple(teachers[i].name for i in chosen),
            tuple(teachers[i].spec for i in chosen),
            sum(teachers[i].values.shape[1] for i in chosen),
            probe,
        )
        for chosen, probe in probes.items()
    ]
    return table, candidates


def _cross_validate(features: Tensor, rows: ScoredRows) -> Probe:
    labels, task, balanced = rows.labels, rows.task, rows.balanced
    return cross_validate_probe(
        features, labels, task, folds=FOLDS, seed=rows.seed, balanced=balanced
    )


def _try_probe(parts: Sequence[Tensor], rows: ScoredRows) -> float:
    try:
        features = join_features(parts)
        found = _cross_validate(features, rows)
    except InputError:
        return -math.inf
    return found.score


def score_student(student: FeatureSource, rows: ScoredRows) -> tuple[dict[str, Any], Probe | None]:
    """As :func:`score_parts`, for the student; only the probe if it starts from a linear model."""
    if student.outputs is None:
        return score_parts([student.values], rows)
    started = time.perf_counter()
    labels, task, balanced = rows.labels, rows.task, rows.balanced
    probe = judge_predictions(student.outputs, labels, task, seed=rows.seed, balanced=balanced)
    defined = math.isfinite(probe.score)
    row = {
        "dim": student.values.shape[1],
        **dict.fromkeys(("ridge", "neighbours", "alignment", "log_me", "tmi")),
        "probe": probe.score if defined else None,
        "probe_se": probe.se if defined else None,
        "undefined": {},
        "seconds": {"probe": round(time.perf_counter() - started, 3)},
    }
    return row, probe if defined else None


def score_parts(parts: Sequence[Tensor], rows: ScoredRows) -> tuple[dict[str, Any], Probe | None]:
    """All scores of the concatenated features, reasons for undefined scores, and times."""
    labels, task = rows.labels, rows.task
    joined, raw = join_features(parts), torch.cat(list(parts), dim=1)
    some, some_labels = joined[rows.some], labels[rows.some]
    published = raw if len(parts) == 1 else joined
    probe: Probe | None = None

    def fit_probe() -> float:
        nonlocal probe
        found = _cross_validate(joined, rows)
        if math.isfinite(found.score):
            probe = found
        return found.score

    def evidence() -> float:
        if task.kind == "classification":
            return log_me(published, labels, num_classes=task.num_outputs).score
        if task.kind == "multilabel":
            return log_me(published, labels).score
        centred = published.double()
        return log_me(centred - centred.mean(0), labels - labels.mean(0)).score

    def entropy() -> float:
        found = tmi(raw[rows.some], some_labels)
        if found.floored > 0.5:
            raise InputError("most distances are below the minimum distance of TMI")
        return found.score

    values: dict[str, float | None] = {}
    undefined: dict[str, str] = {}
    seconds: dict[str, float] = {}
    functions: dict[str, Callable[[], float]] = {
        "probe": fit_probe,
        "ridge": lambda: kernel_ridge_score(
            [part[rows.some] for part in parts], some_labels, task, rows.balanced
        ),
        "neighbours": lambda: nearest_neighbours(some, some_labels, task, balanced=rows.balanced),
        "alignment": lambda: label_alignment(some, some_labels, task),
        "log_me": evidence,
        "tmi": entropy,
    }
    for name, function in functions.items():
        start = time.perf_counter()
        try:
            value = function()
            if not math.isfinite(value):
                undefined[name] = "the score is not finite because the labels are constant"
        except InputError as error:
            value, undefined[name] = math.nan, str(error)
        values[name] = value if math.isfinite(value) else None
        seconds[name] = round(time.perf_counter() - start, 3)
    row = {
        "dim": joined.shape[1],
        **values,
        "probe_se": None if probe is None else probe.se,
        "undefined": undefined,
        "seconds": seconds,
    }
    return row, probe


def say_more_labels(
    teachers: Sequence[FeatureSource], rows: ScoredRows, score: float
) -> str | None:
    """What more labels may bring, from the mean score on two halves of the rows.

    None if that is undefined, or if halves would lack a class of a balanced score.

    Args:
        teachers: The recommended teachers.
        rows: The scored rows.
        score: The score of their probe on all rows.
    """
    if rows.balanced and (rows.labels.bincount() == 1).any():  # halves would lack classes
        return None
    half = assign_task_folds(rows.labels, rows.task, 2, rows.seed)
    scores = [
        _try_probe([one.values[mine] for one in teachers], replace(rows, labels=rows.labels[mine]))
        for mine in (half == 0, half == 1)
    ]
    before = sum(scores) / 2
    if not math.isfinite(before):
        return None
    return (
        f"From half of these labels to all of them the score of the teachers changed by "
        f"{score - before:+.3f}; twice as many labels may change it as much again."
    )


def compare_sources(sources: Sequence[FeatureSource], rows: ScoredRows) -> dict[str, Any]:
    """Similarity of the models' features: debiased CKA of each pair."""
    values = np.eye(len(sources))
    if len(rows.some) >= 4:
        for i, j in itertools.combinations(range(len(sources)), 2):
            pair = (sources[i].values[rows.some], sources[j].values[rows.some])
            values[i, j] = values[j, i] = debiased_cka(*pair)
    return {
        "names": [one.name.removesuffix(" before training") for one in sources],
        "values": values.round(4).tolist(),
    }
