"""Folds of cross-validation."""

from __future__ import annotations

import torch
from torch import Tensor


def assign_folds(groups: Tensor, folds: int, seed: int) -> Tensor:
    """Fold of each row, stratified by group.

    The only row of a group gets -1 and is never held out, so every class has training rows in
    every fold. With fewer rows than folds there are fewer folds.
    """
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    order = order[groups[order].argsort(stable=True)]
    order = order[groups.bincount()[groups[order]] > 1]
    number = torch.full((len(groups),), -1)
    number[order] = torch.arange(len(order)) % max(1, min(folds, len(order)))
    return number
