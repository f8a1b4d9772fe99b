"""Generate the tables and the figure of the README and the docs from the results in results/."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from aft.comparison.statistics import compare_paired
from aft.errors import InputError

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README, PAGE = ["README.md"], ["docs/benchmarks.md"]
PICTURE = ROOT / "docs" / "images" / "suite.png"
SIGNS = {"better": "**", "worse": "_", "no difference shown": "", None: ""}
MOST_SHOWN = 1.6
OURS = "aft-soft"
TEXT_STUDENT = "words and word pairs"
EQUAL_STEPS = "alone-equal-steps"
SHOWN_FIRST = ("reuters", "amazon", "tweets", "clipart-few", "clipart", "stamps")
"""Tasks of the README: texts that had no part in choosing the student, and pictures."""
CLEAR = 0.01
"""Smallest gap of which a share is given: below, the share would be mostly noise."""
NONE = "\N{EN DASH}"
COLOURS = {"better": "#2f6fb0", "worse": "#c8642b", "no difference shown": "#9a9a9a"}

Words = Mapping[str, tuple[str, str, str, str]]


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"


def without_folders(document: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The document with local folders replaced, and without the keys of output files."""
    kept = {k: v for k, v in document.items() if k not in ("json", "markdown", "report")}
    text = json.dumps(kept, ensure_ascii=False)
    for folder, name in names.items():
        text = text.replace(json.dumps(folder)[1:-1], name)
    return dict(json.loads(text))


def put(mark: str, text: str, pages: Sequence[str]) -> None:
    """Replace the text between the marks of this name in each page.

    Raises:
        ValueError: If a page has no such marks.
    """
    block = f"<!-- {mark} -->\n{text}<!-- /{mark} -->"
    pattern = re.compile(f"<!-- {mark} -->.*?<!-- /{mark} -->", re.DOTALL)
    for page in (ROOT / page for page in pages):
        if not pattern.search(before := page.read_text()):
            raise ValueError(f"{page} has no marks named {mark}")
        page.write_text(pattern.sub(lambda _: block, before))


def write_suite(words: Words) -> None:
    """Write the tables and the figure of the suite."""
    found, before = _read_suite("suite", words), _read_suite("suite-equal-steps", words)
    texts = {name: one for name, one in found.items() if words[name][1] == TEXT_STUDENT}
    others = {name: one for name, one in found.items() if name not in texts}
    put("results", short_table(found, words), README)
    put("suite pictures", picture_table(others, words), PAGE)
    put("suite texts", text_table(texts, words) + _text_origin(texts), PAGE)
    put("suite tasks", task_table(before, words) + _origin(before), PAGE)
    put("suite methods", method_table(before), PAGE)
    put("suite scores", score_table(before), PAGE)
    draw(texts | others, words).savefig(PICTURE, dpi=150)


