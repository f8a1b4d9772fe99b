"""Folders of synthetic comparisons, as written by `aft compare`, and their documents."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aft.backbones.specs import short_name
from aft.comparison.baselines import collect_baselines
from aft.comparison.statistics import recommend_method, summarize_method
from aft.config.groups import EQUAL_STEPS, LABELS_ONLY
from aft.metrics import MAIN_METRIC
from helpers.run_folders import make_run

# Gain of each method over the labels alone.
GAINS = {
    "alone": 0.0,
    "alone-equal-steps": -0.01,
    "kd": 0.02,
    "rkd": 0.005,
    "ft": -0.02,
    "b-tuning": 0.012,
    "aft": 0.04,
}
TEACHERS = ("timm:vit_small_patch14_dinov2.lvd142m", "hf:openai/clip-vit-base-patch32")


def make_comparison(
    folder: Path,
    *,
    methods: Sequence[str] = tuple(name for name in GAINS if name != EQUAL_STEPS),
    seeds: int = 3,
    betas: Sequence[float] = (1.0, 10.0),
    fractions: Sequence[float] = (1.0,),
    teachers: Sequence[str] = TEACHERS,
    each_teacher: bool = False,
    kind: str = "classification",
    probes: bool = True,
    baselines: bool = False,
    run: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fill a folder with runs and return the contents of ``compare.json``.

    Args:
        folder: The comparison's folder.
        methods: Names, ``alone`` first. Methods that are not in ``GAINS`` have no gain.
        seeds: Number of runs per method.
        betas: Evaluated weights; the second is selected.
        fractions: Shares of train.
        teachers: Specifications of the teachers.
        each_teacher: Whether each teacher is also used on its own.
        kind: Kind of the task.
        probes: Whether to include linear probes.
        baselines: Whether to include what people would use instead.
        run: Options of :func:`run_folders.make_run`.
    """
    groups = [list(teachers)]
    if each_teacher:
        groups += [[teacher] for teacher in teachers]
    settings = []
    for fraction in fractions:
        for number, group in enumerate(groups):
            words = [f"{100 * fraction:g}% of train"] if len(fractions) > 1 else []
            if each_teacher:
                words.append(short_name(group[0]) if number else "all teachers")
            strength = 0.2 + 0.3 * number if number else 1.0
            found = _methods(
                folder, fraction, number, group, methods, strength, seeds, betas, kind, run or {}
            )
            heads = [[teacher] for teacher in group] + ([group] if len(group) > 1 else [])
            base = 0.8 + 0.1 * np.log10(fraction) + 0.05 * strength
            settings.append(
                {
                    "name": ", ".join(words),
                    "fraction": fraction,
                    "teachers": group,
                    "rows": {"train": int(1200 * fraction), "validation": 120, "test": 120},
                    "steps": 1000,
                    "methods": found,
                    "baselines": make_baselines(found, MAIN_METRIC[kind]) if baselines else [],
                    "best": recommend_method(found, MAIN_METRIC[kind], "alone"),
                    "probes": [
                        {"teachers": head, "score": base + 0.01 * i} for i, head in enumerate(heads)
                    ]
                    if probes
                    else [],
                }
            )
    best = [setting["best"] for setting in settings]
    better = sum(one["outcome"] == "better" for one in best)
    several = f"In {better} of {len(best)} settings a method is better than the labels alone."
    forward = 1.1e9
    return {
        "version": "0.1.0",
        "data": "/data/fruit",
        "task": kind,
        "metric": MAIN_METRIC[kind],
        "split": "test",
        "student": "timm:mobilenetv4_conv_small.e2400_r224_in1k",
        "student_weights": "pretrained",
        "num_parameters": 2_500_000,
        "teachers": list(teachers),
        "seeds": seeds,
        "betas": list(betas),
        "steps": 1000,
        "batch_size": 64,
        "sentence": best[0]["sentence"] if len(best) == 1 else several,
        "settings": settings,
        "costs": {
            "student": {
                "flops": forward,
                "training_flops": 3 * forward * 64 * 1000,
                "rows_seen": 64000,
            },
            "teachers": [
                {"spec": spec, "flops": 2.3e10, "total_flops": 2.3e10 * 1200, "rows": 1200}
                for spec in teachers
            ],
        },
        "errors": {},
        "cautions": ["The best of several methods was picked on test scores: optimistic."],
        "seconds": 9120.0,
        "json": str(folder / "compare.json"),
        "markdown": str(folder / "report.md"),
        "report": str(folder / "report.html"),
    }


