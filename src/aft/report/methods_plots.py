"""The charts that compare several methods: their errors, and the score of every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aft.report.methods_text import method_name
from aft.report.plots import BLUE, GREY, INK, ORANGE, draw_figure, new_axes

COLOURS = {"better": BLUE, "worse": ORANGE}
_ROW, _FRAME = 27, 72


def draw_errors(methods: Mapping[str, Mapping[str, Any]]) -> Markup | None:
    """A bar for each method's error, divided by that of the labels alone, with its interval."""
    known = {name: values for name, values in methods.items() if values["error_ratio"] is not None}
    if not known:
        return None

    def paint(figure: Figure) -> None:
        axes = _rows(figure, "error divided by that of labels alone", ["alone", *known])
        axes.barh([0], [1], height=0.6, color=GREY)
        for place, values in enumerate(known.values(), start=1):
            ratio, colour = values["error_ratio"], COLOURS.get(values["outcome"], GREY)
            axes.barh([place], [ratio], height=0.6, color=colour, alpha=0.75)
            ends = [values["error_ratio_low"], values["error_ratio_high"]]
            axes.plot(ends, [place, place], color=INK, linewidth=1.6)
        axes.axvline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        tops = [max(v["error_ratio"], min(v["error_ratio_high"], 3.0)) for v in known.values()]
        axes.set_xlim(0, max(1.0, *tops) * 1.05)

    told = ", ".join(f"{name} {values['error_ratio']:.2f}" for name, values in known.items())
    return draw_figure(
        paint,
        f"Error of each method divided by that of labels alone, lower is better: {told}",
        _FRAME + _ROW * (len(known) + 1),
    )


def draw_points(methods: Mapping[str, Mapping[str, Any]], metric: str) -> Markup:
    """The score of every run in one row a method, the mean as a bar across."""
    scores = {
        name: [run["score"] for run in values["runs"] if run["score"] is not None]
        for name, values in methods.items()
    }

    def paint(figure: Figure) -> None:
        axes = _rows(figure, f"{metric} of every run", list(scores))
        for place, (name, values) in enumerate(scores.items()):
            colour = COLOURS.get(methods[name]["outcome"], GREY)
            axes.scatter(values, [place] * len(values), s=30, color=colour, alpha=0.7, zorder=3)
            if values:
                mean = sum(values) / len(values)
                axes.plot([mean, mean], [place - 0.32, place + 0.32], color=INK, zorder=4)
        alone = methods["alone"]["mean"]
        if alone is not None:
            axes.axvline(alone, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.margins(x=0.06)

    told = ", ".join(
        f"{method_name(name)} {values['mean']:.3f}"
        for name, values in methods.items()
        if values["mean"] is not None
    )
    return draw_figure(paint, f"{metric} of every run; means: {told}", _FRAME + _ROW * len(scores))


def _rows(figure: Figure, title: str, names: Sequence[str]) -> Axes:
    """Axes with one row for each method, from the top."""
    axes = new_axes(figure, title)
    axes.set_yticks(range(len(names)), [method_name(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="y", labelcolor=INK)
    return axes
