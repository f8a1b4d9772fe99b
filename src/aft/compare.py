"""The verb `compare`: one student, several methods, several seeds; which is better?"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aft import __version__
from aft.cells import (
    ALONE,
    KEEPS_TEACHERS,
    NO_BETA,
    UNSEARCHED,
    VARIANTS,
    Cells,
    Setting,
    cell_options,
    choose_beta,
    count_cells,
    list_settings,
)
from aft.config import CompareConfig, resolve, write_config_file
from aft.costs import measure_costs
from aft.data import LEFT_OUT, DataSet, Samples
from aft.devices import choose_device
from aft.errors import AftError, ConfigError
from aft.evaluate import MAIN_METRIC, compute_metrics, load_training_data
from aft.extract import extract_teachers, open_teacher
from aft.report import write_methods_report
from aft.runs import write_json
from aft.scores import linear_probe
from aft.statistics import count_outcomes, name_best, summarize_method
from aft.transfer import MOST_FITTED_ROWS, check_loss

OPTIONS_FILE = "compare.yaml"


def compare(config: CompareConfig | None = None, /, **options: Any) -> dict[str, Any]:
    """Compare methods; options are those of :class:`aft.config.CompareConfig`.

    Runs that are finished are read, others are gone on with or made. A run that fails is noted,
    and the others go on.

    Returns:
        What ``compare.json`` in the folder holds: a ``sentence``; for each of ``settings`` (share
        of the rows and teachers) and each method its weight, its runs, mean, deviation and
        difference from the labels alone with a 95 % interval, the ceilings and the best method;
        what teachers and student cost; and what to be careful about.

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
        document, scored = _compare(config, out, methods)
    except KeyboardInterrupt:
        hint = " without --overwrite" if config.overwrite else ""
        raise KeyboardInterrupt(
            f"stopped; the same command{hint} goes on with what is missing in {out}"
        ) from None
    write_config_file(out / OPTIONS_FILE, saved)
    write_json(out / "compare.json", document)
    try:
        print(f"\nreport: {write_methods_report(out, document, _opener(scored))}", file=sys.stderr)
    except AftError as error:
        print(f"no page: {error}", file=sys.stderr)
    return document


def _compare(
    config: CompareConfig, out: Path, methods: list[str]
) -> tuple[dict[str, Any], Samples]:
    """The document, and the rows that were scored with seed 0."""
    settings = list_settings(config)
    whole = next(one for one in settings if one.fraction == settings[-1].fraction)
    # What is wrong with data, methods, teachers or student is said before long work begins.
    data = load_training_data(cell_options(config, whole, ALONE, 0))
    metric = MAIN_METRIC[data.task.kind]
    for method in methods:
        check_loss(method, data.task)
    for text in config.teachers:
        open_teacher(text, data.splits["train"], config.trust_remote_code)
    cells = Cells(config, out, count_cells(config, methods, settings))
    alone = (cells.make(setting, ALONE, 0) for setting in settings)
    if all(run is None for run in alone):
        raise AftError(next(iter(cells.errors.values())))
    first = cells.make(whole, ALONE, 0) or next(iter(cells.results.values()))
    found = [_train_all(config, setting, cells, methods, metric) for setting in settings]
    _check_scores(found, cells, metric)
    errors: dict[str, str] = {}
    for setting, values in zip(settings, found, strict=True):
        values["probes"] = []
        if config.probes:
            try:
                values["probes"] = _probe(config, setting, first.split, metric)
            except (AftError, RuntimeError) as error:
                errors[f"probes {setting.name}".strip()] = str(error)
    try:
        costs = measure_costs(config, data.splits["train"], first)
    except (AftError, RuntimeError) as error:
        costs, errors["costs"] = None, str(error)
    document = {
        "version": __version__,
        "data": config.data,
        "task": data.task.kind,
        "metric": metric,
        "split": first.split,
        "student": first.summary["student"],
        "student_weights": first.summary["student_weights"],
        "num_parameters": first.summary["num_parameters"],
        "teachers": list(config.teachers),
        "seeds": config.seeds,
        "betas": sorted(set(config.betas)),
        "steps": first.summary["steps"],
        "batch_size": config.batch_size,
        "sentence": _conclude(found),
        "settings": found,
        "costs": costs,
        "errors": {**cells.errors, **errors},
        "cautions": [*_cautions(config, data, found, first.split), *_left_out(out, methods)],
        "seconds": round(sum(one.summary["seconds"] for one in cells.results.values()), 1),
        "json": str(out / "compare.json"),
        "markdown": str(out / "report.md"),
        "report": str(out / "report.html"),
    }
    return document, data.splits[first.split]


