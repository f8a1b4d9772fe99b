"""Transferability: how well a teacher's features suit a task, from the stored features alone."""

from __future__ import annotations

from torch import Tensor

from aft.labels import Task
from aft.losses.logit_kd import fit_head
from aft.losses.logme import LogME, log_me

__all__ = ["LogME", "linear_probe", "log_me"]


def linear_probe(features: Tensor, labels: Tensor, new: Tensor, task: Task) -> Tensor:
    """What a linear model on features says of other rows: how much the features know of the task.

    For classification it is logistic regression (:func:`aft.losses.logit_kd.fit_head`); for
    targets and for several labels a sample, linear regression with the regularization that makes
    the targets most probable (:func:`log_me`). Every dimension is standardized.

    Args:
        features: ``(n, D)``, to learn from.
        labels: Their labels, as in :class:`aft.data.Samples`.
        new: ``(m, D)``, to be told.
        task: What the labels mean.

    Returns:
        ``(m, num_outputs)``, float32: logits, or targets in their own units. For several labels a
        sample their order alone means anything.

    Raises:
        InputError: If features or labels are not usable, for example all of one class.
    """
    if task.kind == "classification":
        head = fit_head(features, labels, num_classes=task.num_outputs)
        return (new.to(head.weight) @ head.weight.T + head.bias).float()
    features, new, targets = features.double(), new.double(), labels.double()
    mean, std, middle = features.mean(0), features.std(0, correction=0), targets.mean(0)
    scale = (std > 1e-6 * mean.abs() + 1e-12) / std.clamp_min(1e-12)
    weights = log_me((features - mean) * scale, targets - middle).mean_weights
    return ((new - mean) * scale @ weights.T + middle).float()
