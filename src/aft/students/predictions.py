"""Prediction tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aft.data.samples import Samples
from aft.tasks import Task


def compare_with_labels(
    logits: NDArray[np.float32], samples: Samples, task: Task
) -> dict[str, list[Any]]:
    """Columns ``file``, ``label``, ``predicted``, ``probability``; for regression, per target.

    Rows with soft labels have no column ``label``.
    """
    labels = np.asarray(samples.labels)
    columns: dict[str, list[Any]] = {"file": list(samples.files)}
    predicted = prediction_columns(logits, task, all_probabilities=task.kind == "multilabel")
    if task.kind == "regression":
        columns |= {name: labels[:, i].tolist() for i, name in enumerate(task.names)}
        return columns | {f"predicted_{name}": values for name, values in predicted.items()}
    if task.kind == "classification" and labels.ndim == 2:
        return columns | {"predicted": predicted.pop("label"), **predicted}
    if task.kind == "classification":
        columns["label"] = [task.names[i] for i in labels]
    else:
        columns["label"] = ["|".join(np.asarray(task.names)[row > 0]) for row in labels]
    return columns | {"predicted": predicted.pop("label"), **predicted}


def prediction_columns(
    logits: NDArray[np.float32], task: Task, all_probabilities: bool = False
) -> dict[str, list[Any]]:
    """Columns of a prediction table.

    Args:
        logits: Outputs of the student, shape ``(n, num_outputs)``.
        task: The task.
        all_probabilities: Whether to add one probability column per class.

    Returns:
        ``label`` and ``probability``; for multilabel tasks all labels with a probability above
        0.5 and their probabilities, joined by ``|``. For regression one column per target.
    """
    if task.kind == "regression":
        return {name: logits[:, i].tolist() for i, name in enumerate(task.names)}
    probabilities = probabilities_of(logits, task)
    if task.kind == "classification":
        best = probabilities.argmax(axis=1)
        columns: dict[str, list[Any]] = {
            "label": [task.names[i] for i in best],
            "probability": [round(float(p), 6) for p in probabilities.max(axis=1)],
        }
    else:
        chosen = [np.flatnonzero(row > 0.5) for row in probabilities]
        columns = {
            "label": ["|".join(task.names[i] for i in some) for some in chosen],
            "probability": [
                "|".join(f"{row[i]:.6f}" for i in some)
                for row, some in zip(probabilities, chosen, strict=True)
            ],
        }
    if all_probabilities:
        columns |= {
            f"probability_{name}": [round(float(p), 6) for p in probabilities[:, i]]
            for i, name in enumerate(task.names)
        }
    return columns


def probabilities_of(logits: NDArray[np.float32], task: Task) -> NDArray[np.float64]:
    """The probability of each class, shape ``(n, num_classes)``; not for regression."""
    wide = logits.astype(np.float64)
    if task.kind == "multilabel":
        with np.errstate(over="ignore"):  # of labels that never occur: the probability is 0
            return np.asarray(1 / (1 + np.exp(-wide)))
    shifted = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def list_predictions(logits: NDArray[np.float32], task: Task) -> list[dict[str, Any]]:
    """One dictionary per row, as :meth:`aft.students.saved.SavedStudent.predict` returns them."""
    if task.kind == "regression":
        return [dict(zip(task.names, row, strict=True)) for row in logits.tolist()]
    found: list[dict[str, Any]] = []
    for row in probabilities_of(logits, task):
        if task.kind == "classification":
            found.append({"label": task.names[row.argmax()], "probability": float(row.max())})
        else:
            chosen = np.flatnonzero(row > 0.5)
            labels = [task.names[i] for i in chosen]
            found.append({"label": labels, "probability": row[chosen].tolist()})
    return found
