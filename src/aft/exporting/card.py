"""The model card of a student, ``README.md`` in the form of the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aft.backbones.specs import shorten_paths
from aft.comparison.statistics import describe_difference
from aft.errors import StudentError
from aft.files import read_json, reading, sha256_of, write_whole
from aft.metrics import metric_words
from aft.students.backbone import licence_of
from aft.students.saved import CURE, DESCRIPTION
from aft.tasks import Task

CARD = "README.md"
HERE = 'aft.load_student(".")'
"""How a card loads the student of its folder; `aft push` writes the repository's address."""
UNKNOWN = "unknown"
_HUB_LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0"),
    *("openrail", "unlicense", "gemma", "llama2", "llama3"),
)
"""Licences by the names that the Hub has for them; it calls all others ``other``."""
_NOTHING: dict[str, Any] = {
    **{"scores": {}, "data": {}, "training": {}},
    **{"teachers": [], "notes": []},
}
"""What is known of a student of earlier versions."""
_MOST_NAMES = 20
_PARENTS = 4  # of a run in a comparison: runs, teacher-N, train-F and the comparison


def write_card(student: Path) -> None:
    """Write the card into the folder of a saved student.

    Raises:
        StudentError: If its description is damaged.
    """
    write_whole(student / CARD, make_card(student, student))


