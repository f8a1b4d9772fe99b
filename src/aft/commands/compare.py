"""The command `compare`: compare methods for one student over several seeds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from aft.commands.checks import OPTIONS_FILE, check, check_folder, out_folder
from aft.commands.train import train
from aft.comparison.baselines import count_better
from aft.comparison.cautions import list_cautions, list_left_out
from aft.comparison.costs import measure_costs, training_operations
from aft.comparison.runs import (
    Runs,
    Setting,
    count_runs,
    equalize_inputs,
    first_soft,
    list_settings,
    run_options,
    train_all,
)
from aft.comparison.statistics import count_outcomes
from aft.config.commands import CompareConfig, write_config_file
from aft.config.groups import ALONE, LABELS_ONLY
from aft.config.typed import command
from aft.data.loading import DataSet
from aft.data.options import load_training_data
from aft.data.samples import Samples
from aft.devices import Processes, separate_processes
from aft.errors import AftError, ConfigError
from aft.exporting.card import write_card
from aft.features.stored import extract_teachers, open_teacher
from aft.files import read_json, write_json
from aft.metrics import choose_metric
from aft.paths import empty_folder, locked
from aft.report import write_methods_report
from aft.scoring.ceilings import score_ceilings
from aft.students.saved import DESCRIPTION
from aft.training.prepare import transfer_pool
from aft.training.run_folder import STUDENT
from aft.training.transfer_loss import check_loss
from aft.version import __version__


@command(CompareConfig)
def compare(config: CompareConfig) -> dict[str, Any]:
    """Compare methods.

    Finished runs in the folder are reused and unfinished ones resumed. If a run fails, its error
    is recorded and the comparison continues. With torchrun, the processes share the extraction,
    then each takes one run after the other; the first one writes the report.

    Returns:
        The content of ``compare.json`` in the folder: a ``sentence``; for each of ``settings``
        (share of the rows and teachers) the ceilings, the baselines, the best method and, per
        method, its weight, runs, mean, standard deviation, difference from the labels alone with a
        95 % interval, steps, inputs seen and operations; the costs of teachers and student; and
        cautions.

    Raises:
        AftError: If options, data, student or teachers are invalid, if a run in the folder had
            other options, or if no method could be trained.
        KeyboardInterrupt: On Ctrl-C; run the same command again to resume.
    """
    check(config)
    methods = [ALONE, *(method for method in dict.fromkeys(config.methods) if method != ALONE)]
    out = out_folder(config)
    with (
        separate_processes(config.device) as processes,
        locked(out, processes.rank == 0, (OPTIONS_FILE,)),
    ):
        return _compare_in(out, config, methods, processes)


def _compare_in(
    out: Path, config: CompareConfig, methods: list[str], processes: Processes
) -> dict[str, Any]:
    saved = config.model_copy(update={"out": out, "overwrite": False})
    if processes.rank == 0:
        if check_folder(config, out) and config.overwrite:
            empty_folder(out)
        if not (out / OPTIONS_FILE).exists():
            write_config_file(out / OPTIONS_FILE, saved)
    processes.wait()
    try:
        document, scored = _compare(config, out, methods, processes)
    except KeyboardInterrupt:
        hint = " without --overwrite" if config.overwrite else ""
        raise KeyboardInterrupt(
            f"interrupted; run the same command{hint} to resume the comparison in {out}"
        ) from None
    if processes.rank > 0:
        processes.wait()
        return read_json(out / "compare.json", ConfigError)
    write_config_file(out / OPTIONS_FILE, saved)
    write_json(out / "compare.json", document, sealed=False)
    try:
        for student in out.rglob(f"{STUDENT}/{DESCRIPTION}"):
            write_card(student.parent)  # now that the comparison is known
    except AftError as error:
        print(f"no card: {error}", file=sys.stderr)
    try:
        print(f"\nreport: {write_methods_report(out, document, _opener(scored))}", file=sys.stderr)
    except AftError as error:
        print(f"no report: {error}", file=sys.stderr)
    processes.wait()
    return document


def _compare(
    config: CompareConfig, out: Path, methods: list[str], processes: Processes
) -> tuple[dict[str, Any], Samples]:
    """The content of ``compare.json``, if this process writes it, and the rows scored."""
    settings = list_settings(config)
    place = next(i for i, one in enumerate(settings) if one.fraction == settings[-1].fraction)
    # Report errors in data, methods, teachers and student before the long work starts.
    data = load_training_data(run_options(config, settings[place], first_soft(config) or ALONE, 0))
    metric = choose_metric(config.metric, data.task, np.asarray(data.splits["train"].labels))
    config = config.model_copy(update={"metric": metric})  # the same for every run
    for method in methods:
        check_loss(method, data.task)
    for text in config.teachers:
        open_teacher(text, data.splits["train"], config.trust_remote_code)
    settings = equalize_inputs(config, settings, {settings[place].fraction: data})
    whole = settings[place]
    total = count_runs(config, methods, settings)
    runs = Runs(config, out, train, total, data.content, processes=processes)
    if processes.size == 1:
        _check_alone(settings, runs)
    else:
        _share_extraction(config, whole, data, processes)
    found = [train_all(config, setting, runs, methods, metric) for setting in settings]
    _check_alone(settings, runs)
    _check_scores(found, runs, metric)
    first = runs.make(whole, ALONE, 0) or next(iter(runs.results.values()))
    if processes.rank > 0:
        return {}, data.splits[first.split]
    errors: dict[str, str] = {}
    for setting, values in zip(settings, found, strict=True):
        values["probes"] = []
        if config.probes:
            try:
                values["probes"] = _ceilings(config, setting, runs, first.split, metric)
            except (AftError, RuntimeError) as error:
                errors[f"probes {setting.name}".strip()] = str(error)
    try:
        costs = measure_costs(config, data.splits["train"], first)
    except (AftError, RuntimeError) as error:
        costs, errors["costs"] = None, str(error)
    flops = None if costs is None else costs["student"]["flops"]
    for values in (one for setting in found for one in setting["methods"].values()):
        values["operations"] = training_operations(flops, values["inputs_seen"])
    document = {
        "version": __version__,
        "data": str(config.data),
        "task": data.task.kind,
        "metric": metric,
        "split": first.split,
        "student": first.summary["student"],
        "student_weights": first.summary["student_weights"],
        "num_parameters": first.summary["num_parameters"],
        "teachers": list(config.teachers),
        "seeds": config.seeds,
        "betas": sorted(set(config.betas)),
        "steps": whole.steps or first.summary["steps"],
        "batch_size": config.batch_size,
        "sentence": _conclude(found),
        "settings": found,
        "costs": costs,
        "errors": {**runs.errors, **errors},
        "cautions": [
            *list_cautions(config, data, found, first.split),
            *list_left_out(out, methods),
        ],
        "seconds": round(sum(one.summary["seconds"] for one in runs.results.values()), 1),
        "json": str(out / "compare.json"),
        "markdown": str(out / "report.md"),
        "report": str(out / "report.html"),
    }
    return document, data.splits[first.split]


def _share_extraction(
    config: CompareConfig, setting: Setting, data: DataSet, processes: Processes
) -> None:
    """Extract this process's rows before the runs, each of which extracts what it lacks."""
    options = run_options(config, setting, first_soft(config) or "aft", 0)
    device, rank, size = processes.device, processes.rank, processes.size
    with suppress(AftError, RuntimeError):  # the runs that need these features report it
        parts = [data.splits["train"], *filter(None, [transfer_pool(options, data)[0]])]
        extract_teachers(options, parts, device, rank, size)
    processes.wait()


