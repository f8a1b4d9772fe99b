"""Upper bounds for a student: linear models on stored features, fitted after training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aft.config.commands import TrainConfig
from aft.data.options import load_training_data
from aft.data.samples import Samples
from aft.devices import choose_device, choose_num_workers
from aft.features.stored import extract_teachers
from aft.metrics import compute_metrics
from aft.scoring.measures import linear_probe
from aft.students.run_student import run_student
from aft.students.saved import SavedStudent
from aft.training.transfer_loss import MOST_FITTED_ROWS


def score_ceilings(
    options: TrainConfig, split: str, metric: str, student: Path
) -> list[dict[str, Any]]:
    """Score linear models on the features of each teacher, of all, and of all with a student.

    The last one is the upper bound of Residual Feature Integration,
    https://arxiv.org/abs/2505.11771: a linear model on the concatenated features of a student and
    its teachers, which needs the teachers for every prediction. The regularization of each linear
    model is chosen by cross-validation on the training rows.

    Args:
        options: Options of a run: its data, seed and teachers.
        split: The split to score.
        metric: The metric to return.
        student: Folder of a trained student on the same data.

    Returns:
        For each linear model its ``teachers``, whether it includes the ``student``, and its
        ``score``.
    """
    data = load_training_data(options)
    train, scored = data.splits["train"], data.splits[split]
    rows = np.sort(np.random.default_rng(0).permutation(len(train))[:MOST_FITTED_ROWS])
    device = choose_device(options.device)
    trained = extract_teachers(options, train, device)
    others = extract_teachers(options, scored, device, may_lack=True)
    for own, before in zip(others, trained, strict=True):
        own.missing = before.statistics().mean if not own.present.all() else None
    seen = [one.gather(rows) for one in trained]
    new = [one.gather(np.arange(len(scored))) for one in others]
    groups: list[tuple[tuple[int, ...], bool]] = [((i,), False) for i in range(len(seen))]
    together = tuple(range(len(seen)))
    groups.insert(0, (together, True))
    groups += [(together, False)] if len(seen) > 1 else []
    own_features = [_run(options, student, part) for part in (train.subset(rows), scored)]
    labels = torch.from_numpy(np.asarray(train.labels)[rows])
    found = []
    for group, with_student in groups:
        parts = [[part[i] for i in group] for part in (seen, new)]
        if with_student:
            parts = [[own, *part] for own, part in zip(own_features, parts, strict=True)]
        features, unseen = (torch.cat(part, dim=1) for part in parts)
        outputs = linear_probe(features, labels, unseen, data.task)
        metrics = compute_metrics(outputs.numpy(), np.asarray(scored.labels), data.task)
        teachers = [options.teachers[i] for i in group]
        found.append({"teachers": teachers, "student": with_student, "score": metrics[metric]})
    return found


def _run(options: TrainConfig, folder: Path, samples: Samples) -> Tensor:
    """Features of a trained student, ``(n, dim)``."""
    saved = SavedStudent.load(folder, trust_remote_code=True)  # saved by this comparison
    device = choose_device(options.device)
    batches: Sequence[Any] = list(
        run_student(
            saved.module.to(device),
            saved.transform,
            samples.only(*(column.name for column in saved.columns)),
            batch_size=options.batch_size,
            num_workers=choose_num_workers(options.num_workers, device),
            device=device,
        )
    )
    return torch.cat([features.float().cpu() for _, features in batches])
