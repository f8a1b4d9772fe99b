"""Labels of points and lines in a chart, placed without overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aft.report.plots import INK, MUTED

Box = tuple[float, float, float, float]

# Approximate size of the charts' text; the browser's font is unknown here.
LETTER, LINE = 6.2, 12.5
_FAR = 12


@dataclass(frozen=True)
class Labelled:
    """A point with its name; ``low`` to ``high`` is the vertical line through it."""

    x: float
    y: float
    name: str
    colour: str
    low: float
    high: float


def label_points(figure: Figure, axes: Axes, points: Sequence[Labelled]) -> None:
    """Write each name near its point with least overlap; distant names get a connecting line."""
    frame, places = _layout(
        figure,
        axes,
        [(p.x, p.y) for p in points] + [(p.x, y) for p in points for y in (p.low, p.high)],
    )
    spots, lines = places[: len(points)], places[len(points) :].reshape(-1, 2, 2)
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    taken += [(x - 2, low, x + 2, high) for (x, low), (_, high) in lines]
    for i in np.argsort(spots[:, 1], kind="stable"):
        point, (x, y) = points[i], spots[i]
        width = LETTER * len(point.name)
        best, place, box = np.inf, (0.0, 0.0), (0.0, 0.0, 0.0, 0.0)
        for dx, dy in _places(width):
            own = (x + dx, y + dy - LINE / 2, x + dx + width, y + dy + LINE / 2)
            away = max(0.0, abs(dy) - _FAR) + max(0.0, abs(dx + width / 2) - width / 2 - _FAR)
            cost = sum(_shared(own, other) for other in taken) + 1.5 * away
            cost += 20 * (width * LINE - _shared(own, frame))
            if cost < best:
                best, place, box = cost, (dx, dy), own
        taken.append(box)
        dx, dy = place
        far = abs(dy) > _FAR or not -width - _FAR < dx < _FAR
        axes.annotate(
            point.name,
            (point.x, point.y),
            xytext=(dx, dy),
            textcoords="offset points",
            va="center",
            color=INK,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.7} if far else None,
        ).set_in_layout(False)


def label_ends(
    figure: Figure, axes: Axes, ends: Sequence[tuple[float, float, str, str]], edge: float
) -> None:
    """Write names to the right of line ends, in the order of the lines, without overlap.

    Args:
        figure: The figure, complete except for the names.
        axes: Its axes, with room for the names at the right.
        ends: ``x``, ``y``, name and colour of each line's end.
        edge: Left edge of the names, in units of ``x``.
    """
    frame, places = _layout(figure, axes, [*((x, y) for x, y, *_ in ends), (edge, ends[0][1])])
    spots, left = places[:-1], places[-1, 0]
    order = np.argsort(-spots[:, 1], kind="stable")
    heights = [spots[i, 1] for i in order]
    for _ in range(200):  # move neighbours apart that are too close
        for i in range(len(heights) - 1):
            lack = LINE - (heights[i] - heights[i + 1])
            if lack > 0.01:
                heights[i] += lack / 2
                heights[i + 1] -= lack / 2
        heights[0] = min(heights[0], frame[3] - LINE / 2)
        heights[-1] = max(heights[-1], frame[1] + LINE / 2)
    for i, height in zip(order, heights, strict=True):
        x, y, name, colour = ends[i]
        axes.annotate(
            name,
            (x, y),
            xytext=(left - spots[i, 0] + 12, height - spots[i, 1]),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkB": 4},
        ).set_in_layout(False)


def _layout(
    figure: Figure, axes: Axes, spots: Sequence[tuple[float, float]]
) -> tuple[Box, NDArray[np.float64]]:
    """The frame of the axes and the positions of points, in the units of text."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # keep the layout
    scale = 72 / figure.dpi
    frame = axes.get_window_extent()
    box = (frame.x0 * scale, frame.y0 * scale, frame.x1 * scale, frame.y1 * scale)
    return box, np.asarray(axes.transData.transform(np.asarray(spots))) * scale


def _places(width: float) -> list[tuple[float, float]]:
    """Offsets of a name's left end and vertical centre from its point, in order of preference."""
    across = (8.0, -8 - width, -width / 2, 3.0, -width - 3, 20.0, -20 - width)
    heights = (0.0, 11.0, -11.0, 19.0, -19.0, 30.0, -30.0, 42.0, -42.0, 56.0, -56.0)
    return [(dx, dy) for dy in heights for dx in across]


def _shared(one: Box, other: Box) -> float:
    """Area of the intersection of two boxes."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, high)
