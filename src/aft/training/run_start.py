"""Start a run in a folder: what may be there, and whether it is the same run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from aft.config.commands import TrainConfig, read_config_file, resolve
from aft.errors import ConfigError, DataError
from aft.files import read_json
from aft.paths import LOCK, check_own_folder, empty_folder, result_name

CONFIG, RESULT, DATA = "config.yaml", "result.json", "data.json"
METRICS, EVALUATION = "metrics.jsonl", "evaluation.parquet"
GATES, BAD_INPUTS = "feature_weights.safetensors", "bad_inputs.csv"
STUDENT, CHECKPOINTS, REPORT = "student", "checkpoints", "report.html"
LAST, BEST, BEST_ALONE = "last.pt", "best.safetensors", "best-alone.safetensors"
FINISH_AGAIN = "Delete it and run again with --resume, which finishes the run from its checkpoint"

FREE_TO_CHANGE = {
    *("out", "resume", "overwrite", "progress", "device", "num_workers", "features"),
    *("trust_remote_code", "baselines", "allow_outside"),
}
"""Options that may differ when a run is resumed: they do not change the student."""


def is_finished(out: Path) -> bool:
    """Whether the run in this folder is finished."""
    return (out / RESULT).exists()


def free_folder(data: str) -> Path:
    """A new folder name derived from the data source, e.g. ``runs/flowers-1``."""
    name = result_name(data)
    number = 1
    while Path(f"runs/{name}-{number}").exists():
        number += 1
    return Path(f"runs/{name}-{number}")


def check_run(out: Path, config: TrainConfig) -> bool:
    """Whether a folder contains a run that the new one replaces, with ``overwrite``.

    Raises:
        ConfigError: If the folder contains a run and neither ``resume`` nor ``overwrite`` is set,
            if it contains other files, or if the run to resume had other options.
    """
    if _has_no_options(out) or not check_own_folder(out, "run", CONFIG, DATA):
        return False
    begun = (out / CHECKPOINTS / LAST).exists()  # before, nothing is lost
    if config.overwrite:
        return True
    if config.resume and (begun or is_finished(out)):
        _check_same(out, config)
    elif is_finished(out):
        raise ConfigError(
            f"{out} contains a finished run; use another --out, or --overwrite to replace it"
        )
    elif begun:
        raise ConfigError(
            f"{out} contains an unfinished run; use --resume to continue it, or --overwrite to "
            "start again"
        )
    return False


def open_run(out: Path, config: TrainConfig) -> None:
    """Empty a run folder to replace its run; errors are those of :func:`check_run`."""
    if check_run(out, config):
        empty_folder(out)


def _has_no_options(out: Path) -> bool:
    """Whether a run was killed, or found the disk full, before it wrote its options."""
    names = {one.name for one in out.iterdir()} - {LOCK} if out.is_dir() else set()
    if DATA not in names or not names <= {DATA, BAD_INPUTS}:
        return False
    try:
        return "content" in read_json(out / DATA, DataError)
    except DataError:  # somebody else's file
        return False


def read_options(run: Path) -> TrainConfig:
    """The options of the run in a folder.

    Raises:
        ConfigError: If it has none, or they are damaged.
    """
    if not (run / CONFIG).exists():
        raise ConfigError(f"{run} has no config.yaml with the data of its run: use --data")
    return resolve(TrainConfig, None, read_config_file(run / CONFIG, TrainConfig))


def _check_same(out: Path, config: TrainConfig) -> None:
    before = read_options(out).model_dump(
        mode="json"
    )  # options missing in the file get their defaults
    now = config.model_dump(mode="json")
    changed = [
        f"{name} {before[name]!r} -> {now[name]!r}"
        for name in now
        if name not in FREE_TO_CHANGE and before[name] != now[name]
    ]
    if changed:
        raise ConfigError(
            f"the run in {out} had other options: {'; '.join(changed)}. Use the same options to "
            "resume it, or another --out"
        )


def options_hash(config: TrainConfig) -> str:
    """Hash of the options that make the student, 64 hex digits."""
    values = config.model_dump(mode="json")
    fixed = {name: values[name] for name in sorted(values.keys() - FREE_TO_CHANGE)}
    return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()
