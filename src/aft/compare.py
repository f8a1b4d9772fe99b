"""The verb `compare`: one student, several methods, several seeds; which is better?"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aft import __version__
from aft.config import CompareConfig, LossDetails, TrainConfig, resolve, write_config_file
from aft.data import DataSet, Samples
from aft.devices import choose_device
from aft.errors import AftError, ConfigError
from aft.evaluate import MAIN_METRIC, compute_metrics, load_training_data
from aft.extract import StoredFeatures, extract_teachers
from aft.losses.logit_kd import fit_head
from aft.report import write_methods_report
from aft.runs import TrainResult, is_finished, open_run, write_json
from aft.statistics import name_best, summarize_method
from aft.train import train
from aft.transfer import MOST_FITTED_ROWS

ALONE = "alone"
OPTIONS_FILE = "compare.yaml"


@dataclass
class _Cells:
    """The runs of a comparison: what was made, and what went wrong."""

    out: Path
    total: int
    results: dict[str, TrainResult] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def make(self, name: str, options: TrainConfig) -> None:
        """Read, go on with or train one run; what goes wrong in it is noted.

        Raises:
            ConfigError: If the run that is there had other options.
        """
        if name in self.results or name in self.errors:
            return
        number = len(self.results) + len(self.errors) + 1
        options = options.model_copy(update={"out": self.out / name, "resume": True})
        open_run(self.out / name, options)
        if is_finished(self.out / name):
            self.results[name] = TrainResult.load(self.out / name)
            return
        print(f"\nrun {number} of {self.total}: {name}", file=sys.stderr)
        try:
            self.results[name] = train(options)
        except AftError as error:
            self.errors[name] = str(error)
            print(f"{name} failed: {error}", file=sys.stderr)


def compare(config: CompareConfig | None = None, /, **options: Any) -> dict[str, Any]:
    """Compare methods; options are those of :class:`aft.config.CompareConfig`.

    Runs that are finished are read, others are gone on with or made. A run that fails is noted,
    and the others go on.

    Returns:
        What ``compare.json`` in the folder holds: for each method its weight, its runs, mean,
        deviation and difference from the labels alone with a 95 % interval; the ceilings; the best
        method; and what to be careful about.

    Raises:
        AftError: If options, data, student or teachers are wrong, if a run in the folder had other
            options, or if no method at all could be trained.
        KeyboardInterrupt: On Ctrl-C; the same command goes on.
    """
    config = resolve(CompareConfig, config, options)
    methods = _check(config)
    out = config.out or _default_folder(config.data)
    _open_folder(out, config)
    saved = config.model_copy(update={"out": out, "overwrite": False})
    if not (out / OPTIONS_FILE).exists():
        write_config_file(out / OPTIONS_FILE, saved)
    try:
        document = _compare(config, out, methods)
    except KeyboardInterrupt:
        hint = " without --overwrite" if config.overwrite else ""
        raise KeyboardInterrupt(
            f"stopped; the same command{hint} goes on with what is missing in {out}"
        ) from None
    write_config_file(out / OPTIONS_FILE, saved)
    write_json(out / "compare.json", document)
    try:
        print(f"\nreport: {write_methods_report(out, document)}", file=sys.stderr)
    except AftError as error:
        print(f"no page: {error}", file=sys.stderr)
    return document


def _compare(config: CompareConfig, out: Path, methods: list[str]) -> dict[str, Any]:
    betas = sorted(set(config.betas))
    search = len(betas) if len(betas) > 1 else 0
    cells = _Cells(out, len(methods) * config.seeds + search * (len(methods) - 1))
    cells.make(_run_name(ALONE, 0), _run_options(config, ALONE, 0))
    if cells.errors:  # data or student are wrong: nothing can be compared
        raise AftError(next(iter(cells.errors.values())))
    data = load_training_data(_run_options(config, ALONE, 0))
    teachers = _teachers(config, data.splits["train"])
    metric = MAIN_METRIC[data.task.kind]
    searches = {
        method: _search(config, cells, method, betas, metric)
        for method in methods
        if method != ALONE
    }
    chosen: dict[str, float | None] = {
        method: _choose(looks) if search else betas[0] for method, looks in searches.items()
    }
    for seed in range(config.seeds):
        for method in methods:
            beta = chosen.get(method)
            if method == ALONE or beta is not None:
                cells.make(_run_name(method, seed), _run_options(config, method, seed, beta))
    found: dict[str, dict[str, Any]] = {
        method: {
            "beta": chosen.get(method),
            "search": searches.get(method, []) if search else [],
            "runs": _runs(cells, method, config.seeds, metric),
        }
        for method in methods
    }
    for method, values in found.items():
        scores, alone = ([run["score"] for run in found[name]["runs"]] for name in (method, ALONE))
        values |= summarize_method(method, metric, scores, None if method == ALONE else alone)
    if all(values["mean"] is None for method, values in found.items() if method != ALONE):
        why = next(iter(cells.errors.values()), f"{metric} is not a number in any of them")
        raise AftError(f"no run with a teacher has a score: {why}")
    first = cells.results[_run_name(ALONE, 0)]
    probing = config.probes and data.task.kind == "classification"
    probes, probe_error = _probe(config, data, teachers, first.split) if probing else ([], None)
    return {
        "version": __version__,
        "data": config.data,
        "task": data.task.kind,
        "metric": metric,
        "split": first.split,
        "rows": first.summary["rows"],
        "student": first.summary["student"],
        "num_parameters": first.summary["num_parameters"],
        "teachers": list(config.teachers),
        "seeds": config.seeds,
        "betas": betas,
        "steps": first.summary["steps"],
        "methods": found,
        "best": name_best(found, metric, ALONE),
        "probes": probes,
        "errors": {**cells.errors, **({"probes": probe_error} if probe_error else {})},
        "cautions": _cautions(config, data, found, first.split, betas),
        "seconds": round(sum(one.summary["seconds"] for one in cells.results.values()), 1),
        "json": str(out / "compare.json"),
        "markdown": str(out / "report.md"),
        "report": str(out / "report.html"),
    }


def _check(config: CompareConfig) -> list[str]:
    """The methods in order, labels alone first."""
    if importlib.util.find_spec("scipy") is None:
        raise AftError("compare needs scipy: pip install 'adaptive-feature-transfer[report]'")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("compare trains in one process; start it without torchrun")
    methods = [ALONE, *(m for m in dict.fromkeys(config.methods) if m != ALONE)]
    if len(methods) == 1:
        raise ConfigError("expected a method beside alone, e.g. --methods alone aft")
    if not config.teachers:
        raise ConfigError(f"{', '.join(methods[1:])} need --teachers; name at least one")
    return methods


def _default_folder(data: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(data).resolve().stem).strip("-") or "run"
    return Path(f"runs/compare-{name}")


def _open_folder(out: Path, config: CompareConfig) -> None:
    """Make the folder ready.

    Raises:
        ConfigError: If there is something else in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / OPTIONS_FILE).is_file():
            raise ConfigError(f"{out} exists and is no comparison of aft; name another --out")
        if config.overwrite:
            shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)


