"""Which of a data set's input columns a model takes."""

from __future__ import annotations

from collections.abc import Sequence

from aft.data import Columns, InputColumn
from aft.errors import ConfigError
from aft.options import ReadOptions


def asked_columns(options: ReadOptions, usual: Sequence[InputColumn] = ()) -> Columns:
    """The columns that the user named.

    Args:
        options: The user's.
        usual: What a trained student calls its columns: looked for before the usual names.
    """
    return Columns(
        image=options.image_column,
        text=options.text_column,
        label=options.label_column,
        split=options.split_column,
        usual=tuple(usual),
    )


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
