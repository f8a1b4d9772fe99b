"""Texts and table cells of a comparison of methods, shared by the page and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from aft.backbones.specs import shorten_paths
from aft.comparison.statistics import opposed
from aft.config.groups import EQUAL_STEPS, LABELS_ONLY, METHOD_WORDS
from aft.errors import DataError
from aft.files import read_json
from aft.metrics import LOWER_IS_BETTER, metric_words
from aft.report.comparison.costs import UNKNOWN, operations
from aft.training.run_folder import FINISH_AGAIN, RESULT

ALONE = "alone"
HEADINGS = (
    "method",
    "verdict",
    "weight",
    "seeds",
    "mean",
    "std",
    "difference",
    "95% interval",
    "error ratio",
    "95% interval",
)
RUN_HEADINGS = ("steps", "inputs seen", "operations", "mean time")
INSTEAD = "What people would use instead"
RUNS_NOTE = (
    "Means over seeds. Inputs seen: steps times inputs per step, with repetitions. Operations: "
    "floating-point operations of the student's training, without the transfer loss itself. The "
    "time is training time, without the extraction of the teachers' features."
)
CEILING_HEADINGS = ("linear model on the features of", "score")
CEILINGS = (
    "Ceilings are models on stored features, linear if not said otherwise. They need the teachers "
    "for every prediction, so they are references for the students above, not alternatives."
)
SWITCHED_OFF = 0.01
"""A teacher is switched off if its share of the kernel, averaged over seeds, is below this."""
NONE = "\N{EN DASH}"


def remarkable(setting: Mapping[str, Any]) -> list[str]:
    """Verdict of each method that differs from the labels alone or has too few runs."""
    return [
        values["verdict"]
        for name, values in setting["methods"].items()
        if name != EQUAL_STEPS and values["verdict"] and values["outcome"] != "no difference shown"
    ]


class MetricCell(NamedTuple):
    """One method's value of another metric, as text.

    Attributes:
        mean: Mean over seeds.
        difference: Difference from the labels alone, with its interval; empty if unknown.
        outcome: ``better``, ``worse``, ``no difference shown`` or empty.
    """

    mean: str
    difference: str
    outcome: str


def other_metrics(
    setting: Mapping[str, Any], main: str
) -> tuple[list[str], list[tuple[str, list[MetricCell]]]]:
    """Values of the metrics other than the main one.

    Args:
        setting: One setting of the document. Documents of earlier versions have no other metrics.
        main: Key of the metric that the verdicts rest on.

    Returns:
        Display names of the metrics, and for each method and baseline its name and one cell per
        metric. Both are empty if there are no other metrics.
    """
    found = {name: values.get("metrics") or {} for name, values in table_rows(setting).items()}
    keys = [
        key for key in dict.fromkeys(key for own in found.values() for key in own) if key != main
    ]
    if not keys:
        return [], []
    names = [
        f"{metric_words(key)}{' (lower is better)' if key in LOWER_IS_BETTER else ''}"
        for key in keys
    ]
    rows = [(name, [_metric_cell(own.get(key)) for key in keys]) for name, own in found.items()]
    return names, rows


def _metric_cell(values: Mapping[str, Any] | None) -> MetricCell:
    if values is None or values["mean"] is None:
        return MetricCell(NONE, "", "")
    difference = ""
    if values["difference"] is not None:
        ends = interval(values["low"], values["high"], "{:+.3f}")
        difference = f"{values['difference']:+.3f} ({ends})"
    return MetricCell(text(values["mean"]), difference, values["outcome"] or "")


def warnings(setting: Mapping[str, Any], main: str) -> list[str]:
    """A warning for each method that is better on the main metric but worse on another."""
    found = []
    for name, values in setting["methods"].items():
        if name == EQUAL_STEPS or values["outcome"] != "better" or not values.get("metrics"):
            continue
        if worse := opposed(values, main):
            found.append(
                f"{name} is better than the labels alone in {metric_words(main)}, but worse in "
                f"{'; '.join(worse)}."
            )
    return found


def all_methods(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the methods of all settings, in the order of their first setting."""
    return list(dict.fromkeys(name for setting in settings for name in setting["methods"]))