def make_baselines(methods: Mapping[str, Any], metric: str) -> list[dict[str, Any]]:
    """Two baselines: one far above the labels alone, and one below, which lacks the last seed."""
    alone = methods["alone"]["runs"]
    scored = [
        {
            "baselines": [
                {
                    "name": name,
                    "words": words,
                    "metrics": dict.fromkeys(run["metrics"], run["score"] + gain),
                    "validation": {},
                    "seconds": 1.2,
                }
                for name, words, gain in (
                    ("tf-idf", "TF-IDF with a linear model", 0.09),
                    ("start-features", "linear model on the student's starting features", -0.05),
                )
                if name == "tf-idf" or run is not alone[-1]
            ]
        }
        for run in alone
    ]
    return collect_baselines(metric, [scored], alone)


def set_metric(
    setting: dict[str, Any], method: str, metric: str, difference: float, outcome: str
) -> dict[str, Any]:
    """Give a method a difference from the labels alone in one metric, and return the entry.

    The interval is the difference ± 0.01.
    """
    values = {
        "mean": 0.5 + difference,
        "difference": difference,
        "low": difference - 0.01,
        "high": difference + 0.01,
        "outcome": outcome,
    }
    setting["methods"][method]["metrics"][metric] = values
    return values


def _methods(
    folder: Path,
    fraction: float,
    number: int,
    teachers: list[str],
    methods: Sequence[str],
    strength: float,
    seeds: int,
    betas: Sequence[float],
    kind: str,
    run: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Methods of one setting; ``strength`` scales their gains."""
    share = "" if fraction == 1 else f"train-{fraction:g}/"
    metric = MAIN_METRIC[kind]
    found: dict[str, dict[str, Any]] = {}
    for place, method in enumerate(methods):
        searches = method not in LABELS_ONLY
        chosen = betas[min(1, len(betas) - 1)] if searches else None
        start = share if not searches or not number else f"{share}teacher-{number}/"
        gain = GAINS.get(method, 0.0) * strength * (1.6 - 0.6 * fraction)
        runs: list[dict[str, Any]] = []
        for seed in range(seeds):
            weight = f"-beta{chosen:g}" if searches else ""
            cell = f"{start}runs/{place if '/' in method else method}{weight}-seed{seed}"
            options = {
                "kind": kind,
                "teachers": [(spec, 384) for spec in teachers] if method != "alone" else [],
                "skill": 0.82 + 0.1 * np.log10(fraction) + gain,
                "seed": 100 * place + seed,
                **run,
            }
            if not (folder / cell).exists():
                make_run(folder / cell, **options)
            result = json.loads((folder / cell / "result.json").read_text())
            runs.append(
                {
                    "seed": seed,
                    "folder": cell,
                    "score": result["metrics"][metric],
                    "metrics": result["metrics"],
                    "best_step": result["best_step"],
                    "seconds": 250.0 + 25 * (place > 0) + 4 * place + 3 * seed,
                }
            )
        looks = [
            {
                "beta": beta,
                "folder": f"{start}runs/{method}-beta{beta:g}-seed0",
                "validation": 0.75 if beta == chosen else 0.71,
            }
            for beta in betas
        ]
        alone = None if method == "alone" else found["alone"]["runs"]
        found[method] = {
            "beta": chosen,
            "search": looks if searches and len(betas) > 1 else [],
            "runs": runs,
            **summarize_method(method, metric, runs, alone),
            "seconds": float(np.mean([one["seconds"] for one in runs])),
            "steps": 1000,
            "inputs_seen": 64_000,
            "operations": 3 * 1.1e9 * 64_000,
        }
    return found
