"""The verb `score`: which teachers know something of the task that the student does not."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aft import __version__
from aft.advice import Candidate, Recommendation, recommend
from aft.config import ScoreConfig, resolve
from aft.data import Samples
from aft.devices import choose_device, choose_num_workers
from aft.errors import AftError, ConfigError, DataError
from aft.evaluate import MAIN_METRIC, load_training_data
from aft.extract import (
    StoredFeatures,
    extract_features,
    features_folder,
    format_seconds,
    note_truncation,
    open_teacher,
    store_identity,
)
from aft.inference import run_student
from aft.labels import Task
from aft.model import new_student
from aft.report import score_as_text, write_score_report
from aft.runs import write_json
from aft.scores import chance_level
from aft.scoring import FOLDS, Rows, Source, compare_sources, score_parts, score_sets
from aft.shards import as_keys
from aft.specs import Spec, short_name, shorten_paths, split_column
from aft.store import FeatureStore
from aft.students import build_student
from aft.teachers import FeatureTable, Teacher
from aft.tokenization import Tokenization
from aft.transfer import AUTO_VIEWS

DOCUMENT, PAGE = "score.json", "score.html"
MOST_KERNEL_ROWS = 2000
MOST_LAYERS = 6
STUDENT = "student before training"


@dataclass
class ScoreResult:
    """What :func:`score` finds.

    Attributes:
        document: What ``score.json`` holds.
        recommendation: What to do, with numbers; ``str()`` makes sentences of it.
        out: The folder with ``score.json`` and ``score.html``.
    """

    document: dict[str, Any]
    recommendation: Recommendation
    out: Path
    text: str = field(repr=False, default="")

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row for each set of teachers that was scored, and one for the student."""
        student = self.document["student"]
        return [*self.document["table"], *([student] if student else [])]

    def to_dict(self) -> dict[str, Any]:
        """What ``score.json`` holds, as plain JSON values."""
        return self.document


def score(config: ScoreConfig | None = None, /, **options: Any) -> ScoreResult:
    """Score teachers before training; options are those of :class:`aft.config.ScoreConfig`.

    Computes the features of training rows that the store lacks, scores each teacher, sets of them
    and the student's features before training, and writes ``score.json`` and ``score.html``.

    Raises:
        AftError: Whatever in options, data or models is wrong, in a sentence; also if a linear
            model can be fitted on no teacher's features.
    """
    config = resolve(ScoreConfig, config, options)
    if not config.teachers:
        raise ConfigError("score needs --teachers, e.g. --teachers timm:tf_efficientnet_lite0")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("score runs in one process; start it without torchrun")
    out = config.out or _default_folder(config.data)
    _open_folder(out)
    started = time.perf_counter()
    device = choose_device(config.device)
    data = load_training_data(config)
    train = data.splits["train"]
    drawn = np.random.default_rng(config.seed).permutation(len(train))[: config.rows]
    samples = train.subset(np.sort(drawn))
    generator = np.random.default_rng([config.seed, 1])
    some = np.sort(generator.permutation(len(samples))[:MOST_KERNEL_ROWS])
    labels = torch.from_numpy(np.asarray(samples.labels))
    rows = Rows(labels, data.task, torch.from_numpy(some), config.seed)
    _say([*data.lines(), f"scoring on {len(samples):,} of {len(train):,} training rows"])

    wanted = data.unlabelled
    everything = [train] if wanted is None else [train, wanted]
    teachers = _read_teachers(config, samples, everything, device)
    student = _read_student(config, train, samples, data.task, device)
    table, candidates = score_sets(teachers, rows)
    own: dict[str, Any] | None = None
    own_candidate = None
    if student is not None:
        own, probe = score_parts([student.values], rows)
        own |= {"names": [student.name], "teachers": [], **student.facts}
        if probe is not None:
            own_candidate = Candidate((student.name,), (), own["dim"], probe)
    if not candidates:
        why = next(iter(table[0]["undefined"].values()))
        raise DataError(f"nothing can be said of these teachers: {why}")
    layers = _score_layers(config, teachers, table, samples, rows, device) if config.layers else []
    metric, chance = MAIN_METRIC[data.task.kind], chance_level(labels, data.task)
    advice = recommend(
        candidates,
        own_candidate,
        chance=chance,
        metric=metric,
        rows=len(samples),
        pretrained=student is not None and student.facts["weights"] != "random",
        unlabelled=wanted is not None,
    )
    chosen = [one for one in teachers if one.spec in advice.teachers]
    cost = _describe_cost(chosen, len(train), 0 if wanted is None else len(wanted))
    if advice.verdict != "don't":
        advice = Recommendation(**{**vars(advice), "sentences": (*advice.sentences, cost)})
    document = {
        "version": __version__,
        "data": config.data,
        "task": {"kind": data.task.kind, "num_outputs": data.task.num_outputs},
        "metric": metric,
        "chance": chance,
        "rows": {
            "train": len(train),
            "unlabelled": 0 if wanted is None else len(wanted),
            "scored": len(samples),
            "compared": len(some),
        },
        "seed": config.seed,
        "folds": FOLDS,
        "teachers": [{"spec": one.spec, "name": one.name, **one.facts} for one in teachers],
        "table": table,
        "student": own,
        "similarity": compare_sources([*teachers, *([student] if student else [])], rows),
        "layers": layers,
        "recommendation": {**advice.to_dict(), "cost": cost},
        "seconds": round(time.perf_counter() - started, 1),
        "json": str(out / DOCUMENT),
        "report": str(out / PAGE),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / DOCUMENT, document)
    try:
        _say([f"report: {write_score_report(out, document)}"])
    except AftError as error:  # no matplotlib
        _say([f"no page: {error}"])
    return ScoreResult(document, advice, out, score_as_text(document))


