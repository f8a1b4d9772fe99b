"""Models by their specifications: what can be checked before a library of models is imported."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar

from aft.backbones.specs import Spec, split_column
from aft.errors import AftError, ConfigError, ModelError, StudentError, TeacherError, did_you_mean

_T = TypeVar("_T")
FAULTS = (Exception, SystemExit)
"""What the code of others may raise; ``sys.exit()`` must not end a command as if it were done."""
STUDENTS = ("hf", "python", "small", "timm", "torchvision")
TEACHERS = ("features", "hf", "onnx", "python", "st", "timm", "torchvision")
"""The sources of students, and those of teachers beside the sources of installed packages."""
MODULES = {
    **{"hf": "huggingface", "onnx": "onnx", "python": "user_file", "small": "small_images"},
    **{"st": "sentence_transformers", "timm": "timm", "torchvision": "torchvision"},
}
"""The module of `aft.backbones` that builds the networks of a source."""
TABLES = (".parquet", ".safetensors", ".npy")
"""File extensions of precomputed features."""
SOFT_LABELS = ("probabilities", "logits", "values")
"""What a file of soft labels holds; values are for regression."""

_TEXTS = "max_tokens=1 template truncate"
OPTIONS = {
    "features": "soft prefix columns",
    "hf": "weights seed=0 pooling layer=1 layers=1 from tower hidden_size=1 heads=1 "
    f"intermediate_size=1 size=1 device_map {_TEXTS}",
    "onnx": f"output pooling tokenizer size=1 mean std {_TEXTS}",
    **dict.fromkeys(("small:cnn", "small:cnn-tiny"), "weights size=8 seed=0"),
    "small:ngrams": f"dim=1 features=2 seed=0 tokenizer {_TEXTS}",
    "small:static": f"dim=1 vocabulary=2 weights init seed=0 tokenizer {_TEXTS}",
    "st": f"prompt device_map {_TEXTS}",
    **dict.fromkeys(("timm", "torchvision"), "weights size=1 seed=0"),
}
"""The options of each source or built-in model; whole numbers with their smallest value."""
_WEIGHTS = {"hf": "pretrained random", "small": "random", "timm": "package pretrained random"}
"""Values of the option ``weights`` that do not name a file."""


def check_model(text: str | Spec, kind: type[AftError]) -> Spec:
    """Parse a specification, and check its source, name, options and local files.

    Args:
        text: The specification.
        kind: The class of errors: ``TeacherError`` for a teacher, ``StudentError`` for a student.

    Raises:
        AftError: Of this class, if the source is unknown, or :func:`check` fails.
        ConfigError: If the specification is not of the form ``source:name?option=value``.
    """
    spec = Spec.parse(text) if isinstance(text, str) else text
    known: Sequence[str] = STUDENTS if kind is StudentError else TEACHERS
    if spec.source not in known and kind is TeacherError:
        known = sorted({*known, *teacher_plugins()})
    if spec.source not in known:
        raise kind(
            f"unknown source {spec.source!r} of {kind.__name__.removesuffix('Error').lower()} "
            f"{spec}; expected one of {', '.join(known)}{did_you_mean(spec.source, known)}"
        )
    with loading(spec, kind):
        check(spec)
    if "device_map" in spec.options and (kind, spec.options["device_map"]) != (
        TeacherError,
        "auto",
    ):
        raise kind(f"expected device_map=auto, for teachers only, got {spec}")
    return spec


def check_columns(
    specs: Sequence[str], layers: int | None, fusion: str, start: str = "first"
) -> None:
    """Check the options of a student that need several models or a certain source.

    Raises:
        ConfigError: If no model has what an option is about.
    """
    if layers is not None and not any(split_column(text)[1].startswith("hf:") for text in specs):
        raise ConfigError(f"--student-layers needs an hf: student, got {' '.join(specs)}")
    if start != "first" and layers is None:
        raise ConfigError(f"--from {start} needs --student-layers, the number of layers to keep")
    if fusion == "product" and len(specs) == 1:
        raise ConfigError(f"--fusion product needs models of two columns, got only {specs[0]}")


def teacher_plugins() -> dict[str, EntryPoint]:
    """The sources of teachers that installed packages register, by name."""
    return {point.name: point for point in entry_points(group="aft.teachers")}


def check(spec: Spec) -> None:
    """Check the name, the options and the local files of a specification with a known source.

    Raises:
        ModelError: If a name or an option is unknown, a number is none, or a file is missing.
    """
    key = _key(spec)
    if spec.source == "small" and key not in OPTIONS:
        names = [name for name in OPTIONS if name.startswith("small:")]
        near = did_you_mean(spec.name, [name.removeprefix("small:") for name in names])
        raise ModelError(f"expected {', '.join(names)}, got {spec}{near}")
    if spec.source != "onnx" and key in OPTIONS:  # those of an ONNX model depend on its inputs
        check_options(spec, _options(spec))
    if spec.source in _FIND:
        _FIND[spec.source](spec)
    for name, least in _options(spec).items():
        if least:
            integer_option(spec, name, None)
    if spec.source == "features":
        _check_soft_labels(spec)
    source = spec.options.get("weights", "random")
    if spec.source == "small" and source == "pretrained":
        raise ModelError(f"{key} has no pretrained weights; use weights=random or weights=FILE")
    start = spec.options.get("init", "random")
    if key == "small:static" and start not in ("random", "teacher"):
        raise ModelError(f"expected init=teacher or init=random, got init={start}")
    if key == "small:static" and start == "teacher" and source != "random":
        raise ModelError(f"expected init=teacher or weights=FILE, not both, got {spec}")
    is_file = spec.source in _WEIGHTS and source not in _WEIGHTS[spec.source].split()
    if is_file or (spec.source == "torchvision" and Path(source).suffix):
        find_weights(source)


def _check_soft_labels(spec: Spec) -> None:
    soft = spec.options.get("soft")
    if soft not in (None, *SOFT_LABELS):
        raise ModelError(f"expected soft={' or soft='.join(SOFT_LABELS)}, got soft={soft}")
    if soft is None and spec.options.get("columns"):
        raise ModelError(f"columns= names the classes of soft labels; add soft=…, got {spec}")


def check_options(spec: Spec, allowed: Collection[str]) -> None:
    """Raise ``ModelError`` for an option that the source does not support."""
    for option in spec.options:
        if option not in allowed:
            raise ModelError(
                f"unknown option {option!r} in {spec}; expected one of "
                f"{', '.join(sorted(allowed))}{did_you_mean(option, allowed)}"
            )


def integer_option(spec: Spec, name: str, default: _T) -> int | _T:
    """The value of an integer option in `OPTIONS`, or the default if the option is not set."""
    if name not in spec.options:
        return default
    text, minimum = spec.options[name], int(_options(spec)[name])
    if not text.isdecimal() or int(text) < minimum:
        raise ModelError(f"expected {name} to be a whole number >= {minimum}, got {text!r}")
    return int(text)


# Local files --------------------------------------------------------------------------------------


def find_weights(path: str | Path) -> Path:
    """The path of a weight file; ModelError if it is missing."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelError(f"weight file {path} not found")
    return path


