"""The options of every verb, once: command line, YAML files and Python calls share them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError

from aft.config.groups import (
    ComputeOptions,
    DataOptions,
    FeatureOptions,
    LossDetails,
    LossOptions,
    Method,
    Options,
    ReadOptions,
    RunOptions,
    StudentOptions,
    TaskOption,
    TaskOptions,
    TeacherOptions,
    Texts,
    TrainingOptions,
)
from aft.errors import ConfigError


class ExtractConfig(ReadOptions, FeatureOptions, TeacherOptions, DataOptions):
    """Turn a data set into teacher features, once.

    Only what the store lacks is computed, so the command may be stopped and repeated at any time.
    """

    splits: tuple[Literal["train", "validation", "test"], ...] = ("train",)
    """Which splits; training needs train alone."""


class TrainConfig(TrainingOptions, LossOptions, RunOptions, TeacherOptions, DataOptions):
    """Train a small student on labels and on what teachers know about the data.

    Teacher features are computed first where the store lacks them. Without --teachers the student
    learns from the labels alone: the baseline to compare with.
    """


class CompareConfig(TrainingOptions, LossDetails, StudentOptions, TeacherOptions, DataOptions):
    """Train the same student by several methods over several seeds, and say which is better.

    The weight of each method is chosen on the validation split, never on the test split. A
    comparison that was stopped goes on when the command is repeated.
    """

    methods: tuple[Method, ...] = (*("alone", "aft-soft", "aft", "kd", "rkd", "ft", "b-tuning"),)
    """alone: the labels only, what all others are compared with, so always part of it. aft-soft
    and soft-labels are as in aft train, with rows without labels, views and the safety net. The
    others are as published, on the labelled rows: the transfer losses of aft train --loss;
    aft-rbf, aft-dense and aft-fixed are AFT with another --kernel or --weights."""
    seeds: int = Field(5, ge=2)
    """Runs of each method, with the seeds 0, 1 and so on."""
    betas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.1, 0.3, 1.0, 3.0, 10.0), min_length=1
    )
    """Weights of the transfer loss that are tried with seed 0 for each method but aft-soft and
    soft-labels; the one with the best validation score is used for all seeds. A single one is used
    as it is."""
    train_fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((1.0,), min_length=1)
    """Shares of the labelled training rows: everything is compared with each, to see what more
    labels would bring."""
    each_teacher: bool = False
    """Compare with each teacher on its own too, to see what each contributes."""
    probes: bool = True
    """Score linear heads on the teachers' features too, as a ceiling."""
    out: Path | None = None
    """Folder of all runs and the report. Default: runs/compare-DATA."""
    overwrite: bool = False
    """Start again instead of going on with the comparison in --out."""


class EvaluateConfig(ComputeOptions, ReadOptions):
    """Score a trained student on labelled data."""

    run: Path
    """Folder of a run (or of a student)."""
    trust_remote_code: bool = False
    """Run the file of a student that was made by a python: function."""
    data: str | None = None
    """Labelled data. Default: the data of the run."""
    split: Literal["train", "validation", "test"] | None = None
    """Which split. Default: test where there is one, else validation, else all."""
    batch_size: int = Field(64, ge=1)
    """Inputs at once."""


class PredictConfig(ComputeOptions, ReadOptions):
    """Label new inputs with a trained student alone."""

    run: Path
    """Folder of a run (or of a student)."""
    trust_remote_code: bool = False
    """Run the file of a student that was made by a python: function."""
    data: str
    """A folder of images or of .txt files, one image, a .txt file with one text a line, or a table
    with the columns that the student was trained on."""
    out: Path = Path("predictions.csv")
    """Where to write file, label, probability: .csv or .parquet."""
    all_probabilities: bool = False
    """One more column a class with its probability."""
    overwrite: bool = False
    """Replace --out."""
    batch_size: int = Field(64, ge=1)
    """Inputs at once."""


