"""Samples: ids, inputs and labels of one split. Inputs are read when they are accessed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aft.data.images import open_image
from aft.data.readers.find_columns import InputColumn, match_names
from aft.data.readers.rows import VALUE, Column, column_of
from aft.data.texts import read_text
from aft.errors import ConfigError, DataError
from aft.ids import CACHE_FILE, ID_BYTES, content_id, default_cache_dir, join_ids
from aft.paths import read_file

if TYPE_CHECKING:
    from datasets import Dataset

Value = Image.Image | str | None
"""The value of an input column in one row: an image, a text, or None if missing."""
Content = Image.Image | str
View = Callable[[Content, bytes], Content]
"""Maps a value and the id of its part to the view of it."""


class Samples:
    """One split: a sequence of samples, each with an id, an input and optionally a label.

    Attributes:
        columns: The input columns, each with images or texts.
        parts: Content ids of the values, shape ``(n, num_columns, 16)``, uint8; zeros where a
            value is missing. Views have ids of their own.
        present: Mask of the values that are not missing, shape ``(n, num_columns)``.
        ids: Content ids of the samples, shape ``(n, 16)``, uint8: the id of the only column, or
            computed from the ids of the parts.
        splits: The split of each sample according to the source, or an empty string.
        labels: Class indices ``(n,)`` int64; for multi-label ``(n, num_classes)`` and for
            regression ``(n, num_targets)`` float32; None without labels. While a run trains from
            names of classes, the probabilities ``(n, num_classes)`` of soft labels of held-out rows
            without labels.
        view: The function that :meth:`input` applies to every value, see :mod:`aft.data.views`;
            None returns values unchanged, as does a part that is its own content.
        contents: Ids of the contents that values are read from: those of `parts`, but for views
            the ids of the original values.
    """

    def __init__(
        self,
        columns: Sequence[InputColumn],
        values: Sequence[Dataset | Column],
        parts: NDArray[np.uint8],
        present: NDArray[np.bool_],
        files: NDArray[np.object_],
        splits: NDArray[np.str_],
        labels: NDArray[Any] | None = None,
        view: View | None = None,
        contents: NDArray[np.uint8] | None = None,
    ) -> None:
        self.columns = tuple(columns)
        self.values = tuple(values)
        self.parts = parts
        self.present = present
        self.ids = join_ids(parts, present)
        self._files = files
        self.splits = splits
        self.labels = labels
        self.view = view
        self.contents = parts if contents is None else contents
        self._last: dict[int, tuple[bytes, Content]] = {}  # what each thread has read last

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def files(self) -> Sequence[str]:
        """A readable name per sample: its path inside the data set, or its row."""
        return self._files  # type: ignore[return-value]

    def input(self, index: int) -> Value | dict[str, Value]:
        """The decoded RGB image or the text of a sample; None if it is missing.

        With several columns, a dictionary of the values by column name.

        Raises:
            DataError: If an image cannot be read, or is no longer the one whose id is stored.
        """
        if len(self.columns) == 1:
            return self._value(index, 0)
        return {column.name: self._value(index, c) for c, column in enumerate(self.columns)}

    def image(self, index: int, least_side: int | None = None) -> Image.Image | None:
        """The image of the only column, see :func:`aft.data.images.open_image`.

        Views are of images with every pixel, whatever `least_side` is.
        """
        value = self._value(index, 0, least_side)
        assert not isinstance(value, str)
        return value

    def _value(self, index: int, column: int, least_side: int | None = None) -> Value:
        if not self.present[index, column]:
            return None
        if self.view is None:
            return self._read(index, column, least_side)
        content = self.contents[index, column].tobytes()
        last = self._last.get(get_ident())
        if last is None or last[0] != content:  # the views of one image often follow each other
            last = self._last[get_ident()] = content, self._read(index, column)
        part = self.parts[index, column].tobytes()
        value = last[1] if part == content else self.view(last[1], part)
        return value.copy() if value is last[1] and not isinstance(value, str) else value

    def _read(self, index: int, column: int, least_side: int | None = None) -> Content:
        if self.columns[column].modality == "text":
            value: Any = self.values[column][index][VALUE]
            return read_text(value) if isinstance(value, bytes) else str(value)
        name, content = self._file(index, column)
        if content_id(content) != self.contents[index, column].tobytes():
            raise DataError(
                f"{name} has changed since its id was computed: run the command again. If this "
                f"comes back, delete {default_cache_dir() / CACHE_FILE}"
            )
        return open_image(content, name, least_side)

    def _file(self, index: int, column: int) -> tuple[str, bytes]:
        """The name and the bytes of an image."""
        source = image_source(self.values[column][index][VALUE])
        assert source is not None
        name = source if isinstance(source, str) else self.files[index]
        try:
            return name, read_file(source) if isinstance(source, str) else source
        except OSError as error:
            raise DataError(f"cannot read {name}: {error.strerror or error}") from None

    def read_block(self, rows: NDArray[np.int64], most_bytes: int) -> Samples:
        """The samples at these positions, with inputs that another machine can use.

        Their files are read into memory: those of the first position, and of the following ones
        until they have `most_bytes` together.

        Raises:
            DataError: If an image cannot be read.
        """
        read: list[list[Any]] = []
        size = 0
        for row in rows:
            if read and size >= most_bytes:
                break
            read.append([self._stored(int(row), place) for place in range(len(self.columns))])
            size += sum(len(value or ()) for value in read[-1])
        block = self.subset(rows[: len(read)])
        images = [column.modality == "image" for column in self.columns]
        block.values = tuple(map(column_of, zip(*read, strict=True), images))
        return block

    def _stored(self, index: int, column: int) -> Any:
        """The text, or the bytes of the image."""
        if not self.present[index, column]:
            return None
        is_text = self.columns[column].modality == "text"
        return self._read(index, column) if is_text else self._file(index, column)[1]

    @property
    def keys(self) -> NDArray[Any]:
        """The ids as one sortable value per row, shape ``(n,)``."""
        return np.ascontiguousarray(self.ids).view(f"S{ID_BYTES}").ravel()

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Samples:
        """The samples at these positions, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Samples(
            self.columns,
            [values.select(chosen) for values in self.values],
            self.parts[chosen],
            self.present[chosen],
            self._files[chosen],
            self.splits[chosen],
            None if self.labels is None else self.labels[chosen],
            self.view,
            self.contents[chosen],
        )

    def only(self, *names: str) -> Samples:
        """The same rows with only the named columns.

        Rows in which all of these columns are missing are kept, with ids of zeros.

        Raises:
            DataError: If a column does not exist.
        """
        places = {column.name: place for place, column in enumerate(self.columns)}
        for name in names:
            if name not in places:
                raise DataError(
                    f"no input column {name!r}; the input columns are {', '.join(places)}"
                )
        return self._choose(
            [places[name] for name in names], [self.columns[places[n]] for n in names]
        )

    def _choose(self, places: Sequence[int | None], columns: Sequence[InputColumn]) -> Samples:
        """The rows with the columns at these positions; None is a column of missing values."""
        lacking = [place is None for place in places]
        some = [place or 0 for place in places]
        parts, present = self.parts[:, some], self.present[:, some]
        parts[:, lacking], present[:, lacking] = 0, False
        return Samples(
            columns,
            [self.values[place] for place in some],
            parts,
            present,
            self._files,
            self.splits,
            self.labels,
            self.view,
            self.contents[:, some],
        )


