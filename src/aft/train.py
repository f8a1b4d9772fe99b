"""The verb `train`: from a configuration to a run folder with a student in it."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from aft import __version__
from aft.config import LossOptions, TrainConfig, resolve
from aft.data import DataSet, Samples
from aft.devices import choose_device, choose_num_workers
from aft.errors import AftError, ConfigError
from aft.evaluate import compute_metrics, load_training_data
from aft.extract import StoredFeatures, extract_teachers, note_truncation
from aft.inference import compute_logits
from aft.labels import Task
from aft.logs import RunLog
from aft.losses import AFTLoss
from aft.model import SavedStudent, TeacherHead, TransferModel, new_student
from aft.predict import prediction_columns
from aft.report import write_run_report
from aft.runs import (
    TrainResult,
    free_folder,
    is_finished,
    open_run,
    write_inputs,
    write_json,
)
from aft.specs import shorten_paths
from aft.students import Backbone, build_student
from aft.tokenization import Tokenization
from aft.trainer import Schedule, Trainer, make_accelerator
from aft.transfer import make_loss

__all__ = ["TrainResult", "train"]

EPOCHS, FEWEST_STEPS, MOST_STEPS, LOOKS = 30, 300, 10_000, 20
LR = {"pretrained": 3e-4, "random": 2e-3}
HEAD_FACTOR = {"pretrained": 10, "random": 1}
SGD_FACTOR = 30


def train(config: TrainConfig | None = None, /, **options: Any) -> TrainResult:
    """Train a student; options are those of :class:`aft.config.TrainConfig`.

    Computes the teacher features that the store lacks, trains, scores the best checkpoint and
    fills the run folder.

    Raises:
        AftError: Whatever in options, data or models is wrong, in a sentence.
        aft.trainer.Interrupted: On Ctrl-C, after the state was saved; ``resume=True`` goes on.
    """
    config = resolve(TrainConfig, config, options)
    _check(config)
    accelerator = make_accelerator(choose_device(config.device), config.precision)
    main, device = accelerator.is_main_process, accelerator.device
    say = partial(accelerator.print, file=sys.stderr)
    out = config.out or free_folder(config.data)
    if main:
        open_run(out, config)
    accelerator.wait_for_everyone()
    if is_finished(out):
        say(f"the run in {out} is finished already")
        return TrainResult.load(out)

    started = time.perf_counter()
    with accelerator.main_process_first():
        data = load_training_data(config)
    samples = data.splits["train"]
    if min(config.batch_size, len(samples)) < accelerator.num_processes:
        raise ConfigError(
            f"{accelerator.num_processes} processes share batches of {config.batch_size} out of "
            f"{len(samples)} training rows: expected at least one row for each"
        )
    if main:
        write_inputs(out, config.model_copy(update={"out": out}), data)
    say("\n".join([_describe(data), *data.lines()]))
    teachers = _extract(config, samples, accelerator)
    for features in teachers:
        count = f"{features.dim} features of {features.present.sum()} rows"
        say(f"teacher {shorten_paths(features.spec)}: {count}")
    kept = {
        name: _extract(config, split, accelerator, teachers)
        for name, split in data.splits.items()
        if name != "train" and config.keep_teachers
    }

    torch.manual_seed(config.seed)
    backbone, columns = build_student(
        config.student,
        samples,
        fusion=config.fusion,
        layers=config.student_layers,
        seed=config.seed,
        trust_remote_code=config.trust_remote_code,
    )
    inputs = {name: split.only(*(c.name for c in columns)) for name, split in data.splits.items()}
    student = new_student(backbone, data.task, *_target_statistics(samples, data.task))
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher_head = _make_teacher_head(config, teachers, data.task)
    if backbone.info["weights"] != "random":
        # Features of any size give even first guesses, and no gradient of a random head harms
        # the pre-trained weights (as in Kolesnikov et al., Big Transfer, 2020).
        for head in (student.head, teacher_head):
            for parameter in () if head is None else head.parameters():
                torch.nn.init.zeros_(parameter)
    size = sum(p.numel() for p in student.parameters())
    name = " + ".join(config.student)
    weights = shorten_paths(f"weights: {backbone.info['weights']}")
    say(f"student {shorten_paths(name)}: {size:,} parameters, {weights}")
    notes = [note for features in teachers for note in features.notes]
    if isinstance(backbone.preprocessing, Tokenization):
        notes += note_truncation("the student", backbone.preprocessing, inputs["train"])
    lacking = ~np.all([features.present for features in teachers], axis=0)
    if config.combine == "product" and not config.keep_teachers and lacking.any():
        notes.append(
            f"{lacking.sum()} training rows lack an input of a teacher; a product of teachers says "
            "nothing of them, --combine concat does"
        )
    if notes:
        say(shorten_paths("\n".join(notes)))
    if config.keep_teachers:
        notes.append(
            "this student keeps its teachers: their features stand beside its own in the head, "
            "and every prediction needs them"
        )
        say(notes[-1])
    loss = make_loss(
        config,
        () if config.keep_teachers else teachers,
        student,
        inputs["train"],
        backbone.preprocessing.evaluate(),
        data.task,
        seed=config.seed,
        device=device,
    )
    beta = 0.0 if loss is None else config.beta
    model = TransferModel(student, loss, beta, data.task.kind, config.label_smoothing, teacher_head)
    schedule = _make_schedule(config, len(samples), backbone)
    trainer = Trainer(
        model,
        inputs["train"],
        inputs["validation"],
        data.task,
        teachers=teachers,
        validation_teachers=kept.get("validation", ()),
        augment=backbone.preprocessing.augment(config.augment),
        transform=backbone.preprocessing.evaluate(),
        schedule=schedule,
        accelerator=accelerator,
        folder=out / "checkpoints",
        num_workers=choose_num_workers(config.num_workers, device),
        progress=config.progress,
    )
    if config.resume and trainer.last.exists():
        trainer.restore()
        say(f"going on after step {trainer.progress.step} of {schedule.steps}")
    log = RunLog(out, trainer.progress.step, main)
    try:
        progress = trainer.fit(log)
    finally:
        log.close()

    if main:
        saved = SavedStudent(student, data.task, columns, backbone)
        if teacher_head is None:
            saved.save(out / "student")
        summary: dict[str, Any] = {
            "version": __version__,
            "student": name,
            "student_weights": backbone.info["weights"],
            "num_parameters": size,
            "task": data.task.describe(),
            "columns": [asdict(column) for column in samples.columns],
            "student_columns": [column.name for column in columns],
            "teachers": [
                {"spec": one.spec, "dim": one.dim, "folder": one.store.path.name}
                for one in teachers
            ],
            "keeps_teachers": config.keep_teachers,
            "loss": None if loss is None else config.loss,
            "beta": beta,
            "seed": config.seed,
            "steps": progress.step,
            "best_step": progress.best_step,
            "lr": schedule.lr,
            "head_lr": schedule.head_lr,
            "seconds": round(time.perf_counter() - started, 1),
            "training_seconds": round(progress.seconds, 3),
            "rows": {name: len(split) for name, split in data.splits.items()},
            "notes": [*data.lines(), *notes],
        }
        if isinstance(loss, AFTLoss):
            _save_gates(out, loss, teachers, summary)
        _finish(out, config, data, saved, summary, device, model, kept)
    accelerator.wait_for_everyone()
    result = TrainResult.load(out)
    say(f"report: {out / 'report.html'}")
    return result


def _check(config: TrainConfig) -> None:
    if config.gradient_accumulation > 1:
        raise ConfigError(
            f"gradient_accumulation={config.gradient_accumulation} is refused: the transfer loss "
            "compares all samples of a batch, which parts of it cannot do. Lower --batch-size, "
            "use --precision bf16, or train on several devices (torchrun -m aft train …)"
        )
    if config.resume and config.overwrite:
        raise ConfigError("--resume and --overwrite exclude each other")
    if config.resume and config.out is None:
        raise ConfigError("--resume needs --out, the folder of the run to go on with")
    if config.loss != "aft":
        plain = {name: field.default for name, field in LossOptions.model_fields.items()}
        others = [
            name
            for name in ("kernel", "weights", "combine")
            if getattr(config, name) != plain[name]
        ]
        if others:
            raise ConfigError(f"--{others[0]} is an option of --loss aft, got --loss {config.loss}")
    if config.keep_teachers and not config.teachers:
        raise ConfigError("--keep-teachers needs --teachers, those whose features to keep")
    if config.combine == "product" and len(config.teachers) < 2:
        raise ConfigError(
            "--combine product multiplies teachers: expected at least 2, "
            f"got {len(config.teachers)}"
        )


def _extract(
    config: TrainConfig,
    samples: Samples,
    accelerator: Accelerator,
    trained: Sequence[StoredFeatures] = (),
) -> list[StoredFeatures]:
    """The stored features of each teacher for these samples, computed where the store lacks them.

    Where a teacher's input is missing in held-out samples, its features are the mean over the
    training samples, of which `trained` are the features.
    """
    found = extract_teachers(
        config,
        samples,
        accelerator.device,
        accelerator.process_index,
        accelerator.num_processes,
    )
    accelerator.wait_for_everyone()
    for features in found:
        features.store.refresh()
    for features, before in zip(found, trained, strict=False):
        if not features.present.all():
            features.missing = before.statistics().mean
    return found


def _make_teacher_head(
    config: TrainConfig, teachers: Sequence[StoredFeatures], task: Task
) -> TeacherHead | None:
    if not config.keep_teachers:
        return None
    standardize = config.normalize == "standardize"
    statistics = [one.statistics() for one in teachers] if standardize else None
    return TeacherHead(
        [one.dim for one in teachers], task.num_outputs, config.normalize, statistics
    )


def _describe(data: DataSet) -> str:
    rows = ", ".join(
        f"{len(split)} {name}{' (held out of train)' if name in data.held_out else ''}"
        for name, split in data.splits.items()
    )
    what = {"classification": "classes", "multilabel": "labels", "regression": "targets"}
    return f"{data.source}: {rows}; {data.task.num_outputs} {what[data.task.kind]}"


def _target_statistics(samples: Samples, task: Task) -> tuple[Tensor | None, Tensor | None]:
    if task.kind != "regression":
        return None, None
    targets = torch.from_numpy(np.asarray(samples.labels))
    std = targets.std(0, correction=0)
    return targets.mean(0), torch.where(std > 0, std, torch.ones_like(std))


def _make_schedule(config: TrainConfig, num_samples: int, backbone: Backbone) -> Schedule:
    per_epoch = max(1, num_samples // config.batch_size)
    if config.steps is not None and config.epochs is not None:
        raise ConfigError(
            f"expected --steps or --epochs, got both ({config.steps}, {config.epochs})"
        )
    if config.steps is not None:
        steps = config.steps
    elif config.epochs is not None:
        steps = max(1, math.ceil(config.epochs * per_epoch))
    else:
        steps = min(MOST_STEPS, max(FEWEST_STEPS, EPOCHS * per_epoch))
    start = "random" if backbone.info["weights"] == "random" else "pretrained"
    lr = config.lr or LR[start] * (SGD_FACTOR if config.optimizer == "sgd" else 1)
    return Schedule(
        steps=steps,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        lr=lr,
        head_lr=config.head_lr or float(f"{lr * HEAD_FACTOR[start]:.6g}"),
        loss_lr=config.loss_lr,
        weight_decay=config.weight_decay,
        warmup=config.warmup,
        clip_norm=config.clip_norm,
        eval_every=config.eval_every or max(1, math.ceil(steps / LOOKS)),
        patience=config.patience,
        seed=config.seed,
    )


def _save_gates(
    out: Path,
    loss: AFTLoss,
    teachers: list[StoredFeatures],
    summary: dict[str, Any],
) -> None:
    """Keep the learned gates, and what share of the gated kernel each teacher has."""
    gates = {str(i): gate.float().cpu().contiguous() for i, gate in enumerate(loss.gates())}
    save_file(gates, out / "feature_weights.safetensors")
    some = np.random.default_rng(0).permutation(len(teachers[0].samples))[:1024]
    device = next(iter(loss.state_dict().values())).device
    features = [one.gather(some).to(device) for one in teachers]
    summary["teacher_shares"] = [round(float(s), 6) for s in loss.kernel_shares(features)]


def _finish(
    out: Path,
    config: TrainConfig,
    data: DataSet,
    saved: SavedStudent,
    summary: dict[str, Any],
    device: torch.device,
    model: TransferModel,
    kept: Mapping[str, Sequence[StoredFeatures]],
) -> None:
    """Score the best checkpoint, then write ``result.json``, which makes the run finished."""
    split = "test" if "test" in data.splits else "validation"
    for name in dict.fromkeys((split, "validation")):
        samples = data.splits[name]
        logits = compute_logits(
            model if kept else saved.module,
            saved.transform,
            samples.only(*(column.name for column in saved.columns)),
            teachers=kept.get(name, ()),
            batch_size=config.batch_size,
            num_workers=choose_num_workers(config.num_workers, device),
            device=device,
            progress=config.progress,
        )
        metrics = compute_metrics(logits, np.asarray(samples.labels), data.task)
        summary["validation" if name == "validation" else "metrics"] = metrics
        if name == split:
            summary |= {"split": split, "metrics": metrics}
            pyarrow.parquet.write_table(
                pyarrow.table(_compare_with_labels(logits, samples, data.task)),
                out / "evaluation.parquet",
            )
    write_json(out / "result.json", summary)
    try:
        write_run_report(out, data.splits[split].input)
    except AftError as error:
        print(f"no report: {error}", file=sys.stderr)


def _compare_with_labels(
    logits: NDArray[np.float32], samples: Samples, task: Task
) -> dict[str, list[Any]]:
    """Columns ``file``, ``label``, ``predicted``, ``probability``; for regression each target."""
    labels = np.asarray(samples.labels)
    columns: dict[str, list[Any]] = {"file": list(samples.files)}
    predicted = prediction_columns(logits, task, all_probabilities=task.kind == "multilabel")
    if task.kind == "regression":
        columns |= {name: labels[:, i].tolist() for i, name in enumerate(task.names)}
        return columns | {f"predicted_{name}": values for name, values in predicted.items()}
    if task.kind == "classification":
        columns["label"] = [task.names[i] for i in labels]
    else:
        columns["label"] = ["|".join(np.asarray(task.names)[row > 0]) for row in labels]
    return columns | {"predicted": predicted.pop("label"), **predicted}
