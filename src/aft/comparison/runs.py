"""The runs of a comparison: their settings, options and folders, training and loading."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from aft.backbones.specs import short_name
from aft.comparison.baselines import collect_baselines, find_better
from aft.comparison.statistics import finite, recommend_method, summarize_method
from aft.config.commands import CompareConfig, TrainConfig, resolve
from aft.config.groups import (
    ALONE,
    EQUAL_STEPS,
    LABELS_ONLY,
    METHOD_WORDS,
    NOTHING,
    VARIANTS,
    LossDetails,
)
from aft.data.loading import DataSet
from aft.data.options import load_training_data
from aft.devices import Processes
from aft.errors import AftError, ConfigError
from aft.training.prepare import transfer_pool
from aft.training.run_folder import TrainResult, check_content, is_finished, open_run
from aft.training.schedule import make_schedule
from aft.training.transfer_loss import WITH_SOFT_LABELS

UNSEARCHED = frozenset(WITH_SOFT_LABELS)
"""Methods with soft labels: their weight needs no search, and they use unlabelled rows and stored
views. The other methods are as published and use only the labelled rows."""
NO_BETA = LABELS_ONLY | UNSEARCHED
"""Methods without a weight to search."""


@dataclass(frozen=True)
class Setting:
    """One share of the training rows with one choice of teachers.

    Attributes:
        fraction: Share of the training rows.
        teachers: The teachers' specifications.
        number: Number of the teacher, from 1, if it is used alone; 0 for all teachers together.
        name: Name in messages and reports; empty if there is only one setting.
        steps: Steps of a method with a second batch in every step, if one is compared.
        factor: Inputs per step of that method, relative to the methods without a second batch.
            These are trained for so many times more steps, so that all see as many inputs.
    """

    fraction: float
    teachers: tuple[str, ...]
    number: int
    name: str
    steps: int = 0
    factor: float = 1.0

    def folder(self, method: str) -> str:
        """Folder of a method's runs; the runs of the labels alone are shared by all teachers."""
        share = "" if self.fraction == 1 else f"train-{self.fraction:g}/"
        teacher = f"teacher-{self.number}/" if self.number and method not in LABELS_ONLY else ""
        return f"{share}{teacher}runs/"

    def more_steps(self, method: str) -> int | None:
        """Steps of a method that needs more of them to see as many inputs as the others."""
        if self.factor == 1 or method in (EQUAL_STEPS, *UNSEARCHED):
            return None
        return round(self.steps * self.factor)

    def methods(self, methods: Sequence[str]) -> list[str]:
        """These methods, which begin with the labels alone, and those at equal steps."""
        beside = [EQUAL_STEPS] if self.factor > 1 else []
        return [*methods[:1], *beside, *methods[1:]]


Run = tuple[Setting, str, int, float | None]
"""A setting, a method, a seed, and the weight of the transfer loss."""


def list_settings(config: CompareConfig) -> list[Setting]:
    """Each share of rows with all teachers and, with ``each_teacher``, with each of them alone."""
    fractions = sorted(set(config.train_fractions))
    choices = [(0, tuple(config.teachers))]
    if config.each_teacher and len(config.teachers) > 1:
        choices += [(i, (one,)) for i, one in enumerate(config.teachers, start=1)]
    names = [short_name(one) for one in config.teachers]
    if len(set(names)) < len(names):  # same model with different versions or options
        names = [f"{name} ({number})" for number, name in enumerate(names, start=1)]
    settings = []
    for fraction in fractions:
        for number, teachers in choices:
            words = [f"{100 * fraction:g}% of train"] if len(fractions) > 1 else []
            if len(choices) > 1:
                words.append(names[number - 1] if number else "all teachers")
            settings.append(Setting(fraction, teachers, number, ", ".join(words)))
    return settings


