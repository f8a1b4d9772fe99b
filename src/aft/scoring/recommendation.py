"""Advice from the scores of teachers and student: which teachers to use, and the expected gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from aft.metrics import metric_words
from aft.scoring.measures import Probe, compare_probes, expect_gain

Advice = Literal["use", "unclear", "don't"]
CLEAR = 2.0
"""Minimum size of a clear gap, in standard errors; a gap must have at least one."""


class Candidate(NamedTuple):
    """A set of teachers, or the student before training.

    Attributes:
        names: Display names, one per model.
        specs: The models as given by the user.
        dim: Total number of features.
        probe: Cross-validated linear probe on the features.
    """

    names: tuple[str, ...]
    specs: tuple[str, ...]
    dim: int
    probe: Probe


@dataclass(frozen=True)
class Recommendation:
    """Which teachers to train with, and the expected gain; ``str()`` gives it as text.

    Attributes:
        verdict: ``use``, ``unclear``, or ``don't`` if the teachers do not score clearly higher.
        teachers: The smallest set of teachers within one standard error of the best.
        probe: Their cross-validated score and its standard error.
        student: The same for the student's features before training; None without a student.
        chance: Score of a constant predictor.
        gap: Score of the teachers minus that of the student (or of a constant predictor, without a
            student), and its standard error.
        gain: Expected gain over the student trained on the labels alone, with the bounds of its
            interval; None without a student.
        sentences: The advice and its reasons.
    """

    verdict: Advice
    teachers: tuple[str, ...]
    probe: tuple[float, float]
    student: tuple[float, float] | None
    chance: float
    gap: tuple[float, float]
    gain: tuple[float, float, float] | None
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """Return the recommendation as plain JSON values."""
        return {
            "verdict": self.verdict,
            "teachers": list(self.teachers),
            "probe": self.probe[0],
            "probe_se": self.probe[1],
            "student": self.student and self.student[0],
            "student_se": self.student and self.student[1],
            "chance": self.chance,
            "gap": self.gap[0],
            "gap_se": self.gap[1],
            "gain": self.gain and self.gain[0],
            "gain_low": self.gain and self.gain[1],
            "gain_high": self.gain and self.gain[2],
            "sentences": list(self.sentences),
        }


def choose(candidates: Sequence[Candidate]) -> tuple[Candidate, Candidate]:
    """Return the best candidate, and the smallest one within one standard error of the best.

    Among sets of equal size the highest score wins, among equal scores the lowest width.
    """
    best = max(candidates, key=lambda one: (one.probe.score, -len(one.names), -one.dim))
    near = [one for one in candidates if one.probe.score >= best.probe.score - best.probe.se]
    return best, min(near, key=lambda one: (len(one.names), -one.probe.score, one.dim))


def recommend(
    candidates: Sequence[Candidate],
    student: Candidate | None,
    *,
    chance: float,
    metric: str,
    rows: int,
    weights: str = "random",
    unlabelled: bool = False,
) -> Recommendation:
    """Compare the teachers with the student before training.

    Args:
        candidates: Scored sets of teachers, at least one.
        student: The student's features before training.
        chance: Score of a constant predictor.
        metric: Name of the metric.
        rows: Number of scored rows.
        weights: What the student starts from: ``random``, ``linear model``, or pre-trained weights.
        unlabelled: Whether unlabelled rows are used for transfer.
    """
    pretrained = weights not in ("random", "linear model")
    best, taken = choose(candidates)
    score, se = taken.probe.score, taken.probe.se
    gap, gain = (score - chance, se), None
    if student is not None:
        gap = compare_probes(taken.probe, student.probe)
        gain = expect_gain(*gap, pretrained, unlabelled)
    verdict = _judge(gap, score - chance, se, unlabelled)
    sentences = [_say_what(verdict, taken, best, candidates, student)]
    sentences.append(_say_scores(taken, student, chance, metric_words(metric), rows))
    if gain is not None and verdict != "don't":
        doubt = "; there may be no gain" if gain[1] <= 0 else ""
        sentences.append(
            f"Expected gain over the student trained on the labels alone: {gain[0]:+.3f} (95% "
            f"interval {gain[1]:+.3f} to {gain[2]:+.3f}, estimated from earlier tasks){doubt}."
        )
        if not unlabelled and (more := expect_gain(*gap, pretrained, True)[0]) > gain[0]:
            sentences.append(f"With rows without labels beside these rows it would be {more:+.3f}.")
    if student is not None:
        sentences.append(_say_student(weights))
    if verdict == "don't":
        sentences.append("Train on the labels alone, or try other teachers or other layers.")
        if unlabelled and student is not None:
            sentences.append(
                "With unlabelled rows, however, transfer has helped even if the teachers scored no "
                "higher than the student; run aft compare to check."
            )
    return Recommendation(
        verdict,
        taken.specs,
        (score, se),
        None if student is None else (student.probe.score, student.probe.se),
        chance,
        gap,
        gain,
        tuple(sentences),
    )


def _judge(gap: tuple[float, float], over_chance: float, se: float, unlabelled: bool) -> Advice:
    """Classify the gap; with unlabelled rows, teachers on par with the student have helped, too."""
    behind = gap[0] < -gap[1] if unlabelled else gap[0] <= gap[1]
    if behind or over_chance <= CLEAR * se:
        return "don't"
    return "use" if gap[0] > CLEAR * gap[1] else "unclear"


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _say_what(
    verdict: Advice,
    taken: Candidate,
    best: Candidate,
    candidates: Sequence[Candidate],
    student: Candidate | None,
) -> str:
    them = _join(taken.names)
    reference = "the student before training" if student else "a constant predictor"
    several = len({name for one in candidates for name in one.names}) > 1
    if verdict == "don't":
        who = "these teachers" if several else them
        return (
            f"Don't train with {who}: on these rows, the score is not clearly higher than that of "
            f"{reference}."
        )
    if verdict == "unclear":
        return (
            f"Unclear whether to train with {them}: the score is close to that of {reference}, and "
            "the difference may be due to chance."
        )
    if len(best.names) > len(taken.names):
        return (
            f"Train with {them}: no larger set of teachers scores higher by more than one "
            "standard error."
        )
    most = ", and no other teacher scores higher" if several and len(taken.names) == 1 else ""
    return f"Train with {them}: the score is clearly higher than that of {reference}{most}."


def _say_scores(
    taken: Candidate, student: Candidate | None, chance: float, metric: str, rows: int
) -> str:
    own = ""
    if student is not None:
        own = (
            f", {student.probe.score:.3f} ± {student.probe.se:.3f} on those of the student before "
            "training"
        )
    features = "its features" if len(taken.names) == 1 else "their features together"
    return (
        f"A linear probe reaches {metric} {taken.probe.score:.3f} ± {taken.probe.se:.3f} on "
        f"{features}{own}; a constant predictor reaches {chance:.3f} (cross-validated on {rows:,} "
        "training rows, ± one standard error)."
    )


def _say_student(weights: str) -> str:
    if weights == "linear model":
        return (
            "The student's score is that of the linear model on its words and word pairs that it "
            "starts from."
        )
    if weights != "random":
        return (
            "The student's score is a lower bound: training on the labels improves its features, "
            "so the possible gain is smaller than the difference suggests."
        )
    return (
        "The student's weights are random, so its score is only a lower bound for the trained "
        "student. To measure the gain, run aft compare."
    )
