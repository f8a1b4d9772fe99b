"""The command `train`: train a student and write its run folder."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from aft.backbones.specs import shorten_paths
from aft.commands.checks import check, out_folder
from aft.commands.class_names import class_rows, embed_classes
from aft.commands.trackers import start_trackers
from aft.config.commands import TrainConfig
from aft.config.typed import command
from aft.data.loading import DataSet
from aft.data.options import load_training_data
from aft.devices import choose_device
from aft.errors import AftError
from aft.exporting.card import write_card
from aft.features.stored import StoredFeatures, keep_in_memory
from aft.linear.baselines import Baselines
from aft.linear.rows import PreparedRows, soft_labels_of
from aft.metrics import AGREEMENT, MAIN_METRIC, choose_metric
from aft.paths import locked
from aft.report import write_run_report
from aft.students.saved import SavedStudent
from aft.training.finish import Scorer, final_split, finish, save_gates, summarize
from aft.training.keep_images import keep_images
from aft.training.prepare import (
    check_options,
    choose_prior,
    extract_for_run,
    initial_weights,
    is_pretrained,
    list_notes,
    make_model,
    make_student,
    start_of,
    transfer_pool,
)
from aft.training.run_folder import (
    BEGUN,
    CHECKPOINTS,
    REPORT,
    STUDENT,
    RunLog,
    TrainResult,
    check_content,
    is_finished,
    open_run,
    options_hash,
    write_inputs,
)
from aft.training.safety_net import choose_student
from aft.training.schedule import Schedule, make_schedule
from aft.training.trainer import Trainer, make_accelerator
from aft.training.transfer_model import TransferModel
from aft.training.word_vectors import start_words

__all__ = ["TrainResult", "train"]

EQUAL_CLASSES = (
    "the student's outputs are for equally frequent classes, as its metric is (--class-weights "
    "none: for the frequencies of the training rows)"
)


@command(TrainConfig)
def train(config: TrainConfig) -> TrainResult:
    """Train a student.

    Computes missing teacher features, trains the student, scores the best checkpoint and writes
    the run folder.

    Raises:
        AftError: If options, data or models are invalid; the message explains how to fix them.
        Interrupted: On Ctrl-C, after the state was saved; ``resume=True`` continues the run.
    """
    check(config)
    accelerator = make_accelerator(choose_device(config.device), config.precision)
    out = out_folder(config)
    with locked(out, accelerator.is_main_process, BEGUN), ExitStack() as logs:
        return _train(config, out, accelerator, logs)


def _train(
    config: TrainConfig, out: Path, accelerator: Accelerator, logs: ExitStack
) -> TrainResult:
    main, device = accelerator.is_main_process, accelerator.device
    say = partial(accelerator.print, file=sys.stderr)
    if main:
        open_run(out, config)
    accelerator.wait_for_everyone()

    started = time.perf_counter()
    with accelerator.main_process_first():
        data = load_training_data(config)
    if is_finished(out):
        check_content(out, data.content)
        say(f"the run in {out} is already finished")
        return TrainResult.load(out)
    samples = data.splits["train"]
    bare = [name for name, split in data.splits.items() if split.labels is None]
    held_out, metric = data.splits["validation"], AGREEMENT
    if final_split(data) not in bare:
        alike = np.arange(data.task.num_outputs)  # without labels, classes count as balanced
        seen = alike if samples.labels is None else samples.labels
        metric = choose_metric(config.metric, data.task, seen)
    more, views = transfer_pool(config, data)
    check_options(config, samples, more, data.task, accelerator.num_processes)
    if main:
        write_inputs(out, config, data)
    say("\n".join([*_describe_data(config, data, metric), *data.lines()]))

    names = class_rows(config, data)
    unjudged = held_out if "validation" in bare else None
    wanted = [part for part in (samples, more, unjudged, names) if part is not None]
    found = iter(extract_for_run(config, wanted, accelerator))
    teachers, more_teachers, held_out_teachers, embedded = (
        [] if part is None else next(found) for part in (samples, more, unjudged, names)
    )
    classes = embed_classes(config, data, embedded)
    keep_in_memory([*teachers, *more_teachers], accelerator.num_processes)
    say(*(_describe_teacher(one) for one in teachers), sep="\n", end="\n" * bool(teachers))

    saved = make_student(config, data, more is not None)
    plain, augmented = saved.transform, saved.backbone.preprocessing.augment(config.augment)
    inputs = [column.name for column in saved.columns]
    train_rows = PreparedRows(samples.only(*inputs), augmented, teachers)
    validation = PreparedRows(held_out.only(*inputs), plain, held_out_teachers)
    pool = None
    if more is not None:
        pool = PreparedRows(more.only(*inputs), plain if views else augmented, more_teachers)
    notes = [*_describe_lack(data), *list_notes(config, saved, train_rows)]
    prior = choose_prior(config, samples, data.task, metric) if unjudged is None else None
    if prior is not None:
        notes.append(EQUAL_CLASSES)
    say(_describe_student(saved), *(shorten_paths(note) for note in notes), sep="\n")

    schedule = make_schedule(config, len(samples), start_of(saved))
    with accelerator.main_process_first():
        lines = _prepare_inputs(config, schedule, train_rows, validation, pool)
    rows = [train_rows] if pool is None else [train_rows, pool]
    lines += start_words(config, saved, rows, accelerator)
    say(*lines, sep="\n", end="\n" * bool(lines))
    model = make_model(
        *(config, saved, train_rows, validation, pool, schedule, device, classes, prior)
    )
    if unjudged is not None:  # now with soft labels
        held_out.labels = validation.samples.labels
    pool_rows = 0 if more is None else len(more)
    lines = _describe_cost(schedule, model, len(samples), pool_rows, views)
    say(*lines, sep="\n", end="\n" * bool(lines))
    instead: list[dict[str, Any]] = []
    if main and config.baselines and not bare:
        instead = _score_baselines(data, saved, model, train_rows, validation, pool, device)
    trainer = Trainer(
        model,
        data.task,
        train_rows,
        validation,
        pool,
        metric=metric if unjudged is None else AGREEMENT,
        schedule=schedule,
        accelerator=accelerator,
        folder=out / CHECKPOINTS,
        options=options_hash(config),
        num_workers=config.num_workers,
        shard=config.shard_student,
        progress=config.progress,
    )
    if config.resume and trainer.last.exists():
        trainer.restore()
        say(f"resuming after step {trainer.progress.step} of {schedule.steps}")
    trackers = start_trackers(config, out, trainer.progress.step) if main else []
    log = logs.enter_context(RunLog(out, trainer.progress.step, main, trackers))
    progress = trainer.fit(log)

    if main:
        score = Scorer(config, data, device)
        saved, choice = choose_student(model, data, saved, progress, metric, score)
        if choice:
            notes.append(choice["safety_net"]["sentence"])
            say(notes[-1])
        summary = {
            **summarize(config, data, saved, teachers, model, progress, schedule),
            "metric": metric,
            "seconds": round(time.perf_counter() - started, 1),
            "rows_without_labels": pool_rows,
            "views": views,
            "splits_without_labels": bare,
            "notes": [*data.lines(), *notes],
            "baselines": instead,
            **choice,
            **save_gates(out, model, teachers),
        }
        known = len(summary["notes"])
        finish(out, data, saved, score, summary)
        write_card(out / STUDENT)
        log.track(progress.step, "final", summary["metrics"])
        say(*summary["notes"][known:], sep="\n")
        if config.report:
            _report(out, data)
    accelerator.wait_for_everyone()
    say(f"report: {out / REPORT}" if config.report else f"run: {out}")
    return TrainResult.load(out)


def _prepare_inputs(
    config: TrainConfig,
    schedule: Schedule,
    train: PreparedRows,
    validation: PreparedRows,
    pool: PreparedRows | None,
) -> list[str]:
    """Tokenize all texts, and decode all images where that pays; returns lines for the user."""
    looks = 2 * (schedule.steps // schedule.eval_every + 1)  # of two students
    reads = [(train, schedule.steps * schedule.batch_size)]
    reads.append((validation, looks * len(validation.samples)))
    if pool is not None:
        reads.append((pool, schedule.steps * schedule.unlabelled_batch_size))
    for rows, _ in reads:
        rows.inputs.tokenize()
    return keep_images([(r.inputs, n) for r, n in reads], config.image_cache, config.progress)


def _score_baselines(
    data: DataSet,
    saved: SavedStudent,
    model: TransferModel,
    train: PreparedRows,
    validation: PreparedRows,
    pool: PreparedRows | None,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Scores of what people would use instead of the student, which has its initial weights."""
    split = final_split(data)
    names = [column.name for column in saved.columns]
    final = PreparedRows(data.splits[split].only(*names), saved.transform)
    rows = {"validation": validation, split: final}
    linear = Baselines(saved.module, data.task, train, rows, device, model.log_prior)
    soft = soft_labels_of(model.transfer_loss)
    return linear.score(is_pretrained(saved.backbone), soft, pool)


