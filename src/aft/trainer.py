"""The one training loop, on Hugging Face Accelerate.

Everything random in a step is a function of the seed, the step and the sample, never of what was
drawn before. So a run that was stopped goes on exactly as if it had not been, whatever the number
of workers.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from aft.batches import Inputs, to_device
from aft.data import Samples
from aft.errors import StudentError
from aft.evaluate import MAIN_METRIC, compute_metrics
from aft.extract import StoredFeatures
from aft.inference import compute_logits
from aft.labels import Task
from aft.logs import RunLog
from aft.model import Student, TransferModel
from aft.sampling import (
    STEP,
    Batches,
    Transform,
    Views,
    collate_views,
    seed_everything,
    stream,
)


@dataclass(frozen=True)
class Schedule:
    """How a run is trained.

    Attributes:
        steps: Number of optimizer steps.
        batch_size: Samples a step, over all processes.
        optimizer: ``adamw``, ``adam`` or ``sgd``.
        lr: Highest learning rate of the student's body.
        head_lr: Highest learning rate of its last layer and of parts with random weights.
        loss_lr: Highest learning rate of the transfer loss's own parameters.
        weight_decay: Of matrices and kernels; biases and norms have none.
        warmup: Share of the steps with a rising rate.
        clip_norm: Largest norm of the gradient of student and teacher head; 0 does not clip.
        eval_every: Steps between looks at the validation split.
        patience: Looks without a better score before stopping; None never stops early.
        seed: Of everything random.
    """

    steps: int
    batch_size: int = 64
    optimizer: str = "adamw"
    lr: float = 3e-4
    head_lr: float = 3e-3
    loss_lr: float = 1e-2
    weight_decay: float = 0.02
    warmup: float = 0.1
    clip_norm: float = 1.0
    eval_every: int = 100
    patience: int | None = None
    seed: int = 0


@dataclass
class Progress:
    """Where a run is; goes into the checkpoint.

    ``seconds`` were spent in :meth:`Trainer.fit`, looks at validation among them.
    """

    step: int = 0
    best_step: int = -1
    best_score: float = -math.inf
    stale: int = 0
    finished: bool = False
    seconds: float = 0.0


class Interrupted(KeyboardInterrupt):
    """The user stopped a run; its state is on disk."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}; the same command with --resume goes on")
        self.step = step


def make_accelerator(device: torch.device, precision: str = "fp32") -> Accelerator:
    """An accelerator for this device; several in one process may differ in precision."""
    AcceleratorState._reset_state(True)
    mixed = {"fp32": "no", "bf16": "bf16"}[precision]
    return Accelerator(mixed_precision=mixed, cpu=device.type == "cpu")


