"""What a student of words and word pairs knows when training begins: its linear start."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from aft.linear.rows import PreparedRows
from aft.linear.start import start_linear
from aft.scoring.measures import assign_task_folds
from aft.students.run_student import compute_logits
from aft.students.student import Student
from aft.tasks import Task

_HELD_OUT = 0.1  # share of the rows that choose the strength of the regularization


def predict_from_start(
    student: Student, rows: PreparedRows, task: Task, *, folds: int, seed: int
) -> Tensor:
    """Predict each row by the linear model that training would start from without it.

    Args:
        student: A student whose backbone is :class:`aft.backbones.ngrams.NgramNetwork`.
        rows: The labelled rows.
        task: The task.
        folds: Number of folds.
        seed: Seed of the folds.

    Returns:
        ``(n, num_outputs)``, outputs of the student.
    """
    labels = torch.from_numpy(np.asarray(rows.samples.labels))
    fold = assign_task_folds(labels, task, min(folds, len(labels)), seed).numpy()
    found = torch.zeros(len(labels), task.num_outputs)
    rng = np.random.default_rng(seed)
    for number in range(int(fold.max()) + 1):
        others = rng.permutation(np.flatnonzero(fold != number))
        few = max(1, round(_HELD_OUT * len(others)))
        judged, known, new = (
            replace(rows, samples=rows.samples.subset(np.sort(places)))
            for places in (others[:few], others[few:], np.flatnonzero(fold == number))
        )
        own = deepcopy(student)
        start_linear(own, task, known, judged)
        found[fold == number] = torch.from_numpy(
            compute_logits(own, new.inputs, device=torch.device("cpu"))
        )
    return found