class InspectConfig(TaskOption, ReadOptions, FeatureOptions):
    """Say what is in a feature store, a data set or a run.

    Without other flags: every teacher in the store. With --data: its rows, classes and copies.
    """

    data: str | None = None
    """A data set to look at."""
    run: Path | None = None
    """A run folder to look at."""
    verify: bool = False
    """Recompute some stored features of --data with --teachers and compare (cosine)."""
    verify_samples: int = Field(16, ge=1)
    """How many samples --verify recomputes."""
    ids: Path | None = None
    """Write file, sample_id and split of every row of --data here (.csv), to make features
    elsewhere."""


class ScoreConfig(ReadOptions, FeatureOptions, TaskOptions, StudentOptions, DataOptions):
    """Say before training which teachers know something of the task that the student does not.

    Only training rows are looked at. Their features are computed where the store lacks them, and
    serve the training after that.
    """

    student: Texts = ()
    """The small model that is to be trained, written as for aft train: its features before any
    training are scored beside the teachers'. Without it teachers are compared with each other
    only."""
    layers: bool = False
    """Score about six layers of each hf: teacher, to see which one to take (?layer=N)."""
    rows: int = Field(5000, ge=20)
    """Training rows to score on, drawn by the seed where there are more. Neighbours, alignments
    and TMI take at most 2000 of them."""
    seed: int = Field(0, ge=0)
    """Draws the rows, the held-out part and the folds, as in aft train."""
    train_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the labelled training rows that are used, as in aft train."""
    out: Path | None = None
    """Folder of score.json and score.html. Default: runs/score-DATA."""


class DemoConfig(ComputeOptions):
    """Compare a small student alone and with a teacher, on real data.

    Trains on few labels alone, and with a teacher that sees more rows without labels, over several
    seeds, and writes the page of `aft compare`. Data and weights come from package indexes.
    """

    data: Literal["reviews", "reuters", "clipart", "openmoji", "clipart-titles"] = "reviews"
    """reviews: sentences of film reviews with a rating. reuters: newswire stories. clipart:
    drawings (needs apt-get). openmoji: emoji. clipart-titles: drawings with their titles."""
    out: Path | None = None
    """Folder of the runs and the page. Default: runs/demo-DATA."""
    seeds: int = Field(5, ge=2)
    """Runs of each method."""
    steps: int | None = Field(None, ge=1)
    """Steps of each run. Default: 200 for texts, 160 for pictures."""
    overwrite: bool = False
    """Start again instead of resuming an interrupted demo."""


C = TypeVar("C", bound=Options)


def resolve(kind: type[C], config: C | None, options: Mapping[str, Any]) -> C:
    """A verb's configuration from an object, from keyword options, or from both.

    Raises:
        ConfigError: Naming each wrong option, what it got and what it expects.
    """
    values = {**(config.model_dump() if config is not None else {}), **options}
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def read_config_file(path: Path, kind: type[Options]) -> dict[str, Any]:
    """The options in a YAML file.

    Raises:
        ConfigError: If the file is missing, is not YAML, or names an unknown option.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"expected lines 'option: value' in {path}, got {type(values).__name__}")
    unknown = [str(name) for name in values if name not in kind.model_fields]
    if unknown:
        raise ConfigError(
            f"{path} names unknown options: {', '.join(unknown)}; known are "
            f"{', '.join(kind.model_fields)}"
        )
    return values


def write_config_file(path: Path, config: Options) -> None:
    """Write every option as YAML; :func:`read_config_file` takes it back."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def explain(error: ValidationError) -> str:
    """What is wrong with each option, in one line."""
    parts: dict[str, list[str]] = {}
    for problem in error.errors():
        name, *rest = problem["loc"] or ("options",)
        places = [str(part) for part in rest if isinstance(part, int)]  # others name alternatives
        name = ".".join([str(name), *places])
        if problem["type"] == "missing":
            parts[f"{name} is missing"] = []
        elif problem["type"] == "extra_forbidden":
            parts[f"unknown option {name}"] = []
        else:
            said = parts.setdefault(f"{name}={problem['input']!r}: ", [])
            said.append(problem["msg"].lower())
    return "; ".join(start + ", or ".join(said) for start, said in parts.items())
