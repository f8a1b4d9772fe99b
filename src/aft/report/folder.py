"""A finished run folder, read back for a report."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from aft.errors import DataError
from aft.evaluate import MAIN_METRIC
from aft.labels import Task
from aft.logs import read_metrics


@dataclass(frozen=True)
class Run:
    """What a finished run left behind.

    Attributes:
        folder: The run folder.
        result: ``result.json``.
        config: ``config.yaml``.
        data: ``data.json``.
        metrics: The lines of ``metrics.jsonl``.
        gates: One array ``(dim,)`` a teacher; empty without teachers or without gates.
        rows: Columns of ``evaluation.parquet``: one row for each sample of the final split.
        bad_inputs: File and fault of each input that could not be read.
    """

    folder: Path
    result: dict[str, Any]
    config: dict[str, Any]
    data: dict[str, Any]
    metrics: list[dict[str, Any]]
    gates: list[NDArray[np.float32]]
    rows: dict[str, list[Any]]
    bad_inputs: list[tuple[str, str]]

    @property
    def task(self) -> Task:
        """What the student predicts."""
        return Task.from_description(self.result["task"])

    @property
    def main_metric(self) -> str:
        """The metric that chose the checkpoint."""
        return MAIN_METRIC[self.task.kind]

    @property
    def teachers(self) -> list[dict[str, Any]]:
        """``spec``, ``dim`` and more of each teacher."""
        return list(self.result.get("teachers") or ())

    @property
    def safety_net(self) -> dict[str, Any]:
        """How a second student did that learned from the labels alone; empty without one."""
        return dict(self.result.get("safety_net") or {})

    @property
    def columns(self) -> list[dict[str, str]]:
        """``name`` and ``modality`` of each input column; empty where that was not recorded."""
        return list(self.result.get("columns") or ())

    @property
    def modalities(self) -> list[str]:
        """What inputs consist of: ``image``, ``text`` or both."""
        return sorted({column["modality"] for column in self.columns}) or ["image"]

    def curve(self, split: str, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Steps and values of one metric; both empty where it was never logged."""
        lines = [
            m for m in self.metrics if m["split"] == split and math.isfinite(m.get(name, math.nan))
        ]
        steps = np.asarray([m["step"] for m in lines], dtype=np.float64)
        return steps, np.asarray([m[name] for m in lines], dtype=np.float64)


def read_run(folder: Path) -> Run:
    """Read a finished run; all but ``result.json`` may be missing.

    Raises:
        DataError: If the folder holds no finished run.
    """
    if not (folder / "result.json").is_file():
        raise DataError(
            f"expected a finished run in {folder}, found no result.json; train it first"
        )
    return Run(
        folder=folder,
        result=_read_json(folder / "result.json"),
        config=_read_yaml(folder / "config.yaml"),
        data=_read_json(folder / "data.json"),
        metrics=read_metrics(folder),
        gates=_read_gates(folder / "feature_weights.safetensors"),
        rows=_read_table(folder / "evaluation.parquet"),
        bad_inputs=_read_faults(folder / "bad_inputs.csv"),
    )


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _read_gates(path: Path) -> list[NDArray[np.float32]]:
    if not path.exists():
        return []
    from safetensors.numpy import load_file

    gates = load_file(path)
    return [gates[name] for name in sorted(gates, key=int) if gates[name].ndim == 1]


def _read_table(path: Path) -> dict[str, list[Any]]:
    if not path.exists():
        return {}
    import pyarrow.parquet

    return dict(pyarrow.parquet.read_table(path).to_pydict())


def _read_faults(path: Path) -> list[tuple[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["file"], row["fault"]) for row in csv.DictReader(file)]
