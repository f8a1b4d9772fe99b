"""The tables of docs/score.md on the accuracy of the advice, from results/advice.json."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from tables import NONE, Words, put

SCORE_WORDS = {
    **{"probe": "probe", "neighbours": "neighbours", "alignment": "alignment"},
    **{"log_me": "LogME", "tmi": "TMI"},
}


def write(found: Mapping[str, Any], words: Words) -> None:
    """Write the tables on the accuracy of the advice."""
    text = ""
    if found["tasks"]:
        text += advice_table(found["tasks"], words) + "\n"
    if found["together"]:
        text += say_advice(found["together"]) + "\n\n"
    if found["ranks"]:
        text += rank_table(found["ranks"], words) + "\n" + teacher_table(found["ranks"], words)
    put("advice", text, ["docs/score.md"])


def advice_table(tasks: Mapping[str, Any], words: Words) -> str:
    """One row per task: the advice before training, the measured gain, and what was missed."""
    lines = [
        "| data | student, initial weights | labelled (unlabelled) rows | teachers' lead before "
        "training | verdict | expected gain | measured gain | lead over the trained student | "
        "missed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, said in tasks.items():
        data, student, start, _ = words[name]
        rows = f"{said['rows']:,} ({said['unlabelled']:,})"
        lead = f"{said['gap']:+.3f} ± {said['gap_se']:.3f}"
        expected = NONE if said.get("expected") is None else _interval(*said["expected"])
        measured, left, missed = NONE, NONE, "not measured yet"
        if "gain" in said:
            measured = _interval(said["gain"], said["gain_low"], said["gain_high"])
            left = NONE if said["test_gap"] is None else f"{said['test_gap']:+.3f}"
            missed = ", ".join(said["misses"])
        lines.append(
            f"| {data} | {student}, {start} | {rows} | {lead} | {said['verdict']} | {expected} | "
            f"{measured} | {left} | {missed} |"
        )
    return "\n".join(lines) + "\n"


def say_advice(found: Mapping[str, Any]) -> str:
    """The accuracy of the expected gains over all tasks, in sentences."""
    leads = (
        (found["by_gap"], "before training"),
        (found["by_test_gap"], "over the trained student"),
    )
    ranks = [f"{value:+.2f} for the lead {words}" for value, words in leads if value is not None]
    return (
        f"{found['within']} of {found['tasks']} measured gains are inside the interval of the "
        f"expected gain. The mean absolute error of the expected gain is {found['error']:.3f}; "
        f"always expecting no gain has {found['error_of_nothing']:.3f}."
        + (f" Rank correlation with the measured gain: {', '.join(ranks)}." if ranks else "")
    )


def rank_table(ranks: Mapping[str, Any], words: Words) -> str:
    """One row per score: its rank correlation with the test score of the student."""
    lines = [
        f"| score | {' | '.join(words[name][0] for name in ranks)} | mean |",
        "|---" * (len(ranks) + 2) + "|",
    ]
    for score, title in SCORE_WORDS.items():
        values = [ranks[name]["spearman"][score] for name in ranks]
        known = [value for value in values if value is not None]
        cells = [NONE if value is None else f"{value:+.2f}" for value in values]
        mean = f"{fmean(known):+.2f}" if known else NONE
        lines.append(f"| {title} | {' | '.join(cells)} | {mean} |")
    return "\n".join(lines) + "\n"


def teacher_table(ranks: Mapping[str, Any], words: Words) -> str:
    """One row per teacher: its scores, and the test score of the student trained with it."""
    lines = [
        f"| data | teacher | {' | '.join(SCORE_WORDS.values())} | test score of the student |",
        "|---" * (len(SCORE_WORDS) + 3) + "|",
    ]
    for name, ranking in ranks.items():
        for row in ranking["teachers"]:
            cells = [NONE if row[s] is None else f"{row[s]:.3f}" for s in SCORE_WORDS]
            runs = f"{row['mean']:.3f} ({min(row['runs']):.3f} to {max(row['runs']):.3f})"
            lines.append(f"| {words[name][0]} | {row['teacher']} | {' | '.join(cells)} | {runs} |")
    return "\n".join(lines) + "\n"


def _interval(middle: float, low: float, high: float) -> str:
    return f"{middle:+.3f} ({low:+.3f} to {high:+.3f})"
