"""The options of every command, shared by command line, YAML files and Python calls."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from aft.config.groups import (
    ComputeOptions,
    DataOptions,
    Device,
    FeatureOptions,
    LossDetails,
    LossOptions,
    Method,
    Options,
    Place,
    ReadOptions,
    RunOptions,
    Source,
    StudentOptions,
    TaskOption,
    TaskOptions,
    TeacherOptions,
    Texts,
    TrainingOptions,
)
from aft.errors import ConfigError
from aft.files import reading, write_whole

Format = Literal["onnx", "onnx-int8", "torch", "openvino", "timm", "transformers"]
Formats = Annotated[
    tuple[Format, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    Field(min_length=1),
]


class ExtractConfig(ReadOptions, FeatureOptions, TeacherOptions, DataOptions):
    """Compute teacher features of a data set, once.

    Computes only what the store lacks, so an interrupted command can be run again.
    """

    splits: tuple[Literal["train", "validation", "test"], ...] = ("train",)
    """Splits to compute; training only needs train."""
    ray: str | None = None
    """Compute on a Ray cluster: its address, e.g. auto, 10.0.0.1:6379 or ray://HOST:10001, or local
    for one on this machine. Inputs and the feature store are those of this machine."""


class TrainConfig(TrainingOptions, LossOptions, RunOptions, TeacherOptions, DataOptions):
    """Train a small student on labels and on the features of frozen teachers.

    Computes missing teacher features first. Without --teachers the student learns from the labels
    alone, which is the baseline.
    """

    classes: Place | None = None
    """File with one class per line, NAME or NAME<TAB>DESCRIPTION, for data with few or no labels.
    The similarity of a teacher's features to those of the names makes the soft labels. Needs a
    teacher of the texts, or an image-text model such as CLIP (hf:) as teacher of the images."""
    class_template: str | None = None
    """Text around the name or description of a class, with {}. Default: this text is about {}; for
    images a photo of {}."""


class CompareConfig(TrainingOptions, LossDetails, StudentOptions, TeacherOptions, DataOptions):
    """Train the same student with several methods and seeds, and test which is better.

    The weight of each method is chosen on the validation split, never on the test split. Run an
    interrupted comparison again to resume it.
    """

    methods: tuple[Method, ...] = (*("alone", "aft-soft", "aft", "kd", "rkd", "ft", "b-tuning"),)
    """Methods to compare. alone: the labels only; always included. aft-soft and soft-labels: as in
    aft train, with unlabelled rows and views, as are distill-nearest, distill-weighted and
    row-trust. The others are trained on the labelled rows, as published: the losses of aft train
    --loss; aft-rbf, aft-dense and aft-fixed are AFT with another --kernel or --weights. They and
    alone take more steps than those with unlabelled rows and views, to see as many inputs."""
    seeds: int = Field(default=5, ge=2)
    """Runs per method, with seeds 0, 1, …"""
    betas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.1, 0.3, 1.0, 3.0, 10.0), min_length=1
    )
    """Weights of the transfer loss to try with seed 0, for each method without unlabelled rows
    and views; the one with the best validation score is used for all seeds."""
    train_fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(1.0,), min_length=1
    )
    """Shares of the labelled training rows; the comparison is made for each, to show the effect of
    more labels."""
    each_teacher: bool = False
    """Also compare with each teacher on its own."""
    probes: bool = True
    """Also score linear models on the teachers' features, as a ceiling."""
    out: Place | None = None
    """Folder of all runs and the report. Default: runs/compare-DATA."""
    overwrite: bool = False
    """Start again instead of resuming the comparison in --out."""


class EvaluateConfig(ComputeOptions, ReadOptions):
    """Score a trained student on labelled data."""

    run: Place
    """Folder of a run or a student, or hf://USER/NAME on the Hugging Face Hub."""
    trust_remote_code: bool = False
    """Allow the file of a python: student to run."""
    data: Source | None = None
    """Labelled data. Default: the data of the run."""
    split: Literal["train", "validation", "test"] | None = None
    """Split to score. Default: test, else validation, else all rows."""
    batch_size: int = Field(default=64, ge=1)
    """Inputs per batch."""