def match_columns(samples: Samples, wanted: Sequence[InputColumn]) -> Samples:
    """The samples with the input columns of a trained student, with its names and order.

    Columns are matched by name and modality, the remaining ones by modality and order. Columns
    that the student does not use are dropped; columns that the data lacks are missing in every
    row.

    Raises:
        DataError: If no column matches, or the match is ambiguous.
    """
    if samples.columns == tuple(wanted):
        return samples
    return samples._choose(match_names(samples.columns, wanted), wanted)


def image_source(value: Any) -> str | bytes | None:
    """The path or the bytes of an image, or None if it is missing."""
    if isinstance(value, dict):
        return value.get("bytes") or value.get("path") or None
    return value or None


def columns_for(
    model: str, asked: str | None, modality: str | None, columns: Sequence[InputColumn]
) -> tuple[str, ...]:
    """The input columns of a model: an image column, a text column, or a pair of text columns.

    Args:
        model: The model's specification, for error messages.
        asked: The prefix of the specification, as in ``COLUMN=model``: the name of a column, or
            ``image`` or ``text`` for every column of that modality; None without a prefix.
        modality: The modality of the model: ``image``, ``text``, or None if it accepts both.
        columns: The columns of the data set.

    Raises:
        ConfigError: If there is no such column, or the model does not accept its modality.
    """
    named = [c for c in columns if c.name == asked] or [c for c in columns if c.modality == asked]
    there = ", ".join(f"{c.name} ({c.modality})" for c in columns)
    if asked is not None and not named:
        raise ConfigError(
            f"{asked}={model}: the data has no input column {asked!r}; its input columns are "
            f"{there}. Select other columns with --image-column and --text-column"
        )
    candidates = named if asked is not None else list(columns)
    fitting = [c for c in candidates if modality in (None, c.modality)]
    if asked is not None and len(fitting) < len(named):
        raise ConfigError(
            f"{asked}={model}: the model takes {modality}s, but column {asked!r} has "
            f"{named[0].modality}s"
        )
    if not fitting:
        raise ConfigError(f"{model} takes {modality}s, but the data has only {there}")
    return tuple(c.name for c in fitting)
