"""Tasks: infer the task from labels, and encode labels as numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aft.errors import DataError

TaskKind = Literal["classification", "multilabel", "regression"]
KINDS = ("classification", "multilabel", "regression")
_MOST_INTEGER_CLASSES = 1000
_SHOWN = 5
_MOST_RATINGS = 20
_FEWEST_WORDS = 0.1
"""Words among numbers are classes if the numbers are few and whole, and words are not rare."""
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,99})", re.ASCII)
_NUMBER = re.compile(r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)
# Numbers as people write them: 1,5 or 1.234,50 or 1 000 or 12% or $3
_LIKE_A_NUMBER = re.compile(
    r"[-+]?[$€£]? ?(\d{1,3}([.,' \u2019\u00a0\u202f]\d{3})+|\d+)([.,]\d+)? ?[%€$£]?"
)
_FEWEST_LISTS = 0.05
"""Share of labels with a separator in them from which they may be lists."""
_LARGEST = float(np.finfo(np.float32).max)
_LOST = 1e-3


@dataclass(frozen=True)
class Task:
    """The prediction task of a student.

    Attributes:
        kind: ``classification`` (one class per sample), ``multilabel`` (any number of classes per
            sample) or ``regression`` (numbers).
        names: The classes, or the names of the regression targets; the student has one output per
            name.
    """

    kind: TaskKind
    names: tuple[str, ...]

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the student."""
        return len(self.names)

    @property
    def outputs(self) -> str:
        """The outputs in words: ``6 classes``."""
        word = {"classification": "class", "multilabel": "label", "regression": "target"}[self.kind]
        ending = "" if self.num_outputs == 1 else "es" if word == "class" else "s"
        return f"{self.num_outputs} {word}{ending}"

    def describe(self) -> dict[str, Any]:
        """The task as plain JSON values."""
        return {**asdict(self), "names": list(self.names)}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Task:
        """The inverse of :meth:`describe`."""
        return cls(description["kind"], tuple(description["names"]))

    def counts(self, labels: NDArray[Any] | None) -> dict[str, int]:
        """Number of rows per class; empty for regression."""
        if labels is None or self.kind == "regression":
            return {}
        if self.kind == "multilabel":
            per_class = labels.sum(axis=0)
        else:
            per_class = np.bincount(labels, minlength=self.num_outputs)
        return {name: int(count) for name, count in zip(self.names, per_class, strict=True)}


def missing_labels(labels: Mapping[str, Sequence[Any]], rows: int) -> NDArray[np.bool_]:
    """Mask of the rows without a label, shape ``(rows,)``."""
    missing = np.zeros(rows, dtype=bool)
    for values in labels.values():
        missing |= np.fromiter((_is_missing(value) for value in values), bool, rows)
    return missing


def as_number(word: str) -> int | float | None:
    """The number that a text stands for, or None; texts such as ``007``, ``inf`` are no numbers."""
    if _WHOLE.fullmatch(word):
        return int(word)
    return float(word) if _NUMBER.fullmatch(word) else None


def infer_task(
    labels: Mapping[str, Sequence[Any]],
    class_names: tuple[str, ...] | None,
    task: str,
    files: Sequence[str] | None = None,
) -> Task:
    """Infer the task from the label columns.

    Text, booleans and whole numbers are classes. Lists, and several 0/1 columns, are multi-label
    classes. Other numbers are regression targets.

    Args:
        labels: The values of each label column.
        class_names: The ordered class names, if the source defines them.
        task: The requested task, or ``auto``.
        files: A readable name per row for error messages; default their positions.

    Raises:
        DataError: If the labels do not fit the requested task, or the task is ambiguous; also if
            most of them, but not all, are numbers.
    """
    kind = task if task != "auto" else _guess(labels, files)
    if kind not in KINDS:
        raise DataError(f"expected the task to be one of {', '.join(KINDS)}, got {task!r}")
    if kind == "regression":
        return Task("regression", tuple(labels))
    if kind == "multilabel" and len(labels) > 1:
        return Task("multilabel", tuple(labels))
    if class_names is not None:
        return Task(kind, class_names)  # type: ignore[arg-type]
    if kind == "classification" and len(labels) > 1:
        raise DataError(
            f"classification needs one label column, got {', '.join(labels)}; pass "
            "--task multilabel or --task regression"
        )
    values = next(iter(labels.values()))
    found = {part for v in values for part in _parts(v)} if kind == "multilabel" else set(values)
    names = dict.fromkeys(class_name(value) for value in sorted(found, key=_order))
    return Task(kind, tuple(names))  # type: ignore[arg-type]


