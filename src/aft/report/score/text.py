"""Texts and table cells of `aft score`, shared by terminal and page."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from aft.backbones.specs import shorten_paths
from aft.metrics import metric_words

NONE = "\N{EN DASH}"
SCORES = ("ridge", "neighbours", "alignment", "log_me", "tmi")
SCORE_NAMES = {
    "probe": "probe",
    "ridge": "kernel ridge",
    "neighbours": "neighbours",
    "alignment": "alignment",
    "log_me": "LogME",
    "tmi": "TMI",
}


def name_of(row: Mapping[str, Any]) -> str:
    """Display name of the models of a row."""
    return " + ".join(row["names"])


def headings(document: Mapping[str, Any]) -> list[str]:
    """Column headings of the table of scores."""
    metric = metric_words(document["metric"])
    return ["features of", "width", f"probe: {metric}", *(SCORE_NAMES[name] for name in SCORES)]


def cells(row: Mapping[str, Any]) -> list[str]:
    """Cells of one row of the table."""
    return [name_of(row), f"{row['dim']:,}", probe_of(row), *(value_of(row, n) for n in SCORES)]


def probe_of(row: Mapping[str, Any]) -> str:
    """Format the probe's score and standard error."""
    if row["probe"] is None:
        return NONE
    return f"{_three(row['probe'])} ± {_three(row['probe_se'])}"


def value_of(row: Mapping[str, Any], score: str) -> str:
    """Format a score; TMI has one decimal, since its values are in the hundreds."""
    value = row[score]
    if value is None:
        return NONE
    return f"{value:,.1f}" if score == "tmi" else _three(value)


def table_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Sets of teachers, best probe first, then the student and a constant predictor."""
    best_first = sorted(
        document["table"], key=lambda row: (row["probe"] is None, -(row["probe"] or 0))
    )
    own = [document["student"]] if document["student"] else []
    guess = ["constant predictor", NONE, _three(document["chance"]), *[NONE] * len(SCORES)]
    return [*(cells(row) for row in [*best_first, *own]), guess]


def reasons(document: Mapping[str, Any]) -> list[str]:
    """Why scores are undefined, one sentence per score and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    own = [document["student"]] if document["student"] else []
    rows = [*document["table"], *own]
    for row in rows:
        for score, why in row["undefined"].items():
            found.setdefault((SCORE_NAMES[score], why.rstrip(".")), []).append(name_of(row))
    return [
        f"No {score}{'' if len(names) == len(rows) else ' for ' + ', '.join(names)}: {why}."
        for (score, why), names in found.items()
    ]


def notes(document: Mapping[str, Any]) -> list[str]:
    """Notes on the features."""
    found = []
    for teacher in document["teachers"]:
        found += teacher["notes"]
        if teacher["rows_without_input"]:
            found.append(
                f"{teacher['rows_without_input']:,} rows lack the input of {teacher['name']}; mean "
                "features are used instead"
            )
    return list(dict.fromkeys(found))


def as_text(document: Mapping[str, Any]) -> str:
    """Format tables and recommendation for a terminal."""
    parts = [_columns([headings(document), *table_rows(document)])]
    for teacher in document["layers"]:
        first = [f"layers of {teacher['name']}", *headings(document)[1:]]
        rows = [[f"layer {row['layer']}", *cells(row)[1:]] for row in teacher["layers"]]
        parts.append(_columns([first, *rows]))
    likeness = document["similarity"]
    if len(likeness["names"]) > 1:
        pairs = [
            [f"{likeness['names'][i]} and {likeness['names'][j]}", f"{value:.2f}"]
            for i, j in itertools.combinations(range(len(likeness["names"])), 2)
            for value in [likeness["values"][i][j]]
        ]
        parts.append(_columns([["similarity (CKA)", ""], *pairs]))
    told = [*notes(document), *reasons(document)]
    if told:
        parts.append("\n".join(told))
    parts.append("\n".join(document["recommendation"]["sentences"]))
    return shorten_paths("\n\n".join(parts))


def _three(value: float) -> str:
    return f"{value:.3f}"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
