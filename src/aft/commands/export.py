"""The command `export`: write a trained student in formats that run without aft."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import numpy as np

from aft.commands.checks import check
from aft.commands.evaluate import ORDER, load_for
from aft.config.commands import ExportConfig
from aft.config.typed import command
from aft.data.loading import load_inputs
from aft.data.options import asked_columns
from aft.data.samples import Samples, match_columns
from aft.errors import AftError, ConfigError, DataError, ExportError
from aft.exporting.folder import check_format, show_formats, write_document, write_formats
from aft.files import writing
from aft.students.saved import SavedStudent


@command(ExportConfig)
def export(config: ExportConfig) -> dict[str, Any]:
    """Write a trained student in formats that run without aft; the first argument may be its run.

    Returns:
        ``out``; ``formats``, by format its ``file`` and how it compares with the student, see
        :func:`aft.exporting.folder.write_formats`; ``split`` and ``rows`` of the comparison;
        ``table``, the comparison in Markdown.

    Raises:
        AftError: If the run or the data cannot be read, a library is missing, or an export
            computes something else than the student. Then nothing is written.
    """
    check(config)
    student = SavedStudent.load(config.run, config.trust_remote_code)
    formats = list(dict.fromkeys(config.format))
    for name in formats:
        check_format(name, student)
    split, held_out, training = _rows(config, student)
    place = config.out.absolute()
    made = place.with_name(f".{place.name}.{uuid4().hex[:8]}.tmp")
    with writing(config.out, ExportError, "Free some space, or use another --out"):
        made.mkdir(parents=True)
        try:
            found = write_formats(made, student, formats, held_out, training, _say(config.progress))
            result = {"split": split, "rows": len(held_out), "formats": found}
            write_document(made, config.run, result)
            if place.exists():  # an export, or empty: checked above
                shutil.rmtree(place)
            os.replace(made, place)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    return {"out": str(config.out), **result, "table": show_formats(found)}


def _say(enabled: bool) -> Callable[[str], None]:
    return lambda line: print(line, file=sys.stderr) if enabled else None


def _rows(config: ExportConfig, student: SavedStudent) -> tuple[str, Samples, Samples]:
    """The name of the held-out rows, these rows, and training rows."""
    try:
        splits = load_for(config, student).splits
    except AftError as error:
        if config.data is None:
            raise ConfigError(
                f"the held-out rows of {config.run} cannot be read ({error}); use --data with "
                "other rows to compare the export with"
            ) from None
        try:
            splits = {"all": _unlabelled(config, student)}
        except DataError:
            raise error from None
        print(f"compared without labels: {error}", file=sys.stderr)
    name = next(name for name in ORDER if name in splits)
    held_out = match_columns(splits[name], student.columns)
    training = match_columns(splits.get("train", splits[name]), student.columns)
    step = max(1, len(held_out) // config.rows)
    chosen = np.arange(0, len(held_out), step)[: config.rows]
    return name, held_out.subset(chosen), training


def _unlabelled(config: ExportConfig, student: SavedStudent) -> Samples:
    return load_inputs(
        config.data,
        asked_columns(config, student.columns),
        on_bad_input=config.on_bad_input,
        progress=config.progress,
    )[0]
