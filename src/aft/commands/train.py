"""The verb `train`: from a configuration to a run folder with a student in it."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aft.backbones.specs import shorten_paths
from aft.backbones.tokenization import Tokenization
from aft.config.commands import TrainConfig, resolve
from aft.config.groups import LossOptions
from aft.data.loading import DataSet
from aft.data.options import load_training_data
from aft.data.unlabelled import NOTHING
from aft.devices import choose_device, choose_num_workers
from aft.errors import AftError, ConfigError
from aft.features.stored import note_truncation
from aft.losses.aft import AFTLoss
from aft.losses.aft_soft import AFTSoftLoss
from aft.report import write_run_report
from aft.students.build import build_student
from aft.students.saved import SavedStudent
from aft.students.student import new_student
from aft.training.finish import final_split, finish, save_gates
from aft.training.prepare import (
    check_shares,
    copy_student,
    extract_for_run,
    make_teacher_head,
    target_statistics,
    transfer_pool,
)
from aft.training.run_folder import (
    RunLog,
    TrainResult,
    free_folder,
    is_finished,
    open_run,
    write_inputs,
)
from aft.training.safety_net import choose_student
from aft.training.schedule import make_schedule
from aft.training.trainer import Trainer, make_accelerator
from aft.training.transfer_loss import make_loss, weight_of_transfer
from aft.training.transfer_model import TransferModel
from aft.version import __version__

__all__ = ["TrainResult", "train"]


def train(config: TrainConfig | None = None, /, **options: Any) -> TrainResult:
    """Train a student; options are those of :class:`aft.config.commands.TrainConfig`.

    Computes the teacher features that the store lacks, trains, scores the best checkpoint and
    fills the run folder.

    Raises:
        AftError: Whatever in options, data or models is wrong, in a sentence.
        Interrupted: On Ctrl-C, after the state was saved; ``resume=True`` continues.
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
    pool, views = transfer_pool(config, data)
    check_shares(config, samples, pool, accelerator.num_processes)
    if main:
        write_inputs(out, config.model_copy(update={"out": out}), data)
    say("\n".join([_describe(data), *data.lines()]))
    if not config.teachers and (config.unlabelled not in (None, NOTHING)):
        say("without --teachers nothing is transferred, and rows without labels are not used")
    teachers = extract_for_run(config, samples, accelerator)
    pool_teachers = [] if pool is None else extract_for_run(config, pool, accelerator, teachers)
    for features in teachers:
        count = f"{features.dim} features of {features.present.sum()} rows"
        say(f"teacher {shorten_paths(features.spec)}: {count}")
    kept = {
        name: extract_for_run(config, split, accelerator, teachers)
        for name, split in data.splits.items()
        if name != "train" and config.keep_teachers
    }

    torch.manual_seed(config.seed)
    backbone, columns = build_student(
        config.student,
        samples,
        None if pool is None else data.unlabelled,
        fusion=config.fusion,
        layers=config.student_layers,
        seed=config.seed,
        trust_remote_code=config.trust_remote_code,
    )
    inputs = {name: split.only(*(c.name for c in columns)) for name, split in data.splits.items()}
    student = new_student(backbone, data.task, *target_statistics(samples, data.task))
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher_head = make_teacher_head(config, teachers, data.task)
    pretrained = backbone.info["weights"] != "random"
    if pretrained:
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
    schedule = make_schedule(config, len(samples), pretrained)
    beta = (
        0.0 if loss is None else weight_of_transfer(config, schedule, len(samples), len(pool or ()))
    )
    alone = copy_student(student) if config.safety_net and beta > 0 else None
    model = TransferModel(
        student, loss, beta, data.task.kind, config.label_smoothing, teacher_head, alone
    )
    trainer = Trainer(
        model,
        inputs["train"],
        inputs["validation"],
        data.task,
        teachers=teachers,
        unlabelled=None if pool is None else pool.only(*(column.name for column in columns)),
        unlabelled_teachers=pool_teachers,
        unlabelled_augment=backbone.preprocessing.evaluate() if views else None,
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
        saved, choice = choose_student(config, model, data, saved, progress, device)
        if choice:
            notes.append(choice["safety_net"]["sentence"])
            say(notes[-1])
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
            "best_step": progress.best.step,
            "lr": schedule.lr,
            "head_lr": schedule.head_lr,
            "seconds": round(time.perf_counter() - started, 1),
            "training_seconds": round(progress.seconds, 3),
            "rows": {name: len(split) for name, split in data.splits.items()},
            "rows_without_labels": 0 if pool is None else len(pool),
            "views": views,
            "notes": [*data.lines(), *notes],
            **choice,
        }
        if isinstance(loss, AFTLoss | AFTSoftLoss):
            save_gates(out, loss, teachers, summary)
        finish(out, config, data, saved, summary, device, model, kept)
        _report(out, data)
    accelerator.wait_for_everyone()
    result = TrainResult.load(out)
    say(f"report: {out / 'report.html'}")
    return result


def _report(out: Path, data: DataSet) -> None:
    try:
        write_run_report(out, data.splits[final_split(data)].input)
    except AftError as error:
        print(f"no report: {error}", file=sys.stderr)


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
    if config.loss not in ("aft", "aft-soft"):
        plain = {name: field.default for name, field in LossOptions.model_fields.items()}
        others = [
            name
            for name in ("kernel", "weights", "combine")
            if getattr(config, name) != plain[name]
        ]
        if others:
            raise ConfigError(
                f"--{others[0]} is an option of --loss aft and aft-soft, got --loss {config.loss}"
            )
    if isinstance(config.views, int) and config.views and config.augment == "none":
        raise ConfigError(
            "--views stores random views: --augment none leaves nothing to draw. Leave out one of "
            "them"
        )
    if config.keep_teachers and not config.teachers:
        raise ConfigError("--keep-teachers needs --teachers, those whose features to keep")
    if config.combine == "product" and len(config.teachers) < 2:
        raise ConfigError(
            "--combine product multiplies teachers: expected at least 2, "
            f"got {len(config.teachers)}"
        )


def _describe(data: DataSet) -> str:
    rows = ", ".join(
        f"{len(split)} {name}{' (held out of train)' if name in data.held_out else ''}"
        for name, split in data.splits.items()
    )
    what = {"classification": "classes", "multilabel": "labels", "regression": "targets"}
    return f"{data.source}: {rows}; {data.task.num_outputs} {what[data.task.kind]}"
