"""The run folder: its files, how they are written and how they are read."""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from aft.config.commands import TrainConfig, read_config_file, resolve, write_config_file
from aft.config.groups import CLASS_TEXTS, UNLABELLED
from aft.errors import ConfigError, DataError, StudentError
from aft.files import (
    check_files,
    read_json,
    reading,
    strict_json,
    write_csv,
    write_json,
    write_whole,
    writing,
)
from aft.paths import LOCK, check_own_folder, empty_folder, result_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from aft.data.loading import DataSet
    from aft.students.saved import SavedStudent
    from aft.tasks import Task

CONFIG, RESULT, DATA = "config.yaml", "result.json", "data.json"
METRICS, EVALUATION = "metrics.jsonl", "evaluation.parquet"
GATES, BAD_INPUTS = "feature_weights.safetensors", "bad_inputs.csv"
BEGUN = (CONFIG, DATA, BAD_INPUTS)
"""What a run writes before it trains."""
STUDENT, CHECKPOINTS, REPORT = "student", "checkpoints", "report.html"
LAST, BEST, BEST_ALONE = "last.pt", "best.safetensors", "best-alone.safetensors"
FINISH_AGAIN = "Delete it and run again with --resume, which finishes the run from its checkpoint"

FREE_TO_CHANGE = {
    *("out", "resume", "overwrite", "progress", "device", "num_workers", "features"),
    *("image_cache", "shard_student", "log_to"),
    *("trust_remote_code", "baselines", "report", "allow_outside", "delimiter", "encoding"),
}
"""Options that may differ when a run is resumed: they do not change the student."""
ADDED = {"from_": "first", "classes": None, "class_template": None, "effort": "standard"}
"""Options that checkpoints of earlier versions do not know, and the value they had then."""


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        out: The run folder.
        metrics: The final score of the best checkpoint, see :func:`aft.metrics.compute_metrics`;
            NaN if it is undefined.
        split: The scored split: ``test``, or ``validation`` if there is no test split.
        summary: Content of the run's ``result.json``.
    """

    out: Path
    metrics: dict[str, float]
    split: str
    summary: dict[str, Any]

    @classmethod
    def load(cls, out: str | Path) -> TrainResult:
        """Read a finished run.

        Raises:
            ConfigError: If the folder contains no finished run, or its result is damaged.
        """
        out = Path(out)
        if not is_finished(out):
            raise ConfigError(f"expected a finished run of aft in {out}, found none")
        summary = read_json(out / RESULT, ConfigError, FINISH_AGAIN)
        with reading(out / RESULT, ConfigError, FINISH_AGAIN):
            own = {name: sha for name, sha in summary.get("files", {}).items() if name == CONFIG}
            check_files(out, own)  # otherwise it may be the result of another run
            metrics = {
                name: math.nan if value is None else float(value)
                for name, value in summary["metrics"].items()
            }
            return cls(out, metrics, str(summary["split"]), summary)

    def student(self, trust_remote_code: bool | Collection[str] = False) -> SavedStudent:
        """The trained student; ``trust_remote_code`` is that of :meth:`SavedStudent.load`.

        Raises:
            StudentError: If the student cannot be read, or needs code that is not trusted.
        """
        from aft.students.saved import SavedStudent

        return SavedStudent.load(self.out, trust_remote_code)


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
    torn = {name for kept in BEGUN for name in fnmatch.filter(names, f".{kept}.*.tmp")}
    if torn == names:  # and not even the description of the data
        return bool(names)
    names -= torn
    if DATA not in names or not names <= {DATA, BAD_INPUTS}:
        return False
    try:
        return "content" in read_json(out / DATA, DataError)
    except DataError:  # somebody else's file
        return False


def check_content(out: Path, content: Mapping[str, str]) -> None:
    """Check that the data are those of the run in a folder.

    Args:
        out: The run folder; without a description of the data nothing is checked.
        content: :attr:`DataSet.content` of the data now. Unlabelled inputs are compared if both
            have them: a run on the labels alone may have used none, and evaluation reads none.

    Raises:
        ConfigError: If rows, labels or splits changed since; it lists the splits that did.
    """
    if not (out / DATA).exists():
        return
    before = read_json(out / DATA, ConfigError, "Use --overwrite to train again").get("content")
    if before is None:  # written by an older version
        return
    not_both = {UNLABELLED} - (before.keys() & content.keys())
    changed = [
        f"{name}: {before.get(name, 'none')} before, {content.get(name, 'none')} now"
        for name in sorted({*before, *content} - not_both)
        if before.get(name) != content.get(name)
    ]
    if changed:
        raise ConfigError(
            f"the data changed since the run in {out} began ({'; '.join(changed)}). Use the same "
            "data, or another --out, or --overwrite to train again"
        )


def has_content(out: Path, data: DataSet) -> bool:
    """Whether the rows of each split of some data are those of the run in a folder."""
    before = read_json(out / DATA, ConfigError, "Train again with --overwrite").get("content", {})
    rows = [
        {one[name] for name in one.keys() - {UNLABELLED, CLASS_TEXTS}}
        for one in (before, data.content)
    ]
    return rows[0] == rows[1]


def write_inputs(out: Path, config: TrainConfig, data: DataSet) -> None:
    """Write the options, a description of the data, and the list of unreadable inputs.

    Raises:
        ConfigError: If the data are not those of the run to resume.
        StudentError: If a file cannot be written.
    """
    if (out / CHECKPOINTS / LAST).exists():  # before, nothing depends on the data
        check_content(out, data.content)
    once = {"out": out, "resume": False, "overwrite": False}
    with writing(out, StudentError, "Free some space and run the same command again"):
        write_json(out / DATA, data.describe())
        if data.report.bad_inputs:
            write_csv(out / BAD_INPUTS, [("file", "fault"), *data.report.bad_inputs])
        write_config_file(out / CONFIG, config.model_copy(update=once))


def read_options(run: Path) -> TrainConfig:
    """The options of the run in a folder.

    Raises:
        ConfigError: If it has none, or they are damaged.
    """
    if not (run / CONFIG).exists():
        raise ConfigError(f"{run} has no config.yaml with the data of its run: use --data")
    values = read_config_file(run / CONFIG, TrainConfig)
    try:
        return resolve(TrainConfig, None, values)
    except ConfigError as error:
        raise ConfigError(f"{run / CONFIG}: {error}") from None


def _check_same(out: Path, config: TrainConfig) -> None:
    before = read_options(out).model_dump(mode="json")  # defaults where it has none
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
    later = {name for name, default in ADDED.items() if values[name] == default}
    fixed = {name: values[name] for name in sorted(values.keys() - FREE_TO_CHANGE - later)}
    return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()


class RunLog:
    """Appends metrics to ``metrics.jsonl``, and sends them to experiment trackers.

    Args:
        folder: The run folder.
        step: Step from which the run resumes; logged lines of later steps are removed.
        enabled: False in all processes but the first.
        trackers: Trackers of Accelerate, which are finished at the end.
    """

    def __init__(
        self, folder: Path, step: int = 0, enabled: bool = True, trackers: Sequence[Any] = ()
    ) -> None:
        self.enabled = enabled
        self.path = folder / METRICS
        self.trackers = trackers
        if not enabled:
            return
        lines = [line for line in read_metrics(folder) if line["step"] <= step] if step else []
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Append one line with the step, the split and the values."""
        if not self.enabled:
            return
        with self.path.open("a") as file:
            line = strict_json({"step": step, "split": split, **values})
            file.write(json.dumps(line, allow_nan=False) + "\n")
        self.track(step, split, values)

    def track(self, step: int, split: str, values: dict[str, float]) -> None:
        """Send values to the trackers only."""
        for tracker in self.trackers:
            tracker.log({f"{split}/{name}": value for name, value in values.items()}, step=step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the runs of the trackers."""
        for tracker in self.trackers:
            tracker.finish()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All complete lines of a run's metrics, up to the first one that cannot be read.

    Values that are not finite are left out.
    """
    path = folder / METRICS
    lines: list[dict[str, Any]] = []
    for text in path.read_bytes().splitlines() if path.exists() else ():
        try:
            line = {key: value for key, value in json.loads(text).items() if value is not None}
            lines.append({**line, "step": int(line["step"]), "split": str(line["split"])})
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            break
    return lines


@dataclass(frozen=True)
class Run:
    """The content of a finished run folder.

    Attributes:
        folder: The run folder.
        result: ``result.json``.
        config: ``config.yaml``.
        data: ``data.json``.
        metrics: The lines of ``metrics.jsonl``.
        gates: One array ``(dim,)`` per teacher; empty without teachers or without gates.
        rows: Columns of ``evaluation.parquet``, with one row per sample of the final split.
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
        """The task of the student."""
        from aft.tasks import Task

        return Task.from_description(self.result["task"])

    @property
    def main_metric(self) -> str:
        """The metric that chose the checkpoint."""
        from aft.metrics import MAIN_METRIC

        return str(self.result.get("metric") or MAIN_METRIC[self.task.kind])

    @property
    def teachers(self) -> list[dict[str, Any]]:
        """``spec``, ``dim`` and other values of each teacher."""
        return list(self.result.get("teachers") or ())

    @property
    def safety_net(self) -> dict[str, Any]:
        """Comparison with the second student, trained on the labels alone; empty without one."""
        return dict(self.result.get("safety_net") or {})

    @property
    def columns(self) -> list[dict[str, str]]:
        """``name`` and ``modality`` of each input column; empty if they were not recorded."""
        return list(self.result.get("columns") or ())

    @property
    def modalities(self) -> list[str]:
        """Modalities of the inputs: ``image``, ``text`` or both."""
        return sorted({column["modality"] for column in self.columns}) or ["image"]

    def curve(self, split: str, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Steps and values of one metric; both are empty if it was never logged."""
        import numpy as np

        lines = [m for m in self.metrics if m["split"] == split and m.get(name) is not None]
        lines = [m for m in lines if math.isfinite(m[name])]  # logs of earlier versions
        steps = np.asarray([m["step"] for m in lines], dtype=np.float64)
        return steps, np.asarray([m[name] for m in lines], dtype=np.float64)


def read_run(folder: Path) -> Run:
    """Read a finished run; all files except ``result.json`` may be missing.

    Raises:
        DataError: If the folder contains no finished run, or a file of it is damaged.
    """
    if not (folder / RESULT).is_file():
        raise DataError(
            f"expected a finished run in {folder}, found no result.json; run aft train first"
        )
    result = read_json(folder / RESULT, DataError, FINISH_AGAIN)
    kept = {name: sha for name, sha in result.get("files", {}).items() if (folder / name).exists()}
    with reading(folder, DataError, f"Delete {RESULT} too, and run again with --resume"):
        check_files(folder, kept)
    there = (folder / DATA).exists()
    return Run(
        folder=folder,
        result=result,
        config=_read_yaml(folder / CONFIG),
        data=read_json(folder / DATA, DataError, "Delete it") if there else {},
        metrics=read_metrics(folder),
        gates=_read_gates(folder / GATES),
        rows=_read_table(folder / EVALUATION),
        bad_inputs=_read_faults(folder / BAD_INPUTS),
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    with reading(path, DataError, FINISH_AGAIN):
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def _read_gates(path: Path) -> list[NDArray[np.float32]]:
    if not path.exists():
        return []
    from safetensors.numpy import load_file

    with reading(path, DataError, FINISH_AGAIN):
        gates = load_file(path)
        return [gates[name] for name in sorted(gates, key=int) if gates[name].ndim == 1]


def _read_table(path: Path) -> dict[str, list[Any]]:
    if not path.exists():
        return {}
    import pyarrow.parquet

    with reading(path, DataError, FINISH_AGAIN):
        return dict(pyarrow.parquet.read_table(path).to_pydict())


def _read_faults(path: Path) -> list[tuple[str, str]]:
    if not path.exists():
        return []
    with reading(path, DataError, FINISH_AGAIN), path.open(newline="", encoding="utf-8") as file:
        return [(row["file"], row["fault"]) for row in csv.DictReader(file)]
