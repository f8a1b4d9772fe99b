"""The options that verbs share, each group once; :mod:`aft.config` puts them together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from aft.metrics import MetricName

Augmentation = Literal["none", "flip", "standard"]
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
Method = Literal["alone", Loss, "aft-rbf", "aft-dense", "aft-fixed"]


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
    --data without a label join without being asked for; the word none keeps them out. Labels of
    these rows are never read."""


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
    safety_net: bool = True
    """With teachers, train a second student on the labels alone beside the first, and keep it if
    the validation split says that the transfer did harm. Each step then costs one more forward
    and backward pass of the student."""
    resume: bool = False
    """Go on with an unfinished run in --out; the result is the same as without the break."""
    overwrite: bool = False
    """Replace a run in --out."""


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
    views: Annotated[int, Field(ge=1)] | Literal["clean", "auto"] = "auto"
    """Stored random views of each training row, labelled or not, that join the transfer loss:
    teachers and student see the very same view. Extraction cost grows by this factor. clean:
    teachers see the inputs unchanged, the student sees random views of them. auto: 4 where every
    row has a label and the loss is aft-soft or soft-labels, else clean."""
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
    metric: Literal["auto", MetricName] = "auto"
    """The metric that chooses the checkpoint and that verdicts rest on. auto: accuracy where
    classes are of similar size, balanced_accuracy where they are not; mean_average_precision for
    several labels; r2 for regression."""
    class_weights: Literal["none", "balanced"] = "none"
    """Classification: balanced gives every class the same total weight in the task loss."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Classification: share of the target spread over all classes."""
    augment: Augmentation = "standard"
    """Random views of images for the student: none, mirroring, or mirroring and random crops."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the student's forward pass."""
    eval_every: int | None = Field(None, ge=1)
    """Steps between looks at the validation split. Default: 20 times a run."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many looks without a better score. Default: never."""
