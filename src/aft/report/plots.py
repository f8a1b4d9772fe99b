"""Charts of the reports: small SVG figures that take their colours from the page.

Figures are 360 units wide with text of 11 units, so that they are readable on a phone. Names of
classes and teachers may be in any script, so the page shows them as text outside the charts.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from hashlib import blake2b
from io import StringIO
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

# Placeholders, replaced by CSS variables, so that a chart follows light, dark and print styles.
INK, MUTED, LINE, BLUE, ORANGE, GREY = (
    "#010101",
    "#020202",
    "#030303",
    "#040404",
    "#050505",
    "#060606",
)
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREY: "var(--grey)",
}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "aft",
    "font.size": 11,
    "font.family": "sans-serif",
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titlepad": 8,
    "axes.labelsize": 11,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,
}
WIDTH, HEIGHT = 360, 220
MOST_POINTS = 300


def draw_losses(curve: Curve, name: str) -> Markup:
    """Training loss per step: logged values in grey, their running mean in blue."""
    steps, values = _thin(curve)
    width = max(1, len(values) // 20)
    smooth = _running_mean(values, width)

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, name)
        if width > 1:
            axes.plot(steps, values, color=GREY, linewidth=0.9, alpha=0.6)
        axes.plot(steps, smooth, color=BLUE, marker="o" if len(steps) < 3 else "")
        if width > 1:  # the first values may be far above all others
            low, high = float(np.min(values)), float(np.quantile(values, 0.99))
            axes.set_ylim(low - 0.05 * (high - low), max(high, float(smooth.max())) * 1.05)
        _step_axis(axes, steps)

    return draw_figure(paint, f"{name} against training step; final value {smooth[-1]:.3g}")


def draw_validation(
    curve: Curve, name: str, best_step: int, alone: Curve | None = None, kept_alone: bool = False
) -> Markup:
    """Validation metric per step, with the chosen checkpoint marked.

    Args:
        curve: Curve of the student.
        name: Name of the metric.
        best_step: Step of the chosen checkpoint.
        alone: Curve of a second student, trained on the labels alone; dashed.
        kept_alone: Whether the chosen checkpoint is of that second student.
    """
    steps, values = alone if alone is not None and kept_alone else curve
    best = int(np.argmin(np.abs(steps - best_step)))
    text = f"{values[best]:.3f} at step {best_step}"
    top = max(float(one[1].max()) for one in (curve, alone) if one is not None)

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, f"{name}, validation")
        if alone is not None:
            dashes = (0, (4, 2))
            axes.plot(*alone, color=GREY, linestyle=dashes, marker="s", markersize=2.5)
        axes.plot(*curve, color=BLUE, marker="o", markersize=3)
        axes.plot(
            steps[best : best + 1],
            values[best : best + 1],
            marker="o",
            markersize=8,
            markerfacecolor="none",
            markeredgecolor=ORANGE,
            markeredgewidth=2,
        )
        axes.margins(y=0.22)
        share = steps[best] / max(1.0, float(steps.max()))
        axes.annotate(
            text,
            (float(steps[best]), top),  # above all lines
            xytext=(0, 9),
            textcoords="offset points",
            ha="left" if share < 0.3 else "right" if share > 0.7 else "center",
            color=ORANGE,
            fontweight="bold",
        )
        _step_axis(axes, steps)

    second = "" if alone is None else f"; labels alone: final value {alone[1][-1]:.3f}"
    return draw_figure(
        paint, f"{name} on the validation split against training step; best {text}{second}"
    )


def draw_gates(gates: NDArray[np.float32], gated: bool) -> Markup:
    """Histogram of one teacher's gates, with the initial value marked, or of its weights."""
    low, high = min(0.0, float(gates.min())), max(1.0, float(gates.max()))
    counts, edges = np.histogram(gates, bins=40, range=(low, high))
    shares = 100 * counts / len(gates)

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, "% of the teacher's features")
        axes.bar(edges[:-1], shares, np.diff(edges), align="edge", color=BLUE, linewidth=0)
        axes.set_ylim(0, max(1.0, float(shares.max())) * 1.2)
        axes.set_xlim(low, high)
        axes.set_xlabel("gate (0 closed, 1 open)" if gated else "weight (largest: 1)")
        if not gated:
            return
        axes.axvline(0.5, color=ORANGE, linewidth=1.5, linestyle=(0, (4, 3)))
        axes.annotate(
            "initial",
            (0.5, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -10),
            textcoords="offset points",
            color=ORANGE,
        )

    what = "gates, initial value 0.5" if gated else "weights, scaled to a maximum of 1"
    return draw_figure(
        paint,
        f"Histogram of {len(gates)} {what}: mean {gates.mean():.2f}, range {gates.min():.2f} to "
        f"{gates.max():.2f}",
    )