def equalize_inputs(
    config: CompareConfig,
    settings: Sequence[Setting],
    loaded: Mapping[float, DataSet],
) -> list[Setting]:
    """The settings, with the steps at which every method sees as many inputs.

    Args:
        config: Options of the comparison.
        settings: The settings.
        loaded: Data sets that are already loaded, with unlabelled rows, by share of the rows.
    """
    method = first_soft(config)
    if method is None:
        return list(settings)
    known = dict(loaded)
    found = []
    for setting in settings:
        options = run_options(config, setting, method, 0)
        try:
            data = known.get(setting.fraction) or load_training_data(options)
            known[setting.fraction] = data
            pool, _ = transfer_pool(options, data)
        except AftError:  # every run of the setting will fail, and be listed with the reason
            found.append(setting)
            continue
        rows, more = len(data.splits["train"]), 0 if pool is None else len(pool)
        schedule = make_schedule(options, rows, "random")
        factor = schedule.inputs_per_step(rows, more) / schedule.inputs_per_step(rows)
        found.append(replace(setting, steps=schedule.steps, factor=factor))
    return found


def first_soft(config: CompareConfig) -> str | None:
    """The first method that uses unlabelled rows and stored views."""
    return next((method for method in config.methods if method in UNSEARCHED), None)


def run_name(setting: Setting, method: str, seed: int, beta: float | None = None) -> str:
    """Path of a run folder, relative to the folder of the comparison."""
    weight = "" if beta is None else f"-beta{beta:g}"
    more = setting.more_steps(method)
    steps = "" if more is None else f"-steps{more}"
    return f"{setting.folder(method)}{method}{weight}{steps}-seed{seed}"


def method_of(name: str) -> str:
    """The method of a run, from the name of its folder."""
    return re.sub(r"(-beta[^-]*(-\d+)?)?(-steps\d+)?-seed\d+$", "", name)


def run_options(
    config: CompareConfig, setting: Setting, method: str, seed: int, beta: float | None = None
) -> TrainConfig:
    """The options of one run: those shared by `train` and `compare`, and those of the method."""
    values = {
        name: getattr(config, name)
        for name in TrainConfig.model_fields
        if name in CompareConfig.model_fields and name not in ("out", "overwrite")
    }
    if method not in ("aft", "aft-soft", *VARIANTS):  # other methods have no kernel options
        plain = LossDetails()
        values |= {name: getattr(plain, name) for name in ("kernel", "weights", "combine")}
    elif len(setting.teachers) < 2:  # nothing to multiply
        values["combine"] = "concat"
    values["teachers"] = () if method in LABELS_ONLY else setting.teachers
    more = setting.more_steps(method)
    if more is not None:  # evaluated as often as the others
        values |= {"epochs": None, "steps": more}
        if config.eval_every is not None:
            values["eval_every"] = round(config.eval_every * setting.factor)
    if method not in UNSEARCHED:
        values |= {"views": "clean", "unlabelled": NOTHING, "unlabelled_batch_size": None}
    if method in VARIANTS:
        values |= {"loss": "aft", "beta": beta, **VARIANTS[method]}
    elif method not in LABELS_ONLY:
        values |= {"loss": method, "beta": "auto" if beta is None else beta}
    values["baselines"] = method in (ALONE, *UNSEARCHED)
    # The labels alone are a separate method here, so runs need no second student.
    values |= {"safety_net": False, "seed": seed, "train_fraction": setting.fraction}
    return resolve(TrainConfig, None, values)


def count_runs(config: CompareConfig, methods: Sequence[str], settings: Sequence[Setting]) -> int:
    """Number of runs of a comparison."""
    names = set()
    for setting in settings:
        for method in setting.methods(methods):
            names |= {run_name(setting, method, seed) for seed in range(1, config.seeds)}
            betas = (None,) if method in NO_BETA else config.betas  # tried with seed 0
            names |= {run_name(setting, method, 0, beta) for beta in betas}
    return len(names)


