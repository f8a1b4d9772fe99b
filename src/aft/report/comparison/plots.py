"""Charts of one setting of a comparison: errors, single runs, scores against training time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aft.config.groups import LABELS_ONLY
from aft.report.comparison.labels import Labelled, label_points
from aft.report.comparison.text import ALONE, chart_name, scores
from aft.report.plots import BLUE, GREY, INK, ORANGE, draw_figure, new_axes

Methods = Mapping[str, Mapping[str, Any]]
COLOURS = {"better": BLUE, "worse": ORANGE}
_ROW, _FRAME = 27, 72
_DASHES = (0, (4, 3))


def tone(values: Mapping[str, Any]) -> str:
    """Colour of a method: blue if better than the labels alone, orange if worse."""
    return COLOURS.get(values["outcome"], GREY)


def draw_errors(methods: Methods, baselines: Methods) -> Markup | None:
    """Bar per method and baseline: error ratio to the labels alone, with its interval."""
    first, last = (
        {name: values for name, values in some.items() if values["error_ratio"] is not None}
        for some in (methods, baselines)
    )
    known = {**first, **last}
    if not known:
        return None

    def paint(figure: Figure) -> None:
        axes = _rows(figure, "error ratio to labels alone", [ALONE, *first], list(last))
        axes.barh([0], [1], height=0.6, color=GREY)
        for place, values in enumerate(known.values(), start=1):
            ratio, colour = values["error_ratio"], tone(values)
            axes.barh([place], [ratio], height=0.6, color=colour, alpha=0.75)
            ends = [values["error_ratio_low"], values["error_ratio_high"]]
            if None not in ends:
                axes.plot(ends, [place, place], color=INK, linewidth=1.6)
        axes.axvline(1, color=INK, linewidth=1, linestyle=_DASHES)
        tops = [
            max(v["error_ratio"], min(v["error_ratio_high"] or 0.0, 3.0)) for v in known.values()
        ]
        axes.set_xlim(0, max(1.0, *tops) * 1.05)

    told = ", ".join(
        f"{chart_name(name)} {values['error_ratio']:.2f}" for name, values in known.items()
    )
    return draw_figure(
        paint,
        f"Error ratio of each method to labels alone, lower is better: {told}",
        _FRAME + _ROW * (len(known) + 1),
    )


def draw_points(methods: Methods, baselines: Methods, metric: str) -> Markup:
    """Score of every run, one row per method and baseline, with the mean as a vertical bar."""
    every = {**methods, **baselines}
    found = {name: scores(values) for name, values in every.items()}

    def paint(figure: Figure) -> None:
        axes = _rows(figure, f"{metric} of every run", list(methods), list(baselines))
        for place, (name, values) in enumerate(found.items()):
            colour = tone(every[name])
            axes.scatter(
                values, [place] * len(values), s=30, color=colour, alpha=0.7, linewidth=0, zorder=3
            )
            if values:
                mean = sum(values) / len(values)
                axes.plot([mean, mean], [place - 0.32, place + 0.32], color=INK, zorder=4)
        alone = methods[ALONE]["mean"]
        if alone is not None:
            axes.axvline(alone, color=INK, linewidth=1, linestyle=_DASHES)
        axes.margins(x=0.06)

    return draw_figure(
        paint, f"{metric} of every run; means: {_told(every)}", _FRAME + _ROW * len(found)
    )


def draw_times(methods: Methods, metric: str) -> Markup | None:
    """Mean score of each method, with the range over seeds, against training time."""
    known = {
        name: values
        for name, values in methods.items()
        if values["mean"] is not None and values.get("seconds") is not None
    }
    if len(known) < 2:
        return None
    longest = max(values["seconds"] for values in known.values())
    unit, size = ("hours", 3600) if longest >= 5400 else ("minutes", 60)
    if longest < 180:
        unit, size = "seconds", 1

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, f"mean {metric}")
        points = []
        for name, values in known.items():
            own, x, colour = scores(values), values["seconds"] / size, tone(values)
            axes.plot([x, x], [min(own), max(own)], color=colour, linewidth=1.2, alpha=0.5)
            axes.plot(
                [x],
                [values["mean"]],
                marker="s" if name in LABELS_ONLY else "o",
                markersize=7,
                color=colour,
            )
            label = chart_name(name)
            points.append(Labelled(x, values["mean"], label, colour, min(own), max(own)))
        axes.grid(axis="x")
        shortest = min(values["seconds"] for values in known.values())
        room = max(longest - shortest, 0.05 * longest) * 0.3  # for the names
        axes.set_xlim(max(0.0, shortest - room) / size, (longest + room) / size)
        axes.margins(y=0.14)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(f"training time per run ({unit})")
        label_points(figure, axes, points)

    told = ", ".join(
        f"{chart_name(name)} {values['mean']:.3f} in {values['seconds'] / size:.3g} {unit}"
        for name, values in known.items()
    )
    return draw_figure(paint, f"Mean {metric} against training time per run: {told}", 290)


def _told(methods: Methods) -> str:
    return ", ".join(
        f"{chart_name(name)} {values['mean']:.3f}"
        for name, values in methods.items()
        if values["mean"] is not None
    )


def _rows(figure: Figure, title: str, methods: Sequence[str], baselines: Sequence[str]) -> Axes:
    """Add axes with one row per method, from top to bottom, and the baselines below a line."""
    axes = new_axes(figure, title)
    names = [*methods, *baselines]
    axes.set_yticks(range(len(names)), [chart_name(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    if baselines:
        axes.axhline(len(methods) - 0.5, color=INK, linewidth=0.7)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="y", labelcolor=INK)
    return axes
