"""Find the input and label columns of a table: those that are named, or those with usual names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from aft.data.images import find_fault, image_suffixes
from aft.errors import DataError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

Modality = Literal["image", "text"]

IMAGE_NAMES = ("image", "img", "picture", "file_name", "filename", "file", "path", "image_path")
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("query", "passage"),
    ("query", "document"),
)
TEXT_NAMES = (
    "sentence",
    "content",
    "review",
    "document",
    "comment",
    "comment_text",
    "tweet",
    "caption",
    "message",
    "question",
    "article",
    "body",
    "description",
    "title",
)
LABEL_NAMES = (
    "label",
    "labels",
    "class",
    "category",
    "target",
    "y",
    "fine_label",
    "gold_label",
    "sentiment",
    "intent",
    "score",
    "similarity_score",
    "rating",
    "stars",
    "answer",
)
STRINGS = ("string", "large_string", "string_view")
BYTES = ("binary", "large_binary")
_MOST_TEXTS = 2
_CHECKED_VALUES = 100


@dataclass(frozen=True)
class InputColumn:
    """An input column: its name and its modality."""

    name: str
    modality: Modality


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The named columns of a table; None or () searches for the usual names.

    Attributes:
        image: The image column. If it or a text column is named, only named columns are inputs.
        text: One text column, or the two columns of a text pair.
        label: The label columns.
        split: The column with the split of each row.
        usual: The input columns of a trained student. They are searched before the usual names,
            and the columns that match them get their names and order.
        hint: Advice in the error about missing input columns, where the options do not apply.
        allow_outside: Whether a table may name images outside the data folder.
        delimiter: What separates the cells of CSV tables; None finds it.
        encoding: The encoding of tables and texts without a byte order mark; None is UTF-8.
        label_optional: Whether data that should have labels may have none.
    """

    image: str | None = None
    text: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    split: str | None = None
    usual: tuple[InputColumn, ...] = ()
    hint: str = ""
    allow_outside: bool = False
    delimiter: str | None = None
    encoding: str | None = None
    label_optional: bool = False

    @property
    def inputs(self) -> set[str]:
        """The input columns that are named."""
        return {name for name in (self.image, *self.text) if name is not None}

    @property
    def named(self) -> set[str | None]:
        """All columns that are named."""
        return {*self.inputs, *self.label, self.split}

    def may_use(self, name: str) -> bool:
        """Whether a column of this name may be needed."""
        return name in self.named or self.is_input(name) or name.lower() in _USUAL

    def is_input(self, name: str) -> bool:
        """Whether a column of this name may be an input."""
        usual = {column.name for column in self.usual}
        return name in self.inputs | usual or name.lower() in _USUAL_INPUTS


_USUAL_INPUTS = {
    "text",
    *IMAGE_NAMES,
    *TEXT_NAMES,
    *(name for pair in TEXT_PAIRS for name in pair),
}
_USUAL = {"split", *LABEL_NAMES, *_USUAL_INPUTS}


def choose_inputs(
    table: Dataset,
    names: Sequence[str],
    columns: Columns,
    where: str,
) -> tuple[InputColumn, ...]:
    """The input columns of a table: the image column, then the text columns.

    Args:
        table: The columns that may be needed.
        names: All columns of the table.
        columns: The named columns.
        where: The name of the table in error messages.

    Raises:
        DataError: If a named column is missing or there is no input column.
    """
    if len(columns.text) > _MOST_TEXTS:
        raise DataError(
            f"expected at most {_MOST_TEXTS} text columns, got {len(columns.text)}: "
            f"{', '.join(columns.text)}"
        )
    image, texts = columns.image, columns.text
    for what, name in (("image", image), *(("text", text) for text in texts)):
        if name is not None and name not in names:
            raise DataError(no_column(what, name, names, where))
    if image is None and not texts:
        if present := tuple(column for column in columns.usual if column.name in names):
            return present
        image, texts = _usual_inputs(table, columns, where, names)
    given = [name for name in (image, *texts) if name is not None]
    twice = [name for name in dict.fromkeys(given) if given.count(name) > 1]
    if twice:
        raise DataError(f"the column {twice[0]!r} of {where} is named twice as input; name it once")
    both = [name for name in given if name in (*columns.label, columns.split)]
    if both:
        raise DataError(
            f"the column {both[0]!r} of {where} is named as input and as label or split; "
            "name it for one of them"
        )
    first = () if image is None else (InputColumn(image, "image"),)
    return (*first, *(InputColumn(text, "text") for text in texts))


def _usual_inputs(
    table: Dataset, columns: Columns, where: str, names: Sequence[str]
) -> tuple[str | None, tuple[str, ...]]:
    free = [c for c in table.column_names if c not in columns.label and c != columns.split]
    image = _usual_image(table, free)
    lower = {c.lower(): c for c in free if c != image and is_text(table, c)}
    found: tuple[str, ...] = ()
    for group in (("text",), *TEXT_PAIRS, *((name,) for name in TEXT_NAMES)):
        if all(name in lower for name in group):
            found = tuple(lower[name] for name in group)
            break
    if image is None and not found:
        image = next((c for name in IMAGE_NAMES for c in free if c.lower() == name), None)
    if image is None and not found:
        strange = [c for c in free if c.lower() in _USUAL_INPUTS]
        kinds = "".join(f" {c!r} has type {kind_of(table, c)}." for c in strange)
        raise DataError(
            f"no image or text column found in {where}; its columns are {', '.join(names)}.{kinds} "
            + (columns.hint or "Name the input with --image-column or --text-column")
        )
    return image, found


