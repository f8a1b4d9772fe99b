"""Labels: which task they make, and how they become numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from aft.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

TaskKind = Literal["classification", "multilabel", "regression"]
KINDS = ("classification", "multilabel", "regression")
_MOST_INTEGER_CLASSES = 1000


@dataclass(frozen=True)
class Task:
    """What a student predicts.

    Attributes:
        kind: ``classification`` (one class a sample), ``multilabel`` (any number of them) or
            ``regression`` (numbers).
        names: The classes, or the names of the regression targets; one output each.
    """

    kind: TaskKind
    names: tuple[str, ...]

    @property
    def num_outputs(self) -> int:
        """Width of the student's head."""
        return len(self.names)

    def describe(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "names": list(self.names)}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Task:
        """The inverse of :meth:`describe`."""
        return cls(description["kind"], tuple(description["names"]))

    def counts(self, labels: NDArray[Any] | None) -> dict[str, int]:
        """Number of rows of each class; empty for regression."""
        if labels is None or self.kind == "regression":
            return {}
        if self.kind == "multilabel":
            per_class = labels.sum(axis=0)
        else:
            per_class = np.bincount(labels, minlength=self.num_outputs)
        return {name: int(count) for name, count in zip(self.names, per_class, strict=True)}


def missing_labels(table: Dataset, columns: Sequence[str]) -> NDArray[np.bool_]:
    """Which rows have no label, shape ``(n,)``."""
    missing = np.zeros(len(table), dtype=bool)
    for column in columns:
        missing |= np.fromiter((_is_missing(v) for v in table[column]), bool, len(table))
    return missing


def infer_task(
    table: Dataset, columns: Sequence[str], class_names: tuple[str, ...] | None, task: str
) -> Task:
    """Find the task that the label columns make.

    Text, true/false and whole numbers are classes; lists (or several 0/1 columns) are several
    classes a row; other numbers are regression targets.

    Raises:
        DataError: If the labels do not fit the task asked for, or could mean several.
    """
    kind = task if task != "auto" else _guess(table, columns)
    if kind not in KINDS:
        raise DataError(f"expected a task out of {', '.join(KINDS)}, got {task!r}")
    if kind == "regression":
        return Task("regression", tuple(columns))
    if kind == "multilabel" and len(columns) > 1:
        return Task("multilabel", tuple(columns))
    if class_names is not None:
        return Task(kind, class_names)  # type: ignore[arg-type]
    if kind == "multilabel":
        found: set[Any] = {part for value in table[columns[0]] for part in _parts(value)}
    else:
        if len(columns) > 1:
            raise DataError(
                f"classification needs one label column, got {', '.join(columns)}; pass "
                "--task multilabel or --task regression"
            )
        found = set(table[columns[0]])
    return Task(kind, tuple(str(value) for value in sorted(found, key=_order)))  # type: ignore[arg-type]


def encode_labels(table: Dataset, columns: Sequence[str], task: Task) -> NDArray[Any]:
    """The labels as numbers: see :class:`aft.data.Samples` for the shapes.

    Raises:
        DataError: If a label is none of the task's classes, or not a number for regression.
    """
    if task.kind == "regression":
        return np.stack([_numbers(table[c], c) for c in columns], axis=1)
    if task.kind == "multilabel" and len(columns) > 1:
        return np.stack([_numbers(table[c], c) for c in columns], axis=1)
    values = table[columns[0]]
    index = {name: i for i, name in enumerate(task.names)}
    if task.kind == "multilabel":
        encoded = np.zeros((len(table), task.num_outputs), dtype=np.float32)
        for row, value in enumerate(values):
            for part in _parts(value):
                encoded[row, _class_of(part, index, task)] = 1.0
        return encoded
    return np.fromiter((_class_of(v, index, task) for v in values), np.int64, len(table))


def _class_of(value: Any, index: dict[str, int], task: Task) -> int:
    found = index.get(str(value))
    if found is None and isinstance(value, int) and 0 <= value < task.num_outputs:
        return value  # a class index beside a list of names
    if found is None:
        raise DataError(
            f"the label {value!r} is none of the {len(index)} known classes "
            f"({', '.join(list(index)[:5])}{' …' if len(index) > 5 else ''})"
        )
    return found


def _guess(table: Dataset, columns: Sequence[str]) -> TaskKind:
    values = [value for column in columns for value in table[column]]
    if any(isinstance(value, (list, tuple)) for value in values):
        return "multilabel"
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if len(columns) > 1:
        if all(v in (0, 1) for v in values):
            return "multilabel"
        if numeric:
            return "regression"
        raise DataError(
            f"the label columns {', '.join(columns)} hold neither 0/1 nor numbers; name one column"
        )
    if not numeric:
        return "classification"
    if any(isinstance(v, float) and not v.is_integer() for v in values):
        return "regression"
    distinct = len(set(values))
    if distinct > _MOST_INTEGER_CLASSES or (distinct > 20 and distinct > len(values) / 2):
        raise DataError(
            f"column {columns[0]!r} holds {distinct} different whole numbers in {len(values)} "
            "rows: pass --task regression or --task classification"
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
        raise DataError(f"column {column!r} should hold numbers, got {bad!r}") from None
    if not np.isfinite(numbers).all():
        count = int((~np.isfinite(numbers)).sum())
        raise DataError(f"column {column!r} holds {count} values that are not finite numbers")
    return numbers


def _is_missing(value: Any) -> bool:
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    return isinstance(value, float) and np.isnan(value)


def _order(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, (int, float)) else (1, 0.0, str(value))
