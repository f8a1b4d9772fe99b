"""Upper bounds for a student: linear models on stored features, fitted after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aft.config.commands import TrainConfig
from aft.data.options import load_training_data
from aft.data.samples import Samples
from aft.devices import choose_device
from aft.features.stored import extract_teachers
from aft.metrics import compute_metrics
from aft.scoring.kernel_ridge import MOST_ROWS
from aft.scoring.measures import kernel_ridge, linear_probe
from aft.students.run_student import compute_logits
from aft.students.saved import SavedStudent
from aft.training.prepare import choose_prior
from aft.training.transfer_loss import MOST_FITTED_ROWS

WEIGHTS = tuple(i / 10 for i in range(11))
"""Weights of the student beside its teachers that are tried on the validation rows."""


def score_ceilings(
    options: TrainConfig, split: str, metric: str, student: Path
) -> list[dict[str, Any]]:
    """Score models on the features of each teacher, of all, and of all with a student.

    All are linear but one, a kernel ridge regression on all teachers. The one with the student is
    a ceiling like that of Residual Feature Integration, https://arxiv.org/abs/2505.11771: a linear
    layer on the features of a student and of its teachers side by side. It is the sum of the
    student's own last layer and of the linear model on all teachers; their weights are chosen on
    the validation rows, which neither has seen. The strength of all models is chosen by
    cross-validation on the training rows.

    Args:
        options: Options of a run: its data, seed and teachers.
        split: The split to score.
        metric: The metric to return; higher is better.
        student: Folder of a trained student on the same data.

    Returns:
        For each model its ``teachers``, whether it includes the ``student``, whether it is the
        kernel ``ridge``, and its ``score``. The last one is linear, on all teachers without the
        student.
    """
    data = load_training_data(options)
    train = data.splits["train"]
    device = choose_device(options.device)
    prior = choose_prior(options, train, data.task, metric)
    drawn = np.sort(np.random.default_rng(0).permutation(len(train))[:MOST_FITTED_ROWS])
    labels = torch.from_numpy(np.asarray(train.labels)[drawn])
    held_out = {name: data.splits[name] for name in dict.fromkeys((split, "validation"))}
    trained, *others = extract_teachers(options, [train, *held_out.values()], device)
    seen = [one.gather(drawn) for one in trained]
    new: dict[str, list[Tensor]] = {}
    for (name, samples), features in zip(held_out.items(), others, strict=True):
        for own, before in zip(features, trained, strict=True):
            own.missing = before.statistics().mean if not own.present.all() else None
        new[name] = [one.gather(np.arange(len(samples))) for one in features]

    def fit(group: Sequence[int], ridge: bool = False) -> dict[str, NDArray[Any]]:
        """Outputs for the held-out splits of a model on some teachers."""
        known = [seen[i] for i in group]
        unseen = [torch.cat([part[i] for part in new.values()]) for i in group]
        if ridge:
            some = np.random.default_rng(0).permutation(len(drawn))[:MOST_ROWS]
            outputs = kernel_ridge([x[some] for x in known], labels[some], unseen, data.task)
        else:
            outputs = linear_probe(torch.cat(known, 1), labels, torch.cat(unseen, 1), data.task)
        if prior is not None:
            outputs = outputs - prior
        sizes = [len(samples) for samples in held_out.values()]
        parts = (part.numpy() for part in outputs.split(sizes))
        return dict(zip(held_out, parts, strict=True))

    def score(outputs: NDArray[Any], name: str) -> float:
        return compute_metrics(outputs, np.asarray(held_out[name].labels), data.task)[metric]

    everyone = tuple(range(len(seen)))
    groups = [*((i,) for i in everyone), *([everyone] if len(seen) > 1 else [])]
    outputs = [fit(group) for group in groups]
    student_outputs = _run(options, student, held_out)

    def mix(weight: float, name: str) -> NDArray[Any]:
        return weight * student_outputs[name] + (1 - weight) * outputs[-1][name]

    best = max(
        WEIGHTS,
        key=lambda weight: np.nan_to_num(
            score(mix(weight, "validation"), "validation"), nan=-np.inf
        ),
    )
    found = [
        {
            "teachers": [options.teachers[i] for i in group],
            "student": False,
            "ridge": False,
            "score": score(own[split], split),
        }
        for group, own in zip(groups, outputs, strict=True)
    ]
    everything = {"teachers": list(options.teachers), "student": True, "ridge": False}
    joint = {**everything, "score": score(mix(best, split), split)}
    reader = {**everything, "student": False, "ridge": True}
    reader |= {"score": score(fit(everyone, ridge=True)[split], split)}
    return [joint, reader, *found]


def _run(
    options: TrainConfig, folder: Path, splits: Mapping[str, Samples]
) -> dict[str, NDArray[Any]]:
    """Outputs of a trained student for each split, ``(n, num_outputs)``."""
    saved = SavedStudent.load(folder, options.trust_remote_code or options.student)
    device = choose_device(options.device)
    return {
        name: compute_logits(
            saved.module.to(device),
            saved.inputs(samples),
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            device=device,
        )
        for name, samples in splits.items()
    }
