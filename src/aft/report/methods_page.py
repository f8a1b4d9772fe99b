"""The page that compares several methods over the same seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from aft.report.folder import Run, read_run
from aft.report.methods_plots import draw_errors, draw_points
from aft.report.methods_text import HEADINGS, introduction, method_rows, probe_rows
from aft.report.plots import draw_mean_curves
from aft.report.rendering import metric_name, render


def render_methods(folder: Path, document: Mapping[str, Any]) -> str:
    """The page as HTML; arguments as in :func:`aft.report.write_methods_report`."""
    methods = document["methods"]
    return render(
        "methods.html.j2",
        title=f"{len(methods)} methods compared: {Path(document['data']).name}",
        document=document,
        metric=metric_name(document["metric"]),
        introduction=introduction(document),
        errors=draw_errors(methods),
        points=draw_points(methods, metric_name(document["metric"])),
        curves=_curves(folder, methods),
        headings=HEADINGS,
        rows=method_rows(document),
        probes=probe_rows(document),
        searched={name: values["search"] for name, values in methods.items() if values["search"]},
    )


def _curves(folder: Path, methods: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """For each method its mean learning curve beside that of the labels alone."""
    runs = {name: _read(folder, values["runs"]) for name, values in methods.items()}
    charts = []
    for name, own in runs.items():
        if name == "alone" or not own or not runs["alone"]:
            continue
        metric = own[0].main_metric
        alone, helped = (
            [run.curve("validation", metric) for run in those] for those in (runs["alone"], own)
        )
        if all(len(steps) for steps, _ in (*alone, *helped)):
            charts.append((name, draw_mean_curves(alone, helped, metric_name(metric), name)))
    return charts


def _read(folder: Path, runs: list[dict[str, Any]]) -> list[Run]:
    return [read_run(folder / run["folder"]) for run in runs if "error" not in run]