def _usual_image(table: Dataset, free: Sequence[str]) -> str | None:
    import datasets

    embedded = [c for c in free if isinstance(table.features[c], datasets.Image)]
    usual = [c for name in IMAGE_NAMES for c in free if c.lower() == name]
    found = [c for c in usual if embeds_images(table, c) or _names_images(table, c)]
    return next(iter((*embedded, *found)), None)


def embeds_images(table: Dataset, column: str) -> bool:
    """Whether the first value is an embedded image and not a file name."""
    value = next(iter(_first_values(table, column)), None)
    if isinstance(value, dict):
        return bool({"bytes", "path"} & value.keys())
    return isinstance(value, bytes) and find_fault(value) is None


def _names_images(table: Dataset, column: str) -> bool:
    """Whether any of the first values has the extension of an image file."""
    endings = tuple(image_suffixes())
    values = _first_values(table, column)
    paths = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
    return any(isinstance(p, str) and p.strip().lower().endswith(endings) for p in paths)


def _first_values(table: Dataset, column: str) -> list[Any]:
    values = read_column(table.select(range(min(_CHECKED_VALUES, len(table)))), column)
    return [value for value in values if value]


def is_text(table: Dataset, column: str) -> bool:
    """Whether the column has strings, bytes that may be strings, or only nulls."""
    return kind_of(table, column) in (*STRINGS, *BYTES, "null")


def kind_of(table: Dataset, column: str) -> str:
    """The type of a column, such as ``string``, ``int64`` or ``List``."""
    feature = table.features[column]
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def read_column(table: Dataset, column: str) -> list[Any]:
    """The values of a column; strings that are not UTF-8 are returned as bytes."""
    return read_values(table.select_columns([column]).with_format("arrow")[:].column(column))


def read_values(values: pyarrow.ChunkedArray) -> list[Any]:
    """The values of an Arrow column; strings that are not UTF-8 are returned as bytes."""
    import pyarrow

    try:
        return values.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        return [_decoded(value) for value in values.cast(pyarrow.large_binary()).to_pylist()]


def _decoded(value: bytes | None) -> str | bytes | None:
    try:
        return value if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def choose_labels(
    names: Sequence[str],
    inputs: Sequence[InputColumn],
    columns: Columns,
    labelled: bool,
    where: str,
) -> tuple[str, ...]:
    """The label columns: the named ones, or the first with a usual name; () if not `labelled`.

    Raises:
        DataError: If a named column is missing, or none is found although it is not optional.
    """
    if not labelled:
        return ()
    for column in columns.label:
        if column not in names:
            raise DataError(no_column("label", column, names, where))
    if columns.label:
        return columns.label
    taken = {column.name for column in inputs} | {columns.split}
    lower = {name.lower(): name for name in names if name not in taken}
    for usual in LABEL_NAMES:
        if usual in lower:
            return (lower[usual],)
    if columns.label_optional:
        return ()
    raise DataError(no_column("label", None, names, where))


def no_column(what: str, given: str | None, names: Sequence[str], where: str) -> str:
    """The error message for a missing column."""
    wanted = f"no column {given!r}" if given else f"no {what} column found"
    return (
        f"{wanted} in {where}; its columns are {', '.join(names)}. Name the {what} column with "
        f"--{what}-column"
    )


def match_names(given: Sequence[InputColumn], wanted: Sequence[InputColumn]) -> list[int | None]:
    """For each wanted column, the position of the given column that matches, or None.

    Columns are matched by name and modality, the remaining ones by modality and order.

    Raises:
        DataError: If no column matches, or the match is ambiguous.
    """
    places = {column: i for i, column in enumerate(given)}
    found = {column: places[column] for column in wanted if column in places}
    for modality in dict.fromkeys(column.modality for column in wanted):
        rest = [c for c in wanted if c.modality == modality and c not in found]
        free = [i for i, c in enumerate(given) if c.modality == modality and c not in found]
        if not rest or not free:
            continue
        if len(free) != len(rest):
            names = [column.name for column in given]
            raise DataError(
                f"expected the columns {_listed(wanted)}, but the data has {_listed(given)}, and "
                f"it is ambiguous which of {', '.join(repr(names[i]) for i in free)} to use for "
                f"{', '.join(repr(c.name) for c in rest)}. Rename the columns, or select the "
                f"columns to use with --{modality}-column"
            )
        found |= dict(zip(rest, free, strict=True))
    if not found:
        raise DataError(
            f"expected the columns {_listed(wanted)}, but the data has {_listed(given)}, and no "
            "column matches. Give data with at least one of the expected columns"
        )
    return [found.get(column) for column in wanted]


def _listed(columns: Sequence[InputColumn]) -> str:
    return " and ".join(f"{column.modality} {column.name!r}" for column in columns)
