"""The page that compares runs without and with transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aft.comparison.statistics import PairedComparison
from aft.report import plots
from aft.report.cards import show_input
from aft.report.rendering import MOST_MATRIX_CLASSES, confusion_context, metric_name, render
from aft.report.run_page import gate_charts
from aft.report.tables import Changes, confusion, difference_rows, find_changes
from aft.training.run_folder import Run

if TYPE_CHECKING:
    from aft.report.cards import OpenInput

MOST_EXAMPLES = 12


def render_comparison(
    *,
    title: str,
    introduction: str,
    baseline: Sequence[Run],
    transfer: Sequence[Run],
    comparison: PairedComparison,
    facts: Mapping[str, str],
    open_input: OpenInput | None,
) -> str:
    """The page as HTML; arguments as in :func:`aft.report.write_comparison_report`."""
    name = metric_name(comparison.metric)
    charts: dict[str, Any] = {"pairs": plots.draw_pairs(comparison, name), "curves": None}
    alone, helped = (
        [run.curve("validation", run.main_metric) for run in runs] for runs in (baseline, transfer)
    )
    if all(len(steps) for steps, _ in (*alone, *helped)):
        chosen_by = metric_name(transfer[0].main_metric)
        charts["curves"] = plots.draw_mean_curves(alone, helped, chosen_by)
    labelled = transfer[0].task.kind == "classification" and all(
        run.rows for run in (*baseline, *transfer)
    )
    changes = find_changes(baseline, transfer) if labelled else None
    return render(
        "comparison.html.j2",
        title=title,
        paragraphs=[part.strip() for part in introduction.split("\n\n") if part.strip()],
        comparison=comparison,
        metric=name,
        alone=sum(comparison.baseline) / len(comparison.baseline),
        helped=sum(comparison.treated) / len(comparison.treated),
        baseline=baseline,
        transfer=transfer,
        charts=charts,
        gates=gate_charts(list(transfer)),
        confusion=_confusion(baseline, transfer) if labelled else None,
        changes=changes,
        groups=_groups(changes, open_input) if changes and open_input else [],
        facts=facts,
        modalities=transfer[0].modalities,
    )


def _confusion(baseline: Sequence[Run], transfer: Sequence[Run]) -> dict[str, Any]:
    """The matrix with transfer over all seeds, and how it differs from the one without."""
    before, after = (
        np.sum([confusion(run) for run in runs], axis=0) for runs in (baseline, transfer)
    )
    context = confusion_context(transfer[0], after)
    if len(context["names"]) <= MOST_MATRIX_CLASSES:
        context["difference"] = difference_rows(after - before)
    return context


def _groups(changes: Changes, open_input: OpenInput) -> list[dict[str, Any]]:
    """Inputs that transfer made right and those it made wrong, chosen by the same rule."""
    groups = []
    for title, rows, other in (
        ("Right only with transfer", changes.gains, "alone"),
        ("Right only without transfer", changes.losses, "with transfer"),
    ):
        cards = [
            {
                "file": row["file"],
                "true": f"is {row['label']}",
                "said": f"{other}: {row['other']}",
                "seeds": row["seeds"],
                "parts": show_input(open_input, row["position"]),
            }
            for row in rows[:MOST_EXAMPLES]
        ]
        groups.append({"title": title, "total": len(rows), "cards": cards})
    return groups