def _check_alone(settings: Sequence[Setting], runs: Runs) -> None:
    """Check that the labels alone can be trained.

    Raises:
        AftError: If they cannot in any setting.
    """
    if all(runs.make(setting, ALONE, 0) is None for setting in settings):
        raise AftError(next(iter(runs.errors.values())))


def _check_scores(found: Sequence[Mapping[str, Any]], runs: Runs, metric: str) -> None:
    """Check that there is something to compare.

    Raises:
        AftError: If no method other than the labels alone has a score.
    """
    methods = [
        one
        for setting in found
        for name, one in setting["methods"].items()
        if name not in LABELS_ONLY
    ]
    if all(values["mean"] is None for values in methods):
        why = next(iter(runs.errors.values()), f"{metric} is undefined in all of them")
        raise AftError(f"no run with a teacher has a score: {why}")


def _conclude(found: Sequence[Mapping[str, Any]]) -> str:
    if len(found) == 1:
        return str(found[0]["best"]["sentence"])
    outcomes = count_outcomes([setting["methods"] for setting in found])
    return f"{outcomes} {count_better([setting['best'] for setting in found])}".strip()


def _ceilings(
    config: CompareConfig, setting: Setting, runs: Runs, split: str, metric: str
) -> list[dict[str, Any]]:
    """Linear models on the features of the teachers and of the student from labels alone."""
    alone = runs.make(setting, ALONE, 0)
    if alone is None:
        return []
    options = run_options(config, setting, "aft", 0, 1.0)
    return score_ceilings(options, split, metric, alone.out)


def _opener(samples: Samples) -> Callable[[str], Any]:
    """A function that returns the input of a row, given its file name."""
    position = {file: i for i, file in enumerate(samples.files)}
    return lambda file: samples.input(position[file])