def _train_all(
    config: CompareConfig, setting: Setting, cells: Cells, methods: Sequence[str], metric: str
) -> dict[str, Any]:
    """Every method with every seed, each with the weight that the validation split chose."""
    betas = sorted(set(config.betas))
    beta: dict[str, float | None] = dict.fromkeys(methods)
    searches: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    weighted = [m for m in methods if m not in NO_BETA]
    for method in weighted:
        if len(betas) > 1:
            searches[method] = cells.search(setting, method, betas, metric)
        beta[method] = choose_beta(searches[method]) if len(betas) > 1 else betas[0]
    for seed in range(config.seeds):
        for method in methods:
            if method not in weighted or beta[method] is not None:
                cells.make(setting, method, seed, beta[method])
    found: dict[str, dict[str, Any]] = {}
    for method in methods:
        runs = list(cells.runs(setting, method, beta[method], metric))
        scores = [run["score"] for run in runs]
        alone = None if method == ALONE else [run["score"] for run in found[ALONE]["runs"]]
        seconds = [run["seconds"] for run in runs if "seconds" in run]
        found[method] = {
            "beta": beta[method],
            "search": searches[method],
            "runs": runs,
            **summarize_method(method, metric, scores, alone),
            "seconds": round(float(np.mean(seconds)), 2) if seconds else None,
            "keeps_teachers": method in KEEPS_TEACHERS,
        }
    rivals = {name: one for name, one in found.items() if not one["keeps_teachers"]}
    best = name_best(rivals, metric, ALONE)
    names = [run["folder"] for values in found.values() for run in values["runs"]]
    made = [cells.results[name].summary for name in names if name in cells.results]
    return {
        "name": setting.name,
        "fraction": setting.fraction,
        "teachers": list(setting.teachers),
        "rows": made[0]["rows"] if made else {},
        "unlabelled": max(
            (one.get("rows_without_labels", 0) for one in made if not one.get("views")), default=0
        ),
        "steps": made[0]["steps"] if made else None,
        "methods": found,
        "best": {**best, "folder": _pick(cells, found, best["method"], metric)},
    }


def _pick(cells: Cells, found: Mapping[str, Any], method: str | None, metric: str) -> str | None:
    """The run of a method that has the best validation score: one to use."""
    names = [run["folder"] for run in found[method]["runs"]] if method else []
    made = [name for name in names if name in cells.results]

    def score(name: str) -> float:
        return float(np.nan_to_num(cells.results[name].summary["validation"][metric], nan=-np.inf))

    return max(made, key=score, default=None)


def _check_scores(found: Sequence[Mapping[str, Any]], cells: Cells, metric: str) -> None:
    """See that something can be said.

    Raises:
        AftError: If no method beside the labels alone has a score.
    """
    methods = [
        one for setting in found for name, one in setting["methods"].items() if name != ALONE
    ]
    if all(values["mean"] is None for values in methods):
        why = next(iter(cells.errors.values()), f"{metric} is not a number in any of them")
        raise AftError(f"no run with a teacher has a score: {why}")


def _conclude(found: Sequence[Mapping[str, Any]]) -> str:
    if len(found) == 1:
        return str(found[0]["best"]["sentence"])
    return count_outcomes([setting["methods"] for setting in found])


def _check(config: CompareConfig) -> list[str]:
    """The methods in order, labels alone first."""
    if importlib.util.find_spec("scipy") is None:
        raise AftError("compare needs scipy: pip install 'adaptive-feature-transfer[report]'")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("compare trains in one process; start it without torchrun")
    methods = [ALONE, *(m for m in dict.fromkeys(config.methods) if m != ALONE)]
    if len(methods) == 1:
        raise ConfigError("expected a method beside alone, e.g. --methods alone aft")
    if config.unlabelled == LEFT_OUT and max(config.train_fractions) >= 1:
        raise ConfigError(
            "--unlabelled left-out takes the rows that --train-fractions leave out: expected "
            "fractions below 1"
        )
    if not config.teachers:
        raise ConfigError(f"--teachers is missing: expected at least one for {methods[1]}")
    for method in methods:
        for option, value in VARIANTS.get(method, {}).items():
            if getattr(config, option) == value:
                raise ConfigError(
                    f"{method} is what --{option} {value} makes of aft; leave one out"
                )
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