def _read_suite(kind: str, words: Words) -> dict[str, Any]:
    """The results of each task that has been run."""
    files = {name: RESULTS / kind / f"{name}.json" for name in words}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def picture_table(found: Mapping[str, Any], words: Words) -> str:
    """One row per task of pictures, or of a cut transformer: the student beside the others."""
    if not found:
        return "Not measured yet: run `python benchmarks/suite.py`.\n"
    lines = [
        "| data | labelled + unlabelled rows | student, initial weights | teachers' features | "
        "student's own features | student alone, equal steps | student alone, equal inputs | "
        "AFT as published | best other published method | **aft's default** | difference to equal "
        "inputs, 95 % interval | share of the gap closed |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, document in found.items():
        data, student, start, _ = words[name]
        setting = document["settings"][-1]
        methods, ours = setting["methods"], setting["methods"][OURS]
        own = _baseline(document, "start-features")
        lines.append(
            f"| {data} | {_rows(document)} | {student}, {start} | "
            f"{setting['probes'][-1]['score']:.3f} | {_score(own) if own else NONE} | "
            f"{_score(methods[EQUAL_STEPS])} | {_score(methods['alone'])} | "
            f"{_score(methods['aft']) if 'aft' in methods else NONE} | {_best_other(methods)} | "
            f"**{_score(ours)}** | {_change(ours)} | {_share_closed(setting)} |"
        )
    document = next(iter(found.values()))
    balanced = {n: words[n][0] for n, one in found.items() if one["metric"] == "balanced_accuracy"}
    return "\n".join(lines) + (
        f"\n\nTest accuracy (balanced accuracy for {', '.join(balanced)}), mean ± "
        f"standard deviation over {document['seeds']} seeds; differences are paired by seed. "
        "*Teachers' features*, *own features*: linear models on them. *Equal inputs*: the student "
        "alone takes as many steps as it needs to see as many inputs as with the teachers; so do "
        "the published methods, whose weights were chosen on the validation rows. The best of them "
        "is picked on test scores, so it is optimistic; a dash is not measured. The gap is the one "
        "between the teachers' features and the student alone at equal inputs.\n"
        f"{_accuracies(found, words)}"
        f"Made by `python benchmarks/suite.py --tasks {' '.join(found)}` "
        f"({document['machine']}, one thread per task).\n"
    )


def _best_other(methods: Mapping[str, Any]) -> str:
    """The published method beside AFT with the best test score, and that score."""
    others = {
        name: values
        for name, values in _rivals(methods).items()
        if name not in ("alone", EQUAL_STEPS, "aft", OURS) and values["mean"] is not None
    }
    best = max(others, key=lambda name: others[name]["mean"], default=None)
    return f"{best} {_score(others[best])}" if best else NONE


def _accuracies(found: Mapping[str, Any], words: Words) -> str:
    """A sentence on the plain accuracy of students that were scored by balanced accuracy."""
    parts = []
    for name, document in found.items():
        if document["metric"] == "balanced_accuracy":
            methods = document["settings"][-1]["methods"]
            alone, ours = (
                statistics.mean(run["metrics"]["accuracy"] for run in methods[method]["runs"])
                for method in ("alone", OURS)
            )
            rows = _rows(document)
            parts.append(f"{words[name][0]}, {rows}: {alone:.3f} alone, {ours:.3f} with aft")
    return f"Accuracy of the same students: {'; '.join(parts)}.\n" if parts else ""


def short_table(found: Mapping[str, Any], words: Words) -> str:
    """Scores with and without the teachers on the tasks of the README."""
    lines = [
        "| data, labelled + unlabelled rows | TF-IDF with a linear model | small model alone | "
        "with aft, difference (95 % interval) |",
        "|---|---|---|---|",
    ]
    for name in SHOWN_FIRST:
        if name in found:
            document = found[name]
            methods = document["settings"][-1]["methods"]
            tf_idf = _baseline(document, "tf-idf")
            lines.append(
                f"| {words[name][0]}, {_rows(document)} | {_score(tf_idf) if tf_idf else NONE} | "
                f"{_score(methods['alone'])} | {_score(methods[OURS])}, {_change(methods[OURS])} |"
            )
    return "\n".join(lines) + "\n"


def text_table(found: Mapping[str, Any], words: Words) -> str:
    """One row per text task: what people would use instead, and the student."""
    lines = [
        "| data | labelled + unlabelled rows | TF-IDF with a linear model | student alone, "
        "equal steps | student alone, equal inputs | AFT as published | best other published "
        "method | TF-IDF taught by the soft labels | **aft's default** | difference to the student "
        "alone | difference to taught TF-IDF | teacher's features |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, document in found.items():
        setting = document["settings"][-1]
        methods, ours = setting["methods"], setting["methods"][OURS]
        tf_idf, taught = (_baseline(document, one) for one in ("tf-idf", "taught-tf-idf"))
        scores = [[run["score"] for run in one["runs"]] for one in (taught, ours)]
        beside = vars(compare_paired(document["metric"], *scores)) if taught else {}
        lines.append(
            f"| {words[name][0]} | {_rows(document)} | {_score(tf_idf)} | "
            f"{_score(methods[EQUAL_STEPS])} | {_score(methods['alone'])} | "
            f"{_score(methods['aft']) if 'aft' in methods else NONE} | {_best_other(methods)} | "
            f"{_score(taught)} | "
            f"**{_score(ours)}** | {_change(ours)} | "
            f"{_change(beside) if beside else NONE} | {setting['probes'][-1]['score']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def _baseline(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The scores of a linear model that people would use instead of a student, if there are any."""
    entries = document["settings"][-1].get("baselines") or ()
    return next((dict(one) for one in entries if one["name"] == name), {})


def _rows(document: Mapping[str, Any]) -> str:
    setting = document["settings"][-1]
    return f"{setting['rows']['train']:,} + {setting.get('unlabelled') or 0:,}"


def _text_origin(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    document = next(iter(found.values()))
    balanced = [n for n, one in found.items() if one["metric"] == "balanced_accuracy"]
    return (
        f"\nTest accuracy (R² for ratings; balanced accuracy for {', '.join(balanced) or 'none'}), "
        f"mean ± standard deviation over {document['seeds']} seeds; differences are paired by "
        "seed, with 95 % intervals. The student is `small:ngrams`, the teacher all-MiniLM-L6-v2. "
        "All have the same labelled rows, and the same validation rows to choose with. *Equal "
        "inputs*: the student alone takes more steps, and so sees as many inputs as with the "
        "teacher. *Teacher's features*: a linear model on them.\n"
        "The features of the student were chosen on TREC questions, film reviews and SMS spam; "
        "the other tasks had no part in it.\n"
        f"Made by `python benchmarks/suite.py --tasks {' '.join(found)}` ({document['machine']}, "
        "one thread per task).\n"
    )


def task_table(found: Mapping[str, Any], words: Words) -> str:
    """One row per task: the teachers' probe, and the scores of the student by method."""
    lines = [
        "| data | labelled + unlabelled rows | student, initial weights | teachers' features | "
        "student alone | AFT as published | best other method | **aft's default** | "
        "difference, 95 % interval | share of the gap closed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, document in found.items():
        data, student, start, _ = words[name]
        setting = document["settings"][-1]
        methods = setting["methods"]
        others = {
            name: values
            for name, values in _rivals(methods).items()
            if name not in ("alone", EQUAL_STEPS, "aft", OURS) and values["mean"] is not None
        }
        best = max(others, key=lambda name: others[name]["mean"], default=None)
        other = f"{best} {_change(others[best])}" if best else NONE
        probe = f"{setting['probes'][-1]['score']:.3f}" if setting["probes"] else NONE
        ours = methods.get(OURS, {})
        rows = f"{setting['rows']['train']:,}"
        if more := setting.get("unlabelled"):
            rows += f" + {more:,}"
        lines.append(
            f"| {data} | {rows} | {student}, {start} | {probe} | "
            f"{_score(methods['alone'])} | {_change(methods['aft'])} | {other} | "
            + (
                f"**{_score(ours)}** | {_change(ours)} | {_share_closed(setting)} |"
                if ours
                else f"{NONE} | {NONE} | {NONE} |"
            )
        )
    return "\n".join(lines) + "\n"


def _share_closed(setting: Mapping[str, Any]) -> str:
    """The gain of our method as a share of the gap between the teachers' probe and the student."""
    alone, ours = (setting["methods"][name] for name in ("alone", OURS))
    if not setting["probes"] or ours["difference"] is None:
        return NONE
    gap = setting["probes"][-1]["score"] - alone["mean"]
    return f"{ours['difference'] / gap:.0%}" if gap > CLEAR else "no gap"


def method_table(found: Mapping[str, Any]) -> str:
    """One row per method: its error ratio over all data sets."""
    lines = [
        "| method | data sets | error ratio | 95 % interval | p | AFT's ratio minus this | p | "
        "tasks better | no difference shown | worse |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    methods = _by_method(found)
    ratios = {name: _by_data_set(per_task) for name, per_task in methods.items()}
    for method in sorted(methods, key=lambda name: fmean(ratios[name].values())):
        own, aft = ratios[method], ratios["aft"]
        told = summarize_tasks(list(own.values()))
        interval = NONE
        if told["low"] is not None:
            interval = f"{1 + told['low']:.3f} to {1 + told['high']:.3f}"
        less = ["", ""]
        if method != "aft":
            shared = [name for name in own if name in aft]
            against = summarize_tasks([aft[n] for n in shared], [own[n] for n in shared])
            less = [f"{against['difference']:+.3f}", _p(against)]
        outcomes = [values["outcome"] for values in methods[method].values()]
        counts = [outcomes.count(o) for o in ("better", "no difference shown", "worse")]
        keeps = " (keeps the teachers)" if method == "refine" else ""
        lines.append(
            f"| {method}{keeps} | {told['tasks']} | {told['mean']:.3f} | {interval} | {_p(told)} | "
            f"{' | '.join(less)} | {' | '.join(map(str, counts))} |"
        )
    return (
        "\n".join(lines) + "\n\nThe error ratio is the error (1 - score) divided by that of the "
        "student alone with the same seed; below 1 is better. It is averaged over the tasks of a "
        "data set, then over data sets. The interval is Student's t over data sets, p is from "
        "Wilcoxon's signed-rank test, not corrected for the number of methods. The last three "
        "columns count tasks by their 95 % interval over seeds: better than the student alone, no "
        "difference shown, or worse.\n"
    )


def score_table(found: Mapping[str, Any]) -> str:
    """One row per method, one column per task: the mean score."""
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
    lines.append(f"| linear probe on the teachers | {' | '.join(probes)} |")
    return (
        "\n".join(lines)
        + "\n\nTest score, mean ± standard deviation over seeds; **bold** is better "
        "than the student alone, _italic_ worse (95 % interval of the paired difference).\n"
    )


def draw(found: Mapping[str, Any], words: Words) -> Figure:
    """One row per task, one mark per method: its error ratio to the student alone."""
    figure = Figure(figsize=(7.2, 1.0 + 0.5 * len(found)), layout="constrained")
    axes = figure.subplots()
    for row, document in enumerate(found.values()):
        for method, values in _rivals(document["settings"][-1]["methods"]).items():
            if method in ("alone", EQUAL_STEPS) or values["error_ratio"] is None:
                continue
            own = method == OURS
            if own:
                ends = [values["error_ratio_low"], values["error_ratio_high"]]
                axes.plot(ends, [row, row], color=COLOURS[values["outcome"]], linewidth=2)
            axes.scatter(
                min(values["error_ratio"], MOST_SHOWN),
                row,
                s=70 if own else 26,
                color=COLOURS[values["outcome"]],
                marker="o" if own else "|",
                zorder=3 if own else 2,
            )
        for one in document["settings"][-1].get("baselines") or ():
            if one["error_ratio"] is not None:
                place = min(one["error_ratio"], MOST_SHOWN)
                fill = "#6a6a6a" if one["name"].startswith("taught") else "none"
                axes.scatter(place, row, s=26, marker="D", facecolors=fill, edgecolors="#6a6a6a")
    axes.axvline(1, color="#444444", linewidth=1, linestyle=(0, (4, 3)))
    rows = {n: document["settings"][-1]["rows"]["train"] for n, document in found.items()}
    labels = [f"{words[n][0]}, {rows[n]:,} labels\n{words[n][1]}, {words[n][2]}" for n in found]
    axes.set_yticks(range(len(found)), labels, fontsize=8)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel(
        "error, divided by that of the student alone\n"
        "dots: aft's default, with its 95 % interval; strokes: published methods;\n"
        "diamonds: linear models on TF-IDF or on the student's own features,\n"
        "filled: taught by the soft labels",
        fontsize=8,
    )
    axes.tick_params(axis="x", labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for word, colour in COLOURS.items():
        axes.scatter([], [], color=colour, s=40, label=word)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure


def _by_method(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The values of each method in each task."""
    methods: dict[str, dict[str, Any]] = {}
    for name, document in found.items():
        for method, values in document["settings"][-1]["methods"].items():
            if method != "alone" and values["error_ratio"] is not None:
                methods.setdefault(method, {})[name] = values
    return methods


def _by_data_set(per_task: Mapping[str, Any]) -> dict[str, float]:
    """The mean error ratio per data set, the first part of a task's name."""
    groups: dict[str, list[float]] = {}
    for name, values in per_task.items():
        groups.setdefault(name.partition("-")[0], []).append(values["error_ratio"])
    return {name: fmean(values) for name, values in groups.items()}


def _p(told: Mapping[str, Any]) -> str:
    return NONE if told["p_value"] is None else f"{told['p_value']:.3f}"


def _rivals(methods: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in methods.items() if not values.get("keeps_teachers")}


def _score(values: Mapping[str, Any]) -> str:
    if values["mean"] is None:
        return NONE
    return f"{values['mean']:.3f}" + (f" ± {values['std']:.3f}" if values["std"] else "")


def _change(values: Mapping[str, Any]) -> str:
    if values["difference"] is None:
        return NONE
    return f"{values['difference']:+.3f} ({values['low']:+.3f} to {values['high']:+.3f})"


def _origin(found: Mapping[str, Any]) -> str:
    """How the scores were obtained, and how to read them."""
    first = next(iter(found.values()))
    seeds = "/".join(map(str, sorted({document["seeds"] for document in found.values()})))
    betas = first["betas"]
    chosen = [
        values["beta"]
        for document in found.values()
        for values in document["settings"][-1]["methods"].values()
        if values["beta"] is not None
    ]
    rows = [document["settings"][-1]["rows"]["validation"] for document in found.values()]
    balanced = [n for n, one in found.items() if one.get("metric") == "balanced_accuracy"]
    instead = f", balanced accuracy for {', '.join(balanced)}" if balanced else ""
    failed = sum(len(document["errors"]) for document in found.values())
    return (
        f"\nTest accuracy (R² for numeric labels{instead}), mean ± standard deviation over {seeds} "
        "seeds. Every method of a task takes the same number of steps, with the same batches and "
        "learning rates. Only aft's default "
        "uses unlabelled rows, or stored views if there are none: a second batch of twice the size "
        "in every step. The other methods are as published. *Teachers' features*: a linear model "
        "on them, which needs the teachers for every prediction. The gap is its score minus that "
        f"of the student alone; up to {CLEAR:g} it counts as no gap. The best other method is "
        "picked on test scores, so its scores are optimistic. The weights of all methods but aft's "
        f"default were chosen from {', '.join(f'{beta:g}' for beta in betas)} with one seed on "
        f"{min(rows)} to {max(rows)} validation rows: {chosen.count(betas[0])} of {len(chosen)} "
        f"are the smallest value tried, {chosen.count(betas[-1])} the largest."
        f"{f' {failed} runs failed.' if failed else ''}\n"
        f"Made by `benchmarks/suite.py` of an earlier version ({first['machine']}, one thread per "
        "task).\n"
    )


def ablation_table(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]], default: str, order: Sequence[str]
) -> str:
    """One row per change, one column per task: mean score and difference from the default."""
    tasks = list(scores)
    lines = [f"| change | {' | '.join(tasks)} |", "|---" * (1 + len(tasks)) + "|"]
    for change in order:
        cells = [_ablation_cell(scores[task], change, default) for task in tasks]
        if any(cell != NONE for cell in cells):
            lines.append(f"| {change} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _ablation_cell(scores: Mapping[str, Mapping[str, float]], change: str, default: str) -> str:
    own, base = scores.get(change, {}), scores.get(default, {})
    seeds = [seed for seed in own if seed in base]
    if not seeds:
        return NONE
    mean = f"{fmean(own[seed] for seed in seeds):.3f}"
    if change == default or len(seeds) < 2:
        return f"{mean} ({len(seeds)} seeds)"
    found = compare_paired("score", [base[s] for s in seeds], [own[s] for s in seeds])
    return f"{mean}: {found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def summarize_tasks(
    ratios: Sequence[float], others: Sequence[float] | None = None
) -> dict[str, float | int | None]:
    """Compare a method with the labels alone, or with another method, over several data sets.

    The samples of the tests are data sets, not seeds: each counts once, with its mean over seeds.

    References:
        Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 2006: the
        signed-rank test of Wilcoxon (1945).

    Args:
        ratios: The method's error on each data set, divided by that of the labels alone.
        others: The same for the other method, in the same order; by default 1 for each, the ratio
            of the labels alone.

    Returns:
        ``tasks``; ``mean`` of the ratios; ``difference``, the mean of ratio - other, with ``low``
        and ``high``, its 95 % interval (Student's t); ``p_value``, two-sided. With fewer than two
        data sets, the interval and the p-value are None.

    Raises:
        InputError: If there are no data sets, or the lengths differ.
    """
    from scipy import stats

    against = [1.0] * len(ratios) if others is None else list(others)
    if not ratios or len(against) != len(ratios):
        raise InputError(f"expected pairs of ratios, got {len(ratios)} and {len(against)}")
    found: dict[str, float | int | None] = {
        "tasks": len(ratios),
        "mean": float(np.mean(ratios)),
        "difference": float(np.mean(np.subtract(ratios, against))),
        **dict.fromkeys(("low", "high", "p_value")),
    }
    if len(ratios) > 1:
        paired = compare_paired("error", against, ratios)
        same = all(a == b for a, b in zip(ratios, against, strict=True))
        test = 1.0 if same else stats.wilcoxon(ratios, against).pvalue
        found |= {"low": paired.low, "high": paired.high, "p_value": float(test)}
    return found
