"""A comparison of several methods as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aft.report.comparison.costs import COST_HEADINGS, cost_rows, cost_sentence
from aft.report.comparison.text import (
    CEILING_HEADINGS,
    CEILINGS,
    HEADINGS,
    INSTEAD,
    NONE,
    RUNS_NOTE,
    MetricCell,
    ceiling_rows,
    interval,
    introduction,
    method_rows,
    other_metrics,
    overview_headings,
    overview_rows,
    read_shares,
    remarkable,
    run_headings,
    run_rows,
    search_rows,
    shares_sentence,
    shorten,
    text,
    warnings,
)


def methods_as_markdown(folder: Path, document: Mapping[str, Any]) -> str:
    """Write the report as Markdown.

    Args:
        folder: The comparison's folder, with its runs.
        document: The result of :func:`aft.commands.compare.compare`.
    """
    document = shorten(document)
    settings = document["settings"]
    several = len(settings) > 1
    parts = [
        f"# Comparison on {_escape(document['data'])}",
        _escape(document["sentence"]),
        _escape(introduction(document)),
    ]
    if document["cautions"]:
        parts += ["## Caveats", _bullets(document["cautions"])]
    if several:
        headings = ["setting", *overview_headings(document)]
        rows = [
            [name, *(f"{mean} {word}".strip() for mean, word, _ in cells)]
            for name, cells in overview_rows(document)
        ]
        parts += ["## Overview", _table(headings, rows, text_columns=(0,))]
    for setting in settings:
        if several:
            parts += [f"## {_escape(setting['name'])}", _escape(setting["best"]["sentence"])]
        parts += _setting(folder, document, setting, "###" if several else "##")
    if rows := [list(row[:3]) for row in cost_rows(document)]:
        parts += [
            "## Cost of the teachers",
            _escape(cost_sentence(document)),
            _table(COST_HEADINGS, rows, text_columns=(0,)),
            "Floating-point operations of matrix products, convolutions and attention; embedding "
            "look-ups and sums are not counted. A training run counts as three forward passes of "
            "every row that it sees.",
        ]
    folders = [
        f"{setting['name']}: {setting['best']['folder']}".removeprefix(": ")
        for setting in settings
        if setting["best"].get("folder")
    ]
    if folders:
        parts += [
            "## Recommended student",
            "Of the method to use, the run with the best validation score:",
            _bullets(folders),
        ]
    if document["errors"]:
        failed = [f"{name}: {error}" for name, error in document["errors"].items()]
        parts += ["## Failed runs", _bullets(failed)]
    return "\n\n".join(parts) + "\n"


def _setting(
    folder: Path, document: Mapping[str, Any], setting: Mapping[str, Any], level: str
) -> list[str]:
    rows, count = method_rows(setting), len(setting["methods"])
    parts = [f"{level} Methods", _table(HEADINGS, rows[:count], text_columns=(0, 1))]
    if rows[count:]:
        parts += [f"{INSTEAD}:", _table(HEADINGS, rows[count:], text_columns=(0, 1))]
    parts += [
        "Differences are to the labels alone, paired by seed. The error ratio is the error (1 - "
        "score) divided by that of the labels alone, averaged over seeds; below 1 is better.",
    ]
    if verdicts := remarkable(setting):
        parts.append(_bullets(verdicts))
    if found := warnings(setting, document["metric"]):
        parts.append("\n\n".join(f"**Warning:** {_escape(sentence)}" for sentence in found))
    metrics, cells_of = other_metrics(setting, document["metric"])
    if metrics:
        parts += [
            f"{level} Other metrics",
            "Mean over seeds, and the difference to the labels alone with its 95% interval, paired "
            "by seed.",
            _table(
                ("method", *metrics),
                [[name, *map(_metric, cells)] for name, cells in cells_of],
                text_columns=range(len(metrics) + 1),
            ),
        ]
    if rows := ceiling_rows(setting):
        parts += [f"{level} Ceilings", CEILINGS, _table(CEILING_HEADINGS, rows, text_columns=(0,))]
    if shares := read_shares(folder, setting):
        rows = [
            [one["spec"], text(one["mean"]), interval(one["low"], one["high"])] for one in shares
        ]
        parts += [
            f"{level} Share of each teacher",
            _escape(shares_sentence(shares)),
            _table(("teacher", "share of the kernel", "range over seeds"), rows, text_columns=(0,)),
        ]
    if rows := search_rows(document, setting):
        parts += [
            f"{level} Weight selection",
            "Validation score with seed 0. The highest score is selected; of equal ones, the "
            "smallest weight.",
            _table(["method", *(f"{b:g}" for b in document["betas"])], rows, text_columns=(0,)),
        ]
    table = _table(run_headings(document), run_rows(document, setting), text_columns=(0,))
    return [*parts, f"{level} Runs", RUNS_NOTE, table]


def _metric(cell: MetricCell) -> str:
    return ", ".join(part for part in cell if part)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_escape(line)}" for line in lines)


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Sequence[int]
) -> str:
    cells = [[_escape(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i in text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(
        "-" * (width + 2) if i in text_columns else "-" * (width + 1) + ":"
        for i, width in enumerate(widths)
    )
    return "\n".join([line(cells[0]), f"|{rule}|", *map(line, cells[1:])])


def _escape(words: str) -> str:
    """Escape text for Markdown, in one line."""
    words = " ".join(words.split()).replace("&", "&amp;").replace("<", "&lt;")
    for mark in "|`*[":
        words = words.replace(mark, f"\\{mark}")
    return words or NONE