class Trainer:
    """Trains a :class:`TransferModel` over stored teacher features.

    Args:
        model: Student and loss.
        train: Training samples.
        validation: Held-out samples that choose the checkpoint.
        task: What the student's outputs mean.
        teachers: The stored features of each teacher for the training samples.
        validation_teachers: The same for the held-out samples; for a model with a teacher head,
            which needs them.
        augment: Random view of a training input.
        transform: Fixed view for validation.
        schedule: How to train.
        accelerator: Devices, processes and precision.
        folder: Where checkpoints go.
        num_workers: Processes that read inputs.
        progress: Whether to show a progress bar.
    """

    def __init__(
        self,
        model: TransferModel,
        train: Samples,
        validation: Samples,
        task: Task,
        *,
        teachers: Sequence[StoredFeatures],
        validation_teachers: Sequence[StoredFeatures] = (),
        augment: Transform,
        transform: Transform,
        schedule: Schedule,
        accelerator: Accelerator,
        folder: Path,
        num_workers: int = 0,
        progress: bool = True,
    ) -> None:
        self.train_samples = train
        self.validation = validation
        self.task = task
        self.teachers = teachers
        self.validation_teachers = validation_teachers
        self.augment = augment
        self.transform = transform
        self.schedule = schedule
        self.accelerator = accelerator
        self.folder = folder
        self.num_workers = num_workers
        self.show = progress and accelerator.is_main_process
        self.progress = Progress()
        self.module = model
        optimizer = make_optimizer(model, schedule)
        self.scheduler = LambdaLR(optimizer, warmup_cosine(schedule.steps, schedule.warmup))
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

    @property
    def last(self) -> Path:
        """The checkpoint that a run goes on from."""
        return self.folder / "last.pt"

    @property
    def best(self) -> Path:
        """The weights that scored best on the validation split, within its uncertainty."""
        return self.folder / "best.safetensors"

    def fit(self, log: RunLog) -> Progress:
        """Train to the end, or until patience runs out; leaves the best weights in the model.

        Args:
            log: Where metrics go.

        Raises:
            Interrupted: On Ctrl-C or SIGTERM, after the state was saved.
            StudentError: If the loss is no longer a number.
        """
        schedule, state = self.schedule, self.progress
        started = time.perf_counter() - state.seconds
        bar = tqdm(
            total=schedule.steps,
            initial=state.step,
            desc="training",
            unit="step",
            disable=not self.show,
            dynamic_ncols=True,
        )
        with bar, _stop_signals() as stopped:
            for batch in self._batches() if not state.finished else ():
                values: dict[str, float] = self._step(*batch)
                state.step += 1
                bar.update()
                if state.step % 10 == 0 or state.step == 1:
                    values["lr"] = float(self.scheduler.get_last_lr()[0])
                    log.write(state.step, "train", values)
                    bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
                if state.step % schedule.eval_every == 0 or state.step == schedule.steps:
                    score = self._look(log)
                    bar.set_postfix(validation=f"{score:.3f}", refresh=False)
                    patient = schedule.patience is None or state.stale < schedule.patience
                    state.finished = state.step == schedule.steps or not patient
                    state.seconds = time.perf_counter() - started
                    self.save()
                if state.finished:
                    break
                if stopped.is_set():
                    state.seconds = time.perf_counter() - started
                    self.save()
                    raise Interrupted(state.step)
        if self.best.exists():
            self.module.load_state_dict(load_file(self.best))
        return state

    def _step(self, inputs: Inputs, rows: NDArray[np.int64]) -> dict[str, float]:
        """One optimizer step on the samples at `rows`."""
        accelerator, step = self.accelerator, self.progress.step
        device = accelerator.device
        seed_everything(
            stream(self.schedule.seed, STEP, step, accelerator.process_index), device.type
        )
        labels = torch.from_numpy(_labels(self.train_samples)[rows]).to(device)
        features = [teacher.gather(rows).to(device) for teacher in self.teachers]
        self.model.train()
        out = self.model(to_device(inputs, device), features or None, labels)
        if not torch.isfinite(out["loss"]):
            raise StudentError(
                f"the loss is {out['loss'].item()} at step {step + 1}: training diverged. Lower "
                f"--lr (now {self.schedule.lr:g}) or --beta; the last checkpoint is kept"
            )
        self.optimizer.zero_grad()
        accelerator.backward(out["loss"])
        if self.schedule.clip_norm > 0:
            parts = (self.module.student, self.module.teacher_head)
            trained = [p for part in parts if part is not None for p in part.parameters()]
            accelerator.clip_grad_norm_(trained, self.schedule.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        return {name: out[name].item() for name in out if name.endswith("loss")}

    def _batches(self) -> Iterator[tuple[Inputs, NDArray[np.int64]]]:
        """This process's part of every batch from the current step on."""
        schedule, accelerator = self.schedule, self.accelerator
        batches = Batches(
            len(self.train_samples),
            schedule.batch_size,
            range(self.progress.step, schedule.steps),
            schedule.seed,
            accelerator.process_index,
            accelerator.num_processes,
        )
        views = Views(self.train_samples, self.augment, schedule.seed)
        loader: DataLoader[Any] = DataLoader(
            views,
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=collate_views,
            pin_memory=accelerator.device.type == "cuda",
        )
        yield from loader

    def _look(self, log: RunLog) -> float:
        """Score the validation split; keep the weights if they are the best so far."""
        state = self.progress
        logits = compute_logits(
            self.module if self.module.teacher_head is not None else self.module.student,
            self.transform,
            self.validation,
            teachers=self.validation_teachers,
            batch_size=self.schedule.batch_size,
            num_workers=self.num_workers,
            device=self.accelerator.device,
        )
        metrics = compute_metrics(logits, _labels(self.validation), self.task)
        log.write(state.step, "validation", metrics)
        score = metrics[MAIN_METRIC[self.task.kind]]
        state.stale = 0 if score > state.best_score else state.stale + 1
        state.best_score = max(state.best_score, score)  # an undefined score is none
        if score >= state.best_score - self._uncertainty(state.best_score) or state.best_step < 0:
            state.best_step = state.step
            if self.accelerator.is_main_process:
                _write_atomically(self.best, lambda path: save_file(_on_cpu(self.module), path))
        self.accelerator.wait_for_everyone()
        return score

    def _uncertainty(self, score: float) -> float:
        """Standard error of a share of right answers; other scores count as exact.

        Of the checkpoints that the validation split cannot tell from the best, the latest is kept
        (the one-standard-error rule of Breiman et al., 1984): its learning rate is the lowest.
        """
        if self.task.kind != "classification":
            return 0.0
        return math.sqrt(max(0.0, score * (1 - score)) / len(self.validation))

    def save(self) -> None:
        """Write the whole training state to :attr:`last`: it is there whole, or not at all."""
        if self.accelerator.is_main_process:
            state = {
                "model": _on_cpu(self.module),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "progress": vars(self.progress),
            }
            _write_atomically(self.last, lambda path: torch.save(state, path))
        self.accelerator.wait_for_everyone()

    def restore(self) -> None:
        """Go on from :attr:`last`.

        Raises:
            StudentError: If the checkpoint cannot be read.
        """
        try:
            state = torch.load(self.last, weights_only=True, map_location="cpu")
        except Exception as error:
            raise StudentError(f"cannot read the checkpoint {self.last}: {error}") from None
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.progress = Progress(**state["progress"])


def make_optimizer(model: TransferModel, schedule: Schedule) -> torch.optim.Optimizer:
    """Groups: matrices, and biases and norms, of body and untrained parts; the loss's own."""
    student = model.student
    untrained = student.untrained if isinstance(student, Student) else frozenset()
    named = [(name in untrained, p) for name, p in student.named_parameters() if p.requires_grad]
    if model.teacher_head is not None:
        named += [(True, p) for p in model.teacher_head.parameters()]
    groups: list[dict[str, Any]] = []
    for lr, is_new in ((schedule.lr, False), (schedule.head_lr, True)):
        part = [p for new, p in named if new == is_new]
        for decay, is_matrix in ((schedule.weight_decay, True), (0.0, False)):
            chosen = [p for p in part if (p.ndim > 1) == is_matrix]
            if chosen:
                groups.append({"params": chosen, "lr": lr, "weight_decay": decay})
    own = [] if model.transfer_loss is None else list(model.transfer_loss.parameters())
    if own:
        groups.append({"params": own, "lr": schedule.loss_lr, "weight_decay": 0.0})
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.lr, momentum=0.9, nesterov=True)
    kind = torch.optim.AdamW if schedule.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=schedule.lr)


def warmup_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """Factor of the learning rate at a step: linear rise, then a cosine down to zero."""
    rise = round(steps * warmup)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))

    return factor


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Set an event on Ctrl-C or SIGTERM, so that the step under way is finished first."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for number in handlers:
        signal.signal(number, lambda *_: stopped.set())
    try:
        yield stopped
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _labels(samples: Samples) -> NDArray[Any]:
    assert samples.labels is not None
    return samples.labels


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}


def _write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors tell a full disk in words of their own
        reason = error.strerror if isinstance(error, OSError) else "writing broke off"
        free = shutil.disk_usage(path.parent).free
        raise StudentError(
            f"cannot write {path}: {reason} ({free:,} bytes are free there). The last whole "
            "checkpoint is kept; make room and run again with --resume"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
