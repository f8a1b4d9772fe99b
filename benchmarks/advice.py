"""How good is the advice of `aft score`? Its advice on the suite's tasks against measured gains.

    python benchmarks/advice.py                # everything
    python benchmarks/advice.py --rank stamps  # only this ranking, then the advice
    python benchmarks/advice.py --tables       # only calibration and tables, from results/

Takes about 40 minutes on one core; run the same command again to resume. Run suite.py first.

Rankings: on three tasks, the student is trained with each of several teachers separately. The
ranking of the teachers by test score is compared with their ranking by each score of `aft score`.

Advice: `aft score` runs on every task that suite.py runs without --full, as a user would run it.
Its verdict and expected gain are compared with the measured gain. The calibration of the expected
gains is written to src/aft/scoring/calibration.json.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

import advice_tables
import aft
import suite
import tables
from aft.demo_data.models import fetch_minilm
from aft.ids import default_cache_dir
from aft.scoring.measures import Calibration, expect_gain
from data_sets import DATA_SETS

OURS = tables.OURS
"""The method whose gain is predicted: the default of `aft train`."""
RESULTS = Path(__file__).parent / "results"
CALIBRATION_FILE = Path(__file__).parent.parent / "src" / "aft" / "scoring" / "calibration.json"
RUNS = Path("runs") / "advice"
SEEDS = 3
SCORES = tuple(advice_tables.SCORE_WORDS)
FROM_SUITE = ("label_column", "validation_fraction", "unlabelled", "student_layers")
TRAINING = ("batch_size", "steps", "eval_every", "lr", "head_lr")
PRIOR = 1.0
"""Weight of the mean over all tasks in a group's share, in tasks with a large gap."""
PRIOR_SD = 0.1
"""Prior standard deviation of the share, with weight PRIOR: few tasks may agree by chance."""
SMALL_GAP = 0.2
"""The gap at which gains vary as much for other reasons as because of the share. Without a gap,
gains vary by about 0.02; shares vary by about 0.1; the quotient is this gap."""
GROUPS = [(pretrained, unlabelled) for pretrained in (False, True) for unlabelled in (False, True)]


def text_teachers(cache: Path) -> dict[str, str]:
    folder = fetch_minilm(cache, False)
    return {
        "MiniLM": suite.minilm(cache, 64),
        "its 1st layer": f"hf:{folder}?layer=1&max_tokens=64",
        "its 3rd layer": f"hf:{folder}?layer=3&max_tokens=64",
        "1 layer, random weights": f"hf:{folder}?weights=random&layers=1&max_tokens=64",
    }


def picture_teachers(cache: Path) -> dict[str, str]:
    return {
        "EfficientNet-Lite0, 224 pixels": suite.LITE0,
        "EfficientNet-Lite0, 128 pixels": f"{suite.LITE0}?size=128",
        "EfficientNet-Lite0, 64 pixels": f"{suite.LITE0}?size=64",
        "SqueezeNet 1.1, 64 pixels": suite.squeezenet(cache),
    }


RANKED: dict[str, Callable[[Path], dict[str, str]]] = {
    "reuters": text_teachers,
    "snippets": text_teachers,
    "stamps": picture_teachers,
}


class Outcome(NamedTuple):
    """One task as a data point of the calibration.

    Attributes:
        task: Name in the suite.
        pretrained: Whether the student starts from pre-trained weights.
        unlabelled: Whether unlabelled rows are used.
        gap: Cross-validated probe score on the teachers' features minus that on the features of
            the student before training.
        gap_se: Standard error of the gap.
        gain: Measured gain over the student alone.
        gain_se: Standard error of the gain over seeds.
    """

    task: str
    pretrained: bool
    unlabelled: bool
    gap: float
    gap_se: float
    gain: float
    gain_se: float

    @property
    def data(self) -> str:
        """The data set: the first part of the task's name."""
        return self.task.partition("-")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rank", nargs="*", choices=RANKED, help="rankings to compute (default: all)"
    )
    parser.add_argument(
        "--tables", action="store_true", help="only calibration and tables, without training"
    )
    options = parser.parse_args()
    file = RESULTS / "advice.json"
    found = json.loads(file.read_text()) if file.exists() else {"ranks": {}, "tasks": {}}
    if not options.tables:
        for name in RANKED if options.rank is None else options.rank:
            found["ranks"][name] = rank(name)
            _write(file, found)
        for name in suite.SHORT:
            found["tasks"][name] = advise(name)
            _write(file, found)
    for name, said in found["tasks"].items():
        found["tasks"][name] = said | (measured(name) or {})
    outcomes = list_outcomes(found["tasks"])
    for one in outcomes:
        found["tasks"][one.task] |= weigh(one, outcomes, found["tasks"][one.task])
    document = _write(file, found)
    if count_data(outcomes) > 1:
        write_calibration(outcomes)
    advice_tables.write(document, {name: task.words for name, task in suite.TASKS.items()})


