"""The options that commands share, each group once; :mod:`aft.config.commands` combines them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
)

from aft.errors import DataError

MetricName = Literal[
    "accuracy", "balanced_accuracy", "macro_f1", "mean_average_precision", "micro_f1", "r2"
]
Augmentation = Literal["none", "flip", "standard"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Engine = Literal["auto", "torch", "onnx"]
Tracker = Literal["tensorboard", "wandb", "mlflow"]
if TYPE_CHECKING:  # what callers may pass; pydantic converts it
    Place = Any
    Texts = Sequence[str]
    Trackers = Sequence[str]
else:
    Place = Path
    Trackers = Annotated[
        tuple[Tracker, ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    ]
    Texts = Annotated[
        tuple[str, ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    ]
"""One or several texts; a single one may stand without a list. A `Place` is a path or its text."""
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
    "distill-nearest",
    "distill-weighted",
    "row-trust",
    "kdep",
    "cka",
]
SOFT = ("soft-labels", "aft-soft")
"""Losses with soft labels; these use unlabelled rows and stored views by default."""
Method = Literal["alone", Loss, "aft-rbf", "aft-dense", "aft-fixed"]


ALONE = "alone"
"""The method that learns from the labels only."""
EQUAL_STEPS = "alone-equal-steps"
"""The labels alone, trained for the steps of a method with a second batch in every step. A row of
`aft compare` beside the labels alone, which see as many inputs as that method; not an option."""
LABELS_ONLY = frozenset({ALONE, EQUAL_STEPS})
METHOD_WORDS = {ALONE: "labels alone", EQUAL_STEPS: "labels alone, equal steps"}
"""Names in reports; the other methods are called as on the command line."""
VARIANTS = {
    "aft-rbf": {"kernel": "rbf"},
    "aft-dense": {"weights": "dense"},
    "aft-fixed": {"weights": "fixed"},
}
"""Methods that are AFT with one option changed."""
IN_MEMORY = "data in memory"
"""What files and messages name instead of the path of data in memory."""
LEFT_OUT, NOTHING = "left-out", "none"
"""Values of ``unlabelled`` that name no data."""
UNLABELLED, CLASS_TEXTS = "unlabelled", "texts of the classes"
"""Names of the unlabelled inputs, and of the names of classes with their descriptions, in the
record of a data set's content."""


class InMemory:
    """Data in memory, as the value of an option; as text they are :data:`IN_MEMORY`."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __str__(self) -> str:
        return IN_MEMORY

    __repr__ = __str__


def as_source(data: Any) -> Any:
    """A path as text, and data in memory as :class:`InMemory`."""
    if data is None or isinstance(data, str | int | float | InMemory):  # numbers are errors
        return data
    return str(data) if isinstance(data, Path) else InMemory(data)


if TYPE_CHECKING:
    Source = Any
else:
    Source = Annotated[
        str | InstanceOf[InMemory],
        BeforeValidator(as_source),
        PlainSerializer(lambda data, info: str(data) if info.mode == "json" else data),
    ]
"""A path, the name of a data set on a hub, or data in memory."""


def check_left_out(unlabelled: Any, train_fraction: float) -> None:
    """Raise ``DataError`` if the rows that are left out are wanted, but none are."""
    if unlabelled == LEFT_OUT and train_fraction >= 1:
        raise DataError(
            "--unlabelled left-out uses the rows that --train-fraction leaves out, but all rows "
            f"are used with --train-fraction {train_fraction:g}; pass a share below 1, such as "
            "--train-fraction 0.1"
        )


class Options(BaseModel):
    """Base of all options: unknown names are rejected, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ComputeOptions(Options):
    """Where to compute, and whether to show progress."""

    device: Device = "auto"
    """Where to compute. auto: CUDA, else Apple MPS, else CPU."""
    num_workers: int | None = Field(default=None, ge=0)
    """Processes that read inputs. Default: chosen by the measured time of reading."""
    progress: bool = True
    """Show progress bars."""


def _check_delimiter(value: str) -> str:
    value = {"tab": "\t", "\\t": "\t"}.get(value.lower(), value)
    if len(value) != 1 or not value.isascii() or value in '"\r\n\0':
        raise ValueError("expected one character such as ; or tab")
    return value


def _check_encoding(value: str) -> str:
    try:
        "".encode(value)
    except (LookupError, ValueError):
        raise ValueError("expected an encoding such as cp1252, latin-1 or utf-16-le") from None
    return value


class ReadOptions(Options):
    """How to read the data."""

    image_column: str | None = None
    """Column with the image or its path. Default: a usual name such as image, file_name or path.
    With --image-column alone the text columns are ignored."""
    text_column: Texts = ()
    """Column with the text, or two columns for pairs of texts. Default: a usual name such as text,
    sentence, or premise and hypothesis. With --text-column alone the image column is ignored."""
    label_column: Texts = ()
    """Column with the label; several columns for multi-label (0/1) or several regression targets.
    Default: a usual name such as label or class."""
    split_column: str | None = None
    """Column with the values train, validation and test. Default: split, if there is one."""
    allow_outside: bool = False
    """Allow a table to name images outside the data folder, by absolute paths or ../"""
    delimiter: Annotated[str, AfterValidator(_check_delimiter)] | None = None
    """Character between the cells of CSV tables; tab for a tab. Default: comma, semicolon, tab or
    |, found in the first rows."""
    encoding: Annotated[str, AfterValidator(_check_encoding)] | None = None
    """Encoding of tables and texts, e.g. cp1252 or latin-1. Default: UTF-8, or UTF-16 or UTF-32
    with a byte order mark."""
    on_bad_input: Literal["skip", "fail"] = "skip"
    """What to do with an input that cannot be read: skip it and report it, or fail."""


