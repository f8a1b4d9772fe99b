"""The report page of `aft score`: recommendation, scores, and similarity of the models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aft.backbones.specs import shorten_paths
from aft.metrics import metric_words
from aft.report.rendering import render
from aft.report.score.plots import draw_layers, draw_probes, ranked
from aft.report.score.text import SCORES, cells, headings, notes, reasons

TONES = {"use": "better", "unclear": "unclear", "don't": "worse"}
LAYER_CHARTS = ("probe", "alignment", "log_me")


def render_score(document: Mapping[str, Any]) -> str:
    """Render the page as HTML.

    Args:
        document: The contents of ``score.json``.
    """
    document = json.loads(shorten_paths(json.dumps(document, ensure_ascii=False)))
    metric = metric_words(document["metric"])
    rows = ranked(document)
    name = document["data"].rstrip("/").rpartition("/")[2]
    likeness = document["similarity"]
    return render(
        "score.html.j2",
        title=f"Teacher scores on {name}",
        document=document,
        metric=metric,
        tone=TONES[document["recommendation"]["verdict"]],
        sentences=document["recommendation"]["sentences"],
        headings=headings(document),
        rows=[cells(row) for row in rows],
        student=cells(document["student"]) if document["student"] else None,
        empty=len(SCORES),
        probes=draw_probes(document, metric),
        likeness=_heat(likeness) if len(likeness["names"]) > 1 else None,
        layers=[_layers(teacher, metric) for teacher in document["layers"]],
        notes=[*notes(document), *reasons(document)],
    )


def _heat(likeness: Mapping[str, Any]) -> dict[str, Any]:
    """Names, and the similarity of each pair as text and as a shade."""
    return {
        "names": likeness["names"],
        "rows": [
            [(f"{value:.2f}", min(max(value, 0.0), 1.0)) for value in row]
            for row in likeness["values"]
        ],
    }


def _layers(teacher: Mapping[str, Any], metric: str) -> dict[str, Any]:
    charts = [draw_layers(teacher["layers"], score, metric) for score in LAYER_CHARTS]
    return {
        "name": teacher["name"],
        "charts": [chart for chart in charts if chart is not None],
        "rows": [[f"{row['layer']}", *cells(row)[1:]] for row in teacher["layers"]],
    }
