"""The page of one run."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aft.metrics import AGREEMENT, LOWER_IS_BETTER, metric_words
from aft.report import plots
from aft.report.cards import show_input
from aft.report.rendering import confusion_context, count, render, student_name
from aft.report.tables import class_scores, confusion, label_scores, target_scores
from aft.training.run_folder import Run
from aft.trivial import PREDICTIONS

if TYPE_CHECKING:
    from aft.report.cards import OpenInput

MOST_MISTAKES, MOST_RIGHT = 12, 6
MOST_BAD_INPUTS = 50


def render_run(run: Run, open_input: OpenInput | None) -> str:
    """The page as HTML."""
    kind = run.task.kind
    trivial = run.result.get("trivial") or {}
    labelled = "label" in run.rows
    shown = {entry.get("sentence") for entry in (run.safety_net, trivial)}
    return render(
        "run.html.j2",
        run=run,
        result=run.result,
        title=_title(run),
        score=run.result["metrics"].get(run.main_metric),
        interval=(run.result.get("intervals") or {}).get(run.main_metric),
        lower_is_better=LOWER_IS_BETTER,
        intervals=run.result.get("intervals") or {},
        curves=_curves(run),
        gates=gate_charts([run]),
        shares=_shares(run),
        net=run.safety_net,
        further=_further_rows(run),
        trivial=trivial,
        constant=PREDICTIONS[kind],
        notes=[note for note in run.result["notes"] if note not in shown],
        confusion=confusion_context(run) if kind == "classification" and labelled else None,
        classes=class_scores(run, confusion(run)) if kind == "classification" and labelled else [],
        labels=label_scores(run) if kind == "multilabel" and run.rows else None,
        targets=_targets(run) if kind == "regression" and run.rows else [],
        examples=_examples(run, open_input)
        if open_input and run.rows and run.main_metric != AGREEMENT
        else [],
        modalities=run.modalities,
        bad_inputs=run.bad_inputs[:MOST_BAD_INPUTS],
        again=shlex.join(["aft", "train", "--config", f"{run.folder}/config.yaml", "--out", "NEW"]),
    )


GATES = (
    "Each feature of a teacher has a gate, learned together with the student. The initial value is "
    "0.5. A feature with an open gate (1) contributes to the teachers' kernel; a feature with a "
    "closed gate (0) does not."
)
SCORES = " The kernel also contains scores of the task, which are not shown."
DENSE = (
    "A matrix that was learned together with the student maps the teachers' features. The charts "
    "show the weight of each feature in it, relative to the largest weight of all teachers."
)
FIXED = "All features of a teacher have the same weight, because fixed gates are not learned."


def gate_charts(runs: list[Run]) -> list[dict[str, Any]]:
    """Chart and summary of each teacher's gates or weights, pooled over the runs."""
    charts = []
    weights = str(runs[0].config.get("weights"))
    dense = weights == "dense"
    sentence = {"dense": DENSE, "fixed": FIXED}.get(weights, GATES)
    if runs[0].result.get("loss") == "aft-soft" and runs[0].config.get("combine") == "concat":
        sentence += SCORES
    for place, teacher in enumerate(runs[0].teachers):
        found = [run.gates[place] for run in runs if place < len(run.gates)]
        if not found:
            continue
        gates = np.concatenate(found)
        charts.append(
            {
                "teacher": teacher["spec"],
                "dim": len(found[0]),
                "mean": float(gates.mean()),
                "shut": float((gates < 0.25).mean()),
                "open": float((gates > 0.75).mean()),
                "what": "weight" if dense else "gate",
                "sentence": sentence,
                "svg": plots.draw_gates(gates, gated=not dense),
            }
        )
    return charts


def _further_rows(run: Run) -> str:
    """Rows or views that only the transfer loss uses, in words; empty if there are none."""
    rows, views = (run.result.get(name, 0) for name in ("rows_without_labels", "views"))
    if views:
        return f"{count(rows, 'stored view')} ({views} per row)"
    return count(rows, "unlabelled row") if rows else ""


