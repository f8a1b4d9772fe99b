"""The verb `demo`: the main job on real data, with proof whether it pays."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyarrow.parquet import read_table

from aft.commands.train import train
from aft.comparison.statistics import PairedComparison, compare_paired
from aft.config.commands import DemoConfig, resolve
from aft.data.loading import load_inputs
from aft.data.samples import Samples
from aft.demo_data.data_sets import (
    available,
    fetch_clipart,
    fetch_clipart_titles,
    fetch_openmoji,
    fetch_reuters,
)
from aft.demo_data.models import fetch_minilm, fetch_squeezenet
from aft.demo_data.prepared import DemoData
from aft.errors import DataError
from aft.ids import default_cache_dir
from aft.report import write_comparison_report
from aft.training.run_folder import TrainResult


@dataclass(frozen=True)
class Demonstration:
    """What is trained on which data, and who teaches it.

    Attributes:
        fetch: Gives the data, from a cache folder.
        student: The student's specification, from a cache folder.
        teachers: The teachers' specifications, from a cache folder.
        student_words: The student for people.
        teacher_words: The teachers for people.
        steps: Of each run.
        settings: Options of both methods that are not the defaults of `aft train`.
        transfer: Options of the runs with teachers.
    """

    fetch: Callable[[Path, bool], DemoData]
    student: Callable[[Path], tuple[str, ...]]
    teachers: Callable[[Path], tuple[str, ...]]
    student_words: str
    teacher_words: str
    steps: int
    settings: dict[str, Any]
    transfer: dict[str, Any] = field(default_factory=lambda: {"safety_net": False})


def _squeezenet(cache: Path) -> str:
    return f"torchvision:squeezenet1_1?weights={fetch_squeezenet(cache)}&size=64"


_LITE0 = "timm:tf_efficientnet_lite0?size=128"
# A quarter of the labels is used; the other rows join the transfer without theirs.
_FEW: dict[str, Any] = {"unlabelled": "left-out", "validation_fraction": 0.25}
_PICTURE_SETTINGS: dict[str, Any] = {
    **{"batch_size": 32, "lr": 3e-4, "head_lr": 3e-3, "train_fraction": 0.25},
    **_FEW,
}
_PICTURE_WORDS = (
    "SqueezeNet 1.1 with its ImageNet weights, 64 px",
    "EfficientNet-Lite0, 128 px",
)

DEMONSTRATIONS = {
    "clipart": Demonstration(
        fetch_clipart,
        lambda cache: (_squeezenet(cache),),
        lambda cache: (_LITE0,),
        *_PICTURE_WORDS,
        steps=160,
        settings=_PICTURE_SETTINGS,
    ),
    "openmoji": Demonstration(
        fetch_openmoji,
        lambda cache: (_squeezenet(cache),),
        lambda cache: (_LITE0,),
        *_PICTURE_WORDS,
        steps=160,
        settings=_PICTURE_SETTINGS,
    ),
    "reuters": Demonstration(
        fetch_reuters,
        lambda cache: ("small:static",),
        lambda cache: (f"st:{fetch_minilm(cache)}?max_tokens=64",),
        "averaged word vectors from random weights",
        "all-MiniLM-L6-v2, 64 tokens",
        steps=200,
        settings={"batch_size": 64, "lr": 2e-3, "train_fraction": 0.06, **_FEW},
    ),
    "clipart-titles": Demonstration(
        fetch_clipart_titles,
        lambda cache: (f"image={_squeezenet(cache)}", "text=small:static"),
        lambda cache: (f"image={_LITE0}", f"text=st:{fetch_minilm(cache)}"),
        "SqueezeNet 1.1 with its ImageNet weights, 64 px, beside untrained word vectors",
        "EfficientNet-Lite0, 128 px, and all-MiniLM-L6-v2",
        steps=160,
        settings=_PICTURE_SETTINGS,
    ),
}


def demo(config: DemoConfig | None = None, /, **options: Any) -> dict[str, Any]:
    """Run the demonstration; options are those of :class:`aft.config.commands.DemoConfig`.

    Returns:
        ``lines`` for people, ``report`` (the page), ``alone`` and ``aft`` (test accuracy of each
        seed), ``difference``, ``low``, ``high`` (95 % interval), ``outcome``.

    Raises:
        AftError: If data or weights cannot be fetched.
    """
    config = resolve(DemoConfig, config, options)
    name = _choose(config)
    shown = DEMONSTRATIONS[name]
    data = shown.fetch(_cache(), config.progress)
    out = config.out or Path(f"runs/demo-{name}")
    results: dict[str, list[TrainResult]] = {"alone": [], "aft": []}
    for seed in range(config.seeds):
        for method, done in results.items():
            number = 1 + sum(map(len, results.values()))
            print(
                f"\nrun {number} of {2 * config.seeds}: student "
                f"{'alone' if method == 'alone' else 'with teachers'}, seed {seed}",
                file=sys.stderr,
            )
            done.append(
                train(
                    **run_options(shown, data, transfer=method == "aft"),
                    out=out / f"{method}-{seed}",
                    seed=seed,
                    steps=config.steps or shown.steps,
                    device=config.device,
                    num_workers=config.num_workers,
                    progress=config.progress,
                    overwrite=config.overwrite,
                    resume=not config.overwrite,
                )
            )
    return _conclude(shown, data, out, results)


def run_options(shown: Demonstration, data: DemoData, transfer: bool) -> dict[str, Any]:
    """Options of a run but for its seed and steps: the method's own, and those of both."""
    return {
        "data": str(data.folder),
        "student": shown.student(_cache()),
        "teachers": shown.teachers(_cache()) if transfer else (),
        **shown.settings,
        **shown.transfer,
    }


