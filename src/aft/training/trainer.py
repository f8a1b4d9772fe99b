"""The training loop, built on Hugging Face Accelerate.

All randomness in a step is a function of the seed, the step and the sample, never of earlier draws.
So a resumed run gives exactly the same result as an uninterrupted one, with any number of workers.
"""

from __future__ import annotations

import io
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from aft.backbones.batches import to_device
from aft.data.samples import Samples
from aft.devices import worker_errors
from aft.errors import StudentError
from aft.files import format_seconds, read_sealed, reading, write_sealed
from aft.linear.rows import PreparedRows
from aft.losses.checks import read_checks
from aft.metrics import compute_metrics, standard_error
from aft.students.inputs import unchanged
from aft.students.run_student import choose_workers, compute_logits
from aft.tasks import Task
from aft.training.checkpoints import (
    START_AGAIN,
    Best,
    Progress,
    read_weights,
    saving,
    write_weights,
)
from aft.training.row_adam import clip_gradients
from aft.training.run_folder import BEST, BEST_ALONE, LAST, RunLog
from aft.training.sampling import (
    BATCH,
    STEP,
    UNLABELLED,
    Batches,
    ViewBatch,
    Views,
    seed_everything,
    stream,
)
from aft.training.schedule import Schedule, make_optimizer, warmup_cosine
from aft.training.sharding import divide, gather, load, load_optimizer
from aft.training.transfer_model import TransferModel

_PASSES = 3  # a step costs about three forward passes
_UNTIMED, _TIMED, _LEAST_SECONDS = 5, 10, 60.0
"""Steps before those whose time is measured, their number, and the shortest run to announce."""