def baselines(setting: Mapping[str, Any]) -> dict[str, Any]:
    """The baselines of a setting by name; documents of earlier versions have none."""
    return {one["name"]: one for one in setting.get("baselines", ())}


def table_rows(setting: Mapping[str, Any]) -> dict[str, Any]:
    """The methods of a setting, then its baselines, by their name in tables."""
    methods = {method_name(name): values for name, values in setting["methods"].items()}
    return {**methods, **{one["words"]: one for one in baselines(setting).values()}}


def gated(methods: Iterable[str]) -> str | None:
    """The method whose gates are shown: the default loss, else AFT as published."""
    names = set(methods)
    return next((name for name in ("aft-soft", "aft") if name in names), None)


def leader(setting: Mapping[str, Any]) -> str | None:
    """The recommended method; if that is the labels alone, the one with the highest mean."""
    best = (setting.get("best") or {}).get("method")
    if best not in (None, ALONE) and best in setting["methods"]:
        return str(best)
    means = {
        name: values["mean"]
        for name, values in setting["methods"].items()
        if name not in LABELS_ONLY and values["mean"] is not None
    }
    return max(means, key=lambda name: means[name], default=None)


def scores(values: Mapping[str, Any]) -> list[float]:
    """Scores of all runs of a method that have one."""
    return [run["score"] for run in values["runs"] if run.get("score") is not None]


def method_name(name: str) -> str:
    """Display name of a method."""
    return METHOD_WORDS.get(name, name)


def chart_name(name: str) -> str:
    """Display name of a method in charts, which have little room."""
    return "equal steps" if name == EQUAL_STEPS else method_name(name)


def method_rows(setting: Mapping[str, Any]) -> list[list[str]]:
    """One row of text per method and baseline, under ``HEADINGS``."""
    return [
        [
            name,
            values["outcome"] or (NONE if name == method_name(ALONE) else "too few seeds"),
            text(values.get("beta"), "{:g}"),
            str(len(scores(values))),
            text(values["mean"]),
            text(values["std"]),
            text(values["difference"], "{:+.3f}"),
            interval(values["low"], values["high"], "{:+.3f}"),
            text(values["error_ratio"]),
            interval(values["error_ratio_low"], values["error_ratio_high"]),
        ]
        for name, values in table_rows(setting).items()
    ]


def run_headings(document: Mapping[str, Any]) -> list[str]:
    """Headings of the table of runs."""
    return ["method", *(f"seed {seed}" for seed in range(document["seeds"])), *RUN_HEADINGS]


def run_rows(document: Mapping[str, Any], setting: Mapping[str, Any]) -> list[list[str]]:
    """Scores by seed and cost of each method and baseline, under :func:`run_headings`."""
    rows = []
    for name, values in table_rows(setting).items():
        found = {run["seed"]: run["score"] for run in values["runs"]}
        cost = operations(values.get("operations"))
        rows.append(
            [
                name,
                *(text(found.get(seed)) for seed in range(document["seeds"])),
                text(values.get("steps"), "{:,}"),
                text(values.get("inputs_seen"), "{:,}"),
                NONE if cost == UNKNOWN else cost,
                time(values["seconds"]),
            ]
        )
    return rows


def _ceiling_name(probe: Mapping[str, Any]) -> str:
    names = " + ".join([*(["the student"] if probe.get("student") else []), *probe["teachers"]])
    return f"kernel ridge on {names}" if probe.get("ridge") else names


def ceiling_rows(setting: Mapping[str, Any]) -> list[list[str]]:
    """One row of text per linear model on stored features."""
    return [[_ceiling_name(probe), text(probe["score"])] for probe in setting["probes"]]


def overview_headings(document: Mapping[str, Any]) -> list[str]:
    """The methods of all settings, then the baselines, by their name in tables."""
    words = [
        one["words"] for setting in document["settings"] for one in baselines(setting).values()
    ]
    return list(dict.fromkeys([*map(method_name, all_methods(document["settings"])), *words]))


