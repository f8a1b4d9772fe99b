"""A run's folder: when it may be written, what is in it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aft.config import TrainConfig, read_config_file, resolve, write_config_file
from aft.data import DataSet
from aft.errors import ConfigError
from aft.model import SavedStudent

FREE_TO_CHANGE = {
    *("out", "resume", "overwrite", "progress", "device", "num_workers", "features"),
    "trust_remote_code",
}
"""Options that may differ when a run is resumed: they do not change its result."""


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        out: The run folder.
        metrics: The final score of the best checkpoint, see :func:`aft.evaluate.compute_metrics`.
        split: What was scored: ``test``, or ``validation`` where there is no test split.
        summary: Everything in the run's ``result.json``.
    """

    out: Path
    metrics: dict[str, float]
    split: str
    summary: dict[str, Any]

    @classmethod
    def load(cls, out: str | Path) -> TrainResult:
        """Read a finished run.

        Raises:
            ConfigError: If there is none in this folder.
        """
        out = Path(out)
        if not is_finished(out):
            raise ConfigError(f"{out} holds no finished run of aft")
        summary = json.loads((out / "result.json").read_text())
        return cls(out, summary["metrics"], summary["split"], summary)

    def student(self) -> SavedStudent:
        """The trained student.

        Raises:
            StudentError: If the run kept its teachers, so that its student cannot stand alone.
        """
        return SavedStudent.load(self.out, trust_remote_code=True)


def is_finished(out: Path) -> bool:
    """Whether the run in this folder came to its end."""
    return (out / "result.json").exists()


def free_folder(data: str) -> Path:
    """A folder that does not exist yet, named after the data: ``runs/flowers-1``."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(data).resolve().stem).strip("-") or "run"
    number = 1
    while Path(f"runs/{name}-{number}").exists():
        number += 1
    return Path(f"runs/{name}-{number}")


def open_run(out: Path, config: TrainConfig) -> None:
    """Make the folder ready, or refuse: nothing is replaced that was not offered for it.

    Raises:
        ConfigError: If something is there and neither resume nor overwrite says what to do, if
            it is no run, or if a run to go on with had other options.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / "config.yaml").is_file():
            raise ConfigError(f"{out} exists and is no run of aft; name another --out")
        begun = (out / "checkpoints" / "last.pt").exists()  # before, there is nothing to lose
        if config.overwrite:
            shutil.rmtree(out)
        elif config.resume and (begun or is_finished(out)):
            _check_same(out, config)
        elif is_finished(out):
            raise ConfigError(
                f"{out} holds a finished run; name another --out, or pass --overwrite to replace it"
            )
        elif begun:
            raise ConfigError(
                f"{out} holds an unfinished run; pass --resume to go on with it, or --overwrite to "
                "start again"
            )
    out.mkdir(parents=True, exist_ok=True)


def write_inputs(out: Path, config: TrainConfig, data: DataSet) -> None:
    """Write what the run is made of: its options, its data, what could not be read."""
    write_config_file(out / "config.yaml", config)
    write_json(out / "data.json", data.describe())
    if data.report.bad_inputs:
        with (out / "bad_inputs.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("file", "fault"), *data.report.bad_inputs])


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON for people and programs alike."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_same(out: Path, config: TrainConfig) -> None:
    saved = resolve(TrainConfig, None, read_config_file(out / "config.yaml", TrainConfig))
    before = saved.model_dump(mode="json")  # options that it does not name had their defaults
    now = config.model_dump(mode="json")
    changed = [
        f"{name} {before[name]!r} -> {now[name]!r}"
        for name in now
        if name not in FREE_TO_CHANGE and before[name] != now[name]
    ]
    if changed:
        raise ConfigError(
            f"the run in {out} had other options: {'; '.join(changed)}. Give the same ones to "
            "resume it, or name another --out"
        )