def _report(out: Path, data: DataSet) -> None:
    try:
        write_run_report(out, data.splits[final_split(data)].input)
    except AftError as error:
        print(f"no report: {error}", file=sys.stderr)


def _describe_data(config: TrainConfig, data: DataSet, metric: str) -> list[str]:
    rows = ", ".join(
        f"{len(split)} {name}{' (held out of train)' if name in data.held_out else ''}"
        for name, split in data.splits.items()
    )
    lines = [f"{data.source}: {rows}; {data.task.outputs}"]
    if config.metric == "auto" and metric not in (AGREEMENT, MAIN_METRIC[data.task.kind]):
        lines.append(
            f"metric: {metric}, since the classes are imbalanced (choose another with --metric)"
        )
    if not config.teachers:
        lines.append("no --teachers: labels only; --loss and unlabelled rows are not used")
    return lines


def _describe_lack(data: DataSet) -> list[str]:
    """What the lack of labels means for a run with the names of classes."""
    if data.splits["validation"].labels is not None:
        return []
    rows = data.splits["train"]
    what = "no labels" if rows.labels is None else f"only {len(rows)} labels"
    lines = (
        f"{what}: the last checkpoint is kept, without a safety net, since no labelled rows are "
        "held out"
    )
    if final_split(data) == "validation":
        lines += (
            "; the score is the agreement with the soft labels on held-out rows, which is no "
            "accuracy: label some rows for a test split to measure one"
        )
    return [lines]


def _describe_teacher(features: StoredFeatures) -> str:
    rows = f"{features.dim} features of {features.present.sum()} rows"
    return f"teacher {shorten_paths(features.spec)}: {rows}"


def _describe_cost(
    schedule: Schedule, model: TransferModel, rows: int, pool: int, views: int
) -> list[str]:
    """What a step costs, if it costs more than one on the labels alone."""
    labelled = min(schedule.batch_size, rows)
    added = schedule.inputs_per_step(rows, pool) - labelled
    parts = ["a second student (--no-safety-net omits it)"] if model.alone is not None else []
    if added:
        what = f"of {views} stored views per row" if views else "rows without labels"
        parts.append(f"{added} {what} beside {labelled} labelled rows (--unlabelled-batch-size)")
    factor = 1 + added / labelled + (model.alone is not None)
    about = f"each step costs about {factor:.2g} times one on the labels alone"
    return [f"{about}: {' and '.join(parts)}"] if parts else []


def _describe_student(saved: SavedStudent) -> str:
    info = saved.backbone.info
    size = sum(p.numel() for p in saved.module.parameters())
    start = initial_weights(saved)
    return shorten_paths(f"student {info['spec']}: {size:,} parameters, weights: {start}")