def _cache() -> Path:
    return default_cache_dir() / "demo"


def _choose(config: DemoConfig) -> str:
    there = available()
    if not there:
        raise DataError("the demo fetches its data with pip or apt-get; neither is here")
    return there[0] if config.data == "auto" else config.data


def _conclude(
    shown: Demonstration, data: DemoData, out: Path, results: dict[str, list[TrainResult]]
) -> dict[str, Any]:
    scores = {method: [run.metrics["accuracy"] for run in runs] for method, runs in results.items()}
    comparison = compare_paired("accuracy", scores["alone"], scores["aft"])
    page = write_comparison_report(
        out,
        title=f"A small student, alone and with a teacher: {data.name}",
        introduction=_introduction(shown, data, results["aft"][0]),
        baseline_runs=[run.out for run in results["alone"]],
        transfer_runs=[run.out for run in results["aft"]],
        comparison=comparison,
        facts=_facts(shown, data, results),
        open_input=_scored_inputs(data, results["aft"][0]).input,
    )
    names = {"alone": "student alone", "aft": "with teachers"}
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


def _scored_inputs(data: DemoData, run: TrainResult) -> Samples:
    """The inputs that the run was scored on, in the order of its table of predictions."""
    samples, _ = load_inputs(str(data.folder), progress=False)
    position = {file: i for i, file in enumerate(samples.files)}
    files = read_table(run.out / "evaluation.parquet")["file"].to_pylist()
    return samples.subset([position[file] for file in files])


def _introduction(shown: Demonstration, data: DemoData, run: TrainResult) -> str:
    rows = run.summary["rows"]
    several = len(run.summary["teachers"]) > 1
    return (
        f"{rows['train']} labelled {data.rows} in {len(run.summary['task']['names'])} classes "
        f"train a network of {run.summary['num_parameters']:,} parameters "
        f"({shown.student_words}): once on the labels alone, once with the knowledge of "
        f"{'larger teachers' if several else 'a larger teacher'} ({shown.teacher_words}), which "
        f"looked once at these and at {run.summary['rows_without_labels']} {data.rows} without "
        f"labels. Steps, batches, learning rates and seeds are "
        f"the same. {rows['test']} other {data.rows} tell which student is better. "
        f"{'No teacher' if several else 'The teacher'} is {'' if several else 'not '}part of "
        "either.\n\n"
        f"Both students are scored at the checkpoint chosen on {rows['validation']} {data.rows} "
        f"held out of the training part."
    )


def _facts(
    shown: Demonstration, data: DemoData, results: dict[str, list[TrainResult]]
) -> dict[str, str]:
    run = results["aft"][0].summary
    seconds = {name: sum(r.summary["seconds"] for r in runs) for name, runs in results.items()}
    seeds = len(results["aft"])
    steps = run["steps"]
    return {
        data.rows.capitalize(): f"{data.origin}; {data.licence}",
        "Student": shown.student_words,
        "Teachers" if len(run["teachers"]) > 1 else "Teacher": ", ".join(
            f"{teacher['spec']} ({teacher['dim']} features)" for teacher in run["teachers"]
        ),
        "Budget of each run": f"{steps} steps, {_pairs(shown.settings)}",
        "Transfer": f"{run['loss']}, weight {run['beta']:g}, {run['rows_without_labels']} "
        f"{data.rows} without labels in the first run; the rest is the same",
        "Time": f"{seconds['alone']:.0f} s alone, {seconds['aft']:.0f} s with teachers, all seeds; "
        "computing the teachers' features is part of the first run with them",
        "Command": f"aft demo --data {data.name} --seeds {seeds} --steps {steps}",
        "Version": f"aft {run['version']}",
    }


def _pairs(options: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in options.items()
    )