def make_card(student: Path, folder: Path, use: str | None = None, checks: str = "") -> str:
    """The card of a student, or of its export.

    Args:
        student: The folder of the saved student. Its ``student.json`` says what is known; in the
            run of a comparison, the seeds and the interval of this comparison are added.
        folder: The folder of the files that the card lists with their checksums.
        use: How to load these files, in Markdown. By default, those of a student.
        checks: Further sections.

    Raises:
        StudentError: If the description of the student is damaged.
    """
    known = read_json(student / DESCRIPTION, StudentError, CURE)
    with reading(student / DESCRIPTION, StudentError, CURE):
        known["about"] = {**_NOTHING, **known.get("about", {})}
        about, task = known["about"], Task.from_description(known["task"])
        name = f"{shorten_paths(known['info']['spec'])} on {about['data'].get('name', UNKNOWN)}"
        parts = [
            f"---\n{_metadata(known, task, name, use is None)}\n---",
            f"# {_plain(name)}\n\n{_introduction(known, task)}",
            f"## Use\n\n{use or _use(known)}",
            f"## Scores\n\n{_scores(about, _comparison(student))}",
            *filter(None, [checks]),
            f"## Intended use and limits\n\n{_limits(known, task)}",
            f"## Training\n\n{table(_training(known))}",
            f"## Data\n\n{_data(about)}",
            f"## Licences\n\n{_licences(known)}",
            f"## Files\n\n{table(_files(folder))}",
        ]
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first row holds the headings."""
    cells = [[str(cell) for cell in row] for row in rows]
    cells.insert(1, ["---"] * len(cells[0]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells)


def _metadata(known: Mapping[str, Any], task: Task, name: str, is_student: bool) -> str:
    """The metadata block, YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    scores, data = known["about"]["scores"], known["about"]["data"]
    modalities = {column["modality"] for column in known["columns"]}
    pipeline = None
    if len(modalities) == 1 and task.kind != "regression":
        pipeline = f"{next(iter(modalities))}-classification"
    hub = str(data.get("name", UNKNOWN)).partition(":")[0]
    metrics = {name: one for name, one in scores.get("metrics", {}).items() if one is not None}
    licence = licence_of(known["info"])
    named = licence and (licence.lower() if licence.lower() in _HUB_LICENCES else "other")
    results = [
        EvalResult(
            task_type=pipeline or task.kind,
            dataset_type=hub,
            dataset_name=str(data.get("name", UNKNOWN)),
            dataset_split=scores["split"],
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in metrics.items()
    ]
    values = ModelCardData(
        license=None if licence == UNKNOWN else named,
        library_name="adaptive-feature-transfer" if is_student else None,
        pipeline_tag=pipeline,
        tags=["adaptive-feature-transfer", "knowledge-distillation"],
        datasets=[hub] if data.get("on_hub") else None,
        metrics=list(metrics) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return values.to_yaml().strip()


def _introduction(known: Mapping[str, Any], task: Task) -> str:
    about, names = known["about"], ", ".join(map(_plain, task.names[:_MOST_NAMES]))
    names += f" and {task.num_outputs - _MOST_NAMES} more" * (task.num_outputs > _MOST_NAMES)
    learned = "on labels alone"
    if about["teachers"]:
        learned = "on labels and on features of the teachers, which predictions do not need"
    if about["training"].get("labels_alone"):
        learned += ". The student kept is one from the labels alone: the teachers did not help"
    rows = [
        ("", ""),
        ("task", f"{task.kind}, {task.outputs}"),
        (
            "input",
            ", ".join(f"{_plain(one['name'])} ({one['modality']})" for one in known["columns"]),
        ),
        ("targets" if task.kind == "regression" else "labels", names),
        ("student", _plain(shorten_paths(known["info"]["spec"]))),
        *(
            ("teacher", _plain(f"{one['spec']}, {one['dim']} features"))
            for one in about["teachers"]
        ),
        ("data", _plain(about["data"].get("name", UNKNOWN))),
        ("parameters", _number(about.get("num_parameters"))),
    ]
    return f"A small model, trained {learned}.\n\n{table(rows)}"


def _use(known: Mapping[str, Any]) -> str:
    values = {"image": '"photo.jpg"', "text": '"a text"'}
    columns = {one["name"]: values[one["modality"]] for one in known["columns"]}
    extras = sorted({{"image": "vision"}.get(one["modality"], "text") for one in known["columns"]})
    example = next(iter(columns.values()))
    if len(columns) > 1:
        example = "{" + ", ".join(f"{name!r}: {value}" for name, value in columns.items()) + "}"
    return (
        f"    pip install 'adaptive-feature-transfer[{','.join(extras)}]'\n\n"
        f"```python\nimport aft\n\nstudent = {HERE}\nstudent.predict([{example}])\n```"
    )


def _scores(about: Mapping[str, Any], compared: str) -> str:
    scores = about["scores"]
    if not scores.get("metrics"):
        return "Not recorded."
    rows = about["data"].get("rows", {}).get(scores["split"])
    found = [("metric", "value", "95% interval")]
    for name, value in scores["metrics"].items():
        ends = scores.get("intervals", {}).get(name)
        interval = f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else ""
        found.append((metric_words(name), "" if value is None else f"{value:.4f}", interval))
    basis = (
        f"On the {_number(rows)} rows of the {scores['split']} split. The intervals are those of a "
        "bootstrap over these rows; they do not show how much another seed changes. Checkpoints "
        f"were chosen on validation rows by {metric_words(scores['metric'])}."
    )
    return "\n\n".join([table(found), basis, *filter(None, [compared])])


def _comparison(student: Path) -> str:
    """What the comparison that a student's run belongs to has found; empty without one."""
    run = student.resolve().parent
    for parent in run.parents[:_PARENTS]:
        if (parent / "compare.json").is_file():
            document = read_json(parent / "compare.json", StudentError, "Make the comparison again")
            name = run.relative_to(parent).as_posix()
            for method, one in (
                pair for setting in document["settings"] for pair in setting["methods"].items()
            ):
                if any(own["folder"] == name for own in one["runs"]):
                    return _compared(method, one, document["metric"])
    return ""


def _compared(method: str, found: Mapping[str, Any], metric: str) -> str:
    runs = [run for run in found["runs"] if run["score"] is not None]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    text = f"One of {len(runs)} runs of `aft compare` with the method {method}, seeds {seeds}"
    if found["std"] is not None:
        words = f"mean {metric_words(metric)} {found['mean']:.4f}"
        text += f": {words}, standard deviation {found['std']:.4f}"
    if found["difference"] is not None:
        against = describe_difference(metric, found)
        text += f". Difference from the labels alone, paired by seed: {against}"
    return f"{text}."


def _limits(known: Mapping[str, Any], task: Task) -> str:
    about, data = known["about"], known["about"]["data"].get("name", "its training data")
    lines = [
        f"It is for inputs like those of {_plain(data)}. On others its scores are unknown: score "
        "it on labelled rows of your own first, with `aft evaluate`.",
        *_preparation(known["preprocessing"]),
        "Its errors were not compared between groups of people or sources of data.",
    ]
    if task.kind != "regression":
        lines.append(
            "It knows no other labels than the above, and its probabilities were not calibrated."
        )
    text = "\n".join(f"- {line}" for line in lines)
    notes = "\n".join(f"- {_plain(note)}" for note in about["notes"])
    return f"{text}\n\nWhat training reported:\n\n{notes}" if notes else text


def _preparation(how: Mapping[str, Any]) -> Iterator[str]:
    for name, part in how.get("columns", {"": how}).items():
        of = f" of {_plain(name)}" if name else ""
        if "max_tokens" in part:
            side = "last" if part.get("truncate") == "start" else "first"
            yield f"Texts{of} are read up to {part['max_tokens']} tokens, the {side} ones."
        elif "size" in part:
            yield f"Images{of} are reduced to {part['size']} x {part['size']} pixels."


def _training(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    about = known["about"]
    how, seconds = about["training"], about["training"].get("training_seconds")
    return [
        ("", ""),
        ("weights before training", _plain(about.get("weights", known["info"]["weights"]))),
        ("loss", str(how.get("loss") or ("labels alone" if how else UNKNOWN))),
        ("steps", _number(how.get("steps"))),
        ("seed", str(how.get("seed", UNKNOWN))),
        ("training time", UNKNOWN if seconds is None else f"{seconds:.0f} s"),
        ("date", str(about.get("date", UNKNOWN))),
        ("version of aft", str(about.get("version", UNKNOWN))),
    ]


def _data(about: Mapping[str, Any]) -> str:
    data, more = about["data"], about["training"].get("rows_without_labels")
    if not data:
        return "Not recorded."
    used = ", ".join(f"{count:,} {name}" for name, count in data["rows"].items())
    used += f", and {more:,} {'views' if about['training']['views'] else 'unlabelled rows'}" * bool(
        more
    )
    found = [("split", "fingerprint")]
    found += [(name, text) for name, text in data["content"].items() if name != "outputs"]
    return (
        f"Rows of {_plain(data['name'])} that were used: {used}. The splits of the source, with a "
        f"hash of the contents and labels of their rows:\n\n{table(found)}"
    )


def _licences(known: Mapping[str, Any]) -> str:
    start, teachers = licence_of(known["info"]), known["about"]["teachers"]
    own = f"The student: as the weights it started from, {_plain(start)}."
    if start is None:
        own = (
            "The student's weights were random before training, so no licence comes with them: who "
            "trained it chooses one."
        )
    rows = [("teacher", "licence of its weights")]
    rows += [(_plain(one["spec"]), _plain(one.get("licence") or UNKNOWN)) for one in teachers]
    stated = [table(rows)] if teachers else []
    return "\n\n".join([own, *stated, "The data: unknown."])


def _files(folder: Path) -> list[tuple[str, str]]:
    files = [one for one in sorted(folder.rglob("*")) if one.is_file() and one.name != CARD]
    shown = [one for one in files if not one.name.startswith(".")]
    named = [(_plain(one.relative_to(folder).as_posix()), sha256_of(one)) for one in shown]
    return [("file", "SHA-256"), *named]


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _plain(text: Any) -> str:
    """A text of others on one line, in which nothing is Markdown or HTML."""
    return re.sub(r"([\\`*\[<|&])", r"\\\1", " ".join(str(text).split()))
