"""The table and the pictures of docs/speed.md, from results/speed.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

import tables

PAGE = ["docs/speed.md"]
IMAGES = tables.ROOT / "docs" / "images"
PICTURES = {"speed-data": ("samples", "classes", "processes"), "speed-loss": ("loss",)}
"""The parts whose curves each picture holds."""
COLOURS = ("#2f6fb0", "#c8642b", "#3c8d5a", "#8a5aa5", "#6b6b6b")
LABEL_GAP = 0.075
"""Least distance of two labels, as a share of the height of the axes."""
NAMES = {
    "steps": "Training steps",
    "store": "Reading features",
    "loss": "Loss",
    "start": "Start",
    "images": "Extraction of images",
    "texts": "Extraction of texts",
    "job": "Whole run",
    "classes": "Soft labels",
    "samples": "Many samples",
    "processes": "Several processes",
}


def write(found: Mapping[str, Any]) -> None:
    """Write the table and the pictures."""
    tables.put("speed", table(found), PAGE)
    for name, parts in PICTURES.items():
        curves = [one for part in parts if part in found for one in found[part]["curves"]]
        if curves:
            draw(curves).savefig(IMAGES / f"{name}.png", dpi=150, metadata={"Software": None})


def table(found: Mapping[str, Any]) -> str:
    """One row for each measurement, by part."""
    lines = ["| | aft | the limit | ratio | quartiles | aim |", "|---|---|---|---|---|---|"]
    for part, name in NAMES.items():
        if part not in found:
            continue
        lines.append(f"| **{name}** | | | | | |")
        for one in found[part]["rows"]:
            cells = [one["what"], f"{_short(one['ours'])} {one['unit']}", "", "", "", ""]
            if one["theirs"] is not None:
                low, middle, high = (_short(ratio) for ratio in one["ratio"])
                cells[2] = f"{_short(one['theirs'])} {one['unit']}, {one['limit']}"
                cells[3], cells[4] = f"**{middle}**", f"{low} to {high}" if low != high else ""
                cells[5] = f"≤ {one['aim']:g}" if one["aim"] is not None else ""
            lines.append(f"| {' | '.join(cells)} |")
    missing = [name for part, name in NAMES.items() if part not in found]
    notes = [f"Not measured yet: {', '.join(missing)}."] if missing else []
    made: dict[str, list[str]] = {}
    for part in (part for part in NAMES if part in found):
        command = found[part]["command"].partition(" --only")[0]
        made.setdefault(f"`{command}` ({found[part]['machine']})", []).append(NAMES[part])
    notes += [
        f"Made by {how}{'' if len(made) == 1 else ': ' + ', '.join(parts)}."
        for how, parts in made.items()
    ]
    return "\n".join(lines) + "\n\n" + "\n".join(notes) + "\n"


def _short(value: float) -> str:
    """Three significant digits at most, and no exponent unless the value is tiny."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 0.01 else f"{value:.3g}" if value >= 10 else f"{value:.2f}"


def draw(curves: Sequence[Mapping[str, Any]]) -> Figure:
    """Small multiples with logarithmic axes, two in a row."""
    height = -(-len(curves) // 2)
    figure = Figure(figsize=(8.4, 3.1 * height), layout="constrained")
    places = list(chain.from_iterable(figure.subplots(height, 2, squeeze=False)))
    for axes, one in zip(places, curves, strict=False):
        _draw(axes, one)
    for axes in places[len(curves) :]:
        axes.remove()
    return figure


def _draw(axes: Axes, found: Mapping[str, Any]) -> None:
    lines = {name: np.array(points) for name, points in found["lines"].items()}
    axes.set_xscale("log")
    axes.set_yscale("log")
    for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
        axes.plot(*points.T, color=colour, marker="o", markersize=4, linewidth=1.5, label=name)
    xs = sorted({x for points in lines.values() for x in points[:, 0]})
    axes.set_xlim(xs[0] / 1.15, xs[-1] * 1.15)
    axes.xaxis.set_major_locator(FixedLocator(xs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _number(x)))
    axes.xaxis.set_minor_locator(NullLocator())
    ys = np.concatenate([points[:, 1] for points in lines.values()])
    low, high = ys.min() / 1.5, ys.max() * 1.5
    if high / low < 30:  # at least one and a half powers of ten, or noise looks like growth
        middle = np.sqrt(low * high)
        low, high = middle / 30**0.5, middle * 30**0.5
    axes.set_ylim(low, high)
    few = high / low < 1000
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if few else (1.0,), numticks=7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _number(y)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(found["x"], fontsize=9)
    axes.set_ylabel(found["y"], fontsize=9)
    axes.set_title(found["title"], fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if len(lines) > 1:
        _label(axes, lines)


def _label(axes: Axes, lines: Mapping[str, Any]) -> None:
    """Write the name of each line beside its last point, without overlaps."""
    low, high = np.log(axes.get_ylim())
    end = max(points[-1, 0] for points in lines.values())
    heights = {name: (np.log(p[-1, 1]) - low) / (high - low) for name, p in lines.items()}
    last = -1.0
    for name in sorted(heights, key=heights.__getitem__):
        style: dict[str, Any] = {"fontsize": 8, "va": "center"}
        style["color"] = COLOURS[list(lines).index(name)]
        if lines[name][-1, 0] < end:  # a short line: its name stays inside
            offset = {"xytext": (-6, 4), "textcoords": "offset points", "ha": "right"}
            axes.annotate(name, lines[name][-1], **{**style, **offset})
            continue
        last = max(heights[name], last + LABEL_GAP)
        axes.annotate(name, (1.02, last), xycoords="axes fraction", **style)


def _number(value: float) -> str:
    if value < 1e6 and value % 1e3:
        return f"{value:,g}"
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value else "0"