def find_folder(spec: Spec) -> Path | None:
    """The model folder of a Hugging Face specification; None for a repository on the hub.

    Raises:
        ModelError: If the name is a path to a missing folder, or a folder without a model.
    """
    folder = Path(spec.name).expanduser()
    if folder.is_dir():
        if not any((folder / file).is_file() for file in ("config.json", "modules.json")):
            raise ModelError(
                f"expected a Hugging Face model folder with a config.json for {spec}, but "
                f"there is none in {folder}"
            )
        return folder
    is_path = spec.name.startswith(("/", ".", "~")) or spec.name.count("/") > 1
    if is_path or "\\" in spec.name:
        raise ModelError(f"model folder {folder} not found ({spec})")
    return None


def find_onnx(spec: Spec) -> Path:
    """The ``.onnx`` file of a specification; ModelError if there is none."""
    path = Path(spec.name).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.onnx"))
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise ModelError(
                f"expected one .onnx file in {path}, got {names}; use the path of the file"
            )
        return files[0]
    if not path.is_file():
        raise ModelError(f"file or folder {path} not found ({spec})")
    return path


def find_function(spec: Spec) -> tuple[Path, str]:
    """The file and the function name of a ``python:`` specification."""
    path, colon, name = spec.name.rpartition(":")
    if not colon or not path.endswith(".py") or not name.isidentifier():
        raise ModelError(f"expected python:FILE.py:function, got {spec}")
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ModelError(f"file {file} not found ({spec})")
    return file, name


def find_table(spec: Spec) -> Path:
    """The file of precomputed features; ModelError if it is missing or has another format."""
    path = Path(spec.name).expanduser()
    if path.suffix not in TABLES:
        raise ModelError(
            f"expected features in a {', '.join(TABLES)} file, got {path} "
            "(convert text tables to .parquet)"
        )
    if not path.is_file():
        raise ModelError(f"feature file {path} not found")
    return path


_FIND = {
    **{"features": find_table, "hf": find_folder, "onnx": find_onnx},
    **{"python": find_function, "st": find_folder},
}


# Errors -------------------------------------------------------------------------------------------


@contextmanager
def loading(spec: Spec, kind: type[AftError]) -> Iterator[None]:
    """Convert whatever loading a model raises to an error of a kind that names the model."""
    try:
        yield
    except ModelError as error:
        text = str(error)
        raise kind(text if spec.name in text else f"{spec}: {text}") from error
    except AftError:
        raise
    except Exception as error:  # libraries raise anything on damaged files
        raise kind(f"cannot load {spec}: {explain(error)}") from error


def explain(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """The first line of an error message, or the error's type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _key(spec: Spec) -> str:
    return f"small:{spec.name}" if spec.source == "small" else spec.source


def _options(spec: Spec) -> dict[str, str]:
    """The options of the source, and the smallest value of each, or an empty string."""
    options = (option.partition("=") for option in OPTIONS.get(_key(spec), "").split())
    return {name: least for name, _, least in options}
