"""Shared by all report pages: formatting of numbers and names, and the templates."""

from __future__ import annotations

import math
import re
from typing import Any

import jinja2

from aft.backbones.specs import short_name, shorten_paths, split_column
from aft.files import format_seconds
from aft.metrics import metric_words
from aft.report.tables import confusion, matrix_rows, most_confused
from aft.training.run_folder import Run
from aft.version import __version__

MOST_MATRIX_CLASSES = 30


def number(value: float | None) -> str:
    """Format with three decimals, large and tiny numbers with three digits, None as a dash."""
    if value is None or math.isnan(value):
        return "\N{EN DASH}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Format a count with its noun: ``1 row``, ``1,200 rows``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def student_name(student: str) -> str:
    """Shorten ``text=hf:google/bert?layers=2 + image=timm:vit.in1k`` to ``bert + vit``."""
    towers = re.split(r" \+ (?=[^:=?]+=)", student)
    return " + ".join(short_name(tower) for tower in towers)


def confusion_context(run: Run, counts: Any = None) -> dict[str, Any]:
    """Confusion matrix for up to 30 classes, the most frequent mistakes for more."""
    names = list(run.task.names)
    counts = confusion(run) if counts is None else counts
    if len(names) > MOST_MATRIX_CLASSES:
        return {"pairs": most_confused(counts, names), "names": names}
    return {"matrix": matrix_rows(counts), "names": names}


def render(template: str, **context: Any) -> str:
    """Render a template; all strings are HTML-escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("aft.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "metric": metric_words,
        "duration": format_seconds,
        "count": count,
        "split_column": lambda spec: split_column(shorten_paths(spec)),
    }
    return environment.get_template(template).render(version=__version__, **context)
