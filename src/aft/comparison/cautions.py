"""Cautions for the reader of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aft.comparison.runs import UNSEARCHED, method_of
from aft.config.commands import CompareConfig
from aft.config.groups import ALONE, EQUAL_STEPS, LABELS_ONLY
from aft.data.loading import DataSet


def list_cautions(
    config: CompareConfig, data: DataSet, found: Sequence[Mapping[str, Any]], split: str
) -> list[str]:
    """Sentences about the limitations of the results."""
    notes = []
    compared = sum(
        name not in LABELS_ONLY and values["mean"] is not None
        for setting in found
        for name, values in setting["methods"].items()
    )
    if compared > 1 and any(setting["best"]["method"] not in (ALONE, None) for setting in found):
        notes.append(
            f"The best of {compared} methods was picked on test scores, so its lead is optimistic: "
            "one of many intervals may exclude zero by chance. Check with other seeds or data."
        )
    notes += _second_batch(found)
    if split != "test":
        notes.append(
            "There is no test split. The scored rows were also used to choose checkpoints and, "
            "with seed 0, the weights of the methods, so the scores of methods with a weight are "
            "optimistic. Use --test-fraction to hold out test rows."
        )
    elif "test" in data.held_out:
        notes.append(
            "Each seed has its own test rows (--test-fraction), so some rows used to choose the "
            "weights with seed 0 are test rows of other seeds. A test split avoids this."
        )
    for setting in found:
        place = f"With {setting['name']}: " if setting["name"] else ""
        for name, values in setting["methods"].items():
            count = sum(run["score"] is not None for run in values["runs"])
            if count == 0:
                notes.append(f"{place}{name}: no seed has a score.")
            elif count < config.seeds:
                notes.append(
                    f"{place}{name}: {count} of {config.seeds} seeds have a score; the mean is "
                    "over these, the difference over seeds that also have a score of alone."
                )
        notes += [place + note for note in _ends_of_the_range(setting)]
    return notes


def _second_batch(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which methods use a second batch in every step, and their training time."""
    notes = []
    for setting in found:
        if not (setting["unlabelled"] or setting["views"]):
            continue
        methods = setting["methods"]
        ours = [name for name in methods if name in UNSEARCHED and methods[name]["seconds"]]
        alone = methods[ALONE]["seconds"]
        if not (ours and alone):
            continue
        more = setting["unlabelled"]
        rows = f"{more:,} unlabelled rows" if more else "stored views of the rows"
        times = ", ".join(f"{name} {methods[name]['seconds'] / alone:.1f}" for name in ours)
        place = f"With {setting['name']}: " if setting["name"] else ""
        notes.append(
            f"{place}{' and '.join(ours)} {'uses' if len(ours) == 1 else 'use'} {rows} in a second "
            f"batch in every step. The other methods do not; they take {methods[ALONE]['steps']:,} "
            f"steps instead of {setting['steps']:,}, to see as many inputs. A student's own "
            "vocabulary has the words of the second batch too. Training time relative to the "
            f"labels alone: {times}."
        )
    return notes


def _ends_of_the_range(setting: Mapping[str, Any]) -> list[str]:
    """Notes on chosen weights that are tied, or at an end of the searched range."""
    ends: dict[str, list[str]] = {"largest": [], "smallest": []}
    tied = []
    for name, values in setting["methods"].items():
        tried = [one for one in values["search"] if one["validation"] is not None]
        scores = [one["validation"] for one in tried]
        if scores.count(max(scores, default=None)) != 1:
            tied += [name] if scores else []
            continue
        for end, one in (("largest", tried[-1]), ("smallest", tried[0])):
            if values["beta"] == one["beta"]:
                ends[end].append(f"{name} ({one['beta']:g})")
    rows = setting["rows"].get("validation")
    notes = [
        f"Several weights share the best score on {rows} validation rows, and the smallest of them "
        f"was used: {', '.join(tied)}. Use more validation rows to distinguish them "
        "(--validation-fraction)."
    ]
    return notes * bool(tied) + [
        f"The chosen weight is the {end} one searched: {', '.join(names)}. A {other} weight may be "
        "better (--betas)."
        for (end, names), other in zip(ends.items(), ("larger", "smaller"), strict=True)
        if names
    ]


def list_left_out(out: Path, methods: Sequence[str]) -> list[str]:
    """A note on methods with runs in the folder that are not part of this comparison."""
    known = {path.parent.name for path in out.rglob("result.json")}
    others = {method_of(name) for name in known} - {EQUAL_STEPS, *methods}
    if not others:
        return []
    return [
        f"The folder also contains runs of {', '.join(sorted(others))}, which are not in this "
        "report; add them to --methods to include them."
    ]
