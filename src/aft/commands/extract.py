"""The command `extract`: turn a data set into teacher features, once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from aft.commands.checks import check
from aft.config.commands import ExtractConfig, resolve
from aft.data.loading import load_inputs
from aft.data.options import asked_columns
from aft.devices import choose_device
from aft.errors import DataError
from aft.features.stored import extract_teachers

if TYPE_CHECKING:
    pass


def extract(config: ExtractConfig | None = None, /, **options: Any) -> list[dict[str, Any]]:
    """Compute features; options are those of :class:`aft.config.commands.ExtractConfig`.

    Returns:
        For each teacher its spec, the samples asked for, width, rows and bytes of its store, the
        store's folder, and notes.

    Raises:
        AftError: Whatever in options, data or teachers is wrong, in a sentence.
    """
    config = resolve(ExtractConfig, config, options)
    check(config)
    device = choose_device(config.device)
    samples, report = load_inputs(
        config.data,
        asked_columns(config),
        on_bad_input=config.on_bad_input,
        progress=config.progress,
    )
    for line in report.lines():
        print(line, file=sys.stderr)
    chosen = np.flatnonzero(np.isin(samples.splits, ["", *config.splits]))
    if not len(chosen):
        raise DataError(f"{config.data} has no rows in {', '.join(config.splits)}")
    samples = samples.subset(chosen)
    return [
        {
            "teacher": features.spec,
            "samples": int(features.present.sum()),
            "dim": features.dim,
            "rows in store": len(features.store),
            "bytes": features.store.summary().bytes,
            "folder": str(features.store.path),
            **({"notes": features.notes} if features.notes else {}),
        }
        for features in extract_teachers(config, samples, device)
    ]