def _run_name(method: str, seed: int) -> str:
    return f"runs/{method}-{seed}"


def _run_options(
    config: CompareConfig, method: str, seed: int, beta: float | None = None
) -> TrainConfig:
    """The options of one run: all that `train` and `compare` share, and the method's own."""
    values = {
        name: getattr(config, name)
        for name in TrainConfig.model_fields
        if name in CompareConfig.model_fields and name not in ("out", "overwrite")
    }
    if method != "aft":  # the form of AFT's kernel means nothing to others
        plain = LossDetails()
        values |= {name: getattr(plain, name) for name in ("kernel", "weights", "combine")}
    if method == ALONE:
        values["teachers"] = ()
    else:
        values |= {"loss": method, "beta": beta}
    return resolve(TrainConfig, None, {**values, "seed": seed})


def _teachers(config: CompareConfig, samples: Samples) -> list[StoredFeatures]:
    """Every teacher's features of the training rows, so that a wrong one is said at once."""
    return extract_teachers(config, samples, choose_device(config.device))


def _search(
    config: CompareConfig, cells: _Cells, method: str, betas: Sequence[float], metric: str
) -> list[dict[str, Any]]:
    """The validation score of each weight, seed 0; the final split has no part in it."""
    looks: list[dict[str, Any]] = []
    for beta in betas if len(betas) > 1 else ():
        name = f"search/{method}-{beta:g}"
        cells.make(name, _run_options(config, method, 0, beta))
        look: dict[str, Any] = {"beta": beta, "folder": name}
        if name in cells.results:
            score = cells.results[name].summary["validation"][metric]
            looks.append({**look, "validation": score if np.isfinite(score) else None})
        else:
            looks.append({**look, "validation": None, "error": cells.errors[name]})
    return looks


