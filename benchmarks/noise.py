"""Does a useless teacher do harm, and do AFT's gates shut it out?

The student of the suite's clip art task is trained on the labels alone, with its teacher, and
with its teacher plus a second one that carries no information about the images: pure noise of the
same width, or the teacher's features assigned to other images. Noise and assignment are drawn anew
for each seed. Takes about twenty minutes on two cores; run the same command again to resume.

    python benchmarks/noise.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

import aft
import suite
import tables
from aft.comparison.statistics import PairedComparison, compare_paired
from aft.config.commands import ExtractConfig
from aft.data.loading import load_data
from aft.features.stored import extract_teachers
from aft.ids import default_cache_dir
from aft.training.run_folder import TrainResult
from data_sets import DATA_SETS

RESULTS = Path(__file__).parent / "results"
TASK = suite.TASKS["clipart"]
STEPS = TASK.options["steps"]
USELESS = {"noise": "pure noise", "irrelevant": "features of other images"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="at least 2")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=Path("runs/noise"))
    options = parser.parse_args()
    runs = run_all(options.out, options.seeds, options.steps)
    result = {
        "command": f"python benchmarks/noise.py --seeds {options.seeds} --steps {options.steps}",
        "version": aft.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        **summarize(runs),
    }
    print("\n".join(lines(result)))
    if options.seeds >= 5 and options.steps >= STEPS:  # a shorter run writes no result
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "noise.json").write_text(json.dumps(result, indent=1) + "\n")
        tables.put("noise", as_markdown(result), ["docs/benchmarks.md"])


PAPERS: dict[str, Any] = {
    **{"loss": "aft", "beta": 3.0, "views": "clean", "safety_net": False, "unlabelled": "none"},
    **{"train_fraction": 1.0, "validation_fraction": 0.1},
}
"""AFT as published, on all labels, because the subject is its gates."""


def run_all(out: Path, seeds: int, steps: int) -> dict[str, list[TrainResult]]:
    """All runs: a list over seeds per method."""
    cache = default_cache_dir() / "demo"
    data, teachers = str(DATA_SETS[TASK.data](cache, False).folder), TASK.teachers(cache)
    known = known_features(data, teachers, out / "features")
    runs: dict[str, list[TrainResult]] = {name: [] for name in ("alone", "aft", *USELESS)}
    for seed in range(seeds):
        for name, done in runs.items():
            chosen = () if name == "alone" else teachers
            if name in USELESS:
                path = out / "teachers" / f"{name}-{seed}.npy"
                write_useless(path, name, known, seed)
                chosen += (f"features:{path}",)
            folder = out / f"{steps}-steps" / f"{name}-{seed}"
            options = {**TASK.options, **PAPERS, "seed": seed, "steps": steps}
            places: dict[str, Any] = {"features": out / "features", "out": folder}
            run = {"data": data, "student": TASK.student(cache), "teachers": chosen}
            done.append(aft.train(**run, **options, **places, resume=True, progress=False))
    return runs


def known_features(
    data: str, teachers: tuple[str, ...], store: Path
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Unique sample ids ``(n, 16)`` of the training rows, and teacher features ``(n, dim)``."""
    samples = load_data(data, validation_fraction=0.0, progress=False).splits["train"]
    config = ExtractConfig(data=data, teachers=teachers, features=store, progress=False)
    ((teacher,),) = extract_teachers(config, [samples], torch.device("cpu"))
    ids, first = np.unique(samples.ids, axis=0, return_index=True)
    return ids, teacher.gather(first).numpy()


def write_useless(
    path: Path, kind: str, known: tuple[NDArray[np.uint8], NDArray[np.float32]], seed: int
) -> None:
    """Write useless features: noise seeded by the sample's id, or features of other samples."""
    ids, features = known
    if kind == "noise":
        streams = (np.random.default_rng([seed, *one.tolist()]) for one in ids)
        rows = np.stack([one.standard_normal(features.shape[1]) for one in streams])
    else:
        order = np.random.default_rng(seed).permutation(len(ids))
        rows = np.empty_like(features)
        rows[order] = features[np.roll(order, 1)]  # no row keeps its own features
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, rows.astype(np.float16))
    path.with_suffix(".ids.txt").write_text("".join(f"{one.tobytes().hex()}\n" for one in ids))