class DataOptions(Options):
    """Which data."""

    data: Source
    """A folder of images or .txt files (CLASS/*.png, or train/CLASS/*.png and test/CLASS/*.png); a
    table (.csv, .tsv, .jsonl, .parquet) with columns of texts or image paths and a column of
    labels; or a Hugging Face data set (a folder saved by `datasets`, or a name on the hub). Also
    the address of a folder or table in object storage, e.g. s3://BUCKET/photos. From Python also a
    data frame, a `datasets.Dataset`, a list of dictionaries, or (inputs, labels)."""


class TaskOption(Options):
    """What to learn."""

    task: Literal["auto", "classification", "multilabel", "regression"] = "auto"
    """The kind of task. auto: texts and integers are classes, lists are multi-label, other numbers
    are regression targets."""


class TaskOptions(TaskOption):
    """What to learn, and from which part of the data."""

    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of train held out as validation split, if the data has none."""
    test_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of train held out as test split, if the data has none. With 0 the final score is that
    of the validation split."""
    unlabelled: Source | None = None
    """Unlabelled inputs for the transfer loss: a folder, a table, or a .txt file with one text per
    line, with the columns of --data. left-out: the rows that --train-fraction leaves out, without
    their labels. none: no unlabelled rows at all. Default: the rows of --data that have no
    label."""


class TeacherOptions(Options):
    """Which teachers."""

    teachers: Texts = ()
    """One or several frozen teachers, written source:name, e.g.
    timm:vit_small_patch14_dinov2.lvd142m, torchvision:resnet50, hf:google/flan-t5-base,
    st:sentence-transformers/all-MiniLM-L6-v2, onnx:FILE.onnx, python:FILE.py:function,
    features:FILE.parquet. Options follow a question mark: ?weights=FILE, ?size=128, ?pooling=mean.
    For data with several columns, prefix the column: image=timm:…, text=st:…"""
    trust_remote_code: bool = False
    """Allow Python code that comes with a model, a run or a --config file to run."""


class StoreOptions(Options):
    """Where teacher features are stored, and how they are computed."""

    features: Place | None = None
    """Folder of the feature store. Default: features/ in the user cache folder."""
    features_dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Number format of stored features."""
    extract_batch_size: int = Field(default=64, ge=1)
    """Images per batch of a teacher; also texts per call of a python: function."""
    extract_batch_tokens: int = Field(default=1024, ge=1)
    """Text tokens per batch of a teacher; larger is faster on a GPU."""
    extract_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the teachers' computation. bf16 and fp16 are run by torch, are faster on GPUs,
    and change the features a little, so they have stores of their own."""
    engine: Engine = "auto"
    """What runs image teachers of timm: and torchvision:. onnx: ONNX Runtime. auto: the engine of
    the stored features; without any, the faster one on the CPU, if the work is worth measuring."""


class FeatureOptions(ComputeOptions, StoreOptions, TeacherOptions):
    """Teachers, their store, and where to compute."""


class StudentOptions(Options):
    """Which student."""

    student: Texts = Field(min_length=1)
    """The small model, written source:name, e.g. timm:mobilenetv4_conv_small.e2400_r224_in1k,
    torchvision:resnet18, hf:distilbert/distilbert-base-uncased, small:cnn, small:ngrams. Options
    follow a question mark: ?weights=FILE or ?weights=random, ?size=96. For data with several
    columns, one model per column: image=torchvision:resnet18 text=small:static."""
    student_layers: int | None = Field(default=None, ge=1)
    """Keep only N layers of an hf: student. Default: all layers."""
    from_: Literal["first", "spaced"] = "first"
    """Which layers --student-layers keeps: the first ones, or evenly spaced ones from the first to
    the last."""
    fusion: Literal["concat", "product"] = "concat"
    """How a student with several models combines their features: concat, or the product of learned
    projections, which models interactions."""


