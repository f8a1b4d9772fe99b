"""Is one method better than another? Paired by seed, with an interval and a verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