def _cautions(
    config: CompareConfig, data: DataSet, found: Sequence[Mapping[str, Any]], split: str
) -> list[str]:
    notes = []
    looks = sum(
        name != ALONE and not values["keeps_teachers"] and values["mean"] is not None
        for setting in found
        for name, values in setting["methods"].items()
    )
    if looks > 1 and any(setting["best"]["method"] not in (ALONE, None) for setting in found):
        notes.append(
            f"To pick one of {looks} results after the scores are known flatters it: part of a "
            "lead is luck, and of many intervals one may exclude zero by chance. New seeds or new "
            "data, with this method alone, say what it is worth."
        )
    ours = sorted({name for one in found for name in one["methods"] if name in UNSEARCHED})
    if ours:
        more = max(one["unlabelled"] for one in found)
        rows = f"{more:,} rows without labels" if more else "stored views of the rows"
        notes.append(
            f"{' and '.join(ours)} see {rows} in a second batch of every step, which the others do "
            "not: a step takes about three times as long, and a student that makes its own "
            "vocabulary has the words of these rows too. Rows and costs in this report are those "
            "of the labelled rows."
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
    for setting in found:
        place = f"With {setting['name']}: " if setting["name"] else ""
        for name, values in setting["methods"].items():
            count = sum(run["score"] is not None for run in values["runs"])
            if count == 0:
                notes.append(f"{place}{name}: no seed has a score.")
            elif count < config.seeds:
                notes.append(
                    f"{place}{name}: {count} of {config.seeds} seeds have a score; the mean is "
                    "over these, the difference over those that the labels alone have as well."
                )
        notes += [place + note for note in _ends_of_the_range(setting)]
    return notes


def _ends_of_the_range(setting: Mapping[str, Any]) -> list[str]:
    """Which chosen weights are the smallest or largest that were tried."""
    ends: dict[str, list[str]] = {"largest": [], "smallest": []}
    tied = []
    for name, values in setting["methods"].items():
        looks = [look for look in values["search"] if look["validation"] is not None]
        scores = [look["validation"] for look in looks]
        if scores.count(max(scores, default=None)) != 1:
            tied += [name] if scores else []
            continue
        for end, look in (("largest", looks[-1]), ("smallest", looks[0])):
            if values["beta"] == look["beta"]:
                ends[end].append(f"{name} ({look['beta']:g})")
    rows = setting["rows"].get("validation")
    notes = [
        f"Several weights have the same best score on {rows} validation rows, so that the smallest "
        f"of these was taken rather than chosen: {', '.join(tied)}. More validation rows tell them "
        "apart (--validation-fraction)."
    ]
    return notes * bool(tied) + [
        f"The chosen weight is the {end} that was tried: {', '.join(names)}. A {other} one may be "
        "better (--betas)."
        for (end, names), other in zip(ends.items(), ("larger", "smaller"), strict=True)
        if names
    ]


def _left_out(out: Path, methods: Sequence[str]) -> list[str]:
    """Say which methods have runs in the folder and were not asked for."""
    known = {path.parent.name for path in out.rglob("result.json")}
    others = {re.sub(r"(-beta[^-]*(-\d+)?)?-seed\d+$", "", name) for name in known} - set(methods)
    if not others:
        return []
    return [
        f"The folder also holds runs of {', '.join(sorted(others))}, which are not in this report; "
        "name them in --methods to have them in it."
    ]


def _probe(
    config: CompareConfig, setting: Setting, split: str, metric: str
) -> list[dict[str, Any]]:
    """Score linear heads on the features of each teacher and of all, rows of seed 0."""
    options = cell_options(config, setting, "aft", 0, 1.0)
    data = load_training_data(options)
    train_samples, scored = data.splits["train"], data.splits[split]
    rows = np.sort(np.random.default_rng(0).permutation(len(train_samples))[:MOST_FITTED_ROWS])
    device = choose_device(config.device)
    trained = extract_teachers(options, train_samples, device)
    others = extract_teachers(options, scored, device)
    for own, before in zip(others, trained, strict=True):
        own.missing = before.statistics().mean if not own.present.all() else None
    seen = [one.gather(rows) for one in trained]
    new = [one.gather(np.arange(len(scored))) for one in others]
    groups = [[i] for i in range(len(seen))]
    groups += [list(range(len(seen)))] if len(seen) > 1 else []
    labels = torch.from_numpy(np.asarray(train_samples.labels)[rows])
    probes = []
    for group in groups:
        features, unseen = (torch.cat([part[i] for i in group], dim=1) for part in (seen, new))
        outputs = linear_probe(features, labels, unseen, data.task)
        metrics = compute_metrics(outputs.numpy(), np.asarray(scored.labels), data.task)
        probes.append({"teachers": [setting.teachers[i] for i in group], "score": metrics[metric]})
    return probes


def _opener(samples: Samples) -> Callable[[str], Any]:
    """The input of a row by the name of its file."""
    position = {file: i for i, file in enumerate(samples.files)}
    return lambda file: samples.input(position[file])
