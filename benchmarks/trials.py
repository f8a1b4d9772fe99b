"""Ideas for the transfer that were tried, each compared with the default loss.

Every idea is one change to its baseline. For most, this is "joint", the default of `aft train`: the
sum of AFT's kernel and soft labels, with weight 3 in all steps, over labelled and unlabelled rows.
Students, losses and data are those of the library. Inputs and features are in memory and the
training loop is short, so a new idea needs only a line in IDEAS and perhaps a small module. A trial
takes 5 to 60 seconds on one core, all of them about two hours. Every trial is stored; run the same
command again to resume.

    python benchmarks/trials.py
    python benchmarks/trials.py --tasks reuters --ideas rising falling --seeds 3
    python benchmarks/trials.py --table          # only the table, from the stored results
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

import aft
import suite
import tables
from aft.comparison.statistics import compare_paired
from aft.training.checkpoints import Best
from aft.training.row_adam import clip_gradients
from aft.training.sampling import BATCH, STEP, seed_everything, stream
from aft.training.schedule import make_optimizer, warmup_cosine
from aft.training.transfer_model import TransferModel
from trial_losses import GateSteps, Idea, make_transfer
from trial_tasks import Bench, draw, evaluate, features_of, load_bench, start, uncertainty

RESULTS = suite.RESULTS / "trials.json"
TASKS = ("reuters", "snippets", "stamps")
BETA = 3.0
QUEUE = 512
LOOKS = 10
FRESH = 5  # purpose of the random stream of gate batches; the library uses the others

# PHI-S (Ranzinger et al. 2024, arXiv 2410.01680) rotates a teacher's features until all dimensions
# have the same variance, and divides them by one number. A kernel is invariant to rotations (except
# for the axes of its gates), so only the division is left. Rows are normalized to length 1, so with
# one teacher the division has no effect either: the idea "not standardized" is equivalent.
IDEAS = {
    "joint": Idea("both losses in all steps, weight 3"),
    "alone": Idea("labels only", parts=()),
    "alone, 3 x steps": Idea("labels only, three times the steps", parts=(), steps=3),
    "soft labels": Idea("without the kernel", parts=("labels",)),
    "kernel": Idea("without soft labels", parts=("kernel",)),
    "softer labels": Idea("soft labels with temperature 2", temperature=2),
    "the softest labels": Idea("soft labels with temperature 4", temperature=4),
    "more rows": Idea(
        "twice the unlabelled rows per step, weight 5", rows=2, plan=lambda *_: (1, 5 / 3)
    ),
    "transfer first": Idea(
        "transfer only in the first half, then both losses", plan=lambda done, _: (done >= 0.5, 1)
    ),
    "transfer, then labels": Idea(
        "transfer only in the first half, then labels only",
        plan=lambda done, _: (done >= 0.5, done < 0.5),
    ),
    "rising": Idea("weight rises from 0 to 6", plan=lambda done, _: (1, 2 * done)),
    "falling": Idea("weight falls from 6 to 0", plan=lambda done, _: (1, 2 - 2 * done)),
    "falling with the task loss": Idea(
        "weight 3 times task loss / initial task loss, at most 3",
        plan=lambda _, loss: (1, min(1, loss)),
    ),
    "queue": Idea(f"the kernel also sees {QUEUE} rows of earlier steps", queue=QUEUE),
    "scores alone": Idea("the kernel sees only the linear model's scores", kernel="scores"),
    "features alone": Idea("the kernel sees only features, with a gate each", kernel="features"),
    "fast gates": Idea(
        "ten times the learning rate of the gates", "features alone", kernel="features", loss_lr=0.1
    ),
    "bi-level gates": Idea(
        "5 gate steps on separate batches per step",
        "features alone",
        kernel="features",
        gate_steps=5,
    ),
    "equal gates": Idea("no gates", "features alone", kernel="equal"),
    "gates of the head": Idea(
        "fixed gates: weights of the linear model", "features alone", kernel="head"
    ),
    "not standardized": Idea(
        "teacher features in their original units",
        "features alone",
        kernel="features",
        scale="none",
    ),
    "two teachers": Idea("a second, weaker teacher in addition", teachers=2),
    "two, apart": Idea("separate losses for each teacher", "two teachers", teachers=2, apart=True),
    "drop the larger": Idea(
        "the larger loss is dropped in half of the steps",
        "two, apart",
        teachers=2,
        apart=True,
        drop="larger",
    ),
    "drop the smaller": Idea(
        "the smaller loss is dropped in half of the steps",
        "two, apart",
        teachers=2,
        apart=True,
        drop="smaller",
    ),
    "two, features alone": Idea(
        "the kernel sees only features", "two teachers", kernel="features", teachers=2
    ),
    "two, one scale each": Idea(
        "PHI-S: features of each teacher divided by one number",
        "two, features alone",
        kernel="features",
        scale="teacher",
        teachers=2,
    ),
    "two, not standardized": Idea(
        "teacher features in their original units",
        "two, features alone",
        kernel="features",
        scale="none",
        teachers=2,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=suite.TASKS)
    parser.add_argument("--ideas", nargs="+", default=list(IDEAS), choices=IDEAS)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--table", action="store_true", help="only write the table, without training"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    trials = found.get("trials", {})
    for task in () if options.table else options.tasks:
        for seed in range(options.seeds):
            kept = {idea: trials.get(task, {}).get(idea, {}) for idea in options.ideas}
            missing = [idea for idea in options.ideas if str(seed) not in kept[idea]]
            if "label_column" in suite.TASKS[task].options:  # temperatures apply to classes only
                missing = [idea for idea in missing if IDEAS[idea].temperature == 1]
            if not missing:
                continue
            bench = load_bench(task, seed)
            for idea in missing:
                started = time.process_time()
                score = train(bench, IDEAS[idea], seed)
                took = time.process_time() - started
                print(f"{task}, {idea}, seed {seed}: {score:.4f}, {took:.0f} s", flush=True)
                known = trials.setdefault(task, {}).setdefault(idea, {})
                known[str(seed)] = {"score": score, "seconds": round(took, 1)}
                found = {
                    "command": "python benchmarks/trials.py",
                    "version": aft.__version__,
                    "machine": tables.machine(),
                    "trials": trials,
                }
                options.out.write_text(json.dumps(found, indent=1) + "\n")
    tables.put("trials", as_table(trials) + _origin(found), ["docs/benchmarks.md"])


def train(bench: Bench, idea: Idea, seed: int) -> float:
    """Test score of the checkpoint chosen on validation rows."""
    task = bench.task
    steps = bench.schedule.steps * idea.steps
    rows = bench.schedule.unlabelled_batch_size * idea.rows
    schedule = replace(
        bench.schedule,
        steps=steps,
        unlabelled_batch_size=rows,
        loss_lr=idea.loss_lr,
        seed=seed,
    )
    bench = replace(bench, schedule=schedule)
    transfer = make_transfer(bench, idea, seed) if idea.parts else None
    model = TransferModel(start(bench, seed), transfer, beta=BETA, task=task.kind)
    optimizer = make_optimizer(model, schedule, sparse=True)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(steps, schedule.warmup))
    labelled, pool = draw(bench, "train", steps, seed, BATCH), draw(bench, "pool", steps, seed)
    gates = None
    if transfer is not None and idea.gate_steps:
        fresh = draw(bench, "pool", steps * idea.gate_steps, seed, FRESH)
        gates = GateSteps(transfer, idea.gate_steps, idea.loss_lr, bench, fresh)
    best, kept, first = Best(), model.student.state_dict(), list[float]()
    for step in range(steps):
        model.train()
        seed_everything(stream(seed, STEP, step))
        if gates is not None:
            gates.learn(model.student)
        inputs, rows = next(labelled)
        known = features_of(bench, "train", rows, idea.teachers) if transfer else None
        batch: tuple[Any, ...] = (inputs, known, bench.labels["train"][rows])
        if transfer is not None:
            others, more = next(pool)
            batch += (others, features_of(bench, "pool", more, idea.teachers))
        out = model(*batch)
        task_loss = out["task_loss"].item()
        first += [task_loss] if step < max(1, steps // 10) else []
        for_labels, for_transfer = idea.plan(step / steps, task_loss / fmean(first))
        loss = for_labels * out["task_loss"]
        if transfer is not None:
            loss = loss + for_transfer * BETA * out["transfer_loss"]
        optimizer.zero_grad()
        loss.backward()
        if gates is not None:
            gates.optimizer.zero_grad()  # only gate steps change the gates
        clip_gradients(model.student.parameters(), schedule.clip_norm)
        optimizer.step()
        rates.step()
        if (step + 1) % max(1, steps // LOOKS) == 0 or step + 1 == steps:
            score = evaluate(model.student, bench, "validation")
            if best.update(step + 1, score, uncertainty(score, bench)):
                kept = copy.deepcopy(model.student.state_dict())
    model.student.load_state_dict(kept)
    return evaluate(model.student, bench, "test")


def as_table(trials: dict[str, Any]) -> str:
    """One row per idea, one column per task: mean score and paired difference."""
    lines = [
        f"| idea | change | baseline | {' | '.join(trials)} |",
        "|---" * (3 + len(trials)) + "|",
    ]
    for name, idea in IDEAS.items():
        cells = [cell(known, name, idea.against) for known in trials.values()]
        against = "" if name == "joint" else idea.against
        lines.append(f"| {name} | {idea.words} | {against} | {' | '.join(cells)} |")
    return "\n".join(lines) + (
        "\n\nTest accuracy (R² for snippets), mean over seeds. In brackets: the mean difference "
        "from the baseline, paired by seed, with its 95 % interval (Student's t). **Bold** is "
        "better, _italic_ worse. Intervals are not corrected for the number of comparisons: about "
        "one in twenty excludes zero by chance.\n"
    )


def _origin(found: dict[str, Any]) -> str:
    return f"Made by `{found['command']}` ({found['machine']}).\n"


def cell(known: dict[str, Any], name: str, against: str) -> str:
    """Mean score of an idea in one task, and the difference from its baseline."""
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
