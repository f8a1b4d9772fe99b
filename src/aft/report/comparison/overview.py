"""Charts over several settings: shares of train, sets of teachers, teacher quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from aft.config.groups import EQUAL_STEPS, LABELS_ONLY
from aft.report.comparison.labels import LETTER, Labelled, label_ends, label_points
from aft.report.comparison.text import (
    ALONE,
    all_methods,
    baselines,
    chart_name,
    gated,
    leader,
    method_name,
    scores,
)
from aft.report.plots import BLUE, GREY, MUTED, draw_figure, new_axes

# Readable on light and on dark paper.
OTHERS = ("#c2571a", "#1b9674", "#a862a0", "#a17a1c", "#cf4a5f", "#7378cc", "#5f8a2f", "#8a6d5b")
_DASHES = (0, (4, 3))
_WIDE = 300  # about the units between a chart's axis and its right edge


def draw_fractions(document: Mapping[str, Any], metric: str) -> Markup | None:
    """Mean score against the share of train, with the range over seeds.

    One line per method and baseline.
    """
    settings = [s for s in document["settings"] if s["teachers"] == document["teachers"]]
    if len({setting["fraction"] for setting in settings}) < 2:
        return None
    lines = {}
    beside = {name for setting in settings for name in baselines(setting)}
    for name in [*all_methods(settings), *sorted(beside)]:
        points = [
            (setting["fraction"], values["mean"], min(scores(values)), max(scores(values)))
            for setting in settings
            if (values := {**setting["methods"], **baselines(setting)}.get(name))
            and values["mean"] is not None
        ]
        if points:
            lines[name] = np.asarray(points)
    if not lines:
        return None
    fractions = sorted({setting["fraction"] for setting in settings})
    low, high = fractions[0], fractions[-1]
    spread = high / low >= 4
    span = high / low if spread else high - low
    colours = line_colours(lines)

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, f"mean {metric}")
        ends = []
        for place, (name, points) in enumerate(lines.items()):
            strong, colour = name in (ALONE, gated(lines)), colours[name]
            shares, means, lows, highs = points.T
            aside = 2 * (place + 0.5) / len(lines) - 1  # vertical lines side by side
            shares = shares * span ** (0.015 * aside) if spread else shares + 0.015 * aside * span
            axes.plot(
                shares,
                means,
                color=colour,
                linewidth=2.4 if strong else 1.3,
                linestyle=_DASHES if name in LABELS_ONLY else ":" if name in beside else "-",
                marker="s" if name in LABELS_ONLY else "o",
                markersize=5 if strong else 4,
                zorder=4 if strong else 3,
            )
            if strong:
                axes.fill_between(shares, lows, highs, color=colour, alpha=0.16, linewidth=0)
            else:
                axes.vlines(shares, lows, highs, color=colour, linewidth=0.9, alpha=0.55)
            ends.append((shares[-1], means[-1], chart_name(name), colour))
        axes.set_xlabel("share of train (logarithmic)" if spread else "share of train")
        names = LETTER * max(len(chart_name(name)) for name in lines) + 20
        room = 1.06 * names / (_WIDE - names)
        if spread:
            axes.set_xscale("log")
            axes.set_xlim(low / span**0.06, high * span**room)
        else:
            axes.set_xlim(low - 0.06 * span, high + room * span)
        axes.xaxis.set_minor_locator(NullLocator())
        ticks = _apart(np.log(fractions) if spread else np.asarray(fractions), fractions)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.set_xticks(ticks, [f"{100 * tick:.4g}%" for tick in ticks])
        label_ends(figure, axes, ends, fractions[-1])

    told = "; ".join(
        f"{chart_name(name)} "
        + ", ".join(f"{mean:.3f} at {100 * share:.4g}%" for share, mean, *_ in points)
        for name, points in lines.items()
    )
    return draw_figure(paint, f"Mean {metric} against the share of train: {told}", 320)


def draw_probes(document: Mapping[str, Any], metric: str) -> Markup | None:
    """Mean scores of the students against the linear probe of the teachers, with the diagonal."""
    points = [
        (setting["probes"][-1]["score"], name, values)
        for setting in document["settings"]
        if setting["probes"] and setting["probes"][-1]["score"] is not None
        for name, values in setting["methods"].items()
        if values["mean"] is not None
    ]
    if not points:
        return None
    chosen = gated(name for _, name, _ in points)
    single = len(document["settings"]) == 1
    told_of = {
        chosen,
        ALONE,
        document["settings"][0]["best"]["method"],
    }

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, f"mean {metric} of the student")
        labels = []
        everything = [score for probe, _, values in points for score in (probe, *scores(values))]
        low, high = min(everything), max(everything)
        reach = max(high - low, 1e-3) * 0.08
        ends = (low - reach, high + reach)
        axes.plot(ends, ends, color=GREY, linewidth=1, linestyle=_DASHES)
        for probe, name, values in sorted(points, key=lambda point: point[1] == chosen):
            strong, own = name == chosen, scores(values)
            colour = BLUE if strong else GREY if name in LABELS_ONLY else MUTED
            if strong:
                axes.plot([probe, probe], [min(own), max(own)], color=colour, linewidth=2)
            axes.plot(
                [probe],
                [values["mean"]],
                marker="s" if name in LABELS_ONLY else "o",
                markersize=8 if strong else 5,
                alpha=1 if strong else 0.75,
                color=colour,
            )
            if single and name in told_of:
                bar = (min(own), max(own)) if strong else (values["mean"],) * 2
                labels.append(Labelled(probe, values["mean"], method_name(name), colour, *bar))
        axes.set_xlim(ends)
        axes.set_ylim(ends)
        axes.set_aspect("equal")
        axes.grid(axis="x")
        axes.set_xlabel(f"{metric} of a linear model on the teachers")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if labels:
            label_points(figure, axes, labels)

    told = ", ".join(
        f"{method_name(name)} {values['mean']:.3f} with a probe of {probe:.3f}"
        for probe, name, values in points
        if name in (chosen, ALONE)
    )
    return draw_figure(paint, f"Mean {metric} against the teachers' linear probe: {told}", 330)


def effects(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """Difference from the labels alone in each setting, if teachers were also used one by one.

    Returns:
        ``method`` (aft, otherwise the recommended one), ``zero`` (position of no difference, in
        percent of the width) and ``rows``: ``name``, ``outcome``, the numbers and their positions.
        None if all settings have the same teachers.
    """
    settings = document["settings"]
    if all(setting["teachers"] == document["teachers"] for setting in settings):
        return None
    method = gated(all_methods(settings)) or leader(settings[-1])
    found = [
        (setting["name"], setting["methods"].get(method or "")) for setting in settings if method
    ]
    known = [(name, values) for name, values in found if values and values["low"] is not None]
    if not known:
        return None
    low = min(0.0, *(values["low"] for _, values in known))
    high = max(0.0, *(values["high"] for _, values in known))
    span = max(high - low, 1e-9)

    def place(value: float) -> float:
        return float(round(100 * (value - low) / span, 2))

    return {
        "method": method,
        "zero": place(0.0),
        "rows": [
            {
                "name": name,
                "outcome": values["outcome"],
                "difference": values["difference"],
                "low": values["low"],
                "high": values["high"],
                "at": place(values["difference"]),
                "from": place(values["low"]),
                "to": place(values["high"]),
            }
            for name, values in known
        ],
    }


def line_colours(names: Mapping[str, Any]) -> dict[str, str]:
    """Blue for the highlighted method, grey for the labels alone, others a colour each."""
    fixed = {ALONE: GREY, EQUAL_STEPS: GREY}
    if own := gated(names):
        fixed[own] = BLUE
    others = [name for name in names if name not in fixed]
    return fixed | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(others)}


def _apart(places: NDArray[np.float64], values: Sequence[float]) -> list[float]:
    """Select values that are far enough apart for tick labels, including the last one."""
    kept: list[int] = []
    least = 0.11 * (places[-1] - places[0])
    for i in reversed(range(len(values))):
        if not kept or places[kept[-1]] - places[i] >= least:
            kept.append(i)
    return [values[i] for i in reversed(kept)]
