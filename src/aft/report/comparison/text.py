"""What a comparison of several methods says in words and cells, for every form of the report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from aft.backbones.specs import shorten_paths
from aft.comparison.statistics import opposed
from aft.metrics import metric_words

ALONE = "alone"
HEADINGS = (
    "method",
    "verdict",
    "weight",
    "seeds",
    "mean",
    "deviation",
    "difference",
    "95% interval",
    "error ratio",
    "95% interval",
)
CEILING_HEADINGS = ("ceiling", "seeds", "mean", "deviation", "difference", "95% interval")
CEILINGS = (
    "Linear models on the stored features, fitted after training. They need the teachers for every "
    "prediction, so they are upper references for the students above, not alternatives."
)
SWITCHED_OFF = 0.01  # of the kernel, mean over seeds: a teacher below it counts as switched off
NONE = "\N{EN DASH}"


OTHER_HEADINGS = ("method", "metric", "mean", "difference", "95% interval", "verdict")


def other_metrics(setting: Mapping[str, Any], main: str) -> list[list[str]]:
    """One row of text per method and metric other than the main one, under OTHER_HEADINGS."""
    return [
        [
            method_name(method),
            metric_words(name),
            text(one["mean"]),
            text(one["difference"], "{:+.3f}"),
            interval(one["low"], one["high"], "{:+.3f}"),
            one["outcome"] or NONE,
        ]
        for method, values in setting["methods"].items()
        for name, one in (values.get("metrics") or {}).items()
        if name != main
    ]


def warnings(setting: Mapping[str, Any], main: str) -> list[str]:
    """For each method, the metrics that moved against its verdict beyond their intervals."""
    found = []
    for method, values in setting["methods"].items():
        for words in opposed(values, main) if values.get("metrics") else ():
            found.append(f"{method} is {values['outcome']}, but {words}.")
    return found


def students(setting: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The methods whose student predicts without its teachers, labels alone first."""
    return {n: v for n, v in setting["methods"].items() if not v.get("keeps_teachers")}


