"""What people would use instead of a student, such as TF-IDF with a linear model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aft.comparison.statistics import compare_paired, finite, pair_scores, summarize_method
from aft.config.groups import METHOD_WORDS
from aft.metrics import metric_words


def collect_baselines(
    metric: str,
    sources: Sequence[Sequence[Mapping[str, Any]]],
    alone: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Summarize the baselines that runs have scored, like methods.

    Args:
        metric: The metric of the verdicts.
        sources: The content of ``result.json`` per seed, empty if a run failed, for each method
            that scores baselines. A baseline is taken from the first of them that has it.
        alone: The runs of the labels alone, one per seed.

    Returns:
        For each baseline its ``name``, ``words``, ``runs`` (one per seed), mean ``seconds``, and
        the result of :func:`aft.comparison.statistics.summarize_method`.
    """
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for summaries in sources:
        new: dict[str, dict[int, Mapping[str, Any]]] = {}
        for seed, summary in enumerate(summaries):
            for one in summary.get("baselines") or ():
                if one["name"] not in found:
                    new.setdefault(one["name"], {})[seed] = one
        found |= new
    rows = []
    for name, scored in found.items():
        words = next(iter(scored.values()))["words"]
        runs = [_run(seed, metric, scored.get(seed)) for seed in range(len(alone))]
        rows.append(
            {
                "name": name,
                "words": words,
                "runs": runs,
                **summarize_method(words, metric, runs, alone),
                "seconds": round(float(np.mean([one["seconds"] for one in scored.values()])), 2),
            }
        )
    return rows


def _run(seed: int, metric: str, scored: Mapping[str, Any] | None) -> dict[str, Any]:
    if scored is None:
        return {"seed": seed, "score": None}
    metrics = {name: finite(value) for name, value in scored["metrics"].items()}
    return {
        "seed": seed,
        "score": metrics.get(metric),
        "metrics": metrics,
        "seconds": scored["seconds"],
    }


def find_better(
    method: str, metric: str, own: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The best baseline, if its mean is above that of the recommended method.

    Args:
        method: Name of the recommended method.
        metric: The metric of the verdicts; higher is better.
        own: Summary of the recommended method.
        baselines: The result of :func:`collect_baselines`.

    Returns:
        ``name``, ``words`` and ``mean`` of the baseline; ``difference`` (method minus baseline,
        paired by seed) with ``low`` and ``high`` (95 % interval), ``p_value`` and ``outcome`` of
        the method, None with fewer than two pairs; and a ``sentence``. None if no mean is higher.
    """
    scored = [one for one in baselines if one["mean"] is not None]
    best = max(scored, key=lambda one: one["mean"], default=None)
    if best is None or own["mean"] is None or best["mean"] <= own["mean"]:
        return None
    found = {name: best[name] for name in ("name", "words", "mean")}
    numbers = f"{metric_words(metric)} {best['mean']:.3f} versus {own['mean']:.3f}"
    words = best["words"][0].upper() + best["words"][1:]
    pairs = pair_scores(best["runs"], own["runs"])
    names = ("difference", "low", "high", "p_value", "outcome")
    if len(pairs) < 2:
        sentence = f"{words} has a higher mean: {numbers}; too few seeds for an interval."
        return {**found, **dict.fromkeys(names), "sentence": sentence}
    before, after = zip(*pairs, strict=True)
    paired = compare_paired(metric, before, after)
    interval = (
        f"{METHOD_WORDS.get(method, method)} minus this: {paired.difference:+.3f}, 95% interval "
        f"{paired.low:+.3f} to {paired.high:+.3f}"
    )
    sentence = f"{words} is better: {numbers} ({interval})."
    if paired.outcome != "worse":
        sentence = f"{words} has a higher mean: {numbers}, but no difference is shown ({interval})."
    return {**found, **{name: getattr(paired, name) for name in names}, "sentence": sentence}


def count_better(settings: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on the settings in which a baseline is above the recommended method.

    Args:
        settings: The ``best`` of each setting.
    """
    found = [one["better_baseline"] for one in settings if one["better_baseline"]]
    if not found:
        return ""
    names = ", ".join(dict.fromkeys(one["words"] for one in found))
    shown = sum(one["outcome"] == "worse" for one in found)
    return (
        f"In {len(found)} of {len(settings)} settings, a baseline has a higher mean than the "
        f"recommended method ({names}); in {shown} of them, the interval excludes zero."
    )