def _say(lines: Sequence[str]) -> None:
    print(shorten_paths("\n".join(lines)), file=sys.stderr)


def _default_folder(data: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(data).resolve().stem).strip("-") or "data"
    return Path(f"runs/score-{name}")


def _open_folder(out: Path) -> None:
    """See that what would be replaced is an earlier score of the same kind.

    Raises:
        ConfigError: If there is something else in the folder.
    """
    other = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if other and not (out / DOCUMENT).is_file():
        raise ConfigError(f"{out} exists and holds no scores of aft; name another --out")


# ---------------------------------------------------------------------------------------- features


def _read_teachers(
    config: ScoreConfig, samples: Samples, everything: Sequence[Samples], device: torch.device
) -> list[Source]:
    return [
        _read_teacher(config, text, name, samples, everything, device)
        for text, name in zip(config.teachers, _name_apart(config.teachers), strict=True)
    ]


def _name_apart(specs: Sequence[str]) -> list[str]:
    """Short names; with their source, else a number, where several models have the same."""
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
    device: torch.device,
) -> Source:
    """The features of the scored rows, and what those of all training rows cost."""
    teacher, inputs = open_teacher(text, samples, config.trust_remote_code)
    if not inputs.present.any():
        columns = ", ".join(column.name for column in inputs.columns)
        raise DataError(f"no row has {columns}, which {text} takes; leave it out")
    folder = features_folder(config.features)
    store = FeatureStore.open(folder, store_identity(teacher, config.features_dtype))
    lacking = _count_lacking(store, [inputs])
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
        progress=config.progress,
    )
    seconds = time.perf_counter() - start
    taken = tuple(column.name for column in inputs.columns)
    left = _count_lacking(store, [one.only(*taken) for one in everything])
    notes = []
    if isinstance(teacher, Teacher) and isinstance(teacher.preprocess, Tokenization):
        notes = note_truncation(text, teacher.preprocess, inputs)
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
    return Source(text, name, stored.gather(np.arange(len(samples))), facts)


