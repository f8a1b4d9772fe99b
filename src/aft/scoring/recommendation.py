"""What scores of teachers and student say for training: which teachers, how much, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from aft.scoring.measures import Probe, compare_probes, expect_gain

Verdict = Literal["use", "unclear", "don't"]
METRIC_WORDS = {
    "accuracy": "accuracy",
    "mean_average_precision": "mean average precision",
    "r2": "R²",
}
CLEAR = 2.0
"""Standard errors that a gap must have to be called clear; one is needed to be called a gap."""


class Candidate(NamedTuple):
    """One or several teachers together, or the student before training.

    Attributes:
        names: For people, one a model.
        specs: As the user wrote them.
        dim: Features of all together.
        probe: What a linear model reads off them.
    """

    names: tuple[str, ...]
    specs: tuple[str, ...]
    dim: int
    probe: Probe


@dataclass(frozen=True)
class Recommendation:
    """Which teachers to train with, and what to expect; as text, sentences with the numbers.

    Attributes:
        verdict: ``use``, ``unclear``, or ``don't`` where the teachers know no more.
        teachers: The fewest teachers that are within one standard error of the best.
        probe: Their cross-validated score, and its standard error.
        student: The same of the student's features before training; None without a student.
        chance: The score of guessing.
        gap: Teachers less student (less guessing, without one), and its standard error.
        gain: Expected gain over the student alone with the ends of its interval; None without a
            student.
        sentences: What to do and why.
    """

    verdict: Verdict
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
        """As plain JSON values."""
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
    """The best, and the one to take: the fewest teachers within one standard error of the best.

    Of equally many teachers the one with the best score is taken, of equal scores the narrowest.
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
    pretrained: bool = False,
    unlabelled: bool = False,
    cost: str = "",
) -> Recommendation:
    """Weigh teachers against the student's start.

    Args:
        candidates: Sets of teachers that were scored, at least one.
        student: The student's features before training.
        chance: The score of guessing.
        metric: Name of the metric.
        rows: How many the scores are of.
        pretrained: Whether the student starts from pre-trained weights.
        unlabelled: Whether rows without labels join the transfer.
        cost: A sentence on what the teachers cost.
    """
    best, taken = choose(candidates)
    score, se = taken.probe.score, taken.probe.se
    gap, gain = (score - chance, se), None
    if student is not None:
        gap = compare_probes(taken.probe, student.probe)
        gain = expect_gain(*gap, pretrained, unlabelled)
    verdict = _judge(gap, score - chance, se, unlabelled)
    sentences = [_say_what(verdict, taken, best, candidates, student)]
    sentences.append(_say_scores(taken, student, chance, METRIC_WORDS.get(metric, metric), rows))
    if gain is not None and verdict != "don't":
        doubt = ": it may bring nothing" if gain[1] <= 0 else ""
        sentences.append(
            f"Expected gain over the student trained alone: {gain[0]:+.3f} (95% interval "
            f"{gain[1]:+.3f} to {gain[2]:+.3f}, by what earlier tasks gained){doubt}."
        )
    if student is not None:
        sentences.append(_say_student(pretrained))
    if verdict == "don't":
        sentences.append("Train on the labels alone, or look for other teachers or other layers.")
        if unlabelled and student is not None:
            sentences.append(
                "But rows without labels join, and with these transfer has paid where the teachers "
                "knew no more than the student: aft compare tells."
            )
    elif cost:
        sentences.append(cost)
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


def _judge(gap: tuple[float, float], over_chance: float, se: float, unlabelled: bool) -> Verdict:
    """What a lead means; with rows without labels teachers that are level have helped, too."""
    behind = gap[0] < -gap[1] if unlabelled else gap[0] <= gap[1]
    if behind or over_chance <= CLEAR * se:
        return "don't"
    return "use" if gap[0] > CLEAR * gap[1] else "unclear"


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _say_what(
    verdict: Verdict,
    taken: Candidate,
    best: Candidate,
    candidates: Sequence[Candidate],
    student: Candidate | None,
) -> str:
    them = _join(taken.names)
    several = len({name for one in candidates for name in one.names}) > 1
    if verdict == "don't":
        who = "these teachers: they know" if several else f"{them}: it knows"
        than = "no more of the task than guessing tells"
        if student is not None:
            than = "no more of the task than the student does before training"
        return f"Don't train with {who} {than}, as far as these rows show."
    if verdict == "unclear":
        know = "know" if len(taken.names) > 1 else "knows"
        return (
            f"Unclear: {them} {know} about as much of the task as the student does before "
            "training; what is between them may be chance."
        )
    if len(best.names) > len(taken.names):
        return (
            f"Train with {them}: no larger set of teachers knows more of the task by more than "
            "one standard error."
        )
    who = "they know" if len(taken.names) > 1 else "it knows"
    than = "than the student does before training" if student else "than guessing tells"
    most = ", and most of all that were scored" if several and len(taken.names) == 1 else ""
    return f"Train with {them}: {who} more of the task {than}{most}."


def _say_scores(
    taken: Candidate, student: Candidate | None, chance: float, metric: str, rows: int
) -> str:
    own = ""
    if student is not None:
        own = (
            ", on those of the student before training "
            f"{student.probe.score:.3f} ± {student.probe.se:.3f}"
        )
    features = "its features" if len(taken.names) == 1 else "their features together"
    return (
        f"A linear model on {features} reaches {metric} {taken.probe.score:.3f} ± "
        f"{taken.probe.se:.3f}{own}; guessing reaches {chance:.3f} (cross-validated on {rows:,} "
        "training rows, ± one standard error)."
    )


def _say_student(pretrained: bool) -> str:
    if pretrained:
        return (
            "The student's score is the least it can do: training on the labels changes its "
            "features for the better, so less is left to gain than the difference suggests."
        )
    return (
        "The student's weights are random, so its score says little of what it learns from the "
        "labels: it is the least it can do. aft compare trains it and tells."
    )
