"""A comparison of several methods as Markdown, and the cells of its table for every form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADINGS = (
    "method",
    "verdict",
    "weight",
    "seeds",
    "mean",
    "deviation",
    "difference",
    "95% interval",
    "error / alone's",
    "95% interval",
)
_NONE = "\N{EN DASH}"


def method_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """One row of text a method, under ``HEADINGS``."""
    rows = []
    for name, values in document["methods"].items():
        done = sum(run["score"] is not None for run in values["runs"])
        rows.append(
            [
                method_name(name),
                values["outcome"] or (_NONE if name == "alone" else "too few seeds"),
                _text(values["beta"], "{:g}"),
                str(done),
                _text(values["mean"]),
                _text(values["std"]),
                _text(values["difference"], "{:+.3f}"),
                _interval(values["low"], values["high"], "{:+.3f}"),
                _text(values["error_ratio"]),
                _interval(values["error_ratio_low"], values["error_ratio_high"]),
            ]
        )
    return rows


def method_name(name: str) -> str:
    """The name of a method for people."""
    return "labels alone" if name == "alone" else name


def probe_rows(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Teachers and accuracy of each linear probe."""
    return [
        (" + ".join(probe["teachers"]), _text(probe["accuracy"])) for probe in document["probes"]
    ]


def introduction(document: Mapping[str, Any]) -> str:
    """What was compared, and how, in a paragraph."""
    rows, several = document["rows"], len(document["betas"]) > 1
    split = document["split"]
    text = (
        f"{document['student']} ({document['num_parameters']:,} parameters) was trained on "
        f"{rows['train']:,} rows by each method with {document['seeds']} seeds. Steps, batches and "
        f"learning rates are the same. The scores are {document['metric'].replace('_', ' ')} on "
        f"{rows[split]:,} rows of the {split} split; differences are from the labels alone with "
        "the same seed. "
    )
    if several:
        tried = ", ".join(f"{beta:g}" for beta in document["betas"])
        return text + (
            f"The weight of each method was chosen among {tried}, with seed 0, by the score on the "
            "validation split, and then used for all seeds."
        )
    return text + f"Every method has the weight {document['betas'][0]:g}; it was not searched."


def methods_as_markdown(document: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    parts = [
        f"# Methods compared on {_escape(document['data'])}",
        document["best"]["sentence"],
        _escape(introduction(document)),
        _table(HEADINGS, method_rows(document), text_columns=(0, 1)),
        'The error is 1 less the score; "error / alone\'s" is the mean over seeds of its share of '
        "the error of the labels alone, so less than 1 is better.",
        "\n".join(
            f"- {values['verdict']}" for values in document["methods"].values() if values["verdict"]
        ),
    ]
    if document["probes"]:
        parts += [
            "## Ceilings",
            "Linear heads on the teachers' own features, split as with seed 0. They need the "
            "teacher for every prediction; the students do not.",
            _table(("teachers", "accuracy"), probe_rows(document), text_columns=(0,)),
        ]
    if document["cautions"]:
        parts += ["## Be careful", "\n".join(f"- {note}" for note in document["cautions"])]
    if document["errors"]:
        failed = [f"- {name}: {_escape(error)}" for name, error in document["errors"].items()]
        parts += ["## What failed", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Sequence[int]
) -> str:
    cells = [list(headings), *([_escape(cell) for cell in row] for row in rows)]
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


def _escape(text: str) -> str:
    """Text that Markdown takes for text, in one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return text.replace("|", "\\|").replace("`", "\\`").replace("*", "\\*").replace("[", "\\[")


def _text(value: float | None, form: str = "{:.3f}") -> str:
    return _NONE if value is None else form.format(value)


def _interval(low: float | None, high: float | None, form: str = "{:.3f}") -> str:
    if low is None or high is None:
        return _NONE
    return f"{form.format(low)} to {form.format(high)}"