def _count_lacking(store: FeatureStore, parts: Sequence[Samples]) -> int:
    """How many different inputs of the samples have no features in the store."""
    ids = np.concatenate([part.ids[part.present.any(axis=1)] for part in parts])
    unique = np.unique(as_keys(ids), return_index=True)[1]
    return int(store.missing(ids[unique]).sum())


def _read_student(
    config: ScoreConfig, train: Samples, samples: Samples, task: Task, device: torch.device
) -> Source | None:
    """What the student says of the scored rows before any training; nothing is stored."""
    if not config.student:
        return None
    torch.manual_seed(config.seed)
    backbone, columns = build_student(
        config.student,
        train,
        fusion=config.fusion,
        layers=config.student_layers,
        seed=config.seed,
        trust_remote_code=config.trust_remote_code,
    )
    batches = run_student(
        new_student(backbone, task).to(device),
        backbone.preprocessing.evaluate(),
        samples.only(*(column.name for column in columns)),
        num_workers=choose_num_workers(config.num_workers, device),
        device=device,
        progress=config.progress,
    )
    values = torch.cat([features.float().cpu() for _, features in batches])
    spec = " + ".join(config.student)
    return Source(spec, STUDENT, values, {"spec": spec, "weights": backbone.info["weights"]})


# ------------------------------------------------------------------------------------------ layers


def _count_layers(teacher: Teacher | FeatureTable) -> int | None:
    """How many layers a teacher has to choose from; None where its source has no ?layer=."""
    found = re.fullmatch(r"last layer of (\d+)", str(teacher.identity.get("layer", "")))
    source = Spec.parse(split_column(teacher.spec)[1]).source
    return int(found[1]) if found and source == "hf" else None


def _score_layers(
    config: ScoreConfig,
    teachers: Sequence[Source],
    table: Sequence[dict[str, Any]],
    samples: Samples,
    rows: Rows,
    device: torch.device,
) -> list[dict[str, Any]]:
    """The scores of about six layers of every teacher that has them to choose from."""
    found = []
    for teacher, whole in zip(teachers, table, strict=False):
        count = teacher.facts["layers"]
        if count is None:
            _say([f"{teacher.name}: no layers to choose from; only hf: teachers take ?layer=N"])
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
            source = _read_teacher(config, written, name, samples, [samples], device)
            row, _ = score_parts([source.values], rows)
            entries.append({"layer": number, "teachers": [written], "names": [name], **row})
        found.append({"teacher": teacher.spec, "name": teacher.name, "layers": entries})
    return found


# -------------------------------------------------------------------------------------------- cost


def _describe_cost(teachers: Sequence[Source], train: int, unlabelled: int) -> str:
    """What it takes to have all features that training needs."""
    left = sum(one.facts["rows_left"] for one in teachers)
    rows = f"{train:,} training rows"
    if unlabelled:
        rows += f" and {unlabelled:,} without labels"
    took = sum(one.facts["seconds"] for one in teachers)
    done = f" (what was lacking took {format_seconds(took)})" if took else ""
    # Rows without labels take the place of views, and tables of features know nothing of these.
    tables = any(split_column(one.spec)[1].startswith("features:") for one in teachers)
    views = ""
    if not unlabelled and not tables:
        views = (
            f" The default of aft train has the teachers look at {AUTO_VIEWS} stored views of each "
            f"row, too, {AUTO_VIEWS * train:,} inputs more; --views clean does without."
        )
    if not left:
        return f"Cost: none, the features of all {rows} are in the store{done}.{views}"
    known = [one.facts["seconds_left"] for one in teachers if one.facts["rows_left"]]
    about = f", about {format_seconds(sum(known))} at the speed measured" if all(known) else ""
    return (
        f"Cost: the features of {left:,} inputs, of {rows}, are still to be computed"
        f"{about}{done}.{views}"
    )
