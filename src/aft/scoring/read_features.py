"""Features to score: of teachers, of their layers, and of the student before training."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from aft.backbones.ngrams import NgramNetwork
from aft.backbones.specs import Spec, short_name, shorten_paths, split_column
from aft.config.commands import ScoreConfig
from aft.data.samples import Samples
from aft.devices import Processes
from aft.errors import DataError
from aft.features.engine import choose_engine
from aft.features.extraction import extract_features, store_identity
from aft.features.shards import as_keys
from aft.features.store import FeatureStore
from aft.features.stored import StoredFeatures, features_folder, note_truncation, open_teacher
from aft.files import format_seconds
from aft.linear.rows import PreparedRows
from aft.scoring.linear_start import predict_from_start
from aft.scoring.teacher_sets import FOLDS, FeatureSource, ScoredRows, score_parts
from aft.students.build import build_student
from aft.students.inputs import StudentInputs
from aft.students.run_student import run_student
from aft.students.student import new_student
from aft.tasks import Task
from aft.teachers.feature_table import FeatureTable
from aft.teachers.teacher import Teacher
from aft.training.transfer_loss import AUTO_VIEWS

MOST_LAYERS = 6


STUDENT = "student before training"


def say(lines: Sequence[str]) -> None:
    """Print lines to standard error."""
    print(shorten_paths("\n".join(lines)), file=sys.stderr)


def read_teachers(
    config: ScoreConfig, samples: Samples, everything: Sequence[Samples], processes: Processes
) -> list[FeatureSource]:
    """Features of each teacher; features missing from the store are extracted."""
    return [
        _read_teacher(config, text, name, samples, everything, processes)
        for text, name in zip(config.teachers, _name_apart(config.teachers), strict=True)
    ]


def _name_apart(specs: Sequence[str]) -> list[str]:
    """Short, distinct names; duplicates get their source as prefix, or else a number."""
    names = [short_name(text) for text in specs]
    sources = [Spec.parse(split_column(text)[1]).source for text in specs]
    names = [
        f"{source}:{name}" if names.count(name) > 1 else name
        for source, name in zip(sources, names, strict=True)
    ]
    return [
        f"{name} ({number})" if names.count(name) > 1 else name
        for number, name in enumerate(names, start=1)
    ]


def _read_teacher(
    config: ScoreConfig,
    text: str,
    name: str,
    samples: Samples,
    everything: Sequence[Samples],
    processes: Processes,
) -> FeatureSource:
    """Features of the scored rows, and the extraction cost for all training rows."""
    teacher, inputs = open_teacher(text, samples, config.trust_remote_code)
    if not inputs.present.any():
        columns = ", ".join(column.name for column in inputs.columns)
        raise DataError(
            f"no row has a value in {columns}, the input of {text}; remove this teacher"
        )
    folder = features_folder(config.features)
    device, rank, size = processes.device, processes.rank, processes.size
    teacher = choose_engine(teacher, inputs, config, folder, device, rank, size)
    store = FeatureStore.open(
        folder, store_identity(teacher, config.features_dtype, config.extract_precision)
    )
    lacking = _count_lacking(store, [inputs])
    processes.wait()  # until all have counted
    start = time.perf_counter()
    store = extract_features(
        teacher,
        inputs,
        folder,
        dtype=config.features_dtype,
        batch_size=config.extract_batch_size,
        batch_tokens=config.extract_batch_tokens,
        num_workers=config.num_workers,
        device=device,
        precision=config.extract_precision,
        progress=config.progress,
        rank=rank,
        world_size=size,
    )
    processes.wait()
    store.refresh()
    seconds = time.perf_counter() - start
    taken = tuple(column.name for column in inputs.columns)
    left = _count_lacking(store, [one.only(*taken) for one in everything])
    notes = note_truncation(text, getattr(teacher, "preprocess", None), inputs)
    stored = StoredFeatures(text, store, inputs, notes)
    facts = {
        "dim": stored.dim,
        "rows_computed": lacking,
        "seconds": round(seconds, 2) if lacking else 0.0,
        "rows_left": left,
        "seconds_left": round(seconds / lacking * left, 1) if lacking else None,
        "rows_without_input": int((~stored.present).sum()),
        "layers": _count_layers(teacher),
        "notes": notes,
    }
    return FeatureSource(text, name, stored.gather(np.arange(len(samples))), facts)


def _count_lacking(store: FeatureStore, parts: Sequence[Samples]) -> int:
    """Number of distinct inputs whose features are not in the store."""
    ids = np.concatenate([part.ids[part.present.any(axis=1)] for part in parts])
    unique = np.unique(as_keys(ids), return_index=True)[1]
    return int(store.missing(ids[unique]).sum())


def read_student(
    config: ScoreConfig, train: Samples, samples: Samples, task: Task, device: torch.device
) -> FeatureSource | None:
    """Features of the student before training for the scored rows; they are not stored."""
    if not config.student:
        return None
    torch.manual_seed(config.seed)
    backbone, columns = build_student(
        config.student,
        train,
        fusion=config.fusion,
        layers=config.student_layers,
        layers_from=config.from_,
        seed=config.seed,
        trust_remote_code=config.trust_remote_code,
    )
    student = new_student(backbone, task)
    inputs = samples.only(*(column.name for column in columns))
    batches = run_student(
        student.to(device),
        StudentInputs(inputs, backbone.preprocessing.evaluate()),
        num_workers=config.num_workers,
        device=device,
        progress=config.progress,
    )
    values = torch.cat([features.float().cpu() for _, features in batches])
    spec, weights = " + ".join(config.student), backbone.info["weights"]
    outputs = None
    if isinstance(backbone.module, NgramNetwork):
        weights = "linear model"
        rows = PreparedRows(inputs, backbone.preprocessing.evaluate())
        outputs = predict_from_start(student, rows, task, folds=FOLDS, seed=config.seed)
    return FeatureSource(spec, STUDENT, values, {"spec": spec, "weights": weights}, outputs)


def _count_layers(teacher: Teacher | FeatureTable) -> int | None:
    """Number of layers of a teacher; None if its source does not support ?layer=."""
    found = re.fullmatch(r"last layer of (\d+)", str(teacher.identity.get("layer", "")))
    source = Spec.parse(split_column(teacher.spec)[1]).source
    return int(found[1]) if found and source == "hf" else None


def score_layers(
    config: ScoreConfig,
    teachers: Sequence[FeatureSource],
    table: Sequence[dict[str, Any]],
    samples: Samples,
    rows: ScoredRows,
    processes: Processes,
) -> list[dict[str, Any]]:
    """With ``--layers``, scores of about six layers of every teacher that has selectable layers."""
    found = []
    for teacher, whole in zip(teachers, table, strict=False) if config.layers else ():
        count = teacher.facts["layers"]
        if count is None:
            say([f"{teacher.name}: layers cannot be selected; only hf: teachers support ?layer=N"])
            continue
        numbers = np.unique(np.linspace(1, count, min(count, MOST_LAYERS)).round().astype(int))
        entries = []
        for number in numbers.tolist():
            if number == count:
                entries.append({**whole, "layer": number})
                continue
            column, text = split_column(teacher.spec)
            spec = Spec.parse(text)
            layered = str(Spec(spec.source, spec.name, {**spec.options, "layer": str(number)}))
            written = layered if column is None else f"{column}={layered}"
            name = f"{teacher.name}, layer {number}"
            source = _read_teacher(config, written, name, samples, [samples], processes)
            row, _ = score_parts([source.values], rows)
            entries.append({"layer": number, "teachers": [written], "names": [name], **row})
        found.append({"teacher": teacher.spec, "name": teacher.name, "layers": entries})
    return found


def describe_cost(teachers: Sequence[FeatureSource], train: int, unlabelled: int) -> str:
    """The extraction cost of all features that training needs, as a sentence."""
    left = sum(one.facts["rows_left"] for one in teachers)
    rows = f"{train:,} training rows"
    if unlabelled:
        rows += f" and {unlabelled:,} unlabelled rows"
    took = sum(one.facts["seconds"] for one in teachers)
    done = f" (extracting missing features took {format_seconds(took)})" if took else ""
    # Unlabelled rows replace views, and feature tables do not support views.
    tables = any(split_column(one.spec)[1].startswith("features:") for one in teachers)
    views = ""
    if not unlabelled and not tables:
        views = (
            f" By default, aft train also extracts features of {AUTO_VIEWS} augmented views per "
            f"row, {AUTO_VIEWS * train:,} more inputs; --views clean disables views."
        )
    if not left:
        return f"Cost: none; the features of all {rows} are in the store{done}.{views}"
    known = [one.facts["seconds_left"] for one in teachers if one.facts["rows_left"]]
    about = f", about {format_seconds(sum(known))} at the measured speed" if all(known) else ""
    return (
        f"Cost: the features of {left:,} inputs of {rows} still have to be extracted"
        f"{about}{done}.{views}"
    )
