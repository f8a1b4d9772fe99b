"""What was left out, and why: ideas for the transfer, each tried beside the plain sum of losses.

Every idea is one change to "joint": AFT and soft labels, summed, with weight 3 from the first step
to the last, over labelled rows and rows without labels. Students, losses and data are those of the
library; inputs and features are in memory and the loop is short, so that a new idea is a line in
IDEAS and perhaps a small module. Every trial is kept, so the command goes on where it stopped.
A trial takes 5 to 60 seconds on one core, all of them about two hours.

    python benchmarks/trials.py
    python benchmarks/trials.py --tasks reuters --ideas rising falling --seeds 3
    python benchmarks/trials.py --table          # only the table, from what is in results
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

import aft
import suite
import tables
from aft.batches import collate
from aft.checkpoints import Best
from aft.config import ExtractConfig
from aft.data import Columns, Samples, load_data
from aft.demo_data import DATA_SETS, fetch_minilm
from aft.evaluate import MAIN_METRIC, compute_metrics
from aft.extract import extract_teachers
from aft.labels import Task
from aft.losses import AFTLoss, SoftLabelLoss
from aft.model import Student, TransferModel, new_student
from aft.sampling import (
    BATCH,
    STEP,
    UNLABELLED,
    Batches,
    ViewBatch,
    Views,
    collate_views,
    seed_everything,
    stream,
)
from aft.schedule import Schedule, make_optimizer, warmup_cosine
from aft.statistics import compare_paired
from aft.students import Backbone, build_student
from aft.views import make_views

RESULTS = suite.RESULTS / "trials.json"
TASKS = ("reuters", "snippets", "stamps")
BETA = 3.0
VIEWS = 4
QUEUE = 512
LOOKS = 10
FRESH = 5  # what the random stream of fresh batches is for, beside those of the library

Split = Literal["train", "pool", "validation", "test"]
Plan = Callable[[float, float], tuple[float, float]]
"""From the share of steps done and the task loss over its first value to the weights of the task
loss and, times BETA, of the transfer loss."""


@dataclass(frozen=True)
class Idea:
    """What a trial does; without changes it is "joint".

    Attributes:
        words: What it changes, for the table.
        against: The idea that it is a change of.
        parts: The transfer losses that are summed; none for the labels alone.
        plan: Weights of both losses over the steps.
        steps: How many times the steps of the task.
        loss_lr: Learning rate of the gates.
        gate_steps: Steps of the gates alone before each of the student; 0 learns both at once.
        kernel: ``gates`` learns them, ``equal`` has none, ``head`` has those of
            :func:`gates_of_head`, ``scores`` compares the teachers' scores of the task.
        scale: Of teachers' features: each dimension, each teacher as a whole, or none.
        queue: Rows of earlier steps that the kernel sees beside the batch.
        teachers: How many.
        apart: Whether each teacher has losses of its own.
        drop: Which of two teachers' losses half of the steps are without.
    """

    words: str
    against: str = "joint"
    parts: tuple[str, ...] = ("kernel", "labels")
    plan: Plan = lambda done, loss: (1, 1)
    steps: int = 1
    loss_lr: float = 1e-2
    gate_steps: int = 0
    kernel: Literal["gates", "equal", "head", "scores"] = "gates"
    scale: Literal["dimension", "teacher", "none"] = "dimension"
    queue: int = 0
    teachers: int = 1
    apart: bool = False
    drop: Literal["larger", "smaller"] | None = None


# PHI-S (Ranzinger et al. 2024, arXiv 2410.01680) rotates a teacher's features until all dimensions
# have the same variance, and divides them by one number. A kernel with fixed gates does not see
# rotations, so what is left of it is one number a teacher; and a kernel of one teacher, whose rows
# are brought to length 1, does not see that either.
IDEAS = {
    "joint": Idea("both losses from the first step to the last, weight 3"),
    "alone": Idea("labels only", parts=()),
    "alone, 3 x steps": Idea("labels only, three times as long", parts=(), steps=3),
    "soft labels": Idea("without the kernel", parts=("labels",)),
    "kernel": Idea("without soft labels", parts=("kernel",)),
    "transfer first": Idea(
        "transfer only for the first half, then both", plan=lambda done, _: (done >= 0.5, 1)
    ),
    "transfer, then labels": Idea(
        "transfer only for the first half, then labels only",
        plan=lambda done, _: (done >= 0.5, done < 0.5),
    ),
    "rising": Idea("weight from 0 to 6", plan=lambda done, _: (1, 2 * done)),
    "falling": Idea("weight from 6 to 0", plan=lambda done, _: (1, 2 - 2 * done)),
    "falling with the task loss": Idea(
        "weight 3 times task loss / its start, at most 3", plan=lambda _, loss: (1, min(1, loss))
    ),
    "fast gates": Idea("gates learn ten times as fast", loss_lr=0.1),
    "bi-level gates": Idea("5 steps of the gates on fresh batches a step", gate_steps=5),
    "equal gates": Idea("no gates", kernel="equal"),
    "gates of the head": Idea("fixed: a dimension's weight in the linear model", kernel="head"),
    "kernel of scores": Idea("compares the linear model's scores, not features", kernel="scores"),
    "queue": Idea(f"the kernel sees {QUEUE} earlier rows too", queue=QUEUE),
    "not standardized": Idea("teacher's features in their own units", scale="none"),
    "two teachers": Idea("a second, weaker teacher beside it", teachers=2),
    "two, one scale each": Idea(
        "PHI-S: each teacher divided by one number", "two teachers", scale="teacher", teachers=2
    ),
    "two, not standardized": Idea(
        "features in their own units", "two teachers", scale="none", teachers=2
    ),
    "two, apart": Idea("each teacher its own losses", "two teachers", teachers=2, apart=True),
    "drop the larger": Idea(
        "half of the steps without the larger loss", "two, apart", teachers=2, apart=True
    ),
    "drop the smaller": Idea(
        "half of the steps without the smaller loss", "two, apart", teachers=2, apart=True
    ),
}
for _which in ("larger", "smaller"):
    IDEAS[f"drop the {_which}"] = replace(IDEAS[f"drop the {_which}"], drop=_which)


@dataclass
class Bench:
    """A task in memory.

    Attributes:
        task: What is to be learned.
        backbone: The student's, with the weights it starts from.
        schedule: How it is trained.
        inputs: Of each split; the pool are the rows without labels.
        labels: Of each split but the pool.
        features: Of each teacher for train and pool.
        heads: Soft labels that were fitted, by the numbers of their teachers.
    """

    task: Task
    backbone: Backbone
    schedule: Schedule
    inputs: dict[Split, Held]
    labels: dict[Split, Tensor]
    features: list[dict[Split, Tensor]]
    heads: dict[tuple[int, ...], SoftLabelLoss] = field(default_factory=dict)


class Held:
    """Inputs in memory, in the place of :class:`aft.data.Samples` where only these are asked for.

    Args:
        values: What a transform takes.
        transform: Makes of it an input of the student; None if that is what they are.
    """

    def __init__(self, values: Sequence[Any], transform: Callable[[Any], Any] | None) -> None:
        self.values = values
        self.transform = transform or (lambda value: value)

    def __len__(self) -> int:
        return len(self.values)

    def input(self, row: int) -> Any:
        return self.values[row]


class Transfer(nn.Module):
    """The losses of some teachers, summed.

    Args:
        kernel: On features, or None.
        labels: On outputs, or None.
    """

    needs = "both"

    def __init__(self, kernel: nn.Module | None, labels: SoftLabelLoss | None) -> None:
        super().__init__()
        self.kernel, self.labels = kernel, labels

    def forward(self, outputs: tuple[Tensor, Tensor], teachers: list[Tensor]) -> Tensor:
        logits, features = outputs
        found = [] if self.kernel is None else [self.kernel(features, teachers)]
        return sum(found if self.labels is None else [*found, self.labels(logits, teachers)])


class Apart(nn.Module):
    """The mean of each teacher's own loss; of two, half of the steps may be without one.

    Args:
        losses: One a teacher.
        drop: Which one those steps are without.
    """

    needs = "both"

    def __init__(self, losses: Sequence[Transfer], drop: str | None) -> None:
        super().__init__()
        self.losses, self.drop = nn.ModuleList(losses), drop

    def forward(self, outputs: tuple[Tensor, Tensor], teachers: list[Tensor]) -> Tensor:
        pairs = zip(self.losses, teachers, strict=True)
        found = torch.stack([loss(outputs, [teacher]) for loss, teacher in pairs])
        if self.drop and torch.rand(()) < 0.5:
            return found.min() if self.drop == "larger" else found.max()
        return found.mean()


class Scores(nn.Module):
    """AFT's kernel of the teachers' scores of the task in place of their features."""

    def __init__(self, labels: SoftLabelLoss, known: Tensor) -> None:
        super().__init__()
        self.labels = [labels]  # a list, since the other loss holds its state
        scores = labels.teacher_logits(known)
        statistics = [(scores.mean(0), scores.std(0, correction=0))]
        self.kernel = AFTLoss([scores.shape[1]], weights="fixed", statistics=statistics)

    def forward(self, features: Tensor, teachers: list[Tensor]) -> Tensor:
        return self.kernel(features, self.labels[0].teacher_logits(teachers))


class Queue(nn.Module):
    """A kernel of the batch and of the rows of earlier steps, as the student saw them then."""

    def __init__(self, kernel: nn.Module, rows: int) -> None:
        super().__init__()
        self.kernel, self.rows = kernel, rows
        self.earlier: list[Tensor] | None = None

    def forward(self, features: Tensor, teachers: list[Tensor]) -> Tensor:
        sides = [features, torch.cat(teachers, dim=1)]
        if self.earlier is not None:
            sides = [torch.cat(pair) for pair in zip(sides, self.earlier, strict=True)]
        self.earlier = [side.detach()[: self.rows] for side in sides]
        return self.kernel(*sides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--ideas", nargs="+", default=list(IDEAS), choices=IDEAS)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table, train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    trials = found.get("trials", {})
    for task in () if options.table else options.tasks:
        for seed in range(options.seeds):
            kept = {idea: trials.get(task, {}).get(idea, {}) for idea in options.ideas}
            missing = [idea for idea in options.ideas if str(seed) not in kept[idea]]
            bench = load_bench(task, seed) if missing else None
            for idea in missing:
                started = time.perf_counter()
                score = train(bench, IDEAS[idea], seed)
                took = time.perf_counter() - started
                print(
                    f"[trials] {task}, {idea}, seed {seed}: {score:.4f}, {took:.0f} s", flush=True
                )
                known = trials.setdefault(task, {}).setdefault(idea, {})
                known[str(seed)] = {"score": score, "seconds": round(took, 1)}
                found = {
                    "command": "python benchmarks/trials.py",
                    "version": aft.__version__,
                    "machine": tables.machine(),
                    "trials": trials,
                }
                options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(as_table(trials))


def load_bench(name: str, seed: int) -> Bench:
    """A task of the suite; where all labels are used, views of its rows are the pool."""
    entry, cache = suite.TASKS[name], suite._cache()
    given = entry.options
    fraction = given.get("train_fractions", (1.0,))[0]
    data = load_data(
        folder := str(DATA_SETS[entry.data](cache, False).folder),
        Columns(label=given.get("label_column", ())),
        validation_fraction=given.get("validation_fraction", 0.1),
        train_fraction=fraction,
        unlabelled="left-out" if fraction < 1 else None,
        seed=seed,
        progress=False,
    )
    rows: dict[Split, Samples] = {split: data.splits[split] for split in get_args(Split)[::2]}
    rows["validation"] = data.splits["validation"]
    rows["test"] = data.splits["test"]
    rows["pool"] = data.unlabelled or make_views(rows["train"], VIEWS, seed, "standard")
    second = f"hf:{fetch_minilm(cache, False)}?layer=1&max_tokens=64"
    if rows["train"].columns[0].modality == "image":
        second = suite.squeezenet(cache)
    config = ExtractConfig(data=folder, teachers=(*entry.teachers(cache), second), progress=False)
    features: list[dict[Split, Tensor]] = [{} for _ in config.teachers]
    for split in ("train", "pool"):
        stored = extract_teachers(config, rows[split], torch.device("cpu"))
        for one, teacher in zip(features, stored, strict=True):
            one[split] = teacher.gather(range(len(rows[split])))
    backbone, _ = build_student(entry.student(cache), rows["train"], data.unlabelled, seed=seed)
    inputs = {split: hold(samples, backbone, split) for split, samples in rows.items()}
    labels = {s: torch.from_numpy(one.labels) for s, one in rows.items() if s != "pool"}
    schedule = Schedule(
        steps=given["steps"],
        batch_size=given["batch_size"],
        unlabelled_batch_size=2 * given["batch_size"],
        lr=given.get("lr", 3e-4),
        head_lr=given.get("head_lr", given.get("lr", 3e-3)),
    )
    return Bench(data.task, backbone, schedule, inputs, labels, features)


def hold(samples: Samples, backbone: Backbone, split: Split) -> Held:
    """Inputs as the student takes them; pictures of train as they are, to be cropped anew."""
    values = (samples.input(row) for row in range(len(samples)))
    if split == "train" and samples.columns[0].modality == "image":
        return Held(list(values), backbone.preprocessing.augment("standard"))
    transform = backbone.preprocessing.evaluate()
    return Held([transform(value) for value in values], None)


def train(bench: Bench, idea: Idea, seed: int) -> float:
    """The test score of the checkpoint that validation rows choose."""
    task = bench.task
    steps = bench.schedule.steps * idea.steps
    schedule = replace(bench.schedule, steps=steps, loss_lr=idea.loss_lr, seed=seed)
    transfer = make_transfer(bench, idea, seed) if idea.parts else None
    model = TransferModel(start(bench, seed), transfer, beta=BETA, task=task.kind)
    optimizer = make_optimizer(model, schedule)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(steps, schedule.warmup))
    gates = list(transfer.parameters()) if transfer and idea.gate_steps else []
    gate_optimizer = torch.optim.Adam(gates, lr=idea.loss_lr) if gates else None
    labelled, pool = draw(bench, "train", steps, seed, BATCH), draw(bench, "pool", steps, seed)
    fresh = draw(bench, "pool", steps * idea.gate_steps, seed, FRESH)
    best, kept, first = Best(), model.student.state_dict(), []
    for step in range(steps):
        model.train()
        seed_everything(stream(seed, STEP, step))
        for _ in range(idea.gate_steps):
            inputs, rows = next(fresh)
            with torch.no_grad():
                seen = model.student(inputs).features
            gate_optimizer.zero_grad()
            transfer.kernel(seen, features_of(bench, idea, "pool", rows)).backward()
            gate_optimizer.step()
        inputs, rows = next(labelled)
        batch: tuple[Any, ...] = (inputs, None, bench.labels["train"][rows])
        if transfer is not None:
            others, more = next(pool)
            batch = (inputs, features_of(bench, idea, "train", rows), batch[2])
            batch += (others, features_of(bench, idea, "pool", more))
        out = model(*batch)
        first += [float(out["task_loss"])] if step < max(1, steps // 10) else []
        relative = float(out["task_loss"]) / fmean(first)
        for_labels, for_transfer = idea.plan(step / steps, relative)
        loss = for_labels * out["task_loss"]
        if transfer is not None:
            loss = loss + for_transfer * BETA * out["transfer_loss"]
        optimizer.zero_grad()
        loss.backward()
        for gate in gates:
            gate.grad = None
        nn.utils.clip_grad_norm_(model.student.parameters(), schedule.clip_norm)
        optimizer.step()
        rates.step()
        if (step + 1) % max(1, steps // LOOKS) == 0 or step + 1 == steps:
            score = evaluate(model.student, bench, "validation")
            if best.update(step + 1, score, lambda s: uncertainty(s, bench)):
                kept = copy.deepcopy(model.student.state_dict())
    model.student.load_state_dict(kept)
    return evaluate(model.student, bench, "test")


def start(bench: Bench, seed: int) -> Student:
    """A student of its own, begun as `aft train` does."""
    torch.manual_seed(seed)
    mean = std = None
    if bench.task.kind == "regression":
        targets = bench.labels["train"]
        mean, std = targets.mean(0), targets.std(0, correction=0)
    student = new_student(copy.deepcopy(bench.backbone), bench.task, mean, std)
    if bench.backbone.info["weights"] != "random":
        for parameter in student.head.parameters():
            nn.init.zeros_(parameter)
    return student


def draw(
    bench: Bench, split: Split, steps: int, seed: int, purpose: int = UNLABELLED
) -> Iterator[ViewBatch]:
    """Batches of a split, in an order and as views that the purpose and the seed draw."""
    held, schedule = bench.inputs[split], bench.schedule
    size = schedule.batch_size if split == "train" else schedule.unlabelled_batch_size
    views = Views(held, held.transform, stream(seed, purpose))  # type: ignore[arg-type]
    for batch in Batches(len(held), size, range(steps), seed, 0, 1, purpose):
        yield collate_views([views[key] for key in batch])


def features_of(bench: Bench, idea: Idea, split: Split, rows: Any) -> list[Tensor]:
    return [one[split][rows] for one in bench.features[: idea.teachers]]


def make_transfer(bench: Bench, idea: Idea, seed: int) -> Transfer | Apart:
    """The transfer loss of an idea."""
    teachers = tuple(range(idea.teachers))
    if not idea.apart:
        return make_losses(bench, idea, teachers, seed)
    return Apart([make_losses(bench, idea, (one,), seed) for one in teachers], idea.drop)


def make_losses(bench: Bench, idea: Idea, teachers: tuple[int, ...], seed: int) -> Transfer:
    known = [bench.features[one]["train"] for one in teachers]
    task = bench.task
    if teachers not in bench.heads:
        bench.heads[teachers] = SoftLabelLoss.fit(
            known, bench.labels["train"], kind=task.kind, num_outputs=task.num_outputs, seed=seed
        )
    labels = bench.heads[teachers]
    kernel: nn.Module = make_kernel(idea, known, labels)
    if idea.queue:
        kernel = Queue(kernel, idea.queue)
    return Transfer(
        kernel if "kernel" in idea.parts else None, labels if "labels" in idea.parts else None
    )


def make_kernel(idea: Idea, known: list[Tensor], labels: SoftLabelLoss) -> nn.Module:
    if idea.kernel == "scores":
        return Scores(labels, torch.cat(known, dim=1))
    statistics = [(one.mean(0), one.std(0, correction=0)) for one in known]
    if idea.scale == "teacher":
        statistics = [(mean, std.square().mean().sqrt().expand_as(std)) for mean, std in statistics]
    kernel = AFTLoss(
        [one.shape[1] for one in known],
        weights="diagonal" if idea.kernel == "gates" else "fixed",
        normalize="none" if idea.scale == "none" else "standardize",
        statistics=None if idea.scale == "none" else statistics,
    )
    if idea.kernel == "head":
        kernel.feature_weights.copy_(gates_of_head(labels, torch.cat(known, dim=1)).logit(1e-4))
    return kernel


def gates_of_head(labels: SoftLabelLoss, known: Tensor) -> Tensor:
    """How much the linear model makes of each standardized dimension, the most being 1."""
    length = torch.linalg.vector_norm(labels.weight, dim=0) * known.std(0, correction=0)
    return length / length.max()


@torch.no_grad()
def evaluate(student: nn.Module, bench: Bench, split: Split) -> float:
    held = bench.inputs[split]
    student.eval()
    batches = (held.values[at : at + 256] for at in range(0, len(held), 256))
    logits = torch.cat([student(collate(batch)).logits for batch in batches])
    metrics = compute_metrics(logits.numpy(), bench.labels[split].numpy(), bench.task)
    return metrics[MAIN_METRIC[bench.task.kind]]


def uncertainty(score: float, bench: Bench) -> float:
    """As in training: the standard error of a share of right answers, else 0."""
    if bench.task.kind != "classification":
        return 0.0
    return math.sqrt(max(0.0, score * (1 - score)) / len(bench.inputs["validation"]))


def as_table(trials: dict[str, Any]) -> str:
    """A row an idea, a column a task: the mean score, and the difference by seed."""
    lines = [
        f"| idea | what it changes | against | {' | '.join(trials)} |",
        "|---" * (3 + len(trials)) + "|",
    ]
    for name, idea in IDEAS.items():
        cells = [cell(known, name, idea.against) for known in trials.values()]
        against = "" if name == "joint" else idea.against
        lines.append(f"| {name} | {idea.words} | {against} | {' | '.join(cells)} |")
    return "\n".join(lines) + (
        "\n\nTest accuracy (R² of snippets), mean over seeds; in brackets the difference by seed "
        "from the idea under *against*, with its 95 % interval (Student's t). **Bold** is better, "
        "_italic_ worse; of so many intervals one in twenty excludes zero by chance.\n"
    )


def cell(known: dict[str, Any], name: str, against: str) -> str:
    own = {seed: one["score"] for seed, one in known.get(name, {}).items()}
    base = {seed: one["score"] for seed, one in known.get(against, {}).items()}
    if not own:
        return tables.NONE
    mean = f"{fmean(own.values()):.3f}"
    seeds = [seed for seed in own if seed in base]
    if name == against:
        return mean + (f" ± {stdev(own.values()):.3f}" if len(own) > 1 else "")
    if len(seeds) < 2:
        return mean
    paired = compare_paired("score", [base[s] for s in seeds], [own[s] for s in seeds])
    sign = tables.SIGNS[paired.outcome]
    return f"{mean} ({sign}{paired.difference:+.3f}{sign}, {paired.low:+.3f} to {paired.high:+.3f})"


if __name__ == "__main__":
    main()
