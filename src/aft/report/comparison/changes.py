"""Predictions that differ between a method and the labels alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aft.errors import AftError, DataError
from aft.report.cards import show_input
from aft.report.comparison.text import ALONE, leader
from aft.report.rendering import MOST_MATRIX_CLASSES, confusion_context
from aft.report.tables import Changes, confusion, difference_rows, find_changes
from aft.training.run_folder import Run, read_run

if TYPE_CHECKING:
    from aft.report.cards import Part

    OpenFile = Callable[[str], Part | dict[str, Part]]

MOST_EXAMPLES = 12


def changes_context(
    folder: Path, document: Mapping[str, Any], open_file: OpenFile | None
) -> dict[str, Any] | None:
    """Compare the labels alone with the recommended method, over the seeds of both.

    Of several settings, the first one with the largest share of train is used.

    Args:
        folder: The comparison's folder.
        document: The result of :func:`aft.commands.compare.compare`.
        open_file: Returns the input of a row by its name in ``evaluation.parquet``.

    Returns:
        None if the task has no classes, or there are no predictions to compare.
    """
    if document["task"] != "classification":
        return None
    setting = max(document["settings"], key=lambda one: one["fraction"])
    method = leader(setting)
    if method is None:
        return None
    before, after = _pairs(folder, setting["methods"], method)
    if not before:
        return None
    changes = find_changes(before, after)
    return {
        "method": method,
        "recommended": method == setting["best"]["method"],
        "setting": setting["name"],
        "seeds": len(before),
        "confusion": _confusion(before, after),
        "changes": changes,
        "groups": _groups(method, changes, open_file) if changes and open_file else [],
        "modalities": after[0].modalities,
    }


def _pairs(
    folder: Path, methods: Mapping[str, Mapping[str, Any]], method: str
) -> tuple[list[Run], list[Run]]:
    """Runs of the labels alone and of a method with the same seeds and with predictions."""
    found: list[dict[int, Run]] = []
    for name in (ALONE, method):
        runs = {}
        for run in methods[name]["runs"]:
            try:
                runs[run["seed"]] = read_run(folder / run["folder"])
            except DataError:
                continue
        found.append({seed: run for seed, run in runs.items() if "predicted" in run.rows})
    shared = sorted(found[0].keys() & found[1].keys())
    return [found[0][seed] for seed in shared], [found[1][seed] for seed in shared]


def _confusion(before: Sequence[Run], after: Sequence[Run]) -> dict[str, Any]:
    """Confusion matrix of the method over all seeds, and its difference from the labels alone."""
    alone, helped = (np.sum([confusion(run) for run in runs], axis=0) for runs in (before, after))
    context = confusion_context(after[0], helped)
    if len(context["names"]) <= MOST_MATRIX_CLASSES:
        context["difference"] = difference_rows(helped - alone)
    return context


def _groups(method: str, changes: Changes, open_file: OpenFile) -> list[dict[str, Any]]:
    """Inputs whose prediction the method corrected or broke, selected by the same rule."""
    groups = []
    for title, rows, other in (
        (f"Correct only with {method}", changes.gains, "labels alone"),
        ("Correct only with the labels alone", changes.losses, method),
    ):
        cards = [
            {
                "file": row["file"],
                "true": f"true: {row['label']}",
                "said": f"{other}: {row['other']}",
                "seeds": row["seeds"],
                "parts": _show(open_file, row["file"]),
            }
            for row in rows[:MOST_EXAMPLES]
        ]
        groups.append({"title": title, "total": len(rows), "cards": cards})
    return groups


def _show(open_file: OpenFile, file: str) -> list[dict[str, Any]] | None:
    def open_input(_: int) -> Part | dict[str, Part]:
        try:
            return open_file(file)
        except KeyError:
            raise AftError(f"expected a row {file!r}, found none") from None

    return show_input(open_input, 0)