class PredictConfig(ComputeOptions, ReadOptions):
    """Predict labels of new inputs with a trained student."""

    run: Place
    """Folder of a run or a student, or hf://USER/NAME on the Hugging Face Hub."""
    trust_remote_code: bool = False
    """Allow the file of a python: student to run."""
    data: Source
    """A folder of images or .txt files, one image, a .txt file with one text per line, or a table
    with the columns that the student was trained on. -: the standard input, with JSON lines, CSV
    whose header names an input column, or one text per line."""
    out: Place = Path("predictions.csv")
    """Predictions to write, beside the columns of a table: .csv, .jsonl or .parquet. -: the
    standard output, as JSON lines if --data is such a file, else as CSV."""
    probabilities: bool = False
    """Add one probability column per class."""
    overwrite: bool = False
    """Replace --out."""
    batch_size: int = Field(default=64, ge=1)
    """Inputs per batch."""


class ExportConfig(ReadOptions):
    """Write a trained student in formats that run without aft.

    Each export is compared with the student on held-out rows; if one computes something else,
    nothing is written.
    """

    run: Path
    """Folder of a run or a student, or hf://USER/NAME on the Hugging Face Hub."""
    format: Formats = ("onnx",)
    """Formats to write. onnx, and onnx-int8 with 8-bit weights, come with predict.py, which runs
    them without torch. torch: a program of torch.export. openvino: made from onnx. timm,
    transformers: a folder that this library loads, for timm: and hf: students."""
    out: Path = Path("export")
    """Folder of the export."""
    data: Source | None = None
    """Data to compare with, labelled or not. Default: the held-out rows of the run."""
    rows: int = Field(default=1000, ge=1)
    """Most rows to compare."""
    trust_remote_code: bool = False
    """Allow the file of a python: student to run."""
    overwrite: bool = False
    """Replace an export in --out."""
    progress: bool = True
    """Say what is done, and show progress bars."""


class PushConfig(Options):
    """Publish a trained student, or an export, on the Hugging Face Hub.

    RUN and REPO may stand without their flags. The token is that of `hf auth login` or HF_TOKEN.
    """

    run: Place
    """Folder of a run, a student or an export."""
    repo: str
    """Name of the repository on the Hub, USER/NAME; it is made if there is none."""
    private: bool = False
    """Make a new repository private."""
    revision: str | None = None
    """Branch to write to; it is made if there is none. Default: main."""
    message: str = "Push from aft"
    """Message of the commit."""


class ServeConfig(Options):
    """Answer requests over HTTP with a trained student: JSON, and a page to try it.

    There is no authentication, so by default only this machine can reach it.
    """

    run: Place
    """Folder of a run or a student."""
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0: every address of this machine, for everyone who reaches
    it."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on. 0: a free one."""
    allow_hosts: Texts = ()
    """Names under which requests may address the server. Default: localhost and --host if only
    this machine can reach it, else every name."""
    with_teachers: bool = False
    """Load the teachers of the run, too, and fit a linear model to their stored features. The page
    shows its answer beside that of the student."""
    batch_size: int = Field(default=64, ge=1)
    """Inputs per forward pass; requests that arrive together share one."""
    max_inputs: int = Field(default=1000, ge=1)
    """Most inputs of one request."""
    max_megabytes: float = Field(default=20.0, gt=0)
    """Largest request."""
    max_waiting: int = Field(default=10_000, ge=1)
    """Most inputs that wait for an answer; above, requests are refused until there are fewer."""
    device: Device = "auto"
    """Where to compute. auto: CUDA, else Apple MPS, else CPU."""
    trust_remote_code: bool = False
    """Allow the file of a python: student or teacher of the run to run."""


class InspectConfig(TaskOption, ReadOptions, FeatureOptions):
    """Show what is in a run, a feature store or a data set.

    PATH may be any of these. Without it: every teacher in the feature store.
    """

    path: str | None = None
    """A run, a student, a feature store (or the folder of all) or a data set."""
    data: str | None = None
    """A data set to show."""
    run: Place | None = None
    """A run to show."""
    verify: bool = False
    """Compare all stored features, or the files of the run, with their checksums. With --teachers
    and data, also recompute some of the features and compare them (cosine)."""
    verify_samples: int = Field(default=16, ge=1)
    """Samples that --verify recomputes."""
    ids: Place | None = None
    """Write file, sample_id and split of every row of the data to this .csv, to compute features
    elsewhere."""
    labels: Place | None = None
    """Find training rows whose label is probably wrong, by cross-validated predictions from the
    features of --teachers. Writes all of them to this .csv, and the worst with their images or
    texts to a page beside it (.html)."""


