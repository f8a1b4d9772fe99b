"""Tasks: infer the task from labels, and encode labels as numbers."""

from __future__ import annotations

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


def infer_task(
    labels: Mapping[str, Sequence[Any]], class_names: tuple[str, ...] | None, task: str
) -> Task:
    """Infer the task from the label columns.

    Text, booleans and whole numbers are classes. Lists, and several 0/1 columns, are multi-label
    classes. Other numbers are regression targets.

    Args:
        labels: The values of each label column.
        class_names: The ordered class names, if the source defines them.
        task: The requested task, or ``auto``.

    Raises:
        DataError: If the labels do not fit the requested task, or the task is ambiguous.
    """
    kind = task if task != "auto" else _guess(labels)
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
    names = dict.fromkeys(_name(value, None) for value in sorted(found, key=_order))
    return Task(kind, tuple(names))  # type: ignore[arg-type]


def encode_labels(
    labels: Mapping[str, Sequence[Any]], task: Task, class_names: tuple[str, ...] | None = None
) -> NDArray[Any]:
    """Encode labels as numbers; see :class:`aft.data.Samples` for the shapes.

    Args:
        labels: The values of each label column.
        task: The task, which defines the allowed classes.
        class_names: The ordered class names, if the source defines them and its labels are
            indices into them.

    Raises:
        DataError: If a label is not a class of the task, or not a number for regression.
    """
    if task.kind == "regression" or (task.kind == "multilabel" and len(labels) > 1):
        return np.stack([_numbers(values, name) for name, values in labels.items()], axis=1)
    values = next(iter(labels.values()))
    index = {name: i for i, name in enumerate(task.names)}
    several = task.kind == "multilabel"
    unknown: dict[str, int] = {}
    encoded = np.zeros((len(values), task.num_outputs) if several else len(values), np.float32)
    if not several:
        encoded = encoded.astype(np.int64)
    for row, value in enumerate(values):
        for part in _parts(value) if several else [value]:
            name = _name(part, class_names)
            place = index.get(name)
            if place is None:
                unknown[name] = unknown.get(name, 0) + 1
            elif several:
                encoded[row, place] = 1.0
            else:
                encoded[row] = place
    if unknown:
        raise DataError(_explain_unknown(unknown, task))
    return encoded


def _name(value: Any, class_names: tuple[str, ...] | None) -> str:
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


def _guess(labels: Mapping[str, Sequence[Any]]) -> TaskKind:
    values = [value for column in labels.values() for value in column]
    if any(isinstance(value, (list, tuple)) for value in values):
        return "multilabel"
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if len(labels) > 1:
        if all(v in (0, 1) for v in values):
            return "multilabel"
        if numeric:
            return "regression"
        raise DataError(
            f"expected 0/1 or numbers in the label columns {', '.join(labels)}; for other labels "
            "name a single column with --label-column"
        )
    if not numeric:
        return "classification"
    if any(isinstance(v, float) and not v.is_integer() for v in values):
        return "regression"
    distinct = len(set(values))
    if distinct > _MOST_INTEGER_CLASSES or (distinct > 20 and distinct > len(values) / 2):
        raise DataError(
            f"the task is ambiguous: the label column {next(iter(labels))!r} has {distinct} "
            f"distinct whole numbers in {len(values)} rows; pass --task regression or "
            "--task classification"
        )
    return "classification"


def _parts(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.replace(";", "|").split("|") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _numbers(values: Sequence[Any], column: str) -> NDArray[np.float32]:
    try:
        numbers = np.asarray([float(value) for value in values], dtype=np.float32)
    except (TypeError, ValueError):
        bad = next(v for v in values if not isinstance(v, (int, float)))
        raise DataError(f"expected numbers in the label column {column!r}, got {bad!r}") from None
    if not np.isfinite(numbers).all():
        count = int((~np.isfinite(numbers)).sum())
        raise DataError(
            f"expected finite numbers in the label column {column!r}, but {count} values are not "
            "finite"
        )
    return numbers


def _is_missing(value: Any) -> bool:
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    return isinstance(value, float) and np.isnan(value)


def _order(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, (int, float)) else (1, 0.0, str(value))
