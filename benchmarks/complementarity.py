"""Does complementarity tell the gain of transfer better than the teachers' lead does?

    python benchmarks/complementarity.py           # all tasks
    python benchmarks/complementarity.py --tables  # only the table, from results/

Takes about 10 minutes on one core. Run suite.py and advice.py first: the gains are theirs.

Complementarity is the share of rows that a linear model on the teachers' features gets right and
one on the student's features before training gets wrong, both out of fold, on the training rows
(after "Fantastic Gains and Where to Find Them", https://arxiv.org/abs/2310.17653, which measures
it between two trained models). The lead is that share minus the share of rows for which it is the
other way round. Both are compared with the measured gains by rank correlation: over the
classification tasks of the suite, and over the teachers of one task (the rankings of advice.py).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import advice
import aft
import suite
import tables
from aft.config.commands import ScoreConfig
from aft.data.options import load_training_data
from aft.devices import separate_processes
from aft.scoring.measures import join_features, predict_out_of_fold
from aft.scoring.read_features import read_student, read_teachers

FILE = advice.RESULTS / "complementarity.json"
MEASURES = {
    "lead": "teachers' lead",
    "complementarity": "complementarity",
    "of_mistakes": "its share of the student's mistakes",
}
DRAWS = 1000
"""Bootstrap samples of the tasks, for the intervals of differences of rank correlations."""
KINDS = {"suite-equal-steps": "equal steps", "suite": "equal inputs"}
"""Parts of the suite with measured gains."""
ACCURACY = "suite, accuracy"
"""The tasks of the second part without those whose gain is in balanced accuracy."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", action="store_true", help="only the table, without scoring")
    options = parser.parse_args()
    found = json.loads(FILE.read_text()) if FILE.exists() else {"tasks": {}, "ranks": {}}
    if not options.tables:
        for name in suite.SHORT:
            if gains := read_gains(name):
                measured = measure(name, [suite.TASKS[name].teachers(advice._cache())])
                found["tasks"][name] = {"gains": gains, **measured[0]}
                print(name, found["tasks"][name], flush=True)
        for name in [one for one in advice.RANKED if one in found["tasks"]]:
            found["ranks"][name] = rank(name)
            print(name, found["ranks"][name], flush=True)
    found["tasks"] = {
        name: one | {"gains": read_gains(name)} for name, one in found["tasks"].items()
    }
    document = {
        "command": "python benchmarks/complementarity.py",
        "version": aft.__version__,
        "machine": tables.machine(),
        "spearman": {kind: correlate(found["tasks"], kind) for kind in (*KINDS, ACCURACY)},
        "tasks": {name: found["tasks"][name] for name in suite.TASKS if name in found["tasks"]},
        "ranks": found["ranks"],
    }
    FILE.write_text(json.dumps(document, indent=1) + "\n")
    tables.put("complementarity", write_table(document), ["benchmarks/FINDINGS.md"])


def read_gains(name: str) -> dict[str, float]:
    """Measured gains over the student alone of one classification task, by kind of suite."""
    found = {}
    for kind in KINDS:
        file = advice.RESULTS / kind / f"{name}.json"
        document = json.loads(file.read_text()) if file.exists() else None
        if document and document["metric"] != "r2":
            methods = document["settings"][-1]["methods"]
            found[kind] = methods[advice.OURS]["difference"]
            if kind == "suite" and document["metric"] == "accuracy":
                found[ACCURACY] = found[kind]
    return found


