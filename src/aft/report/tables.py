"""Tables of a report: confusion matrix, scores per class, changed predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aft.metrics import compute_metrics
from aft.tasks import Task
from aft.training.run_folder import Run

REGRESSION = Task("regression", ("target",))


def confusion(run: Run) -> NDArray[np.int64]:
    """Counts ``(num_classes, num_classes)``: true class by row, predicted class by column."""
    from sklearn.metrics import confusion_matrix

    true, predicted = run.rows["label"], run.rows["predicted"]
    return np.asarray(confusion_matrix(true, predicted, labels=list(run.task.names)), np.int64)


def matrix_rows(counts: NDArray[np.int64]) -> list[list[tuple[int, float]]]:
    """Count of each cell, and its share of the row (0 to 1)."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return [
        [(int(count), round(float(share), 3)) for count, share in zip(*row, strict=True)]
        for row in zip(counts, shares, strict=True)
    ]


def difference_rows(difference: NDArray[np.int64]) -> list[list[tuple[int, float]]]:
    """Difference of each cell, and its effect: 0 to 1 is an improvement, -1 to 0 is a loss."""
    good = np.where(np.eye(len(difference), dtype=bool), difference, -difference)
    scaled = good / max(1, int(np.abs(good).max()))
    return [
        [(int(count), round(float(share), 3)) for count, share in zip(*row, strict=True)]
        for row in zip(difference, scaled, strict=True)
    ]


def most_confused(
    counts: NDArray[np.int64], names: Sequence[str], most: int = 20
) -> list[dict[str, Any]]:
    """The most frequent mistakes: true and predicted class, count, share of the true class."""
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(flat), len(counts)) for flat in order]
    totals = counts.sum(axis=1)
    return [
        {
            "true": names[i],
            "predicted": names[j],
            "count": int(wrong[i, j]),
            "share": float(wrong[i, j] / totals[i]),
        }
        for i, j in pairs
        if wrong[i, j]
    ]


def class_scores(run: Run, counts: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Rows, recall and precision of each class, by ascending recall, absent classes last."""
    trained = (run.data.get("rows_per_class") or {}).get("train") or {}
    found = [
        {
            "name": name,
            "trained": trained.get(name),
            "rows": int(counts[i].sum()),
            "recall": float(counts[i, i] / counts[i].sum()) if counts[i].any() else None,
            "precision": float(counts[i, i] / counts[:, i].sum()) if counts[:, i].any() else None,
        }
        for i, name in enumerate(run.task.names)
    ]
    return sorted(found, key=lambda row: 2.0 if row["recall"] is None else row["recall"])


def label_scores(run: Run) -> list[dict[str, Any]]:
    """Name, rows and average precision (None without rows) of each label, in ascending order."""
    from sklearn.metrics import average_precision_score

    true = [set(value.split("|")) for value in run.rows["label"]]
    found: list[dict[str, Any]] = []
    for name in run.task.names:
        relevant = np.asarray([name in labels for labels in true])
        outputs = run.rows[f"probability_{name}"]
        score = float(average_precision_score(relevant, outputs)) if relevant.any() else None
        found.append({"name": name, "rows": int(relevant.sum()), "score": score})
    return sorted(found, key=lambda row: 2.0 if row["score"] is None else row["score"])


def target_scores(run: Run) -> list[dict[str, Any]]:
    """R², RMSE and MAE of each regression target, with its true and predicted values."""
    found = []
    for name in run.task.names:
        true = np.asarray(run.rows[name], dtype=np.float64)
        predicted = np.asarray(run.rows[f"predicted_{name}"], dtype=np.float64)
        metrics = compute_metrics(predicted[:, None], true[:, None], REGRESSION)
        score = {key: None if np.isnan(value) else value for key, value in metrics.items()}
        found.append({"name": name, **score, "true": true, "predicted": predicted})
    return found


@dataclass(frozen=True)
class Changes:
    """Predictions that transfer corrected and that it broke, over all seeds.

    Attributes:
        both, gained, lost, neither: Number of predictions that are correct with and without
            transfer, only with it, only without it, and never; summed over seeds.
        gains, losses: Changed rows of the final split, sorted by the number of seeds. Each has its
            position, file, class, most frequent wrong class and number of seeds.
    """

    both: int
    gained: int
    lost: int
    neither: int
    gains: list[dict[str, Any]]
    losses: list[dict[str, Any]]


def find_changes(baseline: Sequence[Run], transfer: Sequence[Run]) -> Changes | None:
    """Compare the predictions of paired runs; rows are matched by file.

    Returns:
        None if the runs share no rows.
    """
    files = list(transfer[0].rows.get("file", ()))
    tables = [
        {
            file: (label, predicted)
            for file, label, predicted in zip(
                run.rows.get("file", ()),
                run.rows.get("label", ()),
                run.rows.get("predicted", ()),
                strict=True,
            )
        }
        for run in (*baseline, *transfer)
    ]
    shared = [(i, file) for i, file in enumerate(files) if all(file in table for table in tables)]
    if not shared:
        return None
    totals: Counter[tuple[bool, bool]] = Counter()
    gains, losses = [], []
    for position, file in shared:
        label = tables[0][file][0]
        without = [table[file][1] for table in tables[: len(baseline)]]
        with_it = [table[file][1] for table in tables[len(baseline) :]]
        cases = list(zip(without, with_it, strict=True))
        totals.update((a == label, b == label) for a, b in cases)
        gained = [a for a, b in cases if a != label and b == label]
        lost = [b for a, b in cases if a == label and b != label]
        row = {"position": position, "file": file, "label": label}
        if len(gained) > len(lost):
            other = Counter(gained).most_common(1)[0][0]
            gains.append({**row, "other": other, "seeds": len(gained) - len(lost)})
        elif len(lost) > len(gained):
            other = Counter(lost).most_common(1)[0][0]
            losses.append({**row, "other": other, "seeds": len(lost) - len(gained)})
    for rows in (gains, losses):
        rows.sort(key=lambda row: -int(row["seeds"]))
    return Changes(
        totals[True, True],
        totals[False, True],
        totals[True, False],
        totals[False, False],
        gains,
        losses,
    )