class ScoreConfig(ReadOptions, FeatureOptions, TaskOptions, StudentOptions, DataOptions):
    """Estimate, before training, which teachers will help.

    Uses training rows only. Computes missing features, which training then reuses.
    """

    student: Texts = ()
    """The small model to train, as for aft train: its features before training are scored too.
    Default: none, only teachers are compared."""
    layers: bool = False
    """Also score about six layers of each hf: teacher, to choose ?layer=N."""
    rows: int = Field(default=5000, ge=20)
    """Training rows to score, sampled if there are more. Nearest neighbours, alignment and TMI use
    at most 2000 of them."""
    seed: int = Field(default=0, ge=0)
    """Seed of the rows, the held-out split and the folds, as in aft train."""
    train_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the labelled training rows to use, as in aft train."""
    out: Place | None = None
    """Folder of score.json and score.html. Default: runs/score-DATA."""


class DemoConfig(ComputeOptions):
    """Compare a small student alone and with a teacher, on real data.

    Trains on few labels alone, and with a teacher that sees more rows without labels, over several
    seeds, and writes the page of `aft compare`. Data and weights come from package indexes.
    """

    data: Literal["reviews", "reuters"] = "reviews"
    """reviews: sentences of film reviews with a rating. reuters: newswire stories."""
    out: Place | None = None
    """Folder of the runs and the page. Default: runs/demo-DATA."""
    seeds: int = Field(default=5, ge=2)
    """Runs of each method."""
    steps: int | None = Field(default=None, ge=1)
    """Steps of each run with the teacher; those on the labels alone take more, to see as many
    inputs. Default: 50."""
    overwrite: bool = False
    """Start again instead of resuming an interrupted demo."""


REMOVED = {"keep_teachers": False, "gradient_accumulation": 1}
"""Options of earlier versions, with the values at which they change nothing."""
_SHORT = reprlib.Repr()  # aliases in YAML may hold endless values
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 200, 200
_PYTHON = re.compile(r"([^:=?]+=)?python:")
C = TypeVar("C", bound=Options)


def resolve(kind: type[C], config: C | None, options: Mapping[str, Any]) -> C:
    """A command's configuration from an object, from keyword options, or from both.

    Raises:
        ConfigError: Naming each wrong option, what it got and what it expects.
    """
    if not isinstance(config, kind | None):
        raise ConfigError(f"expected a {kind.__name__} or keyword options, got {config!r}")
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
    with reading(path, ConfigError, "Expected YAML with lines 'option: value'"):
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict):
        raise ConfigError(f"expected lines 'option: value' in {path}, got {type(values).__name__}")
    values = {name: value for name, value in values.items() if REMOVED.get(name, ...) != value}
    if values.get("views") == 0:  # as it was written before
        values["views"] = "clean"
    for name in ("data", "unlabelled"):
        if isinstance(values.get(name), list | dict):
            raise ConfigError(f"expected a path or a name for {name} in {path}, got {values[name]}")
    unknown = [str(name) for name in values if name not in kind.model_fields]
    if unknown:
        raise ConfigError(
            f"{path} names unknown options: {', '.join(unknown)}; known are "
            f"{', '.join(kind.model_fields)}"
        )
    return values


def check_code(source: str, values: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
    """Check that a configuration file, which may be a stranger's, does not run code by itself.

    Args:
        source: The file, for the message.
        values: The options in it.
        flags: The options of the command line.

    Raises:
        ConfigError: If the file sets ``trust_remote_code`` or names the file of a ``python:``
            model, and the command line does not allow it.
    """
    given = [values[name] for name in ("student", "teachers") if name in values.keys() - flags]
    models = [one for part in given for one in (part if isinstance(part, list) else [part])]
    names = [one for one in models if isinstance(one, str) and _PYTHON.match(one)]
    allowed = flags.get("trust_remote_code")
    if (names and not allowed) or (values.get("trust_remote_code") and allowed is None):
        raise ConfigError(
            f"{source} {f'names {names[0]}' if names else 'sets trust_remote_code'}, which runs "
            "Python code; read that code, then add --trust-remote-code to run it"
        )


def write_config_file(path: Path, config: Options) -> None:
    """Write every option as YAML; :func:`read_config_file` takes it back."""
    write_whole(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


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
            said = parts.setdefault(f"{name}={_SHORT.repr(problem['input'])}: ", [])
            said.append(problem["msg"].lower())
    return "; ".join(start + ", or ".join(said) for start, said in parts.items())
