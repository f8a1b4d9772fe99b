"""Is one method better than another? Paired by seed, with an interval and a verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aft.errors import InputError


@dataclass(frozen=True)
class PairedComparison:
    """Two methods run with the same seeds.

    Attributes:
        metric: Name of the metric; higher is better.
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
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no difference shown"

    def verdict(self) -> str:
        """One sentence for people."""
        name = self.metric.replace("_", " ")
        numbers = (
            f"{name} {self.difference:+.3f} ({self.confidence:.0%} interval {self.low:+.3f} to "
            f"{self.high:+.3f}, {len(self.treated)} seeds)"
        )
        if self.outcome == "better":
            return f"Transfer pays here: {numbers}."
        if self.outcome == "worse":
            return f"Transfer does harm here: {numbers}. Train on the labels alone."
        return (
            f"No difference shown: {numbers}. More seeds may show one; until then there is no "
            "reason to prefer either."
        )


def compare_paired(
    metric: str,
    baseline: Sequence[float],
    treated: Sequence[float],
    confidence: float = 0.95,
) -> PairedComparison:
    """Student's t interval and test of the paired differences.

    Args:
        metric: Name of a metric where higher is better.
        baseline: One value a seed without transfer.
        treated: One value a seed with transfer, in the same order.
        confidence: Coverage of the interval.

    Raises:
        InputError: If there are fewer than two pairs, or the lengths differ.
    """
    from scipy import stats

    if len(baseline) != len(treated) or len(baseline) < 2:
        raise InputError(
            f"expected at least 2 pairs, got {len(baseline)} baseline and {len(treated)} values"
        )
    differences = np.asarray(treated, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    mean = float(differences.mean())
    error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    reach = float(stats.t.ppf(0.5 + confidence / 2, len(differences) - 1)) * error
    if error > 0:
        p_value = float(2 * stats.t.sf(abs(mean) / error, len(differences) - 1))
    else:
        p_value = 1.0 if mean == 0 else 0.0
    return PairedComparison(
        metric,
        tuple(map(float, baseline)),
        tuple(map(float, treated)),
        mean,
        mean - reach,
        mean + reach,
        p_value,
        confidence,
    )


def summarize_method(
    method: str,
    metric: str,
    scores: Sequence[float | None],
    alone: Sequence[float | None] | None,
) -> dict[str, Any]:
    """One method of several: its mean, and its difference from the labels alone by seed.

    Args:
        method: Its name.
        metric: Name of a metric where higher is better and 1 is the best.
        scores: One value a seed, None where there is none.
        alone: The same of the labels alone; None if this is the labels alone.

    Returns:
        ``mean``, ``std``; ``pairs`` (seeds that both have), ``difference`` with ``low`` and
        ``high`` (95 % interval), ``p_value``, ``outcome``; ``error_ratio``, the mean over seeds of
        (1 - score) / (1 - score alone), with ``error_ratio_low`` and ``error_ratio_high``; and
        ``verdict``, a sentence. What cannot be told is None.
    """
    own = [score for score in scores if score is not None]
    values: dict[str, Any] = {
        "mean": float(np.mean(own)) if own else None,
        "std": float(np.std(own, ddof=1)) if len(own) > 1 else None,
        **dict.fromkeys(("pairs", "difference", "low", "high", "p_value", "outcome")),
        **dict.fromkeys(("error_ratio", "error_ratio_low", "error_ratio_high", "verdict")),
    }
    if alone is None:
        return values
    pairs = [
        (base, score)
        for base, score in zip(alone, scores, strict=True)
        if base is not None and score is not None
    ]
    values["pairs"] = len(pairs)
    if len(pairs) < 2:
        values["verdict"] = (
            f"Nothing can be said of {method}: {len(pairs)} of {len(scores)} seeds have scores to "
            "compare, at least 2 are needed."
        )
        return values
    before, after = zip(*pairs, strict=True)
    paired = compare_paired(metric, before, after)
    for name in ("difference", "low", "high", "p_value", "outcome"):
        values[name] = getattr(paired, name)
    numbers = (
        f"{metric.replace('_', ' ')} {paired.difference:+.3f} (95% interval {paired.low:+.3f} to "
        f"{paired.high:+.3f}, {len(pairs)} seeds)"
    )
    if paired.outcome == "no difference shown":
        values["verdict"] = f"No difference shown between {method} and the labels alone: {numbers}."
    else:
        values["verdict"] = f"{method} is {paired.outcome} than the labels alone: {numbers}."
    if all(base < 1 for base in before):  # else there is no error to divide by
        ratios = [(1 - score) / (1 - base) for base, score in pairs]
        spread = compare_paired("error", [0.0] * len(ratios), ratios)
        values["error_ratio"] = spread.difference
        values |= {"error_ratio_low": spread.low, "error_ratio_high": spread.high}
    return values


def name_best(found: Mapping[str, Mapping[str, Any]], metric: str, alone: str) -> dict[str, Any]:
    """The method with the highest mean, and in a sentence whether its interval excludes zero.

    Args:
        found: What :func:`summarize_method` says of each method, the labels alone among them.
        metric: Name of the metric.
        alone: Name of the labels alone.
    """
    means = {name: values["mean"] for name, values in found.items() if values["mean"] is not None}
    if not means:
        return {"method": None, "outcome": None, "sentence": "No method has a score."}
    best = max(means, key=lambda name: (means[name], name == alone))
    what = metric.replace("_", " ")
    if best == alone:
        sentence = f"No method has a higher mean {what} than the labels alone ({means[best]:.3f})."
        return {"method": best, "outcome": None, "sentence": sentence}
    values = found[best]
    sentence = f"{best} has the highest mean {what}: {means[best]:.3f}"
    if alone in means:
        sentence += f", against {means[alone]:.3f} of the labels alone"
    if values["outcome"] is None:
        sentence += ". Too few seeds were finished for an interval."
    else:
        word = "includes" if values["outcome"] == "no difference shown" else "excludes"
        sentence += (
            f". The 95% interval of the difference, {values['low']:+.3f} to {values['high']:+.3f}, "
            f"{word} zero."
        )
    return {"method": best, "outcome": values["outcome"], "sentence": sentence}


def count_outcomes(settings: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    """In how many settings each method was better or worse than the labels alone, in sentences.

    Args:
        settings: For each setting what :func:`summarize_method` says of each method. Ceilings
            (``keeps_teachers``) and what has no outcome are left out.
    """
    outcomes: dict[str, list[str]] = {}
    for methods in settings:
        for name, values in methods.items():
            if values["outcome"] is not None and not values["keeps_teachers"]:
                outcomes.setdefault(name, []).append(values["outcome"])
    if not outcomes:
        return "Nothing can be said: too few seeds have scores."
    told, silent = [], []
    for name, found in outcomes.items():
        words = [
            f"{word} than the labels alone in {found.count(word)}"
            for word in ("better", "worse")
            if word in found
        ]
        if words:
            told.append(f"{name} is {' and '.join(words)} of {len(found)} settings.")
        else:
            silent.append(name)
    if silent:
        told.append(f"No difference from the labels alone is shown of {', '.join(silent)}.")
    return " ".join(told)