class Interrupted(KeyboardInterrupt):
    """Raised when the user interrupts a run, after its state has been saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"interrupted after step {step}; to resume, run again with --resume")
        self.step = step


def make_accelerator(device: torch.device, precision: str = "fp32") -> Accelerator:
    """An accelerator for this device; successive ones in a process may differ in precision."""
    AcceleratorState._reset_state(True)
    mixed = {"fp32": "no", "bf16": "bf16"}[precision]
    return Accelerator(mixed_precision=mixed, cpu=device.type == "cpu")


class Trainer:
    """Trains a :class:`TransferModel` with stored teacher features.

    Args:
        model: Student and transfer loss.
        task: The task.
        train: Labelled samples; or unlabelled ones, with the transfer loss only.
        validation: Held-out samples, used to choose the checkpoint; with soft labels, the last
            one is kept.
        pool: Samples without labels, which join the transfer loss.
        metric: The metric that chooses the checkpoint; higher is better.
        schedule: The training schedule.
        accelerator: Device, processes and precision.
        folder: Folder of the checkpoints.
        options: Identifies the run: checkpoints of runs with other options are refused.
        num_workers: Number of processes that read inputs; chosen by measurement if None.
        shard: Whether to divide the parameters among the processes, see
            :mod:`aft.training.sharding`.
        progress: Whether to show a progress bar.
    """

    def __init__(
        self,
        model: TransferModel,
        task: Task,
        train: PreparedRows,
        validation: PreparedRows,
        pool: PreparedRows | None = None,
        *,
        metric: str,
        schedule: Schedule,
        accelerator: Accelerator,
        folder: Path,
        options: str = "",
        num_workers: int | None = 0,
        shard: bool = False,
        progress: bool = True,
    ) -> None:
        self.task = task
        self.train = train
        self.validation = validation
        self.pool = pool
        self.metric = metric
        self.schedule = schedule
        self.accelerator = accelerator
        self.folder = folder
        self.options = options
        self.num_workers = num_workers
        self.show = progress and accelerator.is_main_process
        self.progress = Progress()
        self.whole, shard = model, shard and accelerator.num_processes > 1
        if shard:
            model = divide(model, accelerator.device, accelerator.num_processes)
        self.module = model
        self._batch_rows = min(schedule.batch_size, len(train.samples))
        self.optimizer = make_optimizer(
            model,
            schedule,
            sparse=accelerator.num_processes == 1,
            device=accelerator.device.type,
        )
        self.scheduler = LambdaLR(self.optimizer, warmup_cosine(schedule.steps, schedule.warmup))
        # Accelerate's own optimizer scales losses for fp16, which is not offered, and searches for
        # modules in every step.
        self.model = accelerator.prepare_model(model, evaluation_mode=shard)

    @property
    def last(self) -> Path:
        """Path of the checkpoint to resume from."""
        return self.folder / LAST

    @property
    def best(self) -> Path:
        """Path of the best weights on the validation split, see :meth:`Best.update`."""
        return self.folder / BEST

    @property
    def best_alone(self) -> Path:
        """Path of the best weights of the student that learns from the labels alone."""
        return self.folder / BEST_ALONE

    @worker_errors()
    def fit(self, log: RunLog) -> Progress:
        """Train until the last step or early stopping, then load the best weights.

        The initial weights are evaluated too, and may be the best.

        Args:
            log: Receives the metrics.

        Raises:
            Interrupted: On Ctrl-C or SIGTERM, after the state was saved.
            StudentError: If the loss is not finite.
        """
        schedule, state = self.schedule, self.progress
        started = time.perf_counter() - state.seconds
        if self.num_workers is None:
            left, size = schedule.steps - state.step, schedule.batch_size
            rows = self.train.inputs
            self.num_workers = choose_workers(self.module.student, rows, left, size, _PASSES)
        bar = tqdm(
            total=schedule.steps,
            initial=state.step,
            desc="training",
            unit="step",
            disable=not self.show,
            dynamic_ncols=True,
        )
        with bar, _stop_signals() as interrupted:
            self.model.train()
            if state.step == 0:
                self._evaluate(log)
            unread: list[dict[str, Tensor]] = []
            began, first = time.perf_counter(), state.step
            for batch in self._batches() if not state.finished else ():
                unread.append(self._step(*batch))
                state.step += 1
                bar.update()
                if state.step == first + _UNTIMED:
                    began = time.perf_counter()
                elif state.step == first + _UNTIMED + _TIMED:
                    self._announce((time.perf_counter() - began) / _TIMED)
                logs = state.step % 10 == 0 or state.step == 1
                evaluates = state.step % schedule.eval_every == 0 or state.step == schedule.steps
                stops = interrupted.is_set() and self.accelerator.num_processes == 1
                # Reading values takes a tenth of a short step, and waits for the device.
                if logs or evaluates or stops:
                    values, stops = self._read(unread, interrupted.is_set())
                    unread.clear()
                if logs:
                    values["lr"] = float(self.scheduler.get_last_lr()[0])
                    log.write(state.step, "train", values)
                    bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
                if evaluates:
                    score = self._evaluate(log)
                    bar.set_postfix(validation=f"{score:.3f}", refresh=False)
                    patient = schedule.patience is None or state.best.stale < schedule.patience
                    state.finished = state.step == schedule.steps or not patient
                    state.seconds = time.perf_counter() - started
                    self.save()
                if state.finished:
                    break
                if stops:
                    state.seconds = time.perf_counter() - started
                    self.save()
                    raise Interrupted(state.step)
        read_weights(self.best, self.whole, state.best.sha256)
        if self.whole.alone is not None:
            read_weights(self.best_alone, self.whole.alone, state.alone.sha256)
        self.whole.to(self.accelerator.device)
        return state

    def _announce(self, seconds: float) -> None:
        """Say how long the run will take, from the time of a step."""
        total, left = self.schedule.steps, self.schedule.steps - self.progress.step
        if self.show and seconds * left >= _LEAST_SECONDS:
            about = f"about {format_seconds(seconds * left)} for {left:,} more of {total:,} steps"
            tqdm.write(f"{about} (--effort or --steps changes their number)", file=sys.stderr)

    def _read(self, unread: list[dict[str, Tensor]], stop: bool) -> tuple[dict[str, float], bool]:
        """The losses of the last step, and whether any process is to stop.

        All unread steps are checked. Losses are means over the processes.
        """
        read_checks()
        losses = torch.stack([torch.stack(list(losses.values())) for losses in unread])
        table = torch.cat([losses, torch.full_like(losses[:1], float(stop))])
        if self.accelerator.num_processes > 1:
            table = self.accelerator.reduce(table, "mean")
        *rows, stops = table.tolist()
        for step, row in enumerate(rows, self.progress.step - len(unread) + 1):
            values: dict[str, float] = dict(zip(unread[0], row, strict=True))
            if not math.isfinite(values["loss"]):
                raise StudentError(
                    f"the loss is {values['loss']} at step {step}: training diverged. Use a lower "
                    f"--lr (now {self.schedule.lr:g}) or --beta; the last checkpoint is kept"
                )
        return values, stops[0] > 0

    def _step(self, batch: ViewBatch, unlabelled: ViewBatch | None) -> dict[str, Tensor]:
        """One optimizer step on a labelled batch and, optionally, an unlabelled one."""
        accelerator, step = self.accelerator, self.progress.step
        device = accelerator.device
        first = stream(self.schedule.seed, STEP, accelerator.process_index)
        seed_everything((first + step) % 2**63, device.type)
        inputs, rows = batch
        labels: Tensor | None = None
        if self.train.samples.labels is not None:
            labels = to_device(torch.from_numpy(self.train.samples.labels[rows]), device)
        features = [to_device(one.gather(rows), device) for one in self.train.teachers]
        more: tuple[Any, ...] = ()
        if unlabelled is not None and self.pool is not None:
            others = [to_device(one.gather(unlabelled[1]), device) for one in self.pool.teachers]
            more = (to_device(unlabelled[0], device), others)
        out = self.model(to_device(inputs, device), features or None, labels, *more)
        # The mean over the processes is that over all rows if processes with more rows count more.
        share = len(rows) * accelerator.num_processes / self._batch_rows
        if share != 1 and "task_loss" in out:
            out["loss"] = out["loss"] + (share - 1) * out["task_loss"]
            out |= {name: share * out[name] for name in ("task_loss", "alone_loss") if name in out}
        self.optimizer.zero_grad()
        # The two students share no weights, so adding their losses does not mix their gradients.
        accelerator.backward(out["loss"] + out.get("alone_loss", 0.0))
        if self.schedule.clip_norm > 0:
            model = self.module
            for student in (model.student, model.alone):
                if student is not None:
                    clip_gradients(student.parameters(), self.schedule.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        return {name: out[name].detach() for name in out if name.endswith("loss")}

    def _batches(self) -> Iterator[tuple[ViewBatch, ViewBatch | None]]:
        """This process's part of each batch, starting at the current step."""
        schedule = self.schedule
        labelled = self._load(self.train, schedule.batch_size, schedule.seed, BATCH)
        if self.pool is None:
            return ((batch, None) for batch in labelled)
        seed = stream(schedule.seed, UNLABELLED)  # other views than the labelled rows have
        return zip(
            labelled,
            self._load(self.pool, schedule.unlabelled_batch_size, seed, UNLABELLED),
            strict=True,
        )

    def _load(
        self, rows: PreparedRows, batch_size: int, seed: int, purpose: int
    ) -> Iterator[ViewBatch]:
        accelerator = self.accelerator
        batches = Batches(
            len(rows.samples),
            batch_size,
            range(self.progress.step, self.schedule.steps),
            self.schedule.seed,
            accelerator.process_index,
            accelerator.num_processes,
            purpose,
        )
        views = Views(rows.inputs, seed)
        pinned = accelerator.device.type == "cuda"
        if not self.num_workers and not pinned:  # a loader would take a tenth of the shortest steps
            return map(views.__getitem__, batches)
        return iter(
            DataLoader(
                views,
                sampler=batches,
                batch_size=None,
                num_workers=self.num_workers or 0,
                collate_fn=unchanged,
                pin_memory=pinned,
            )
        )

    def _evaluate(self, log: RunLog) -> float:
        """Evaluate on the validation split; save the weights if :meth:`Best.update` says so."""
        state, model = self.progress, self.module
        score, error = self._score(model.student, log, "validation")
        if state.best.update(state.step, score, error):
            self._keep(self.best, model, state.best)
        if model.alone is not None:
            alone, error = self._score(model.alone, log, "validation_alone")
            if state.alone.update(state.step, alone, error):
                self._keep(self.best_alone, model.alone, state.alone)
        self.model.train()
        return score

    def _score(self, module: nn.Module, log: RunLog, split: str) -> tuple[float, float]:
        """The metric on the validation split, and its standard error."""
        samples = self.validation.samples
        logits = compute_logits(
            module,
            self.validation.inputs,
            batch_size=self.schedule.batch_size,
            num_workers=self.num_workers,
            device=self.accelerator.device,
        )
        labels = _labels(samples)
        metrics = compute_metrics(logits, labels, self.task)
        log.write(self.progress.step, split, metrics)
        error = standard_error(self.metric, logits, labels, self.task)
        # Each process has batch statistics of its own, but all must stop after the same step.
        score, error = broadcast_object_list([metrics[self.metric], error])
        return score, error

    def _keep(self, path: Path, module: nn.Module, best: Best) -> None:
        weights = gather(module.state_dict())
        best.sha256 = ""  # known to the first process only
        if self.accelerator.is_main_process:
            best.sha256 = write_weights(path, weights)
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Write the training state to :attr:`last`, atomically."""
        weights, moments = gather(self.module.state_dict()), gather(self.optimizer.state_dict())
        if self.accelerator.is_main_process:
            state = {
                "model": {name: one.cpu() for name, one in weights.items()},
                "teachers": self._stores(),
                "options": self.options,
                "optimizer": moments,
                "scheduler": self.scheduler.state_dict(),
                "progress": self.progress.as_dict(),
            }
            data = io.BytesIO()
            torch.save(state, data)
            with saving(self.last):
                write_sealed(self.last, data.getvalue())
        self.accelerator.wait_for_everyone()

    def restore(self) -> None:
        """Load the training state from :attr:`last`.

        Raises:
            StudentError: If the checkpoint cannot be read, or belongs to another model or to
                other teachers.
        """
        with reading(self.last, StudentError, START_AGAIN):
            state = torch.load(io.BytesIO(read_sealed(self.last)), "cpu", weights_only=True)
            if state.get("options", self.options) != self.options:
                raise StudentError(f"{self.last} is a checkpoint of another run. {START_AGAIN}")
            before = state.get("teachers", self._stores())
            if before != self._stores():
                raise StudentError(
                    f"the teachers changed since the checkpoint {self.last} was written: their "
                    f"features were in {', '.join(before)}, now they are in "
                    f"{', '.join(self._stores())}. {START_AGAIN}"
                )
            load(self.module, state["model"])
            load_optimizer(self.optimizer, state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.progress = Progress.from_dict(state["progress"])

    def _stores(self) -> list[str]:
        """Names of the teachers' stores, which contain the teachers' fingerprints."""
        return [teacher.store.path.name for teacher in self.train.teachers]


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Set an event on Ctrl-C or SIGTERM, so that the current step can finish."""
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for number in handlers:
        signal.signal(number, lambda *_: received.set())
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _labels(samples: Samples) -> NDArray[Any]:
    assert samples.labels is not None
    return samples.labels