class RunOptions(StudentOptions):
    """Which student, and where its run is stored."""

    out: Place | None = None
    """Folder of the run: configuration, metrics, checkpoints, student, report. Default: a new
    folder runs/DATA-1, runs/DATA-2, …"""
    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, held-out splits, --train-fraction, batches and augmentation."""
    train_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the labelled training rows to use, stratified by class."""
    safety_net: bool = True
    """Also train a student on the labels alone in the same run, and keep that one if transfer is
    harmful on the validation split. Costs one more forward and backward pass of the student per
    step."""
    baselines: bool = True
    """Also score what people would use instead of a student, when that takes seconds: TF-IDF with a
    linear model, and a linear model on the features of a pre-trained student."""
    report: bool = True
    """Write report.html."""

    log_to: Trackers = ()
    """Where to log besides metrics.jsonl: tensorboard, wandb (Weights & Biases, offline unless
    WANDB_MODE says otherwise) or mlflow (where MLFLOW_TRACKING_URI says). Default: tensorboard, if
    it is installed."""
    shard_student: bool = False
    """With torchrun: divide the student's weights and moments among the processes (FSDP) when they
    are too large for one GPU. Same results."""
    resume: bool = False
    """Resume an interrupted run in --out; the result is the same as without interruption."""
    overwrite: bool = False
    """Replace a run in --out."""


class LossChoice(Options):
    """Which transfer loss."""

    loss: Loss = "aft-soft"
    """The transfer loss. aft-soft: the kernel loss of AFT combined with soft labels of the
    teachers; soft-labels and aft: either alone; the others: published alternatives."""
    beta: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """Weight of the transfer loss. auto: one soft label weighs as much as one label."""


class LossDetails(Options):
    """Details of the transfer loss."""

    kernel: Literal["linear", "rbf"] = "linear"
    """AFT: the kernel that compares two samples."""
    weights: Literal["diagonal", "dense", "fixed"] = "diagonal"
    """AFT: weights of the teacher features. diagonal: one learned gate per dimension; dense: a
    learned matrix; fixed: no learning."""
    combine: Literal["concat", "product"] = "concat"
    """AFT: how several teachers are combined: concatenated features, or the product of their
    kernels (for teachers of different columns)."""
    normalize: Literal["standardize", "none"] = "standardize"
    """standardize: bring every teacher dimension to mean 0 and standard deviation 1. none: raw
    features, as in the papers."""


class LossOptions(LossDetails, LossChoice):
    """Which transfer loss, with its details."""


class TrainingOptions(ReadOptions, FeatureOptions, TaskOptions):
    """How a student is trained."""

    effort: Literal["quick", "standard", "long"] = "standard"
    """How long to train: 10, 30 or 100 passes over train, but 100 to 3,000, 300 to 10,000 or 1,000
    to 30,000 steps. After some steps the run says how long it will take."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over train, instead of --effort."""
    steps: int | None = Field(default=None, ge=1)
    """Training steps, instead of --effort."""
    batch_size: int = Field(default=64, ge=2)
    """Labelled samples per step, over all processes."""
    unlabelled_batch_size: int | None = Field(default=None, ge=1)
    """Unlabelled rows or stored views per step, for the transfer loss. Default: twice
    --batch-size."""
    views: Annotated[int, Field(ge=1)] | Literal["clean", "auto"] = "auto"
    """Stored random views per training row for the transfer loss; teachers and student see the same
    view. Extraction cost grows by this factor. clean: teachers see the unchanged inputs, the
    student random views of them. auto: 4 if every row has a label and the loss has soft labels
    (aft-soft, soft-labels, distill-nearest, distill-weighted, row-trust), else clean."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """The optimizer."""
    lr: float | None = Field(default=None, gt=0)
    """Peak learning rate of the student's backbone. Default: 3e-4 for pre-trained weights and for
    small:ngrams, 2e-3 for random weights (SGD: 30 times that)."""
    head_lr: float | None = Field(default=None, gt=0)
    """Peak learning rate of the student's last layer, and of networks with random weights beside
    pre-trained ones. Default: 10 times --lr for pre-trained weights, else --lr."""
    loss_lr: float = Field(default=1e-2, gt=0)
    """Peak learning rate of the parameters of the transfer loss (gates)."""
    weight_decay: float = Field(default=0.02, ge=0)
    """Decoupled weight decay of matrices and convolutions; biases and norms have none."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps with a rising learning rate; then it follows a cosine to 0."""
    clip_norm: float = Field(default=1.0, ge=0)
    """Largest gradient norm of the student; 0 turns clipping off."""
    metric: Literal["auto", MetricName] = "auto"
    """The metric that chooses checkpoints (the latest within one standard error of the best) and
    that verdicts rest on. auto: accuracy if classes have
    similar sizes, else balanced_accuracy; mean_average_precision for multi-label; r2 for
    regression."""
    class_weights: Literal["auto", "none", "balanced"] = "auto"
    """Classification. auto: with metric balanced_accuracy, the losses add the log frequency of each
    class to the student's outputs, so that these are for equally frequent classes. none: outputs
    are for the frequencies of the training rows. balanced: every class has the same total weight in
    the task loss."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Classification: label smoothing of the task loss."""
    augment: Augmentation = "standard"
    """Image augmentation of the student: none, flips, or flips and random crops."""
    image_cache: float = Field(default=20.0, ge=0)
    """Gigabytes of disk for decoded and resized images, in images/ in the user cache folder, so
    that steps need not decode them again. 0: none. Results do not depend on it."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the student's forward pass."""
    eval_every: int | None = Field(default=None, ge=1)
    """Steps between evaluations on the validation split. Default: 20 evaluations per run."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after N evaluations without improvement. Default: never."""