def overview_rows(document: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Name of each setting; mean, verdict and outcome of each of :func:`overview_headings`."""
    rows = []
    for setting in document["settings"]:
        found, cells = table_rows(setting), []
        for name in overview_headings(document):
            values = found.get(name)
            if values is None or values["mean"] is None:
                cells.append((NONE, "", ""))
                continue
            outcome = values["outcome"] or ""
            said = {"no difference shown": "no difference", "": "too few seeds"}
            word = "" if name == method_name(ALONE) else said.get(outcome, outcome)
            cells.append((text(values["mean"]), word, outcome))
        rows.append((setting["name"], cells))
    return rows


def searched(setting: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Evaluated weights of each method with a weight search."""
    found = {name: list(values["search"] or ()) for name, values in setting["methods"].items()}
    return {name: looks for name, looks in found.items() if looks}


def search_rows(document: Mapping[str, Any], setting: Mapping[str, Any]) -> list[list[str]]:
    """Validation score of each searched method for each of the document's weights."""
    rows = []
    for name, looks in searched(setting).items():
        found = {look["beta"]: look.get("validation") for look in looks}
        rows.append([name, *(text(found.get(beta)) for beta in document["betas"])])
    return rows


def read_shares(folder: Path, setting: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the share of each teacher in AFT's kernel over all seeds.

    Args:
        folder: The comparison's folder.
        setting: One setting of the document.

    Returns:
        For each teacher ``spec``, ``mean``, ``low``, ``high`` and ``off`` (a mean below 1 %). Empty
        if there is only one teacher, or no run of AFT with shares.
    """
    found = []
    method = gated(setting["methods"])
    for run in setting["methods"][method]["runs"] if method else ():
        if not (folder / run["folder"] / RESULT).exists():
            continue
        result = read_json(folder / run["folder"] / RESULT, DataError, FINISH_AGAIN)
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
    """Which teachers were switched off, and the rule."""
    rule = f"share of the kernel below {SWITCHED_OFF:.0%}, averaged over seeds"
    off = [share["spec"] for share in shares if share["off"]]
    if not off:
        return f"No teacher was switched off ({rule})."
    return f"Switched off ({rule}): {', '.join(off)}."


def introduction(document: Mapping[str, Any]) -> str:
    """Describe the comparison in one paragraph."""
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
        f"{document['student']} ({document['num_parameters']:,} parameters on the labels alone; "
        f"weights: {start}) was trained on {trained} rows with each method and {document['seeds']} "
        f"seed{'' if document['seeds'] == 1 else 's'}"
        f"{f' in {len(settings)} settings' if several else ''}. {_budget(settings)} The score is "
        f"{metric_words(document['metric'])} on {scored:,} rows of the {split} split. Differences "
        "are to the labels alone with the same seed. "
    )
    betas = document["betas"]
    if not any(one["beta"] is not None for s in settings for one in s["methods"].values()):
        return words.rstrip()
    if len(betas) > 1:
        where = " in each setting" if several else ""
        return words + (
            f"The weight of the transfer loss was selected{where} from "
            f"{', '.join(f'{b:g}' for b in betas)} by the validation score of seed 0, and then "
            "used for all seeds. Methods without a weight need no selection."
        )
    return words + f"All methods use the weight {betas[0]:g}, without a search."


def _budget(settings: Sequence[Mapping[str, Any]]) -> str:
    """What is equal for all methods."""
    where = " within a setting" if len(settings) > 1 else ""
    if not any(EQUAL_STEPS in setting["methods"] for setting in settings):
        return f"All methods use the same steps, batches and learning rates{where}."
    return (
        f"All methods see the same number of inputs{where}, with the same batches and learning "
        "rates: methods without a second batch in every step take more steps. The row "
        f'"{method_name(EQUAL_STEPS)}" takes as many steps as the methods with a second batch.'
    )


def text(value: float | None, form: str = "{:.3f}") -> str:
    """Format a number, None as a dash."""
    return NONE if value is None else form.format(value)


def time(seconds: float | None) -> str:
    """Format seconds: ``0.16 s``, ``1,200 s``, None as a dash."""
    if seconds is None:
        return NONE
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def interval(low: float | None, high: float | None, form: str = "{:.3f}") -> str:
    """Format an interval, None as a dash."""
    if low is None or high is None:
        return NONE
    return f"{form.format(low)} to {form.format(high)}"


def shorten(value: Any) -> Any:
    """Shorten long paths in all texts of a document."""
    if isinstance(value, str):
        return shorten_paths(value)
    if isinstance(value, Mapping):
        return {name: shorten(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [shorten(one) for one in value]
    return value
