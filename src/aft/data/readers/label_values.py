"""Read the values of label columns: numbers and true/false written as text, and class names."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from aft.tasks import as_number

_MISSING = {"", "NA", "N/A", "NaN", "nan", "null", "NULL"}
_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def read_words(values: Sequence[Any], several_columns: bool = False) -> list[Any]:
    """Convert the texts of a label column of a table to what they stand for.

    True and false in several spellings become booleans; in a single column with one spelling they
    stay as they are written. If at least half of the values are numbers, these become numbers, and
    words such as ``NA`` become None; :func:`aft.tasks.infer_task` judges the others. Texts such as
    ``007`` are not numbers but names.

    Args:
        values: The values of the column.
        several_columns: Whether it is one of several label columns.
    """
    stripped = [value.strip() if isinstance(value, str) else value for value in values]
    words = [value for value in stripped if isinstance(value, str) and value not in _MISSING]
    others = sum(isinstance(value, (int, float)) for value in stripped)
    lower = {word.lower() for word in words}
    if not others and lower & {"true", "false"} and lower <= _TRUTH.keys():
        if len(set(words)) == len(lower & {"true", "false"}) and not several_columns:
            return stripped
        return [_TRUTH.get(v.lower()) if isinstance(v, str) else v for v in stripped]
    numbers = sum(as_number(word) is not None for word in words) + others
    if not words or 2 * numbers < len(words) + others:
        return list(values)
    return [_read_word(value) if isinstance(value, str) else value for value in stripped]


def _read_word(word: str) -> int | float | str | None:
    number = as_number(word)
    return number if number is not None else None if word in _MISSING else word


def merge_names(values: Sequence[Any], column: str) -> tuple[list[Any], list[str]]:
    """Class names without spaces around them and in Unicode form NFC, and lists without nulls.

    Args:
        values: The values of a label column.
        column: Its name.

    Returns:
        The values, and a note per name that was written in several ways.
    """
    written: dict[str, set[str]] = defaultdict(set)

    def clean(value: Any) -> Any:
        if isinstance(value, list):
            parts = [clean(part) for part in value if part is not None]
            return parts or (None if value else [])
        if not isinstance(value, str):
            return value
        name = unicodedata.normalize("NFC", value.strip())
        written[name].add(value)
        return name

    found = [clean(value) for value in values]
    return found, [
        f"the label {name!r} of {column!r} is written in {len(ways)} ways that differ in spaces or "
        f"in their Unicode form: {', '.join(map(ascii, sorted(ways)))}; they are read as one class"
        for name, ways in written.items()
        if len(ways) > 1 and name
    ]
