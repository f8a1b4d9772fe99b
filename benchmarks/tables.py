"""Tables and pictures of README and docs, made from what the benchmarks left in results/."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from aft.statistics import summarize_tasks

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BOTH = ("README.md", "docs/benchmarks.md")
PICTURE = ROOT / "docs" / "images" / "suite.png"
SIGNS = {"better": "**", "worse": "_", "no difference shown": "", None: ""}
NONE = "\N{EN DASH}"
COLOURS = {"better": "#2f6fb0", "worse": "#c8642b", "no difference shown": "#9a9a9a"}

Words = Mapping[str, tuple[str, str, str, str]]


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"


def without_folders(document: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The same numbers without folders of this machine."""
    kept = {k: v for k, v in document.items() if k not in ("json", "markdown", "report")}
    text = json.dumps(kept, ensure_ascii=False)
    for folder, name in names.items():
        text = text.replace(json.dumps(folder)[1:-1], name)
    return dict(json.loads(text))


def put(mark: str, text: str, pages: Sequence[str]) -> None:
    """Write a text between the marks of that name in each page."""
    block = f"<!-- {mark} -->\n{text}<!-- /{mark} -->"
    pattern = re.compile(f"<!-- {mark} -->.*?<!-- /{mark} -->", re.DOTALL)
    for page in (ROOT / page for page in pages):
        page.write_text(pattern.sub(lambda _: block, page.read_text()))


def write_suite(words: Words) -> None:
    """The tables and the picture of the suite."""
    found = {
        name: json.loads((RESULTS / "suite" / f"{name}.json").read_text())
        for name in words
        if (RESULTS / "suite" / f"{name}.json").exists()
    }
    if found:
        put("suite tasks", task_table(found, words) + _origin(found), BOTH)
        put("suite methods", method_table(found), BOTH)
        put("suite scores", score_table(found), BOTH[1:])
        draw(found, words).savefig(PICTURE, dpi=150)