def kept(setting: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The methods that keep the teachers at prediction: ceilings, no competitors."""
    return {n: v for n, v in setting["methods"].items() if v.get("keeps_teachers")}


def remarkable(setting: Mapping[str, Any]) -> list[str]:
    """A sentence for each method that differs from the labels alone, or has too few runs."""
    return [
        values["verdict"]
        for values in students(setting).values()
        if values["verdict"] and values["outcome"] != "no difference shown"
    ]


def all_methods(settings: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """The name of every method of any setting, and whether it keeps the teachers."""
    found: dict[str, bool] = {}
    for setting in settings:
        for name, values in setting["methods"].items():
            found.setdefault(name, bool(values.get("keeps_teachers")))
    return {name: found[name] for name in sorted(found, key=lambda name: found[name])}


def leader(setting: Mapping[str, Any]) -> str | None:
    """The recommended method; if that is the labels alone, the other with the highest mean."""
    best = (setting.get("best") or {}).get("method")
    if best not in (None, ALONE) and best in setting["methods"]:
        return str(best)
    means = {
        name: values["mean"]
        for name, values in students(setting).items()
        if name != ALONE and values["mean"] is not None
    }
    return max(means, key=lambda name: means[name], default=None)


def scores(values: Mapping[str, Any]) -> list[float]:
    """The score of every run of a method that has one."""
    return [run["score"] for run in values["runs"] if run.get("score") is not None]


def fraction_name(fraction: float) -> str:
    """``10% of train``."""
    return f"{100 * fraction:.4g}% of train"


def method_name(name: str) -> str:
    """The name of a method for people."""
    return "labels alone" if name == ALONE else name


def method_rows(setting: Mapping[str, Any]) -> list[list[str]]:
    """One row of text a method that keeps no teacher, under ``HEADINGS``."""
    return [
        [
            method_name(name),
            values["outcome"] or (NONE if name == ALONE else "too few seeds"),
            text(values["beta"], "{:g}"),
            str(len(scores(values))),
            text(values["mean"]),
            text(values["std"]),
            text(values["difference"], "{:+.3f}"),
            interval(values["low"], values["high"], "{:+.3f}"),
            text(values["error_ratio"]),
            interval(values["error_ratio_low"], values["error_ratio_high"]),
        ]
        for name, values in students(setting).items()
    ]


def _ceiling_name(probe: Mapping[str, Any]) -> str:
    features = " + ".join([*(["the student"] if probe.get("student") else []), *probe["teachers"]])
    return f"linear model on the features of {features}"


def ceiling_rows(setting: Mapping[str, Any]) -> list[list[str]]:
    """One row of text a linear probe or a method that keeps its teachers."""
    probes = [
        [_ceiling_name(probe), NONE, text(probe["score"])] + [NONE] * (len(CEILING_HEADINGS) - 3)
        for probe in setting["probes"]
    ]
    return probes + [
        [
            f"{name}: student that keeps the teacher{'' if len(setting['teachers']) == 1 else 's'}",
            str(len(scores(values))),
            text(values["mean"]),
            text(values["std"]),
            text(values["difference"], "{:+.3f}"),
            interval(values["low"], values["high"], "{:+.3f}"),
        ]
        for name, values in kept(setting).items()
    ]


def overview_rows(document: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """For each setting its name, and mean, verdict and outcome of every method."""
    names = all_methods(document["settings"])
    rows = []
    for setting in document["settings"]:
        cells = []
        for name, keeps in names.items():
            values = setting["methods"].get(name)
            if values is None or values["mean"] is None:
                cells.append((NONE, "", ""))
                continue
            outcome = values["outcome"] or ""
            said = {"no difference shown": "no difference", "": "too few seeds"}
            word = "" if name == ALONE else said.get(outcome, outcome)
            cells.append((text(values["mean"]), word, "" if keeps else outcome))
        rows.append((setting["name"], cells))
    return rows


def searched(setting: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tried weights of each method that has several."""
    found = {name: list(values["search"] or ()) for name, values in setting["methods"].items()}
    return {name: looks for name, looks in found.items() if looks}


def search_rows(document: Mapping[str, Any], setting: Mapping[str, Any]) -> list[list[str]]:
    """For each searched method the validation score under each of the document's weights."""
    rows = []
    for name, looks in searched(setting).items():
        found = {look["beta"]: look.get("validation") for look in looks}
        rows.append([name, *(text(found.get(beta)) for beta in document["betas"])])
    return rows


def read_shares(folder: Path, setting: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The share of each teacher in AFT's kernel over all seeds.

    Args:
        folder: The comparison's folder.
        setting: One setting of the document.

    Returns:
        For each teacher ``spec``, ``mean``, ``low``, ``high`` and ``off`` (a mean below 1 %); empty
        where there is but one teacher, or no run of AFT that says it.
    """
    found = []
    for run in (setting["methods"].get("aft") or {"runs": ()})["runs"]:
        try:
            result = json.loads((folder / run["folder"] / "result.json").read_text("utf-8"))
        except (OSError, ValueError):
            continue
        shares = result.get("teacher_shares") or ()
        if len(shares) == len(setting["teachers"]) and None not in shares:
            found.append([float(share) for share in shares])
    if not found or len(setting["teachers"]) < 2:
        return []
    return [
        {
            "spec": spec,
            "mean": fmean(shares),
            "low": min(shares),
            "high": max(shares),
            "off": fmean(shares) < SWITCHED_OFF,
        }
        for spec, *shares in zip(setting["teachers"], *found, strict=True)
    ]


def shares_sentence(shares: Sequence[Mapping[str, Any]]) -> str:
    """Which teachers were switched off, and by which rule."""
    rule = "that is, has a share below 1% of the kernel, averaged over seeds"
    off = [share["spec"] for share in shares if share["off"]]
    if not off:
        return f"No teacher was switched off, {rule}."
    return f"Switched off, {rule}: {', '.join(off)}."


def introduction(document: Mapping[str, Any]) -> str:
    """What was compared, and how, in a paragraph."""
    settings, split = document["settings"], document["split"]
    several = len(settings) > 1
    start = {"pretrained": "pretrained", "random": "random", "mixed": "partly pretrained"}.get(
        document["student_weights"], document["student_weights"]
    )
    known = {one["rows"]["train"] for one in settings if "train" in one["rows"]}
    *fewer, most = [f"{rows:,}" for rows in sorted(known)] or ["an unknown number of"]
    scored = max((one["rows"].get(split, 0) for one in settings), default=0)
    trained = f"{', '.join(fewer)} or {most}" if fewer else most
    words = (
        f"{document['student']} ({document['num_parameters']:,} parameters, weights: {start}) "
        f"was trained on {trained} rows by each method "
        f"with {document['seeds']} seed{'' if document['seeds'] == 1 else 's'}"
        f"{f' in {len(settings)} settings' if several else ''}. Steps, batches and learning rates "
        f"are the same{' within a setting' if several else ''}. "
        f"The scores are {metric_words(document['metric'])} on "
        f"{scored:,} rows of the {split} split; differences are from the "
        "labels alone with the same seed. "
    )
    betas = document["betas"]
    if len(betas) > 1:
        return words + (
            f"The weight of each method with a searched weight was chosen from "
            f"{', '.join(f'{b:g}' for b in betas)} by the score of seed 0 on the validation "
            f"split{', in each setting' if several else ''}, and then used for all seeds."
        )
    return words + f"Every method has the weight {betas[0]:g}; it was not searched."


def text(value: float | None, form: str = "{:.3f}") -> str:
    """A number as text, a dash where there is none."""
    return NONE if value is None else form.format(value)


def time(seconds: float | None) -> str:
    """``0.16 s``, ``1,200 s``, a dash where it is not known."""
    if seconds is None:
        return NONE
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def interval(low: float | None, high: float | None, form: str = "{:.3f}") -> str:
    """Both ends of an interval as text, a dash where there is none."""
    if low is None or high is None:
        return NONE
    return f"{form.format(low)} to {form.format(high)}"


def shorten(value: Any) -> Any:
    """The same values with the last parts alone of every long path in their texts."""
    if isinstance(value, str):
        return shorten_paths(value)
    if isinstance(value, Mapping):
        return {name: shorten(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [shorten(one) for one in value]
    return value
