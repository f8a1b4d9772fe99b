"""Compare every method on real tasks with `aft compare`: does transfer help, and which method most?

    python benchmarks/suite.py                   # two tasks at once, one core each
    python benchmarks/suite.py --tasks reuters
    python benchmarks/suite.py --methods alone aft-soft    # only these; others can follow
    python benchmarks/suite.py --full            # more tasks, labels, steps, weights and seeds, for
                                                 # larger machines
    python benchmarks/suite.py --tables          # only the tables, from the stored results

Scores are written to benchmarks/results/suite/TASK.json, runs and report pages to runs/suite/TASK.
The tables of the README and of docs/benchmarks.md are generated from the scores. Takes some
hours on two cores; run the same command again to resume.

The features of the text student `small:ngrams` were chosen on TREC questions, film reviews and SMS
spam (`trec`, `trec-fine`, `snippets` and `sms`), so its scores there may be optimistic. The other
text tasks (`reuters`, `amazon`, `tweets`, `editorials` and `newsgroups`) had no part in the choice:
they report how good it is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aft
import tables
from aft.demo_data.models import fetch_minilm
from aft.ids import default_cache_dir
from data_sets import DATA_SETS
from data_sets.models import fetch_squeezenet

RESULTS = Path(__file__).parent / "results"
METHODS = (
    *("alone", "kd", "rkd", "ft", "b-tuning", "kernel-kd", "logit-kd", "kdep", "aft-no-kernel"),
    *("cka", "aft", "aft-soft"),
)
MAIN = ("alone", "aft", "logit-kd", "kdep", "aft-soft")
"""Without `--full`: of the published methods AFT, and those that were best before."""
COMMON: dict[str, Any] = {"betas": (0.1, 1.0, 10.0), "seeds": 5}
FULL: dict[str, Any] = {"betas": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), "seeds": 10}
PICTURES: dict[str, Any] = {"batch_size": 32, "steps": 300, "eval_every": 30}
PRETRAINED: dict[str, Any] = {**PICTURES, "lr": 3e-4, "head_lr": 3e-3}
TEXTS: dict[str, Any] = {
    **{"batch_size": 64, "steps": 100, "eval_every": 10},
    "unlabelled": "left-out",
}
FEW: dict[str, Any] = {"validation_fraction": 0.25}  # fewer rows make the chosen weights noisy
# Rows that are not drawn lose their labels; methods that use unlabelled rows get them.
REST: dict[str, Any] = {"unlabelled": "left-out"}
RATED: dict[str, Any] = {"label_column": ("score",), "leave_out": ("logit-kd",)}


def squeezenet(cache: Path) -> str:
    return f"torchvision:squeezenet1_1?weights={fetch_squeezenet(cache, False)}&size=64"


def minilm(cache: Path, tokens: int) -> str:
    return f"st:{fetch_minilm(cache, False)}?max_tokens={tokens}"


LITE0 = "timm:tf_efficientnet_lite0"  # at its own 224 px
CNN = "small:cnn?size=32"


@dataclass(frozen=True)
class Task:
    """A data set, a student and teachers.

    Attributes:
        data: Name of the data set in :data:`data_sets.DATA_SETS`.
        student: Function from the cache folder to the specifications of the student.
        teachers: Function from the cache folder to the specifications of the teachers.
        words: Data, student, its initial weights, and teachers, as named in the tables.
        options: Options of `aft compare`.
        full: Options that `--full` changes.
        short: Whether the task also runs without `--full`.
    """

    data: str
    student: Callable[[Path], tuple[str, ...]]
    teachers: Callable[[Path], tuple[str, ...]]
    words: tuple[str, str, str, str]
    options: dict[str, Any]
    full: dict[str, Any] = field(default_factory=lambda: {"steps": 5000, "train_fractions": (1.0,)})
    short: bool = True


def pictures(data: str, what: str, *, pretrained: bool = True, **options: Any) -> Task:
    return Task(
        data,
        lambda cache: (squeezenet(cache) if pretrained else CNN,),
        lambda cache: (LITE0,),
        (
            what,
            "SqueezeNet 1.1" if pretrained else "4-layer CNN",
            "ImageNet" if pretrained else "random",
            "EfficientNet-Lite0",
        ),
        {**(PRETRAINED if pretrained else {**PICTURES, "lr": 2e-3}), **options},
    )


def texts(data: str, what: str, **options: Any) -> Task:
    return Task(
        data,
        lambda cache: ("small:ngrams",),
        lambda cache: (minilm(cache, 64),),
        (what, "words and word pairs", "linear model", "all-MiniLM-L6"),
        {**TEXTS, **options},
    )


def pairs(data: str, what: str, **options: Any) -> Task:
    return Task(
        data,
        lambda cache: (f"image={squeezenet(cache)}", "text=small:static"),
        lambda cache: (f"image={LITE0}", f"text={minilm(cache, 32)}"),
        (what, "SqueezeNet 1.1 + word vectors", "ImageNet + random", "both"),
        {**PRETRAINED, **options},
    )


TASKS = {
    "clipart": pictures("clipart", "clip art"),
    "reuters": texts("reuters", "Reuters R8", train_fractions=(0.06,), **FEW),
    "emoji-names": pairs("emoji-names", "emoji + names"),
    "clipart-cnn": pictures("clipart", "clip art", pretrained=False),
    "snippets": texts("snippets", "film reviews (R²)", train_fractions=(0.12,), **RATED),
    "stamps": pictures("stamps", "stamps", **FEW),
    "trec-layer": Task(
        "trec",
        lambda cache: (f"hf:{fetch_minilm(cache, False)}?max_tokens=32",),
        lambda cache: (minilm(cache, 64),),
        ("TREC questions", "1 layer of MiniLM", "all-MiniLM-L6", "all-MiniLM-L6"),
        {
            "batch_size": 32,
            "steps": 60,
            "eval_every": 30,
            "student_layers": 1,
            "train_fractions": (0.12,),
            **FEW,
            **REST,
        },
    ),
    "clipart-few": pictures("clipart", "clip art", train_fractions=(0.25,), **FEW, **REST),
    "emoji-names-few": pairs("emoji-names", "emoji + names", train_fractions=(0.3,), **FEW, **REST),
    "trec": texts("trec", "TREC questions", train_fractions=(0.12,), **FEW),
    "trec-fine": texts(
        "trec-fine",
        "TREC questions, 50 classes",
        train_fractions=(0.12,),
        metric="accuracy",  # some classes have one test row, too few for balanced accuracy
        **FEW,
    ),
    "amazon": texts("amazon", "product reviews (R²)", train_fractions=(0.2,), **RATED),
    "tweets": texts("tweets", "tweets (R²)", train_fractions=(0.18,), **RATED),
    "editorials": texts("editorials", "editorials (R²)", train_fractions=(0.15,), **RATED),
    "sms": texts("sms", "SMS spam", train_fractions=(0.07,), **FEW),
    "newsgroups": texts("newsgroups", "20 Newsgroups", train_fractions=(0.1,), **FEW),
    # The following tasks resemble one above, or have a smaller gap; they run with --full only.
    "emoji": replace(pictures("emoji", "emoji"), short=False),
    "openmoji": replace(pictures("openmoji", "OpenMoji"), short=False),
    "fashion": replace(pictures("fashion", "Fashion-MNIST", pretrained=False), short=False),
    "solar": replace(pictures("solar", "solar cells"), short=False),
    "clipart-titles": replace(pairs("clipart-titles", "clip art + titles"), short=False),
    "stamps-captions": replace(pairs("stamps-captions", "stamps + captions"), short=False),
}
SHORT = [name for name, task in TASKS.items() if task.short]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help=f"default: {', '.join(SHORT)}")
    parser.add_argument("--jobs", type=int, default=2, help="number of tasks to run in parallel")
    parser.add_argument(
        "--full", action="store_true", help="all tasks and labels, more steps, seeds and weights"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, help=f"default: {', '.join(MAIN)}")
    parser.add_argument("--out", type=Path, help="folder for the runs (default: runs/suite)")
    parser.add_argument(
        "--tables", action="store_true", help="only write the tables, without training"
    )
    parser.add_argument("--one", choices=TASKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run(options.one, options.full, options.out, options.methods)
        return
    options.tasks = options.tasks or (list(TASKS) if options.full else SHORT)
    if not options.tables:
        for name in options.tasks:  # download before the tasks run in parallel
            TASKS[name].student(_cache()), TASKS[name].teachers(_cache())
            DATA_SETS[TASKS[name].data](_cache(), False)
        with ThreadPoolExecutor(options.jobs) as pool:
            failed = [
                name for name in pool.map(lambda n: _start(n, options), options.tasks) if name
            ]
        if failed:
            raise SystemExit(f"failed: {', '.join(failed)}; run the same command again to resume")
    if not options.full:
        tables.write_suite({name: task.words for name, task in TASKS.items()})


def run(name: str, full: bool, out: Path | None, only: list[str] | None = None) -> None:
    """Compare the methods on one task, and write the results.

    Args:
        name: The task.
        full: Whether to use more steps, weights and seeds.
        out: Folder of the runs.
        only: The methods; by default those of `MAIN`, and all with `full`.
    """
    task, cache = TASKS[name], _cache()
    choice = {**COMMON, **task.options, **(FULL | task.full if full else {})}
    if choice.get("train_fractions", (1.0,)) == (1.0,):
        choice.pop("unlabelled", None)  # nothing is left out
    kind = _kind(full)
    left_out = choice.pop("leave_out", ())
    wanted = only or (METHODS if full else MAIN)
    methods = [method for method in METHODS if method in wanted and method not in left_out]
    found = aft.compare(
        data=str(DATA_SETS[task.data](cache, False).folder),
        student=task.student(cache),
        teachers=task.teachers(cache),
        methods=methods,
        out=(out or Path("runs") / kind) / name,
        num_workers=0,
        progress=False,
        **choice,
    )
    command = f"python benchmarks/suite.py --tasks {name}"
    command += " --full" * full
    kept = tables.without_folders(found, _folders(cache))
    result = {"command": command, "machine": tables.machine(), **kept}
    (RESULTS / kind).mkdir(parents=True, exist_ok=True)
    (RESULTS / kind / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    if found["errors"]:  # finished runs are kept; the same command retries the others
        raise SystemExit("\n".join(f"{cell}: {error}" for cell, error in found["errors"].items()))


def _start(name: str, options: argparse.Namespace) -> str | None:
    """Run a task in its own process; return its name if that failed."""
    command = [sys.executable, __file__, "--one", name, *(["--full"] if options.full else [])]
    command += ["--methods", *options.methods] if options.methods else []
    command += ["--out", str(options.out)] if options.out else []
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    print(f"[suite] {name} starts", flush=True)
    code = subprocess.run(command, env=environment, stderr=_log(name, options)).returncode
    print(
        f"[suite] {name} {'done' if code == 0 else f'failed, see {_log_path(name, options)}'}",
        flush=True,
    )
    return name if code else None


def _kind(full: bool) -> str:
    """Name of the folders of runs and results."""
    return "suite-full" if full else "suite"


def _log_path(name: str, options: argparse.Namespace) -> Path:
    folder = options.out or Path("runs") / _kind(options.full)
    folder.mkdir(parents=True, exist_ok=True)
    return Path(folder / f"{name}.log")


def _log(name: str, options: argparse.Namespace) -> Any:
    return _log_path(name, options).open("a")


def _cache() -> Path:
    return default_cache_dir() / "demo"


def _folders(cache: Path) -> dict[str, str]:
    """Readable names that replace folders of this machine in the results."""
    names = {str(fetch_minilm(cache, False)): "all-MiniLM-L6-v2"}
    names[str(fetch_squeezenet(cache, False))] = "squeezenet1_1.safetensors"
    return {**names, f"{cache}{os.sep}": ""}


if __name__ == "__main__":
    main()
