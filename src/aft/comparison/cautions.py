"""What to be careful about when reading a comparison."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aft.comparison.runs import UNSEARCHED
from aft.config.commands import CompareConfig
from aft.config.groups import ALONE
from aft.data.loading import DataSet


def list_cautions(
    config: CompareConfig, data: DataSet, found: Sequence[Mapping[str, Any]], split: str
) -> list[str]:
    """Sentences on what limits the results of these runs."""
    notes = []
    compared = sum(
        name != ALONE and values["mean"] is not None
        for setting in found
        for name, values in setting["methods"].items()
    )
    if compared > 1 and any(setting["best"]["method"] not in (ALONE, None) for setting in found):
        notes.append(
            f"The best of {compared} methods was picked on test scores, so its lead is optimistic: "
            "of many intervals one may exclude zero by chance. Check with other seeds or data."
        )
    notes += _second_batch(found)
    if split != "test":
        notes.append(
            "There is no test split. The rows scored here also chose the checkpoints, and with "
            "seed 0 the weights of the methods, so the scores of methods with a weight are "
            "optimistic. --test-fraction holds test rows out of train."
        )
    elif "test" in data.held_out:
        notes.append(
            "Every seed has test rows of its own (--test-fraction), so some rows that chose the "
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
                    "over these, the difference over those that the labels alone have as well."
                )
        notes += [place + note for note in _ends_of_the_range(setting)]
    return notes


def _second_batch(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the methods of this library see in every step that the others do not."""
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
            f"{place}{' and '.join(ours)} {'sees' if len(ours) == 1 else 'see'} {rows} in a second "
            "batch of every step; the other methods do not. Training time relative to the labels "
            f"alone: {times}."
        )
    return notes


def _ends_of_the_range(setting: Mapping[str, Any]) -> list[str]:
    """Which chosen weights are the smallest or largest that were tried."""
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
        f"Several weights have the same best score on {rows} validation rows, so that the smallest "
        f"of these was taken rather than chosen: {', '.join(tied)}. More validation rows tell them "
        "apart (--validation-fraction)."
    ]
    return notes * bool(tied) + [
        f"The chosen weight is the {end} that was tried: {', '.join(names)}. A {other} one may be "
        "better (--betas)."
        for (end, names), other in zip(ends.items(), ("larger", "smaller"), strict=True)
        if names
    ]


def list_left_out(out: Path, methods: Sequence[str]) -> list[str]:
    """Say which methods have runs in the folder and were not asked for."""
    known = {path.parent.name for path in out.rglob("result.json")}
    others = {re.sub(r"(-beta[^-]*(-\d+)?)?-seed\d+$", "", name) for name in known} - set(methods)
    if not others:
        return []
    return [
        f"The folder also holds runs of {', '.join(sorted(others))}, which are not in this report; "
        "name them in --methods to have them in it."
    ]