def summarize(runs: dict[str, list[TrainResult]]) -> dict[str, Any]:
    """Scores, paired differences, and gate statistics of each teacher."""
    scores = {name: [run.metrics["accuracy"] for run in done] for name, done in runs.items()}
    pairs = [("aft", "alone"), *((name, base) for name in USELESS for base in ("aft", "alone"))]
    return {
        "accuracy": scores,
        "differences": [difference(scores, *pair) for pair in pairs],
        "gates": {name: gates(done) for name, done in runs.items() if name != "alone"},
    }


def difference(scores: dict[str, list[float]], method: str, base: str) -> dict[str, Any]:
    paired: PairedComparison = compare_paired("accuracy", scores[base], scores[method])
    names = ("difference", "low", "high", "p_value", "outcome")
    return {"method": method, "minus": base, **{name: getattr(paired, name) for name in names}}


def gates(runs: list[TrainResult]) -> dict[str, list[float]]:
    """Gate statistics per teacher and seed; of two teachers the last is the useless one."""
    found = [load_file(run.out / "feature_weights.safetensors") for run in runs]
    teachers = sorted(found[0])
    shares = [run.summary["teacher_shares"] for run in runs]
    names = ("useful", "useless")[: len(teachers)]
    values: dict[str, list[float]] = {}
    for place, (name, key) in enumerate(zip(names, teachers, strict=True)):
        values[f"{name}_mean_gate"] = [float(one[key].mean()) for one in found]
        values[f"{name}_share"] = [share[place] for share in shares]
    if len(teachers) > 1:
        values["useless_below_median_useful"] = [
            float((one["1"] < np.median(one["0"])).mean()) for one in found
        ]
    return values


def lines(result: dict[str, Any]) -> list[str]:
    """The result as lines to print."""
    shown = [f"{'':<11} {'accuracy':<15} useful gate  useless gate  useless share"]
    for name, scores in result["accuracy"].items():
        found = result["gates"].get(name, {})
        numbers = [
            f"{statistics.mean(found[key]):.3f}" if key in found else "-"
            for key in ("useful_mean_gate", "useless_mean_gate", "useless_share")
        ]
        shown.append(
            f"{name:<11} {statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}   "
            f"{numbers[0]:<12} {numbers[1]:<13} {numbers[2]}"
        )
    shown += [
        f"{one['method']} minus {one['minus']}: {one['difference']:+.3f} "
        f"(95% interval {one['low']:+.3f} to {one['high']:+.3f}): {one['outcome']}"
        for one in result["differences"]
    ]
    return [*shown, *(verdict(result, name) for name in USELESS)]


def as_markdown(result: dict[str, Any]) -> str:
    """The table of scores and gates, and the sentences."""
    names = {"alone": "none", "aft": "real teacher"}
    names |= {name: f"real teacher + {words}" for name, words in USELESS.items()}
    shown = [
        "| teachers | accuracy | mean gate, real teacher | mean gate, useless teacher | "
        "kernel share, useless teacher |",
        "|---|---|---|---|---|",
    ]
    for name, scores in result["accuracy"].items():
        found = result["gates"].get(name, {})
        numbers = [
            f"{statistics.mean(found[key]):.3f}" if key in found else ""
            for key in ("useful_mean_gate", "useless_mean_gate", "useless_share")
        ]
        accuracy = f"{statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}"
        shown.append(f"| {names[name]} | {accuracy} | {' | '.join(numbers)} |")
    sentences = "\n".join(f"- {verdict(result, name)}" for name in USELESS)
    return (
        "\n".join(shown) + f"\n\n{sentences}\n\nMade by `{result['command']}` "
        f"({result['machine']}).\n"
    )


def verdict(result: dict[str, Any], name: str) -> str:
    """The effect of a useless teacher on accuracy, and its gates, in words."""
    found = result["gates"][name]
    pairs = list(zip(found["useless_mean_gate"], found["useful_mean_gate"], strict=True))
    below = sum(useless < useful for useless, useful in pairs)
    useless, useful = (statistics.mean(values) for values in zip(*pairs, strict=True))
    pair = (name, "aft")
    cost = next(one for one in result["differences"] if (one["method"], one["minus"]) == pair)
    effects = {"worse": "lowers accuracy", "better": "raises accuracy"}
    effect = effects.get(cost["outcome"], "shows no difference in accuracy")
    return (
        f"Adding {USELESS[name]} as a second teacher {effect} ({cost['difference']:+.3f}, "
        f"{cost['low']:+.3f} to {cost['high']:+.3f}). The mean gate of this teacher is "
        f"{useless:.3f}, that of the real teacher {useful:.3f}; it is lower in {below} of "
        f"{len(pairs)} seeds."
    )


if __name__ == "__main__":
    main()