def explain_guess(labels: Mapping[str, Sequence[Any]], found: Task, task: str) -> list[str]:
    """Messages about labels that can be read in another way, with the option to do so.

    Args:
        labels: The values of each label column, those of unlabelled rows too.
        found: The task.
        task: The requested task, or ``auto``.
    """
    values = [value for column in labels.values() for value in column]
    words = [value for value in values if isinstance(value, str)]
    several = [word for word in words if len(_parts(word)) > 1]
    numbers = {v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)}
    notes = []
    if task == "auto" and found.kind == "classification":
        if len(numbers) > 2:
            among = ", and words among them, which it does not allow" if any(words) else ""
            notes.append(
                f"{len(numbers)} different numbers are read as classes; --task regression "
                f"predicts numbers{among}"
            )
        if len(several) >= _FEWEST_LISTS * len(values) > 0:
            notes.append(
                f"{len(several)} labels such as {several[0]!r} are read as one class each; --task "
                "multilabel reads them as lists of labels"
            )
    empty = sum(_is_missing(value) for value in values)
    if found.kind == "multilabel" and empty:
        nothing = "| (or [] in JSON)" if len(labels) == 1 else "0"
        notes.append(
            f"{empty} empty label cells make rows without a label; write {nothing} where none of "
            "the labels applies"
        )
    return notes


def encode_labels(
    labels: Mapping[str, Sequence[Any]],
    task: Task,
    class_names: tuple[str, ...] | None = None,
    files: Sequence[str] | None = None,
) -> NDArray[Any]:
    """Encode labels as numbers; see :class:`aft.data.Samples` for the shapes.

    Args:
        labels: The values of each label column.
        task: The task, which defines the allowed classes.
        class_names: The ordered class names, if the source defines them and its labels are
            indices into them.
        files: A readable name per row for error messages; default their positions.

    Raises:
        DataError: If a label is not a class of the task, or not a number for regression.
    """
    if task.kind == "regression" or (task.kind == "multilabel" and len(labels) > 1):
        columns = [_numbers(v, name, task.kind, files) for name, v in labels.items()]
        return np.stack(columns, axis=1)
    values = next(iter(labels.values()))
    index = {name: i for i, name in enumerate(task.names)}
    truth = {name.lower(): i for name, i in index.items() if name.lower() in ("true", "false")}
    several = task.kind == "multilabel"
    unknown: dict[str, int] = {}
    encoded = np.zeros((len(values), task.num_outputs) if several else len(values), np.float32)
    if not several:
        encoded = encoded.astype(np.int64)
    for row, value in enumerate(values):
        for part in _parts(value) if several else [value]:
            name = class_name(part, class_names)
            place = index.get(name, truth.get(name.lower()))
            if place is None:
                unknown[name] = unknown.get(name, 0) + 1
            elif several:
                encoded[row, place] = 1.0
            else:
                encoded[row] = place
    if unknown:
        raise DataError(_explain_unknown(unknown, task))
    return encoded