def measure(name: str, sets: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Scores of sets of teachers on the training rows of a task, beside its student."""
    options = advice.task_options(name) | {"teachers": [one for own in sets for one in own]}
    config = ScoreConfig(**options)
    data = load_training_data(config)
    train = data.splits["train"]
    labels = torch.from_numpy(np.asarray(train.labels))
    with separate_processes(config.device) as processes:
        sources = iter(read_teachers(config, train, [train], processes))
        student = read_student(config, train, train, data.task, processes.device)
    assert student is not None

    def is_right(parts: Sequence[Tensor]) -> Tensor:
        outputs = predict_out_of_fold(join_features(parts), labels, data.task)
        return outputs.argmax(1) == labels

    if student.outputs is None:
        own = is_right([student.values])
    else:  # of the linear model that it starts from
        own = student.outputs.argmax(1) == labels
    found = []
    for teachers in sets:
        other = is_right([next(sources).values for _ in teachers])
        gained, lost = (float(rows.double().mean()) for rows in (other & ~own, own & ~other))
        found.append(
            {
                "rows": len(labels),
                "student": float(own.double().mean()),
                "teachers": float(other.double().mean()),
                "lead": gained - lost,
                "complementarity": gained,
                "of_mistakes": gained / max(1e-9, 1 - float(own.double().mean())),
            }
        )
    return found


def rank(name: str) -> dict[str, Any]:
    """Rank correlation of each measure with the test scores over the teachers of a task.

    The test scores are those of advice.py, without training again.
    """
    scores = {row["teacher"]: row["mean"] for row in _advice()["ranks"][name]["teachers"]}
    teachers = advice.RANKED[name](advice._cache())
    teachers = {words: spec for words, spec in teachers.items() if words in scores}
    rows = measure(name, [(spec,) for spec in teachers.values()])
    rows = [
        {"teacher": words, "mean": scores[words], **row}
        for words, row in zip(teachers, rows, strict=True)
    ]
    return {"teachers": rows, "spearman": _spearman(rows, [row["mean"] for row in rows])}


def correlate(tasks: dict[str, Any], kind: str) -> dict[str, Any]:
    """Rank correlation of each measure with the gains of one kind of suite.

    Also 95 % intervals of its difference to that of the lead, by bootstrap over the tasks.
    """
    known = [one for one in tasks.values() if kind in one["gains"]]
    gains = [one["gains"][kind] for one in known]
    found = {"tasks": len(known), **_spearman(known, gains)}
    drawn = np.random.default_rng(0).integers(len(known), size=(DRAWS, len(known)))
    ranks = [_spearman([known[i] for i in some], [gains[i] for i in some]) for some in drawn]
    for name in ("complementarity", "of_mistakes"):
        steps = [one[name] - one["lead"] for one in ranks if None not in one.values()]
        found[f"{name}_over_lead"] = np.quantile(steps, [0.025, 0.975]).tolist()
    leads, others = ([one[name] for one in known] for name in ("lead", "complementarity"))
    return {**found, "lead_and_complementarity": advice.spearman(leads, others)}


def _spearman(rows: Sequence[dict[str, Any]], values: Sequence[float]) -> dict[str, Any]:
    return {name: advice.spearman([row[name] for row in rows], values) for name in MEASURES}


def _advice() -> dict[str, Any]:
    return dict(json.loads((advice.RESULTS / "advice.json").read_text()))


def write_table(document: dict[str, Any]) -> str:
    """One row per task, and the rank correlations."""
    lines = [
        "| data | student, initial weights | rows | student | teachers | lead | complementarity | "
        + " | ".join(f"measured gain, {words}" for words in KINDS.values())
        + " |",
        "|---" * (7 + len(KINDS)) + "|",
    ]
    for name, one in document["tasks"].items():
        data, student, start, _ = suite.TASKS[name].words
        gains = [one["gains"].get(kind) for kind in KINDS]
        cells = [f"{one[key]:.3f}" for key in ("student", "teachers")]
        cells += [f"{one['lead']:+.3f}", f"{one['complementarity']:.3f}"]
        cells += [tables.NONE if gain is None else f"{gain:+.3f}" for gain in gains]
        lines.append(f"| {data} | {student}, {start} | {one['rows']} | {' | '.join(cells)} |")
    lines += [
        "",
        "| rank correlation with | " + " | ".join(MEASURES.values()) + " |",
        "|---" * 4 + "|",
    ]
    for kind, words in {**KINDS, ACCURACY: "equal inputs, only those of accuracy"}.items():
        own = document["spearman"][kind]
        lines.append(f"| gains, {words} ({own['tasks']} tasks) | {_cells(own)} |")
    for name, own in document["ranks"].items():
        words = f"{suite.TASKS[name].words[0]} ({len(own['teachers'])} teachers)"
        lines.append(f"| test scores, {words} | {_cells(own['spearman'])} |")
    return "\n".join(lines) + f"\n\nMade by `{document['command']}` ({document['machine']}).\n"


def _cells(values: dict[str, Any]) -> str:
    return " | ".join(tables.NONE if values[m] is None else f"{values[m]:+.2f}" for m in MEASURES)


if __name__ == "__main__":
    main()