def task_table(found: Mapping[str, Any], words: Words) -> str:
    """A row a task: who knows how much, and what AFT and the best other method bring."""
    lines = [
        "| data | training rows | student, its weights | teachers' features | student alone | "
        "with AFT | difference, 95 % interval | best other method |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, document in found.items():
        data, student, start, _ = words[name]
        setting = document["settings"][-1]
        methods = setting["methods"]
        others = {m: v for m, v in _rivals(methods).items() if m != "aft" and v["mean"] is not None}
        best = max(others, key=lambda m: others[m]["mean"])
        probe = f"{setting['probes'][-1]['score']:.3f}" if setting["probes"] else NONE
        lines.append(
            f"| {data} | {setting['rows']['train']:,} | {student}, {start} | {probe} | "
            f"{_score(methods['alone'])} | {_score(methods['aft'])} | {_change(methods['aft'])} | "
            f"{best} {_change(others[best])} |"
        )
    return "\n".join(lines) + "\n"


def method_table(found: Mapping[str, Any]) -> str:
    """A row a method: its error over all tasks."""
    lines = [
        "| method | tasks | error / error alone | 95 % interval over tasks | p | better | "
        "no difference shown | worse |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, per_task in sorted(
        _by_method(found).items(), key=lambda item: summarize_tasks(_ratios(item[1]))["mean"]
    ):
        told = summarize_tasks(_ratios(per_task))
        outcomes = [values["outcome"] for values in per_task.values()]
        counts = [outcomes.count(o) for o in ("better", "no difference shown", "worse")]
        interval, p = NONE, NONE
        if told["low"] is not None:
            interval, p = (
                f"{1 + told['low']:.3f} to {1 + told['high']:.3f}",
                f"{told['p_value']:.3f}",
            )
        keeps = " (keeps the teachers)" if method == "refine" else ""
        lines.append(
            f"| {method}{keeps} | {told['tasks']} | {told['mean']:.3f} | {interval} | {p} | "
            f"{' | '.join(map(str, counts))} |"
        )
    return (
        "\n".join(lines) + "\n\nThe error is 1 less the score, divided by that of the student "
        "alone with the same seed; below 1 is better. Means over tasks; the interval is Student's "
        "t over tasks, p that of Wilcoxon's signed-rank test. The last columns count the tasks in "
        "which the 95 % interval over seeds lies above, around or below no difference.\n"
    )


def score_table(found: Mapping[str, Any]) -> str:
    """A row a method, a column a task: the mean score."""
    names = list(found)
    methods = list(dict.fromkeys(m for d in found.values() for m in d["settings"][-1]["methods"]))
    lines = [f"| method | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for method in methods:
        cells = []
        for document in found.values():
            values = document["settings"][-1]["methods"].get(method)
            sign = SIGNS[values["outcome"]] if values else ""
            cells.append(f"{sign}{_score(values)}{sign}" if values else NONE)
        lines.append(f"| {method} | {' | '.join(cells)} |")
    probes = [
        f"{d['settings'][-1]['probes'][-1]['score']:.3f}" if d["settings"][-1]["probes"] else NONE
        for d in found.values()
    ]
    lines.append(f"| linear probe of the teachers | {' | '.join(probes)} |")
    return (
        "\n".join(lines)
        + "\n\nTest score, mean ± standard deviation over seeds; **bold** is better "
        "than the student alone, _italic_ worse (95 % interval of the paired difference).\n"
    )


def draw(found: Mapping[str, Any], words: Words) -> Figure:
    """One row a task, one point a method: how much of the error of the student alone is left."""
    figure = Figure(figsize=(7.2, 0.9 + 0.62 * len(found)), layout="constrained")
    axes = figure.subplots()
    for row, document in enumerate(found.values()):
        for method, values in _rivals(document["settings"][-1]["methods"]).items():
            if method == "alone" or values["error_ratio"] is None:
                continue
            own = method == "aft"
            if own:
                ends = [values["error_ratio_low"], values["error_ratio_high"]]
                axes.plot(ends, [row, row], color=COLOURS[values["outcome"]], linewidth=2)
            axes.scatter(
                min(values["error_ratio"], 1.6),
                row,
                s=70 if own else 26,
                color=COLOURS[values["outcome"]],
                marker="o" if own else "|",
                zorder=3 if own else 2,
            )
    axes.axvline(1, color="#444444", linewidth=1, linestyle=(0, (4, 3)))
    labels = [f"{words[n][0]}\n{words[n][1]}, {words[n][2]}" for n in found]
    axes.set_yticks(range(len(found)), labels, fontsize=8)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel(
        "error, divided by that of the student alone (dots: AFT with its 95 % interval; "
        "strokes: other methods)",
        fontsize=8,
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for word, colour in COLOURS.items():
        axes.scatter([], [], color=colour, s=40, label=word)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure


def _by_method(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """For each method what is known of it in each task."""
    methods: dict[str, dict[str, Any]] = {}
    for name, document in found.items():
        for method, values in document["settings"][-1]["methods"].items():
            if method != "alone" and values["error_ratio"] is not None:
                methods.setdefault(method, {})[name] = values
    return methods


def _rivals(methods: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in methods.items() if not values["keeps_teachers"]}


def _ratios(per_task: Mapping[str, Any]) -> list[float]:
    return [values["error_ratio"] for values in per_task.values()]


def _score(values: Mapping[str, Any]) -> str:
    if values["mean"] is None:
        return NONE
    return f"{values['mean']:.3f} ± {values['std']:.3f}"


def _change(values: Mapping[str, Any]) -> str:
    if values["difference"] is None:
        return NONE
    return f"{values['difference']:+.3f} ({values['low']:+.3f} to {values['high']:+.3f})"


def _origin(found: Mapping[str, Any]) -> str:
    first = next(iter(found.values()))
    seeds = "/".join(map(str, sorted({document["seeds"] for document in found.values()})))
    return (
        f"\nTest accuracy (R² where labels are numbers), mean ± standard deviation over {seeds} "
        "seeds; the same steps, batches and learning rates for every method of a task, the weight "
        "of each chosen on held-out training rows. Teachers' features: a linear model on them, "
        "which keeps the teachers.\n"
        f"Made by `python benchmarks/suite.py` ({first['machine']}).\n"
    )
