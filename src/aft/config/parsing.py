"""A command's options as flags: the parser and the help, made from the option classes."""

from __future__ import annotations

import argparse
import re
import textwrap
import types
from collections.abc import Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from aft.config.groups import Options
from aft.errors import did_you_mean

GROUPS = {
    "data": (
        *("data", "run", "task", "text_column", "image_column", "label_column", "split_column"),
        *("delimiter", "encoding"),
        *("split", "splits", "train_fraction", "train_fractions", "validation_fraction"),
        *("test_fraction", "on_bad_input"),
    ),
    "teachers": (
        *("teachers", "features", "features_dtype", "extract_batch_size"),
        *("extract_batch_tokens", "extract_precision", "engine", "trust_remote_code"),
    ),
    "student": ("student", "student_layers", "from_", "fusion"),
    "training": (
        *("effort", "steps", "epochs", "batch_size", "lr", "head_lr", "metric", "seed", "augment"),
        *("class_weights", "label_smoothing", "optimizer", "weight_decay", "warmup", "clip_norm"),
        *("eval_every", "patience"),
    ),
    "transfer": (
        *("loss", "beta", "unlabelled", "unlabelled_batch_size", "views", "safety_net"),
        *("kernel", "weights", "combine", "normalize", "loss_lr"),
    ),
    "output": ("out", "log_to", "baselines", "report", "resume", "overwrite", "probabilities"),
    "compute": ("device", "precision", "num_workers", "shard_student", "progress"),
}
"""The groups of the help, in order, and the options of each, the common ones first. What a command
has beside these comes before them."""


class UsageError(Exception):
    """The command line itself is wrong."""


class _Help(argparse.RawDescriptionHelpFormatter):
    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def parse_flags(name: str, kind: type[Options], arguments: Sequence[str]) -> dict[str, Any]:
    """The options on a command line, as text: :func:`resolve` in `commands` checks their values.

    Args:
        name: Name of the command.
        kind: Its options.
        arguments: The words after the command.

    Raises:
        UsageError: If a flag is unknown or lacks its value.
        SystemExit: After printing the help, for ``--help``.
    """
    flags = [_as_flag(word) for word in arguments]
    found, unknown = make_parser(name, kind).parse_known_args(flags)
    values = {key: value for key, value in vars(found).items() if value is not None}
    for option in positional(kind):
        if option not in values and unknown and not unknown[0].startswith("-"):
            values[option] = unknown.pop(0)
    if unknown:
        raise UsageError(_explain_unknown(unknown[0], kind))
    return values


def make_parser(name: str, kind: type[Options]) -> argparse.ArgumentParser:
    """The parser of a command; nothing in it has a default or is required."""
    parser = _Parser(
        prog=f"aft {name}",
        usage=_usage(name, kind),
        description=cleandoc(kind.__doc__ or ""),
        formatter_class=_Help,
        allow_abbrev=False,
        add_help=False,
    )
    parser._negative_number_matcher = re.compile(r"^-\.?\d[\d.]*([eE][-+]?\d+)?$")  # also -1e-3
    for title, names in arrange(kind).items():
        group = parser.add_argument_group(title)
        for one in names:
            _add(group, one, kind.model_fields[one])
    other = parser.add_argument_group("other")
    other.add_argument("--config", metavar="FILE", help="YAML file with options; flags override it")
    other.add_argument("--json", action="store_true", default=None, help="print the result as JSON")
    other.add_argument("-h", "--help", action="help", help="show this help")
    return parser


def arrange(kind: type[Options]) -> dict[str, list[str]]:
    """The options of a command by group: required ones first, then those of this command alone."""
    fields = kind.model_fields
    grouped = {name for names in GROUPS.values() for name in names}
    required = [name for name, field in fields.items() if field.is_required()]
    parts = {
        "required": required,
        "options": [name for name in fields if name not in grouped and name not in required],
    }
    for title, names in GROUPS.items():
        parts[title] = [name for name in names if name in fields and name not in required]
    return {title: names for title, names in parts.items() if names}


def positional(kind: type[Options]) -> tuple[str, ...]:
    """The options that may stand without their flags."""
    return ("run", "repo") if "repo" in kind.model_fields else ()


def _add(group: Any, name: str, field: FieldInfo) -> None:
    flag = _flag(name)
    text = " ".join((field.description or "").split()).replace("%", "%%") + _default(field)
    options: dict[str, Any] = {"dest": name, "default": None, "help": text}
    values = _flatten(field.annotation)
    if bool in values:
        on = field.default is True
        options["help"] += " Default: on." if on else ""
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        return
    options["metavar"] = _metavar(name, values)
    if name == "path":
        group.add_argument(name, nargs="?", default=None, metavar="PATH", help=text)
        return
    if _is_list(field.annotation):
        options |= {"nargs": "+" if field.is_required() else "*", "action": "extend"}
    group.add_argument(flag, **options)


def _flag(name: str) -> str:
    """The flag of an option; ``from_`` is named so because ``from`` is a word of Python."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def _default(field: FieldInfo) -> str:
    """The default in words, where the description does not say it."""
    value = field.default
    said = "Default" in (field.description or "")
    if field.is_required() or said or value is None or value == () or isinstance(value, bool):
        return ""
    words = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f" Default: {words}."


def _flatten(annotation: Any) -> list[Any]:
    """The simple types and the words that an annotation allows."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _flatten(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [one for part in get_args(annotation) for one in _flatten(part)]
    if origin is Literal:
        return list(get_args(annotation))
    if origin is tuple:
        return _flatten(get_args(annotation)[0])
    return [] if annotation is type(None) else [annotation]


def _is_list(annotation: Any) -> bool:
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        return any(_is_list(part) for part in get_args(annotation))
    return get_origin(annotation) is tuple


def _metavar(name: str, values: Sequence[Any]) -> str:
    words = [one for one in values if isinstance(one, str)]
    kinds = {int: "N", float: "X", Path: "PATH"}
    shown = [kinds[one] for one in dict.fromkeys(values) if one in kinds]
    if words:
        return "{" + ",".join([*shown, *words]) + "}"
    if shown:
        return shown[0]
    return {"teachers": "SPEC", "student": "SPEC"}.get(
        name, "NAME" if "column" in name else name.upper()
    )


def _usage(name: str, kind: type[Options]) -> str:
    parts = [
        f"{_flag(one)} {_metavar(one, _flatten(field.annotation))}"
        for one, field in kind.model_fields.items()
        if field.is_required() and one not in positional(kind)
    ]
    parts += [one.upper() for one in positional(kind)]
    parts += ["[PATH]"] if "path" in kind.model_fields else []
    if "teachers" in kind.model_fields:
        parts.append("[--teachers SPEC ...]")
    return " ".join([f"aft {name}", *parts, "[options]"])


def _as_flag(word: str) -> str:
    """``--batch_size`` as ``--batch-size``."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value


def _explain_unknown(word: str, kind: type[Options]) -> str:
    flags = [_flag(field) for field in kind.model_fields]
    first = word.partition("=")[0]
    if not first.startswith("-"):
        return f"unexpected argument {first!r}"
    return f"unknown flag {first}{did_you_mean(first, flags)}"
