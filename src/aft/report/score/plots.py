"""Charts of `aft score`: scores of each set of features and of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aft.report.plots import BLUE, GREY, HEIGHT, INK, LINE, ORANGE, draw_figure, new_axes
from aft.report.score.text import SCORE_NAMES, value_of

_DASHES = (0, (4, 3))
_FRAME, _ROW, _MOST_BARS = 70, 24, 20


def draw_probes(document: Mapping[str, Any], metric: str) -> Markup | None:
    """Bar with standard error for each set of teachers, numbered as in the table, and student."""
    rows = [row for row in ranked(document) if row["probe"] is not None][:_MOST_BARS]
    if not rows:
        return None
    student = document["student"]
    taken = sorted(document["recommendation"]["teachers"])
    labels = [str(place) for place in range(1, len(rows) + 1)]
    bars = [
        (row["probe"], row["probe_se"], BLUE if sorted(row["teachers"]) == taken else GREY)
        for row in rows
    ]
    if student and student["probe"] is not None:
        labels.append("student")
        bars.append((student["probe"], student["probe_se"], ORANGE))

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, f"{metric} of a linear model")
        for place, (value, se, colour) in enumerate(bars):
            axes.barh([place], [value], height=0.6, color=colour, alpha=0.8)
            axes.plot([value - se, value + se], [place, place], color=INK, linewidth=1.6)
        axes.axvline(document["chance"], color=INK, linewidth=1, linestyle=_DASHES)
        axes.set_yticks(range(len(bars)), labels)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.tick_params(axis="y", labelcolor=INK)
        _only_upright_grid(axes)
        values = [value + se for value, se, _ in bars]
        axes.set_xlim(min(0.0, *(value - se for value, se, _ in bars)), max(values) * 1.05 + 1e-3)

    told = ", ".join(
        f"{label} {value:.3f} ± {se:.3f}"
        for label, (value, se, _) in zip(labels, bars, strict=True)
    )
    return draw_figure(
        paint,
        f"{metric} of a linear model on the features of each set of teachers, as numbered in the "
        f"table, and of the student: {told}; constant predictor {document['chance']:.3f}",
        _FRAME + _ROW * len(bars),
    )


def ranked(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Sets of teachers, sorted by probe score, best first."""
    return sorted(document["table"], key=lambda row: (row["probe"] is None, -(row["probe"] or 0.0)))


def draw_layers(layers: Sequence[Mapping[str, Any]], score: str, metric: str) -> Markup | None:
    """Score of each layer of one teacher, with the best one marked."""
    points = [
        (row["layer"], row[score], row["probe_se"] if score == "probe" else None)
        for row in layers
        if row[score] is not None
    ]
    if len(points) < 2:
        return None
    best = max(points, key=lambda point: point[1])
    name = f"probe: {metric}" if score == "probe" else SCORE_NAMES[score]

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, name)
        axes.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            color=BLUE,
            marker="o",
            markersize=4,
        )
        for number, value, se in points:
            if se is not None:
                axes.plot([number, number], [value - se, value + se], color=INK, linewidth=1.2)
        axes.plot(
            [best[0]],
            [best[1]],
            marker="o",
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=ORANGE,
            markeredgewidth=2,
        )
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.margins(x=0.06, y=0.15)

    told = ", ".join(f"{row['layer']}: {value_of(row, score)}" for row in layers)
    return draw_figure(paint, f"{name} of each layer: {told}", HEIGHT * 0.85)


def _only_upright_grid(axes: Axes) -> None:
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=LINE)
    axes.xaxis.set_major_locator(MaxNLocator(5))
