"""The command `extract`: compute and store the teacher features of a data set."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from aft.commands.checks import check
from aft.config.commands import ExtractConfig
from aft.config.typed import command
from aft.data.loading import load_inputs
from aft.data.options import asked_columns
from aft.devices import separate_processes
from aft.errors import DataError
from aft.features.cluster import connect
from aft.features.stored import extract_teachers


@command(ExtractConfig)
def extract(config: ExtractConfig) -> list[dict[str, Any]]:
    """Compute features.

    With torchrun, each process computes a share of the rows.

    Returns:
        For each teacher: its specification, the number of samples, the feature dimension, rows and
        bytes of its store, the store's folder, and notes.

    Raises:
        AftError: If options, data or teachers are invalid.
    """
    check(config)
    with connect(config.ray, config.device) as (device, compute):
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
            names = ", ".join(config.splits)
            raise DataError(f"expected rows in {names}, got none in {config.data}")
        samples = samples.subset(chosen)
        with separate_processes("cpu" if config.ray else config.device) as processes:
            (stored,) = extract_teachers(
                config,
                [samples],
                device if config.ray else processes.device,
                processes.rank,
                processes.size,
                compute,
            )
    for features in stored:
        features.store.refresh()
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
        for features in stored
    ]