def _curves(run: Run) -> list[dict[str, Any]]:
    """Charts, and whether each shows a second student, trained on the labels alone."""
    charts = []
    for name, title in (("task_loss", "task loss"), ("transfer_loss", "transfer loss")):
        curve = run.curve("train", name)
        if len(curve[0]):
            charts.append({"svg": plots.draw_losses(curve, title), "two": False})
    curve = run.curve("validation", run.main_metric)
    if len(curve[0]):
        best = int(run.result.get("best_step", curve[0][np.argmax(curve[1])]))
        alone = run.curve("validation_alone", run.main_metric)
        svg = plots.draw_validation(
            curve,
            metric_words(run.main_metric),
            best,
            alone if len(alone[0]) else None,
            bool(run.safety_net.get("fell_back")),
        )
        charts.insert(0, {"svg": svg, "two": len(alone[0]) > 0})
    return charts


def _shares(run: Run) -> list[tuple[str, float]]:
    shares = run.result.get("teacher_shares") or []
    return list(zip([teacher["spec"] for teacher in run.teachers], shares, strict=False))


def _targets(run: Run) -> list[dict[str, Any]]:
    return [
        {**target, "svg": plots.draw_scatter(target["true"], target["predicted"])}
        for target in target_scores(run)
    ]


def _examples(run: Run, open_input: OpenInput) -> list[dict[str, Any]]:
    """Groups of inputs: the most confident mistakes, and some correct predictions."""
    if run.task.kind == "regression":
        largest, described = _largest_errors(run)
        return [
            {
                "title": "Largest errors",
                "note": "Errors of all targets, divided by the standard deviation of the target.",
                "cards": _cards(run, largest, open_input, described),
            }
        ]
    true, predicted = np.asarray(run.rows["label"]), np.asarray(run.rows["predicted"])
    wrong, right = np.flatnonzero(true != predicted), np.flatnonzero(true == predicted)
    if run.task.kind == "classification":
        wrong = wrong[np.argsort(-np.asarray(run.rows["probability"])[wrong], kind="stable")]
        title = f"{min(MOST_MISTAKES, len(wrong))} most confident of {count(len(wrong), 'mistake')}"
        note = "Some of these may be wrong labels in the data."
    else:
        wrong = np.random.default_rng(0).permutation(wrong)
        title = f"{min(MOST_MISTAKES, len(wrong))} of {count(len(wrong), 'row')} with a mistake"
        note = "A random sample."
    right = np.random.default_rng(0).permutation(right)

    def describe(row: int) -> tuple[str, str]:
        if run.task.kind == "classification":
            sure = run.rows["probability"][row]
            return f"true: {true[row]}", f"predicted: {predicted[row]} ({sure:.0%})"
        has, said = (labels[row].replace("|", ", ") or "none" for labels in (true, predicted))
        return f"true: {has}", f"predicted: {said}"

    groups = [
        (title, note, wrong[:MOST_MISTAKES]),
        (
            f"{min(MOST_RIGHT, len(right))} of {count(len(right), 'correct prediction')}",
            "A random sample.",
            right,
        ),
    ]
    return [
        {
            "title": title,
            "note": note,
            "cards": _cards(run, rows[:most], open_input, describe),
        }
        for (title, note, rows), most in zip(groups, (MOST_MISTAKES, MOST_RIGHT), strict=True)
        if len(rows)
    ]


def _largest_errors(run: Run) -> tuple[NDArray[np.int64], Callable[[int], tuple[str, str]]]:
    targets = target_scores(run)
    spread = [max(float(target["true"].std()), 1e-12) for target in targets]
    errors = np.stack([np.abs(t["predicted"] - t["true"]) for t in targets]) / np.c_[spread]
    worst = errors.max(axis=0)

    def describe(row: int) -> tuple[str, str]:
        target = targets[int(errors[:, row].argmax())]
        return (
            f"{target['name']}: true {target['true'][row]:.4g}",
            f"predicted {target['predicted'][row]:.4g}",
        )

    return np.argsort(-worst, kind="stable")[:MOST_MISTAKES], describe


def _cards(
    run: Run,
    rows: NDArray[np.int64],
    open_input: OpenInput,
    describe: Callable[[int], tuple[str, str]],
) -> list[dict[str, Any]]:
    cards = []
    for row in map(int, rows):
        true, said = describe(row)
        parts = show_input(open_input, row)
        cards.append({"file": run.rows["file"][row], "true": true, "said": said, "parts": parts})
    return cards


def _title(run: Run) -> str:
    """Names of student and data, without source, options and folders."""
    source = run.data.get("source", run.folder.name)
    return f"{student_name(run.result['student'])} on {Path(source).name or source}"