def _write(file: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    document = {
        "command": "python benchmarks/advice.py",
        "version": aft.__version__,
        "machine": tables.machine(),
        "method": OURS,
        "ranks": {name: found["ranks"][name] for name in RANKED if name in found["ranks"]},
        "tasks": {name: found["tasks"][name] for name in suite.TASKS if name in found["tasks"]},
        "together": sum_up(found["tasks"]),
    }
    file.write_text(json.dumps(document, indent=1) + "\n")
    return document


# -------------------------------------------------------------------------------------- rankings


def rank(name: str) -> dict[str, Any]:
    """Train with each teacher separately, and correlate the test scores with each score.

    The safety net is off, because it would hide the harm done by a poor teacher.
    """
    rows: list[dict[str, Any]] = []
    training = {key: suite.TASKS[name].options[key] for key in TRAINING if _has(name, key)}
    for number, (words, spec) in enumerate(RANKED[name](_cache()).items()):
        options = task_options(name) | {"teachers": (spec,)}
        folder = RUNS / name / f"teacher-{number}"
        scored = aft.score(**options, out=folder / "score")
        metric = scored.document["metric"]
        runs = []
        for seed in range(SEEDS):
            own = {"loss": OURS, "safety_net": False, "seed": seed, "out": folder / f"seed-{seed}"}
            result = aft.train(**options, **training, **own, resume=True)
            runs.append(float(result.metrics[metric]))
        scores = {score: scored.table[0][score] for score in SCORES}
        rows.append({"teacher": words, **scores, "runs": runs, "mean": fmean(runs)})
        print(name, rows[-1], flush=True)
    means = [row["mean"] for row in rows]
    found = {score: spearman([row[score] for row in rows], means) for score in SCORES}
    return {"teachers": rows, "spearman": found}


def spearman(scores: Sequence[float | None], means: Sequence[float]) -> float | None:
    """Rank correlation over the pairs with a score; None if undefined or for fewer than 3 pairs."""
    pairs = [(a, b) for a, b in zip(scores, means, strict=True) if a is not None]
    if len(pairs) < 3 or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return None
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)


# ---------------------------------------------------------------------------------------- advice


def task_options(name: str) -> dict[str, Any]:
    """The options of a task for `aft score` and `aft train`."""
    task = suite.TASKS[name]
    options = {key: task.options[key] for key in FROM_SUITE if key in task.options}
    (fraction,) = task.options.get("train_fractions", (1.0,))
    return {
        "data": str(DATA_SETS[task.data](_cache(), False).folder),
        "student": task.student(_cache()),
        "teachers": task.teachers(_cache()),
        "train_fraction": fraction,
        "num_workers": 0,
        "progress": False,
        **options,
    }


def advise(name: str) -> dict[str, Any]:
    """The result of `aft score` on a task, before any training."""
    found = aft.score(**task_options(name), seed=0, out=RUNS / f"score-{name}")
    advice, own = found.recommendation, found.document["student"]
    return {
        "pretrained": own["weights"] not in ("random", "linear model"),
        "unlabelled": found.document["rows"]["unlabelled"],
        "rows": found.document["rows"]["train"],
        "verdict": advice.verdict,
        "teachers": advice.probe[0],
        "student": advice.student and advice.student[0],
        "gap": advice.gap[0],
        "gap_se": advice.gap[1],
        "seconds": found.document["seconds"],
    }


def measured(name: str) -> dict[str, Any] | None:
    """The gain that the suite measured on a task; None if there is no result."""
    file = RESULTS / "suite" / f"{name}.json"
    if not file.exists():
        return None
    setting = json.loads(file.read_text())["settings"][-1]
    own, alone = (setting["methods"].get(method) for method in (OURS, "alone"))
    if not own or own["low"] is None:
        return None
    probes = [one["score"] for one in setting["probes"]]
    wide = float(stats.t.ppf(0.975, own["pairs"] - 1))
    return {
        "gain": own["difference"],
        "gain_low": own["low"],
        "gain_high": own["high"],
        "gain_se": (own["high"] - own["low"]) / 2 / wide,
        "seeds": own["pairs"],
        "alone": alone["mean"],
        "test_gap": probes[-1] - alone["mean"] if probes else None,
    }


def list_outcomes(tasks: Mapping[str, Mapping[str, Any]]) -> list[Outcome]:
    """The tasks that were both scored and measured."""
    return [
        Outcome(
            name,
            values["pretrained"],
            values["unlabelled"] > 0,
            *(values[key] for key in ("gap", "gap_se", "gain", "gain_se")),
        )
        for name, values in tasks.items()
        if "gain" in values and "gap" in values
    ]


def count_data(outcomes: Sequence[Outcome]) -> int:
    return len({one.data for one in outcomes})


