"""Where does more training stop to help? Learning curves of the student alone, AFT and the default.

Each point is a run of its own, whose learning rate falls to zero at its last step. All methods have
the same batches, and are drawn over the number of inputs that the student has seen: a step of the
default has more of them. The safety net is off, as it would hide harm.

    python benchmarks/curves.py --tasks clipart-cnn stamps trec snippets
    python benchmarks/curves.py --tables          # only the table and the figure

Results are written after every run; run the same command again to resume. Takes some hours on one
core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure

import aft
import suite
import tables
from aft.comparison.runs import inputs_seen
from aft.config.commands import TrainConfig
from data_sets import DATA_SETS

FILE = suite.RESULTS / "curves.json"
PICTURE = tables.ROOT / "docs" / "images" / "curves.png"
TASKS = ("clipart-cnn", "stamps", "trec", "snippets")
"""Two of pictures and two of texts."""
STEPS = (100, 300, 1000, 5000)
METHODS = {"alone": "student alone", "aft": "AFT as published", "aft-soft": "aft's default"}
COLOURS = {"alone": "#9a9a9a", "aft": "#c8642b", "aft-soft": "#2f6fb0"}
KEPT = ("batch_size", "lr", "head_lr", "label_column", "validation_fraction", "unlabelled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=suite.TASKS, default=list(TASKS))
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", action="store_true", help="no training")
    options = parser.parse_args()
    runs = json.loads(FILE.read_text())["runs"] if FILE.exists() else []
    for key in plan(options.tasks, options.steps, options.seeds) if not options.tables else ():
        if not any(all(run[name] == value for name, value in key.items()) for run in runs):
            runs.append(key | train(**key))
            print(runs[-1], flush=True)
            write(runs)
    write(runs)
    tables.put("curves", write_table(runs), ["docs/benchmarks.md"])
    draw(runs).savefig(PICTURE, dpi=150)


def plan(tasks: Sequence[str], steps: Sequence[int], seeds: int) -> Iterator[dict[str, Any]]:
    """What to train: short runs first."""
    for number in sorted(steps):
        for seed in range(seeds):
            for task in tasks:
                for method in METHODS:
                    yield {"task": task, "method": method, "steps": number, "seed": seed}


def train(task: str, method: str, steps: int, seed: int) -> dict[str, Any]:
    """The score on test of one run, and what it cost."""
    entry, cache = suite.TASKS[task], suite._cache()
    (fraction,) = entry.options.get("train_fractions", (1.0,))
    options = {name: entry.options[name] for name in KEPT if name in entry.options}
    if fraction == 1 or method != "aft-soft":  # AFT as published has no rows without labels
        options.pop("unlabelled", None)
    if method != "alone":
        options |= {"teachers": entry.teachers(cache), "loss": method}
    config = TrainConfig(
        data=str(DATA_SETS[entry.data](cache, False).folder),
        student=entry.student(cache),
        train_fraction=fraction,
        steps=steps,
        seed=seed,
        safety_net=False,
        out=Path("runs") / "curves" / f"{task}-{method}-{steps}-{seed}",
        **{"num_workers": 0, "progress": False, "report": False, "overwrite": True},
        **options,
    )
    result = aft.train(config)
    metric = result.summary["metric"]
    return {
        "metric": metric,
        "score": result.metrics[metric],
        "inputs": inputs_seen(config, result.summary),
        "seconds": result.summary["seconds"],
    }


def write(runs: Sequence[Mapping[str, Any]]) -> None:
    document = {
        "command": f"python benchmarks/curves.py --tasks {' '.join(_tasks(runs))}",
        "version": aft.__version__,
        "machine": tables.machine(),
        "runs": runs,
    }
    FILE.write_text(json.dumps(document, indent=1) + "\n")


def _tasks(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in suite.TASKS if any(run["task"] == name for run in runs)]


def _points(
    runs: Sequence[Mapping[str, Any]], task: str, method: str
) -> list[tuple[int, float, list[float]]]:
    """Steps, mean number of inputs, and scores of each budget of one curve."""
    own = [run for run in runs if run["task"] == task and run["method"] == method]
    groups = {n: [run for run in own if run["steps"] == n] for n in {run["steps"] for run in own}}
    return [
        (n, fmean(run["inputs"] for run in some), [run["score"] for run in some])
        for n, some in sorted(groups.items())
    ]


def write_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """One row per task and method, one column per number of steps."""
    steps = sorted({run["steps"] for run in runs})
    lines = [
        f"| data | method | {' | '.join(f'{n:,} steps' for n in steps)} |",
        "|---" * (2 + len(steps)) + "|",
    ]
    for task in _tasks(runs):
        for method, words in METHODS.items():
            found = {n: scores for n, _, scores in _points(runs, task, method)}
            cells = [_cell(found.get(n, [])) for n in steps]
            lines.append(f"| {suite.TASKS[task].words[0]} | {words} | {' | '.join(cells)} |")
    seeds = "/".join(
        map(
            str,
            sorted(
                {len(s) for t in _tasks(runs) for m in METHODS for _, _, s in _points(runs, t, m)}
            ),
        )
    )
    return "\n".join(lines) + (
        f"\n\nTest score (the metric of each task in the tables above), mean ± standard deviation "
        f"over {seeds} seeds (the fewer at the longest runs). A step of aft's default has up to "
        "three times as many inputs.\n"
        f"Made by `python benchmarks/curves.py --tasks {' '.join(_tasks(runs))}` "
        f"({tables.machine()}).\n"
    )


def _cell(scores: Sequence[float]) -> str:
    if not scores:
        return tables.NONE
    return f"{fmean(scores):.3f}" + (f" ± {stdev(scores):.3f}" if len(scores) > 1 else "")


def draw(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """One panel per task, one curve per method, over the inputs seen."""
    tasks = _tasks(runs)
    figure = Figure(figsize=(7.2, 2.6 * -(-len(tasks) // 2)), layout="constrained")
    panels = figure.subplots(-(-len(tasks) // 2), 2, squeeze=False).flat
    for axes, task in zip(panels, tasks, strict=False):
        for method, words in METHODS.items():
            points = _points(runs, task, method)
            axes.errorbar(
                [inputs for _, inputs, _ in points],
                [fmean(scores) for *_, scores in points],
                [stdev(scores) if len(scores) > 1 else 0 for *_, scores in points],
                color=COLOURS[method],
                marker="o",
                markersize=4,
                label=words,
            )
        data, student, *_ = suite.TASKS[task].words
        axes.set_title(f"{data}, {student}", fontsize=8)
        axes.set_xscale("log")
        axes.tick_params(labelsize=7)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for axes in list(panels)[len(tasks) :]:
        axes.set_visible(False)
    figure.supxlabel("inputs that the student has seen", fontsize=8)
    figure.supylabel("test score", fontsize=8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    main()
