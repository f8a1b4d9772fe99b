"""Paired comparison of methods over seeds: differences, intervals and verdicts in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aft.config.groups import EQUAL_STEPS
from aft.errors import InputError
from aft.metrics import LOWER_IS_BETTER, metric_words


@dataclass(frozen=True)
class PairedComparison:
    """Comparison of two methods with the same seeds.

    Attributes:
        metric: Name of the metric.
        baseline: The metric of each seed without transfer.
        treated: The metric of each seed with transfer, in the same order.
        difference: Mean of treated - baseline.
        low: Lower end of the interval of the difference.
        high: Upper end of the interval of the difference.
        p_value: Two-sided paired t test.
        confidence: Coverage of the interval, e.g. 0.95.
    """

    metric: str
    baseline: tuple[float, ...]
    treated: tuple[float, ...]
    difference: float
    low: float
    high: float
    p_value: float
    confidence: float

    @property
    def outcome(self) -> str:
        """``better``, ``worse`` or ``no difference shown``."""
        sign = -1 if self.metric in LOWER_IS_BETTER else 1
        if min(sign * self.low, sign * self.high) > 0:
            return "better"
        return "worse" if max(sign * self.low, sign * self.high) < 0 else "no difference shown"


def compare_paired(
    metric: str,
    baseline: Sequence[float],
    treated: Sequence[float],
    confidence: float = 0.95,
) -> PairedComparison:
    """Paired t test and confidence interval of the differences, with one value per seed.

    Args:
        metric: Name of the metric.
        baseline: One value per seed without transfer.
        treated: One value per seed with transfer, in the same order.
        confidence: Coverage of the interval.

    Raises:
        InputError: If there are fewer than two pairs, or the lengths differ.
    """
    from scipy import stats

    if len(baseline) != len(treated) or len(baseline) < 2:
        raise InputError(
            f"expected at least 2 pairs, got {len(baseline)} and {len(treated)} values"
        )
    differences = np.asarray(treated, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    mean = float(differences.mean())
    rounding = 1e-12 * max(1.0, float(np.abs([*baseline, *treated]).max()))
    if np.ptp(differences) > rounding:
        test = stats.ttest_1samp(differences, 0.0)
        interval, p_value = test.confidence_interval(confidence), float(test.pvalue)
        low, high = float(interval.low), float(interval.high)
    else:  # equal differences: zero variance, no t test
        mean = mean if abs(mean) > rounding else 0.0
        low, high, p_value = mean, mean, 1.0 if mean == 0 else 0.0
    return PairedComparison(
        metric,
        tuple(map(float, baseline)),
        tuple(map(float, treated)),
        mean,
        low,
        high,
        p_value,
        confidence,
    )


def summarize_method(
    method: str,
    metric: str,
    runs: Sequence[Mapping[str, Any]],
    alone: Sequence[Mapping[str, Any]] | None,
) -> dict[str, Any]:
    """Summarize a method: its mean, and its difference from the labels alone, paired by seed.

    Args:
        method: Name of the method.
        metric: The metric of the verdict; higher is better and 1 is the maximum.
        runs: One run per seed, with its ``score`` (or None) and all its ``metrics``.
        alone: The runs of the labels alone; None if the method is the labels alone.

    Returns:
        ``mean``, ``std``; ``pairs`` (number of seeds with both scores), ``difference`` with
        ``low`` and ``high`` (95 % interval), ``p_value``, ``outcome``; ``error_ratio``, the mean
        over seeds of (1 - score) / (1 - score alone), with ``error_ratio_low`` and
        ``error_ratio_high``; ``metrics``, with mean and difference of every metric; and
        ``verdict``, one or two sentences. Undefined values are None.
    """
    scores = [run["score"] for run in runs]
    own = [score for score in scores if score is not None]
    values: dict[str, Any] = {
        "mean": float(np.mean(own)) if own else None,
        "std": float(np.std(own, ddof=1)) if len(own) > 1 else None,
        **dict.fromkeys(("pairs", "difference", "low", "high", "p_value", "outcome")),
        **dict.fromkeys(("error_ratio", "error_ratio_low", "error_ratio_high", "verdict")),
        "metrics": _summarize_metrics(runs, alone),
    }
    if alone is None:
        return values
    pairs = pair_scores(alone, runs)
    values["pairs"] = len(pairs)
    if len(pairs) < 2:
        values["verdict"] = (
            f"No verdict on {method}: {len(pairs)} of {len(scores)} seeds can be compared; at "
            "least 2 are needed."
        )
        return values
    before, after = zip(*pairs, strict=True)
    paired = compare_paired(metric, before, after)
    for name in ("difference", "low", "high", "p_value", "outcome"):
        values[name] = getattr(paired, name)
    numbers = f"{describe_difference(metric, values)}, {len(pairs)} seeds"
    if paired.outcome == "no difference shown":
        verdict = f"No difference shown between {method} and the labels alone ({numbers})."
    else:
        verdict = f"{method} is {paired.outcome} than the labels alone ({numbers})."
    against = opposed(values, metric)
    if against:
        verdict += f" But other metrics changed in the opposite direction: {'; '.join(against)}."
    values["verdict"] = verdict
    if all(base < 1 for base in before):  # else the ratio divides by zero
        ratios = [(1 - score) / (1 - base) for base, score in pairs]
        spread = compare_paired("error", [0.0] * len(ratios), ratios)
        values["error_ratio"] = spread.difference
        values |= {"error_ratio_low": spread.low, "error_ratio_high": spread.high}
    return values


def finite(score: float | None) -> float | None:
    """The score; None if it is undefined."""
    return score if score is not None and np.isfinite(score) else None


def pair_scores(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> list[tuple[float, float]]:
    """The scores of the seeds for which both runs have one."""
    return _pairs([run["score"] for run in before], [run["score"] for run in after])


def _pairs(
    before: Sequence[float | None], after: Sequence[float | None]
) -> list[tuple[float, float]]:
    return [
        (base, score)
        for base, score in zip(before, after, strict=True)
        if base is not None and score is not None
    ]


def _summarize_metrics(
    runs: Sequence[Mapping[str, Any]], alone: Sequence[Mapping[str, Any]] | None
) -> dict[str, dict[str, Any]]:
    """Mean of every metric, with its difference from the labels alone and the outcome."""
    summaries: dict[str, dict[str, Any]] = {}
    names = dict.fromkeys(name for run in runs for name in run.get("metrics", ()))
    for name in names:
        own = [run.get("metrics", {}).get(name) for run in runs]
        known = [value for value in own if value is not None]
        summaries[name] = {
            "mean": float(np.mean(known)) if known else None,
            **dict.fromkeys(("difference", "low", "high", "outcome")),
        }
        base = [] if alone is None else [run.get("metrics", {}).get(name) for run in alone]
        pairs = _pairs(base, own) if base else []
        if len(pairs) > 1:
            before, after = zip(*pairs, strict=True)
            paired = compare_paired(name, before, after)
            summaries[name] |= {
                "difference": paired.difference,
                "low": paired.low,
                "high": paired.high,
                "outcome": paired.outcome,
            }
    return summaries


def opposed(values: Mapping[str, Any], metric: str) -> list[str]:
    """The other metrics that contradict the verdict, as descriptions of their differences.

    Args:
        values: The result of :func:`summarize_method`.
        metric: The metric of the verdict.
    """
    other = {"better": "worse", "worse": "better"}.get(values["outcome"] or "")
    return [
        describe_difference(name, one)
        for name, one in values["metrics"].items()
        if other and name != metric and one["outcome"] == other
    ]


def describe_difference(metric: str, values: Mapping[str, Any]) -> str:
    """A difference in words, e.g. ``accuracy +0.034, 95% interval +0.010 to +0.058``."""
    return (
        f"{metric_words(metric)} {values['difference']:+.3f}, 95% interval {values['low']:+.3f} "
        f"to {values['high']:+.3f}"
    )


def recommend_method(
    found: Mapping[str, Mapping[str, Any]], metric: str, alone: str
) -> dict[str, Any]:
    """Recommend the method with the best mean among those better than the labels alone.

    If no method is shown to be better, the labels alone are recommended, since they need no
    teachers. The labels alone at equal steps are a reference and never recommended.

    Args:
        found: The result of :func:`summarize_method` for each method and for the labels alone.
        metric: The metric of the verdicts.
        alone: Name of the labels alone in `found`.

    Returns:
        ``method``, its ``outcome`` and a ``sentence``.
    """
    means = {
        name: values["mean"]
        for name, values in found.items()
        if values["mean"] is not None and name != EQUAL_STEPS
    }
    if not means:
        return {"method": None, "outcome": None, "sentence": "No method has a score."}
    what = metric_words(metric)
    better = [name for name in means if found[name]["outcome"] == "better"]
    highest = max(means, key=lambda name: (means[name], name == alone))
    if better:
        best = max(better, key=lambda name: means[name])
        sentence = found[best]["verdict"]
        if highest != best:
            sentence += (
                f" {highest} has a higher mean {what} ({means[highest]:.3f} versus "
                f"{means[best]:.3f}), but is not shown to be better than the labels alone."
            )
        return {"method": best, "outcome": "better", "sentence": sentence}
    if alone not in means:
        sentence = (
            f"{highest} has the highest mean {what} ({means[highest]:.3f}); the labels alone have "
            "no score to compare with."
        )
        return {"method": highest, "outcome": None, "sentence": sentence}
    if highest == alone:
        sentence = f"No method has a higher mean {what} than the labels alone ({means[alone]:.3f})."
        return {"method": alone, "outcome": None, "sentence": sentence}
    sentence = f"No method is shown to be better than the labels alone ({means[alone]:.3f})."
    values = found[highest]
    if values["outcome"] is None:
        sentence += f" {highest} has the highest mean, {means[highest]:.3f}, but too few seeds."
    else:
        sentence += (
            f" {highest} has the highest mean, {means[highest]:.3f}, but the interval of its "
            f"difference includes zero: {values['low']:+.3f} to {values['high']:+.3f}."
        )
    return {"method": alone, "outcome": "no difference shown", "sentence": sentence}


def count_outcomes(settings: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    """Sentences on how often each method was better or worse than the labels alone.

    Args:
        settings: For each setting, the result of :func:`summarize_method` for each method.
            Methods without an outcome are ignored.
    """
    outcomes: dict[str, list[str]] = {}
    for methods in settings:
        for name, values in methods.items():
            if values["outcome"] is not None and name != EQUAL_STEPS:
                outcomes.setdefault(name, []).append(values["outcome"])
    if not outcomes:
        return "No verdict: too few seeds have scores."
    sentences, undecided = [], []
    for name, found in outcomes.items():
        words = [
            f"{word} than the labels alone in {found.count(word)}"
            for word in ("better", "worse")
            if word in found
        ]
        if words:
            sentences.append(f"{name} is {' and '.join(words)} of {len(found)} settings.")
        else:
            undecided.append(name)
    if undecided:
        sentences.append(f"No difference from the labels alone shown: {', '.join(undecided)}.")
    return " ".join(sentences)