def weigh(one: Outcome, outcomes: Sequence[Outcome], said: Mapping[str, Any]) -> dict[str, Any]:
    """The expected gain, calibrated on other data sets only, and the errors of the advice."""
    others = [other for other in outcomes if other.data != one.data]
    expected = None
    if count_data(others) > 1:
        setting = (one.gap, one.gap_se, one.pretrained, one.unlabelled)
        expected = list(expect_gain(*setting, calibrate(others)))
    return {"expected": expected, "misses": find_misses(said, expected)}


def find_misses(said: Mapping[str, Any], expected: Sequence[float] | None) -> list[str]:
    """In which ways the advice was wrong, given the measured gain."""
    misses = []
    shown = said["gain_low"] > 0
    if said["verdict"] == "use" and not shown:
        misses.append("harm" if said["gain_high"] < 0 else "no gain shown")
    if said["verdict"] == "don't" and shown:
        misses.append("a gain")
    if expected is not None and not expected[1] <= said["gain"] <= expected[2]:
        misses.append("outside the interval")
    return misses


def sum_up(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Errors of the expected gains, and of expecting none; None if no task has an expected gain."""
    known = [said for said in tasks.values() if said.get("expected") is not None]
    if not known:
        return None
    gains = [said["gain"] for said in known]
    return {
        "tasks": len(known),
        "within": sum("outside the interval" not in said["misses"] for said in known),
        "error": fmean(abs(said["gain"] - said["expected"][0]) for said in known),
        "error_of_nothing": fmean(map(abs, gains)),
        "by_gap": spearman([said["gap"] for said in known], gains),
        "by_test_gap": spearman([said["test_gap"] for said in known], gains),
    }


# ----------------------------------------------------------------------------------- calibration


def calibrate(outcomes: Sequence[Outcome]) -> dict[tuple[bool, bool], Calibration]:
    """Estimate the share of the gap that becomes gain, for each kind of task.

    A task's share is its gain divided by its gap. With a small gap the quotient is mostly noise, so
    a task has the weight ``gap² / (gap² + SMALL_GAP²)``. A group's share is the weighted mean of
    the shares of its tasks and of the mean over all tasks. The latter has the weight ``PRIOR``: a
    group without tasks gets the mean over all tasks, and in a group of two tasks with a gap of 0.2
    the group's own tasks have half the weight.

    The deviations are the same for all groups. They are estimated from the squared error of the
    gain that is predicted from the other data sets (from all, if there are fewer than two others).
    The part ``weight`` of a squared error is attributed to the share, the rest to the spread of
    gains without a gap. A prior counts as ``PRIOR`` tasks: its share deviates by ``PRIOR_SD``, its
    gain by the standard error over seeds.

    Args:
        outcomes: At least one task.
    """
    shares = _group_shares(outcomes)
    seeds = fmean(one.gain_se**2 for one in outcomes)
    of_share, of_spread = [(PRIOR_SD**2, PRIOR)], [(seeds, PRIOR)]
    for one in outcomes:
        others = [other for other in outcomes if other.data != one.data]
        expected = _group_shares(others) if count_data(others) > 1 else shares
        room, weight = max(one.gap, 0.0), _weight(one)
        distance = (one.gain - expected[one.pretrained, one.unlabelled] * room) ** 2
        of_spread.append(((1 - weight) * distance, 1 - weight))
        if room:
            of_share.append((weight * distance / room**2, weight))
    deviation, spread = (
        math.sqrt(np.average(values, weights=weights))
        for values, weights in (zip(*parts, strict=True) for parts in (of_share, of_spread))
    )
    return {group: Calibration(share, deviation, spread) for group, share in shares.items()}


def _group_shares(outcomes: Sequence[Outcome]) -> dict[tuple[bool, bool], float]:
    known = [(one, one.gain / one.gap, _weight(one)) for one in outcomes if one.gap > 0]
    total = sum(weight for _, _, weight in known)
    mean = sum(weight * share for _, share, weight in known) / total if total else 0.0
    found = {}
    for group in GROUPS:
        own = [(s, w) for one, s, w in known if (one.pretrained, one.unlabelled) == group]
        weight = PRIOR + sum(w for _, w in own)
        found[group] = (PRIOR * mean + sum(w * s for s, w in own)) / weight
    return found


def _weight(one: Outcome) -> float:
    room = max(one.gap, 0.0)
    return room**2 / (room**2 + SMALL_GAP**2)


def write_calibration(outcomes: Sequence[Outcome]) -> None:
    groups = [
        {
            "pretrained": group[0],
            "unlabelled": group[1],
            **{name: round(value, 4) for name, value in found._asdict().items()},
            "tasks": [o.task for o in outcomes if (o.pretrained, o.unlabelled) == group],
        }
        for group, found in calibrate(outcomes).items()
    ]
    document = {"command": "python benchmarks/advice.py", "method": OURS, "groups": groups}
    CALIBRATION_FILE.write_text(json.dumps(document, indent=1) + "\n")


def _has(name: str, key: str) -> bool:
    return key in suite.TASKS[name].options


def _cache() -> Path:
    return default_cache_dir() / "demo"


if __name__ == "__main__":
    main()