@dataclass
class Runs:
    """The runs of a comparison: results and errors.

    Attributes:
        config: Options of the comparison.
        out: Folder of the comparison.
        train: Trains one run.
        total: Total number of runs.
        content: :attr:`aft.data.loading.DataSet.content` of the data.
        results: Finished runs by folder name.
        errors: Error messages of failed runs by folder name.
        stores: Store of each teacher's features in the runs so far, by specification.
    processes: The processes that share the runs.
    """

    config: CompareConfig
    out: Path
    train: Callable[[TrainConfig], TrainResult]
    total: int
    content: Mapping[str, str] = field(default_factory=dict)
    results: dict[str, TrainResult] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    stores: dict[str, str] = field(default_factory=dict)
    processes: Processes = field(default_factory=Processes)

    def spread(self, wanted: Iterable[Run]) -> None:
        """Make runs, each in the first process that is free, until all are made."""
        for run in wanted:
            if self.processes.claim(run_name(*run)):
                self.make(*run)
        self.processes.wait()

    def make(
        self, setting: Setting, method: str, seed: int, beta: float | None = None
    ) -> TrainResult | None:
        """Load, resume or train one run; if it fails, record the error and return None.

        Raises:
            ConfigError: If the folder contains a run with other options or other data, or a run
                with another version of a teacher.
        """
        name = run_name(setting, method, seed, beta)
        if name not in self.results and name not in self.errors:
            if self.processes.store.check([name]):  # failed in another process
                self.errors[name] = self.processes.store.get(name).decode()
                return None
            options = run_options(self.config, setting, method, seed, beta)
            self._make(name, options.model_copy(update={"out": self.out / name, "resume": True}))
        return self.results.get(name)

    def summary(self, name: str) -> dict[str, Any]:
        """Content of the ``result.json`` of a run; empty if the run failed."""
        return self.results[name].summary if name in self.results else {}

    def _make(self, name: str, options: TrainConfig) -> None:
        number = len(self.results) + len(self.errors) + 1
        open_run(self.out / name, options)
        if is_finished(self.out / name):
            check_content(self.out / name, self.content)
            self._keep(name, TrainResult.load(self.out / name))
            return
        if self.config.progress:
            print(f"\nrun {number} of {self.total}: {name}", file=sys.stderr)
        try:
            result = self.train(options)
        except (AftError, RuntimeError) as error:  # for example out of GPU memory
            self.errors[name] = str(error)
            self.processes.store.set(name, str(error))
            print(f"{name} failed: {error}", file=sys.stderr)
            return
        self._keep(name, result)

    def _keep(self, name: str, result: TrainResult) -> None:
        for teacher in result.summary.get("teachers", ()):
            spec, store = teacher["spec"], teacher.get("folder", "")
            before = self.stores.setdefault(spec, store)
            if before != store:
                raise ConfigError(
                    f"the teacher {spec} changed during the comparison: the features of {name} "
                    f"were in {store}, those of an earlier run in {before}. Use --overwrite to "
                    "train all runs with the teacher as it is now"
                )
        self.results[name] = result

    def search(
        self, setting: Setting, method: str, betas: Sequence[float], metric: str
    ) -> list[dict[str, Any]]:
        """Validation score of each weight with seed 0; the final split is not used."""
        scores: list[dict[str, Any]] = []
        for beta in betas:
            result = self.make(setting, method, 0, beta)
            name = run_name(setting, method, 0, beta)
            score = finite(result.summary["validation"][metric]) if result else None
            error = {} if result else {"error": self.errors[name]}
            scores.append({"beta": beta, "folder": name, "validation": score, **error})
        return scores

    def describe(
        self, setting: Setting, method: str, beta: float | None, metric: str
    ) -> Iterator[dict[str, Any]]:
        """Summary of the run of each seed."""
        for seed in range(self.config.seeds):
            name = run_name(setting, method, seed, beta)
            run: dict[str, Any] = {"seed": seed, "folder": name, "score": None}
            if name in self.results:
                result = self.results[name]
                run |= {
                    "score": finite(result.metrics[metric]),
                    "metrics": {name: finite(one) for name, one in result.metrics.items()},
                    "best_step": result.summary["best_step"],
                    "seconds": result.summary["training_seconds"],
                    "steps": result.summary["steps"],
                    "inputs_seen": inputs_seen(
                        run_options(self.config, setting, method, seed, beta), result.summary
                    ),
                }
            else:
                run["error"] = self.errors.get(name, "not trained: no weight could be chosen")
            yield run


def inputs_seen(options: TrainConfig, summary: Mapping[str, Any]) -> int:
    """Number of inputs of the student in a finished run, with repetitions."""
    rows, pool = summary["rows"]["train"], summary.get("rows_without_labels", 0)
    per_step = make_schedule(options, rows, "random").inputs_per_step(rows, pool)
    return int(summary["steps"]) * per_step