def draw_scatter(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> Markup:
    """Predicted against true values, with the diagonal where both are equal."""
    chosen = np.arange(len(true))
    if len(true) > MOST_POINTS:
        chosen = np.random.default_rng(0).permutation(len(true))[:MOST_POINTS]
    both = np.concatenate([true[chosen], predicted[chosen]])
    low, high = float(both.min()), float(both.max())
    reach = max(high - low, 1e-9) * 0.05

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, "predicted")
        axes.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        axes.scatter(true[chosen], predicted[chosen], s=14, color=BLUE, alpha=0.55, linewidth=0)
        axes.set_xlim(low - reach, high + reach)
        axes.set_ylim(low - reach, high + reach)
        axes.set_aspect("equal")
        axes.grid(axis="x")
        axes.set_xlabel("true")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))

    return draw_figure(
        paint, f"Predicted against true values of {len(chosen)} samples", HEIGHT * 1.35
    )


def draw_mean_curves(
    baseline: Sequence[Curve], transfer: Sequence[Curve], name: str, method: str
) -> Markup:
    """Mean validation curves over seeds of the labels alone and a method, with min-max bands."""
    bands = [_band(curves) for curves in (baseline, transfer)]

    def paint(figure: Figure) -> None:
        axes = new_axes(figure, f"{name}, validation")
        styles = ((GREY, (0, (4, 2)), "s"), (BLUE, "-", "o"))
        for (steps, low, mean, high), (colour, dashes, marker) in zip(bands, styles, strict=True):
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
            points = marker if len(steps) < 3 else ""
            axes.plot(steps, mean, color=colour, linestyle=dashes, marker=points)
        _step_axis(axes, np.concatenate([band[0] for band in bands]))

    alone, helped = (float(band[2][-1]) for band in bands)
    return draw_figure(
        paint,
        f"Mean {name} on the validation split against training step; final value {alone:.3f} with "
        f"the labels alone and {helped:.3f} with {method}",
        HEIGHT * 1.25,
    )


def _band(curves: Sequence[Curve]) -> tuple[NDArray[np.float64], ...]:
    """Steps, and the minimum, mean and maximum of several curves at each step."""
    steps = np.unique(np.concatenate([steps for steps, _ in curves]))
    table = np.stack([np.interp(steps, *curve) for curve in curves])
    return steps, table.min(axis=0), table.mean(axis=0), table.max(axis=0)


def new_axes(figure: Figure, title: str) -> Axes:
    """Add the only axes of a figure, with a title."""
    axes = figure.subplots()
    axes.set_title(title)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    return axes


def _step_axis(axes: Axes, steps: NDArray[np.float64]) -> None:
    axes.set_xlabel("training step")
    last = max(1.0, float(steps.max()))
    axes.set_xlim(-0.03 * last, 1.03 * last)  # markers at step 0 are shown whole
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _thin(curve: Curve) -> Curve:
    """Reduce a curve to ``MOST_POINTS`` points, each a mean of consecutive values."""
    steps, values = curve
    if len(steps) <= MOST_POINTS:
        return curve
    parts = np.array_split(np.arange(len(steps)), MOST_POINTS)
    return (
        np.asarray([steps[part].mean() for part in parts]),
        np.asarray([values[part].mean() for part in parts]),
    )


def _running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Mean of the ``width`` values around each position, of fewer at the ends."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    places = np.arange(len(values))
    starts = np.maximum(0, places - width // 2)
    ends = np.minimum(len(values), places + width // 2 + 1)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def draw_figure(
    paint: Callable[[Figure], None], description: str, height: float = HEIGHT
) -> Markup:
    """Draw a figure as one ``<svg>`` element without external references."""
    out = StringIO()
    with rc_context(STYLE), warnings.catch_warnings():
        # With svg.fonttype none the browser draws the text, in any font that has the glyph.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        paint(figure)
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # All figures of a page share one namespace of ids.
    prefix = f"f{blake2b((description + body).encode(), digest_size=4).hexdigest()}-"
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", body).replace("xlink:href", "href")
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, variable)
    view = re.search(r'viewBox="([^"]+)"', svg)
    assert view is not None
    return Markup(
        f'<svg role="img" aria-label="{escape(description)}" viewBox="{view[1]}">{body}</svg>'
    )
