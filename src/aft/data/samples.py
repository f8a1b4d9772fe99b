"""Samples: ids, inputs and labels of one split, in memory but for the inputs themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aft.data.images import open_image
from aft.data.readers.find_columns import InputColumn, match_names
from aft.data.readers.rows import VALUE
from aft.data.texts import read_text
from aft.errors import ConfigError, DataError
from aft.ids import ID_BYTES, join_ids

if TYPE_CHECKING:
    from datasets import Dataset

Value = Image.Image | str | None
"""What an input column holds in a row: an image, a text, or nothing."""
Content = Image.Image | str
View = Callable[[Content, bytes], Content]
"""Makes of a value and the id of its part what is seen of it."""


class Samples:
    """One split: a sequence of samples, each an id, an input and (perhaps) a label.

    Attributes:
        columns: The input columns, each of images or of texts.
        parts: Content ids of every column's value, shape ``(n, num_columns, 16)``, uint8; zeros
            where it is missing.
        present: Which values are there, shape ``(n, num_columns)``.
        ids: Content ids of the samples, shape ``(n, 16)``, uint8: that of the only column, or
            made of the parts' ids.
        splits: The split that the source gives each sample, or an empty string.
        labels: Class indices ``(n,)`` int64; for multi-label ``(n, num_classes)`` and for
            regression ``(n, num_targets)`` float32; None without labels.
        view: What :meth:`input` shows of a value, see :mod:`aft.views`; None shows it as it is.
    """

    def __init__(
        self,
        columns: Sequence[InputColumn],
        values: Sequence[Dataset],
        parts: NDArray[np.uint8],
        present: NDArray[np.bool_],
        files: NDArray[np.object_],
        splits: NDArray[np.str_],
        labels: NDArray[Any] | None = None,
        view: View | None = None,
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

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def files(self) -> Sequence[str]:
        """A name of each sample for people: its path inside the data set, or its row."""
        return self._files  # type: ignore[return-value]

    def input(self, index: int) -> Value | dict[str, Value]:
        """The decoded RGB image or the text of a sample; None where it is missing.

        With several columns their values by name.
        """
        if len(self.columns) == 1:
            return self._value(index, 0)
        return {column.name: self._value(index, c) for c, column in enumerate(self.columns)}

    def _value(self, index: int, column: int) -> Value:
        if not self.present[index, column]:
            return None
        value = self._read(index, column)
        return value if self.view is None else self.view(value, self.parts[index, column].tobytes())

    def _read(self, index: int, column: int) -> Content:
        value: Any = self.values[column][index][VALUE]
        if self.columns[column].modality == "text":
            return read_text(value) if isinstance(value, bytes) else str(value)
        source = image_source(value)
        assert source is not None
        return open_image(source)

    @property
    def keys(self) -> NDArray[Any]:
        """The ids as one sortable value a row, shape ``(n,)``."""
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
        )

    def only(self, *names: str) -> Samples:
        """The same rows with these columns only.

        Rows in which all of them are missing stay; their ids are zeros.

        Raises:
            DataError: If there is no such column.
        """
        places = {column.name: place for place, column in enumerate(self.columns)}
        for name in names:
            if name not in places:
                raise DataError(f"there is no input column {name!r}; there are {', '.join(places)}")
        return self._choose(
            [places[name] for name in names], [self.columns[places[n]] for n in names]
        )

    def _choose(self, places: Sequence[int | None], columns: Sequence[InputColumn]) -> Samples:
        """The rows with the columns at these places; None is a column of nothing."""
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
        )


def match_columns(samples: Samples, wanted: Sequence[InputColumn]) -> Samples:
    """The samples with the columns that a trained student takes, in its order and by its names.

    Columns of the same name and modality belong together; the others by modality in their order.
    What the student does not take is left out; what the data lacks is missing in every row.

    Raises:
        DataError: If the student takes none of the columns, or several could be meant.
    """
    if samples.columns == tuple(wanted):
        return samples
    return samples._choose(match_names(samples.columns, wanted), wanted)


def image_source(value: Any) -> str | bytes | None:
    """The path or the bytes of an image, or None if there is neither."""
    if isinstance(value, dict):
        return value.get("bytes") or value.get("path") or None
    return value or None


def columns_for(
    model: str, asked: str | None, modality: str | None, columns: Sequence[InputColumn]
) -> tuple[str, ...]:
    """The columns that a model takes: one image, or one text, or the texts of a pair.

    Args:
        model: The model's name for errors.
        asked: What stands in front of its specification: the name of a column, or ``image`` or
            ``text`` for every column of that kind.
        modality: What the model takes: ``image``, ``text``, or None where it takes anything.
        columns: The columns of the data set.

    Raises:
        ConfigError: If there is no such column, or the model takes no such input.
    """
    named = [c for c in columns if c.name == asked] or [c for c in columns if c.modality == asked]
    there = ", ".join(f"{c.name} ({c.modality})" for c in columns)
    if asked is not None and not named:
        raise ConfigError(
            f"{asked}={model}: the data has no input column {asked!r}; it has {there}. "
            "Other columns of a table are named with --image-column and --text-column"
        )
    candidates = named if asked is not None else list(columns)
    fitting = [c for c in candidates if modality in (None, c.modality)]
    if asked is not None and len(fitting) < len(named):
        raise ConfigError(
            f"{asked}={model}: the model takes {modality}s, but column {asked!r} holds "
            f"{named[0].modality}s"
        )
    if not fitting:
        raise ConfigError(f"{model} takes {modality}s, but the data has only {there}")
    return tuple(c.name for c in fitting)
