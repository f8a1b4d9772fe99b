"""The report page of `aft compare`: several methods with the same seeds, one or more settings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from aft.config.groups import EQUAL_STEPS, LABELS_ONLY
from aft.errors import DataError
from aft.metrics import metric_words
from aft.report.comparison.changes import changes_context
from aft.report.comparison.costs import COST_HEADINGS, cost_rows, cost_sentence
from aft.report.comparison.overview import draw_fractions, draw_probes, effects
from aft.report.comparison.plots import draw_errors, draw_points, draw_times
from aft.report.comparison.text import (
    ALONE,
    CEILING_HEADINGS,
    CEILINGS,
    HEADINGS,
    INSTEAD,
    RUNS_NOTE,
    all_methods,
    baselines,
    ceiling_rows,
    gated,
    introduction,
    method_name,
    method_rows,
    other_metrics,
    overview_headings,
    overview_rows,
    read_shares,
    remarkable,
    run_headings,
    run_rows,
    searched,
    shares_sentence,
    shorten,
    warnings,
)
from aft.report.plots import draw_mean_curves
from aft.report.rendering import render
from aft.report.run_page import gate_charts
from aft.training.run_folder import Run, read_run

if TYPE_CHECKING:
    from aft.report.comparison.changes import OpenFile


def render_methods(
    folder: Path, document: Mapping[str, Any], open_file: OpenFile | None = None
) -> str:
    """Render the page as HTML; arguments as in :func:`aft.report.write_methods_report`."""
    document = shorten(document)
    settings, metric = document["settings"], metric_words(document["metric"])
    names = [name for name in all_methods(settings) if name != EQUAL_STEPS]
    page = render(
        "methods.html.j2",
        title=f"{len(names)} methods compared: {Path(document['data']).name or document['data']}",
        document=document,
        number_of_methods=len(names),
        metric=metric,
        tone=_tone(settings),
        introduction=introduction(document),
        settings=[_setting(folder, setting, metric, document) for setting in settings],
        overview_headings=overview_headings(document),
        number_of_columns=len(all_methods(settings)),
        overview=overview_rows(document) if len(settings) > 1 else [],
        fractions=draw_fractions(document, metric),
        warnings=_warnings(document) if len(settings) > 1 else [],
        effects=effects(document),
        probes=draw_probes(document, metric),
        costs=cost_rows(document),
        cost_headings=COST_HEADINGS,
        cost_sentence=cost_sentence(document),
        changed=changes_context(folder, document, open_file),
        headings=HEADINGS,
        run_headings=run_headings(document),
        runs_note=RUNS_NOTE,
        instead=INSTEAD,
        method_name=method_name,
        steps=_steps(settings),
        ceiling_headings=CEILING_HEADINGS,
        ceilings_note=CEILINGS,
    )
    numbers = itertools.count()
    return re.sub(
        "<svg .*?</svg>", lambda chart: _own_ids(chart[0], next(numbers)), page, flags=re.DOTALL
    )


def _own_ids(chart: str, number: int) -> str:
    """Make the ids of a chart unique: two settings may have identical charts."""
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>c{number}-", chart)


def _warnings(document: Mapping[str, Any]) -> list[str]:
    """The warnings of all settings, with the names of the settings."""
    return [
        f"{setting['name']}: {sentence}"
        for setting in document["settings"]
        for sentence in warnings(setting, document["metric"])
    ]


def _steps(settings: list[Mapping[str, Any]]) -> str:
    """The numbers of steps of all methods, e.g. ``100, 300``."""
    found = {
        values.get("steps", setting["steps"])
        for setting in settings
        for values in setting["methods"].values()
    }
    return ", ".join(f"{steps:,}" for steps in sorted(found - {None}))


def _tone(settings: list[Mapping[str, Any]]) -> str:
    """Colour of the sentence at the top.

    Grey unless all settings have the same outcome and no baseline has a higher mean.
    """
    if any(setting["best"].get("better_baseline") for setting in settings):
        return "unclear"
    outcomes = {setting["best"]["outcome"] for setting in settings}
    found = outcomes.pop() if len(outcomes) == 1 else None
    return found if found in ("better", "worse") else "unclear"


def _setting(
    folder: Path, setting: Mapping[str, Any], metric: str, document: Mapping[str, Any]
) -> dict[str, Any]:
    """Template context of one setting."""
    methods, beside, metric_key = setting["methods"], baselines(setting), document["metric"]
    runs = {name: _read(folder, values["runs"]) for name, values in methods.items()}
    shares = read_shares(folder, setting)
    own = gated(methods)
    return {
        "setting": setting,
        "errors": draw_errors(methods, beside),
        "points": draw_points(methods, beside, metric),
        "times": draw_times(methods, metric),
        "curves": _curves(runs),
        "rows": method_rows(setting),
        "baselines": bool(beside),
        "runs": run_rows(document, setting),
        "verdicts": remarkable(setting),
        "warnings": warnings(setting, metric_key),
        "other_metrics": other_metrics(setting, metric_key),
        "ceilings": ceiling_rows(setting),
        "searched": searched(setting),
        "gated": own,
        "gates": gate_charts(runs[own]) if own and runs.get(own) else [],
        "shares": shares,
        "shares_sentence": shares_sentence(shares) if shares else "",
    }


def _curves(runs: Mapping[str, list[Run]]) -> list[tuple[str, Markup]]:
    """Mean learning curve of each method and of the labels alone."""
    charts = []
    for name, own in runs.items():
        if name in LABELS_ONLY or not own or not runs[ALONE]:
            continue
        metric = own[0].main_metric
        alone, helped = (
            [run.curve("validation", metric) for run in those] for those in (runs[ALONE], own)
        )
        if all(len(steps) for steps, _ in (*alone, *helped)):
            charts.append((name, draw_mean_curves(alone, helped, metric_words(metric), name)))
    return charts


def _read(folder: Path, runs: list[dict[str, Any]]) -> list[Run]:
    """Read the finished runs, without predictions to save memory."""
    found = []
    for run in runs:
        try:
            found.append(replace(read_run(folder / run["folder"]), rows={}))
        except DataError:  # failed or removed
            continue
    return found
