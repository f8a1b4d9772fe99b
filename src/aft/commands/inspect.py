"""The command `inspect`: describe a run, a feature store or a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aft.commands.checks import IDENTITY, check, place
from aft.commands.label_errors import judge_labels
from aft.config.commands import InspectConfig
from aft.config.typed import command
from aft.data.loading import DataSet, load_data
from aft.data.options import asked_columns
from aft.data.samples import Samples
from aft.devices import choose_device
from aft.errors import ConfigError, StoreError
from aft.features.engine import choose_engine
from aft.features.extraction import store_identity, verify_features
from aft.features.store import FeatureStore, find_stores
from aft.features.stored import features_folder, open_teacher
from aft.features.teacher_identity import teacher_name
from aft.files import format_bytes, write_csv, writing
from aft.students.saved import check_student
from aft.training.run_folder import CONFIG, STUDENT, TrainResult, is_finished, read_run

SAME = 0.999
"""Cosine above which a stored and a recomputed feature count as the same."""


@command(InspectConfig)
def inspect(config: InspectConfig) -> dict[str, Any]:
    """Describe files of aft.

    Returns:
        ``lines``, the printed text, and, depending on the options, ``stores``, ``data``, ``run``,
        ``labels`` and ``verify``.

    Raises:
        AftError: If the run, store or data set does not exist, or --verify finds damaged files or
            features that differ.
    """
    check(config)
    config = place(config)
    found: dict[str, Any] = {"lines": []}
    data = _load(config) if config.data is not None else None
    if data is not None:
        found["data"] = data.describe()
        found["lines"] += _data_lines(data)
        if config.ids is not None:
            _write_ids(config.ids, data)
            found["lines"].append(
                f"ids of {sum(map(len, _all_rows(data).values()))} rows: {config.ids}"
            )
        if config.labels is not None:
            found["labels"] = judge_labels(config, data, config.labels)
            found["lines"] += found["labels"].pop("lines")
    if config.run is not None:
        found["run"] = _read_run(config.run, config.verify)
        found["lines"] += _run_lines(config.run, found["run"])
    if config.verify and data is not None:
        found["verify"] = [_verify(config, data, spec) for spec in config.teachers]
        found["lines"] += [
            f"{v['teacher']}: {v['samples']} samples recomputed, cosine at least "
            f"{v['smallest_cosine']:.6f}"
            for v in found["verify"]
        ]
    elif config.run is None and data is None:
        stores = find_stores(features_folder(config.features))
        if config.path is not None and (Path(config.path) / IDENTITY).is_file():
            stores = [one for one in stores if one.path.name == Path(config.path).resolve().name]
        found["stores"] = [_store_values(store) for store in stores]
        found["lines"] += _store_lines(features_folder(config.features), stores)
        if config.verify:
            _check_shards(stores)
            found["lines"].append("every shard has the right checksum")
    return found


def _load(config: InspectConfig) -> DataSet:
    return load_data(
        str(config.data),
        asked_columns(config),
        task=config.task,
        validation_fraction=0.0,
        on_bad_input=config.on_bad_input,
        progress=config.progress,
    )


def _data_lines(data: DataSet) -> list[str]:
    inputs = ", ".join(f"{c.name} ({c.modality})" for c in data.splits["train"].columns)
    lines = [f"{data.source}: {inputs}; {data.task.kind}, {data.task.outputs}"]
    for name, split in data.splits.items():
        lines.append(f"  {name}: {len(split)} rows")
    counts = data.task.counts(data.splits["train"].labels)
    width = max((len(name) for name in counts), default=0)
    lines += [f"    {name:<{width}}  {count}" for name, count in counts.items()]
    if data.report.unused:
        names = ", ".join(data.report.unused)
        lines.append(f"  unused columns: {names} (choose with --image-column, --text-column)")
    return lines + [f"  {line}" for line in data.report.lines()]


def _all_rows(data: DataSet) -> dict[str, Samples]:
    """The splits and, if there are any, the unlabelled rows."""
    return data.splits | ({"unlabelled": data.unlabelled} if data.unlabelled is not None else {})


def _write_ids(path: Path, data: DataSet) -> None:
    rows = [("file", "sample_id", "split")]
    for name, split in _all_rows(data).items():
        for file_name, sample_id in zip(split.files, split.ids, strict=True):
            rows.append((file_name, sample_id.tobytes().hex(), name))
    with writing(path, ConfigError, "Use another --ids"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_csv(path, rows)


def _read_run(run: Path, verify: bool) -> dict[str, Any]:
    if verify and is_finished(run):
        read_run(run)  # compares its files with their checksums
        check_student(run / STUDENT)
    return TrainResult.load(run).summary if is_finished(run) else {"finished": False}


def _run_lines(run: Path, summary: dict[str, Any]) -> list[str]:
    if summary.get("finished") is False:
        config = run / CONFIG
        trust = " --trust-remote-code" if "python:" in config.read_text(errors="replace") else ""
        return [f"{run}: unfinished; resume with aft train --config {config} --resume{trust}"]
    scores = ", ".join(
        f"{name} {'undefined' if value is None else f'{value:.4f}'}"
        for name, value in summary["metrics"].items()
    )
    teachers = ", ".join(teacher["spec"] for teacher in summary["teachers"]) or "none"
    return [
        f"{run}: {summary['student']}, {summary['num_parameters']:,} parameters",
        f"  teachers: {teachers}; beta {summary['beta']:g}; seed {summary['seed']}",
        f"  {summary['split']}: {scores}",
        f"  report: {run / 'report.html'}",
    ]


def _store_values(store: FeatureStore) -> dict[str, Any]:
    return {**vars(store.summary()), "path": str(store.path)}


def _store_lines(folder: Path, stores: list[FeatureStore]) -> list[str]:
    if not stores:
        return [f"no features in {folder}; run aft extract to compute them"]
    lines = [f"{len(stores)} teacher{'s' * (len(stores) != 1)} in {folder}"]
    for store in stores:
        summary = store.summary()
        known = summary.identity.get("preprocessing") or {}
        size = f" at {known['size']} px" if "size" in known else ""
        size += f", {known['max_tokens']} tokens" if "max_tokens" in known else ""
        lines.append(
            f"  {teacher_name(summary.identity)}{size}: {summary.rows} samples x {summary.dim} "
            f"{summary.dtype}, {format_bytes(summary.bytes)} in {summary.shards} shards  "
            f"{summary.path.name}"
        )
    return lines


def _check_shards(stores: list[FeatureStore]) -> None:
    faults = [fault for store in stores for fault in store.verify()]
    if faults:
        raise StoreError("\n".join(faults))


def _verify(config: InspectConfig, data: DataSet, spec: str) -> dict[str, Any]:
    teacher, samples = open_teacher(spec, data.splits["train"], config.trust_remote_code)
    folder, device = features_folder(config.features), choose_device(config.device)
    teacher = choose_engine(teacher, samples, config, folder, device)
    store = FeatureStore.open(
        folder,
        store_identity(teacher, config.features_dtype),
        create=False,
    )
    _check_shards([store])
    checked = verify_features(
        store,
        teacher,
        samples,
        config.verify_samples,
        batch_size=config.extract_batch_size,
        batch_tokens=config.extract_batch_tokens,
        device=device,
    )
    worst = int(np.argmin(checked.cosines))
    smallest = float(checked.cosines[worst])
    if not smallest >= SAME:
        different = int((~(checked.cosines >= SAME)).sum())
        raise StoreError(
            f"{different} of {len(checked.cosines)} recomputed features differ from those stored "
            f"in {store.path}; worst: {samples.files[int(checked.positions[worst])]} with cosine "
            f"{smallest:.4f}. Delete this folder and extract again"
        )
    return {"teacher": spec, "samples": len(checked.cosines), "smallest_cosine": smallest}