def choose_beta(searched: Sequence[dict[str, Any]]) -> float | None:
    """The weight with the best validation score; the smallest one if scores are tied."""
    scored = [one for one in searched if one["validation"] is not None]
    best = max(scored, key=lambda one: (one["validation"], -one["beta"]), default=None)
    return None if best is None else float(best["beta"])


def _mean(runs: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Mean of a value over the finished runs."""
    known = [run[name] for run in runs if name in run]
    return float(np.mean(known)) if known else None


def train_all(
    config: CompareConfig, setting: Setting, runs: Runs, methods: Sequence[str], metric: str
) -> dict[str, Any]:
    """Train every method with every seed, with the weight chosen on the validation split."""
    methods = setting.methods(methods)
    betas = sorted(set(config.betas))
    beta: dict[str, float | None] = dict.fromkeys(methods)
    searches: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    weighted = [m for m in methods if m not in NO_BETA]
    seeds = range(config.seeds)
    if len(betas) > 1:  # with the runs that wait for no weight
        known: list[Run] = [(setting, m, s, None) for s in seeds for m in methods if m in NO_BETA]
        runs.spread([*known, *((setting, m, 0, one) for m in weighted for one in betas)])
    for method in weighted:
        if len(betas) > 1:
            searches[method] = runs.search(setting, method, betas, metric)
        beta[method] = choose_beta(searches[method]) if len(betas) > 1 else betas[0]
    wanted = [
        (setting, method, seed, beta[method])
        for seed in seeds
        for method in methods
        if method not in weighted or beta[method] is not None
    ]
    runs.spread(wanted)
    for run in wanted:
        runs.make(*run)
    summaries: dict[str, dict[str, Any]] = {}
    for method in methods:
        own = list(runs.describe(setting, method, beta[method], metric))
        alone = None if method == ALONE else summaries[ALONE]["runs"]
        seconds, steps, inputs = (_mean(own, name) for name in ("seconds", "steps", "inputs_seen"))
        summaries[method] = {
            "beta": beta[method],
            "search": searches[method],
            "runs": own,
            **summarize_method(METHOD_WORDS.get(method, method), metric, own, alone),
            "seconds": None if seconds is None else round(seconds, 2),
            "steps": None if steps is None else round(steps),
            "inputs_seen": None if inputs is None else round(inputs),
        }
    baselines = collect_baselines(
        metric,
        [
            [runs.summary(run["folder"]) for run in summaries[method]["runs"]]
            for method in (ALONE, first_soft(config))
            if method is not None
        ],
        summaries[ALONE]["runs"],
    )
    best = recommend_method(summaries, metric, ALONE)
    best["better_baseline"] = None
    if best["method"]:
        better = find_better(best["method"], metric, summaries[best["method"]], baselines)
        best["better_baseline"] = better
        best["sentence"] += f" {better['sentence']}" if better else ""
    names = [run["folder"] for values in summaries.values() for run in values["runs"]]
    done = [runs.results[name].summary for name in names if name in runs.results]
    return {
        "name": setting.name,
        "fraction": setting.fraction,
        "teachers": list(setting.teachers),
        "rows": done[0]["rows"] if done else {},
        "unlabelled": max(
            (one.get("rows_without_labels", 0) for one in done if not one.get("views")), default=0
        ),
        "views": max((one.get("views", 0) for one in done), default=0),
        "steps": setting.steps or (done[0]["steps"] if done else None),
        "methods": summaries,
        "baselines": baselines,
        "best": {**best, "folder": _pick(runs, summaries, best["method"], metric)},
    }


def _pick(runs: Runs, found: Mapping[str, Any], method: str | None, metric: str) -> str | None:
    """Folder of a method's run with the best validation score."""
    names = [run["folder"] for run in found[method]["runs"]] if method else []
    finished = [name for name in names if name in runs.results]

    def score(name: str) -> float:
        score = finite(runs.results[name].summary["validation"][metric])
        return -np.inf if score is None else score

    return max(finished, key=score, default=None)