def class_name(value: Any, class_names: tuple[str, ...] | None = None) -> str:
    """The class name of a label; 1, 1.0 and "1" have the same name."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if class_names is not None and type(value) is int and 0 <= value < len(class_names):
        return class_names[value]
    return str(value)


def _explain_unknown(unknown: dict[str, int], task: Task) -> str:
    known = ", ".join(task.names[:_SHOWN]) + (" …" if len(task.names) > _SHOWN else "")
    among = f"none of the {len(task.names)} known classes ({known})"
    names = [f"{name!r} ({count})" for name, count in list(unknown.items())[:_SHOWN]]
    if len(unknown) == 1:
        (name, count), *_ = unknown.items()
        return f"the label {name!r}, in {count} rows, is {among}"
    return (
        f"{len(unknown)} labels in {sum(unknown.values())} rows are {among}: {', '.join(names)}"
        f"{' …' if len(unknown) > _SHOWN else ''}"
    )


def _guess(labels: Mapping[str, Sequence[Any]], files: Sequence[str] | None) -> TaskKind:
    values = [value for column in labels.values() for value in column]
    if any(isinstance(value, (list, tuple)) for value in values):
        return "multilabel"
    if len(labels) > 1:
        for column, some in labels.items():
            _numbers(some, column, "regression", files)
        return "multilabel" if all(v in (0, 1) for v in values) else "regression"
    (column,) = labels
    words = [v for v in values if isinstance(v, str)]
    numeric = not words and not any(isinstance(v, bool) for v in values)
    _refuse_odd_words(values, words, column, files)
    if not numeric:
        return "classification"
    if any(isinstance(v, float) and not v.is_integer() for v in values):
        return "regression"
    distinct = len(set(values))
    if distinct > _MOST_INTEGER_CLASSES or (
        distinct > _MOST_RATINGS and distinct > len(values) / 2
    ):
        raise DataError(
            f"the task is ambiguous: the label column {column!r} has {distinct} distinct whole "
            f"numbers in {len(values)} rows; pass --task regression or --task classification"
        )
    return "classification"


def _refuse_odd_words(
    values: Sequence[Any], words: Sequence[str], column: str, files: Sequence[str] | None
) -> None:
    """Refuse a column of numbers in which some are not, or are written with commas or units."""
    like = sum(bool(_LIKE_A_NUMBER.fullmatch(w)) and not w.isdigit() for w in words)
    numbers = [v for v in values if not isinstance(v, str)]
    if not words or 2 * (len(numbers) + like) < len(values):
        return
    few = len(set(numbers)) <= _MOST_RATINGS and all(float(v).is_integer() for v in numbers)
    if few and not like and len(words) >= _FEWEST_WORDS * len(values):
        return  # classes such as 1, 2, 3, unknown
    row, word = next((i, v) for i, v in enumerate(values) if isinstance(v, str))
    more = f", as are {len(words) - 1} other labels" if len(words) > 1 else ""
    raise DataError(
        f"the label {word!r} of {_row(row, files)} in the column {column!r} is not a number{more}, "
        f"but {len(numbers) + like} of {len(values)} labels look like numbers. Write numbers with "
        "a decimal point, without separators and units. Correct or empty the cell and pass --task "
        "regression, or pass --task classification to use all values as class names"
    )


def _row(row: int, files: Sequence[str] | None) -> str:
    return f"row {row}" if files is None else files[row]


def _parts(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.replace(";", "|").split("|") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _numbers(
    values: Sequence[Any], column: str, kind: TaskKind, files: Sequence[str] | None
) -> NDArray[np.float32]:
    """The values of a regression target, or of a 0/1 column, as float32, shape ``(n,)``."""
    numbers = np.zeros(len(values))
    for row, value in enumerate(values):
        number = as_number(value.strip()) if isinstance(value, str) else value
        if not isinstance(number, (int, float)) or not abs(number) <= _LARGEST:
            expected = "finite numbers"
        elif kind == "multilabel" and number not in (0, 1):
            expected = "0 or 1"
        else:
            numbers[row] = number
            continue
        raise DataError(
            f"expected {expected} in the label column {column!r}, got {value!r} in "
            f"{_row(row, files)}. Correct or empty this cell"
        )
    rounded = numbers.astype(np.float32)
    if np.abs(rounded - numbers).max(initial=0) > _LOST * np.std(numbers) > 0:
        raise DataError(
            f"the numbers in the label column {column!r} are too large for their small differences "
            f"(mean {np.mean(numbers):g}, standard deviation {np.std(numbers):g}); subtract a "
            "constant from all of them"
        )
    return rounded


def _is_missing(value: Any) -> bool:
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    return isinstance(value, float) and np.isnan(value)


def _order(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, (int, float)) else (1, 0.0, str(value))