def _choose(looks: Sequence[dict[str, Any]]) -> float | None:
    """The weight with the best validation score, of equal ones the smallest."""
    scored = [look for look in looks if look["validation"] is not None]
    best = max(scored, key=lambda look: (look["validation"], -look["beta"]), default=None)
    return None if best is None else float(best["beta"])


def _runs(cells: _Cells, method: str, seeds: int, metric: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        name = _run_name(method, seed)
        run: dict[str, Any] = {"seed": seed, "folder": name, "score": None}
        if name in cells.results:
            result = cells.results[name]
            score = result.metrics[metric]
            run |= {
                "score": score if np.isfinite(score) else None,
                "best_step": result.summary["best_step"],
                "seconds": result.summary["seconds"],
            }
        else:
            run["error"] = cells.errors.get(name, "not made: no weight could be chosen")
        runs.append(run)
    return runs


def _cautions(
    config: CompareConfig,
    data: DataSet,
    found: dict[str, dict[str, Any]],
    split: str,
    betas: Sequence[float],
) -> list[str]:
    notes = []
    if len(found) > 2:
        notes.append(
            f"To pick one of {len(found) - 1} methods after the scores are known flatters it: part "
            "of a lead is luck, and of many intervals one may exclude zero by chance. New "
            "seeds or new data, with this method alone, say what it is worth."
        )
    if split != "test":
        notes.append(
            "There is no test split. The rows scored here also chose the checkpoints, and with "
            "seed 0 the weights of the methods, which flatters every method with a weight. "
            "--test-fraction holds test rows out of train."
        )
    elif "test" in data.held_out:
        notes.append(
            "Every seed draws test rows of its own (--test-fraction), so some rows that chose the "
            "weights with seed 0 are test rows of other seeds. A test split in the data avoids it."
        )
    short = {
        name: sum(run["score"] is not None for run in values["runs"])
        for name, values in found.items()
    }
    notes += [
        f"{name}: {count} of {config.seeds} seeds have a score; the mean is over these, the "
        "difference over those that the labels alone have as well."
        for name, count in short.items()
        if count < config.seeds
    ]
    for name, values in found.items():
        others = [look["validation"] for look in values["search"] if look["validation"] is not None]
        if others.count(max(others, default=None)) != 1:  # of equal ones the smallest was taken
            continue
        for beta, what, other in (
            (betas[-1], "largest", "larger"),
            (betas[0], "smallest", "smaller"),
        ):
            if values["beta"] == beta:
                notes.append(
                    f"{name}: the chosen weight {beta:g} is the {what} that was tried; a {other} "
                    "one may be better (--betas)."
                )
    return notes


def _probe(
    config: CompareConfig, data: DataSet, teachers: Sequence[StoredFeatures], split: str
) -> tuple[list[dict[str, Any]], str | None]:
    """Accuracy of linear heads on the features of each teacher and of all, split of seed 0."""
    train_samples, scored = data.splits["train"], data.splits[split]
    rows = np.random.default_rng(0).permutation(len(train_samples))[:MOST_FITTED_ROWS]
    try:
        others = extract_teachers(config, scored, choose_device(config.device))
        seen = [one.gather(rows) for one in teachers]
        new = [one.gather(np.arange(len(scored))) for one in others]
        groups = [[i] for i in range(len(teachers))]
        groups += [list(range(len(teachers)))] if len(teachers) > 1 else []
        probes = []
        for group in groups:
            head = fit_head(
                torch.cat([seen[i] for i in group], dim=1),
                torch.from_numpy(np.asarray(train_samples.labels)[rows]),
                num_classes=data.task.num_outputs,
            )
            features = torch.cat([new[i] for i in group], dim=1)
            logits = (features @ head.weight.T + head.bias).numpy()
            metrics = compute_metrics(logits, np.asarray(scored.labels), data.task)
            names = [teachers[i].spec for i in group]
            probes.append({"teachers": names, "accuracy": metrics["accuracy"]})
    except AftError as error:
        return [], str(error)
    return probes, None
