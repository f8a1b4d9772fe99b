"""The model card of a student, ``README.md`` in the form of the Hugging Face Hub."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from string import Template
from typing import Any

from aft.backbones.network import licence_of
from aft.backbones.specs import shorten_paths
from aft.comparison.statistics import describe_difference
from aft.errors import AftError, StudentError
from aft.files import read_json, reading, sha256_of, write_whole
from aft.metrics import metric_words
from aft.students.saved import CURE, DESCRIPTION
from aft.tasks import Task

CARD = "README.md"
HERE = 'aft.load_student(".")'
"""How a card loads the student of its folder; `aft push` writes the repository's address."""
UNKNOWN = "unknown"
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
        checks: What was measured on these files, in Markdown.

    Raises:
        StudentError: If the description of the student is damaged.
    """
    known = read_json(student / DESCRIPTION, StudentError, CURE)
    with reading(student / DESCRIPTION, StudentError, CURE):
        about, task = known.get("about", {}), Task.from_description(known["task"])
        teachers, data = about.get("teachers", []), about.get("data", {"name": "unknown data"})
        content = {k: one for k, one in data.get("content", {}).items() if k != "outputs"}
        rows = [f"{count:,} {split}" for split, count in about.get("rows", {}).items()]
        if more := about.get("rows_without_labels"):
            rows.append(f"{more:,} {'views' if about['views'] else 'unlabelled'}")
        more_names = f"and {task.num_outputs - _MOST_NAMES} more" * (task.num_outputs > _MOST_NAMES)
        learned = "features of the teachers, which predictions do not need"
        bare = "train" in about.get("splits_without_labels", ())
        learned = f"{learned}, without labels" if bare else f"labels and on {learned}"
        values = {
            **{name: _plain(value) for name, value in about.items()},
            "metadata": _metadata(known, task, use is None),
            "name": _plain(_name(known)),
            "learned": learned if teachers and not about["labels_alone"] else "labels alone",
            "task": f"{task.kind}, {task.outputs}",
            "columns": _plain(
                ", ".join(f"{c['name']} ({c['modality']})" for c in known["columns"])
            ),
            "outputs": "targets" if task.kind == "regression" else "labels",
            "labels": f"{_plain(', '.join(task.names[:_MOST_NAMES]))} {more_names}",
            "student": _plain(known["info"]["spec"]),
            "teachers": _plain(", ".join(one["spec"] for one in teachers)) or "none",
            "data": _plain(data["name"]),
            "use": use or _use(known["columns"]),
            "scores": "\n\n".join(filter(None, [_scores(about), _comparison(student), checks])),
            "limits": "\n".join(f"- {_plain(one)}" for one in _limits(known)),
            "training_time": f"{about['training_seconds']:.0f} s" if about else UNKNOWN,
            "loss": about.get("loss", UNKNOWN) or "labels alone",
            "rows": ", ".join(rows) or UNKNOWN,
            "content": table([("split", "rows, hash"), *content.items()]),
            "licences": _licences(licence_of(known["info"]), teachers),
            "files": table([*_files(folder)]),
        }
    template = Template(Path(__file__).with_suffix(".md").read_text("utf-8"))
    return template.substitute(defaultdict(lambda: UNKNOWN, values))


def table(rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first row holds the headings."""
    cells = [[str(cell) for cell in row] for row in rows]
    cells.insert(1, ["---"] * len(cells[0]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells)


def _name(known: Mapping[str, Any]) -> str:
    data = known.get("about", {}).get("data")
    return shorten_paths(known["info"]["spec"]) + (f" on {data['name']}" if data else "")


def _metadata(known: Mapping[str, Any], task: Task, is_student: bool) -> str:
    """The metadata block, YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    about, kinds = known.get("about", {}), {column["modality"] for column in known["columns"]}
    one_kind = len(kinds) == 1 and task.kind != "regression"
    pipeline = f"{next(iter(kinds))}-classification" if one_kind else None
    metrics, data = about.get("scores", {}).get("metrics", {}), about.get("data", {})
    licence = (licence_of(known["info"]) or UNKNOWN).lower()
    values: dict[str, Any] = {
        "license": licence if re.fullmatch(r"[a-z0-9.-]+", licence) else "other",
        "library_name": "adaptive-feature-transfer" if is_student else None,
        "pipeline_tag": pipeline,
        "tags": ["adaptive-feature-transfer", "knowledge-distillation"],
        "datasets": [data["name"].partition(":")[0]] if data.get("on_hub") else None,
    }
    if UNKNOWN in licence or "not stated" in licence:
        del values["license"]
    if defined := {name: value for name, value in metrics.items() if value is not None}:
        source = {"dataset_type": data["name"].partition(":")[0], "dataset_name": data["name"]}
        source |= {"task_type": pipeline or task.kind, "dataset_split": about["scores"]["split"]}
        results = [EvalResult(**source, metric_type=k, metric_value=v) for k, v in defined.items()]
        values |= {"metrics": list(defined), "model_name": _name(known), "eval_results": results}
    return ModelCardData(**values).to_yaml().strip()


def _use(columns: Sequence[Mapping[str, str]]) -> str:
    values = {
        one["name"]: "photo.jpg" if one["modality"] == "image" else "a text" for one in columns
    }
    one = values if len(values) > 1 else next(iter(values.values()))
    return (
        "    pip install 'adaptive-feature-transfer[text,vision]'\n\n"
        f"```python\nimport aft\n\nstudent = {HERE}\nstudent.predict([{json.dumps(one)}])\n```"
    )


def _scores(about: Mapping[str, Any]) -> str:
    scores, found = about.get("scores"), [("metric", "value", "95% interval")]
    if scores is None:
        return "Not recorded."
    for name, value in scores["metrics"].items():
        ends = [f"{end:.4f}" for end in scores["intervals"].get(name, ())]
        shown = "undefined" if value is None else f"{value:.4f}"
        found.append((metric_words(name), shown, " to ".join(ends)))
    chosen = f"chosen by its {metric_words(scores['metric'])} on validation rows"
    if "validation" in about.get("splits_without_labels", ()):
        chosen = "the last one"
    return (
        f"{table(found)}\n\nOn {about['rows'][scores['split']]:,} rows of {scores['split']}. The "
        "intervals are those of a bootstrap over these rows; they do not show how much another "
        f"seed changes. The checkpoint was {chosen}."
    )


def _comparison(student: Path) -> str:
    """What the comparison that a student's run belongs to has found; empty without one."""
    run = student.resolve().parent
    for parent in run.parents[:_PARENTS]:
        name = run.relative_to(parent).as_posix()
        with suppress(AftError, LookupError, TypeError, AttributeError):  # none, or another file
            document = read_json(parent / "compare.json", StudentError)
            for method, found in (m for s in document["settings"] for m in s["methods"].items()):
                if name in (one["folder"] for one in found["runs"]):
                    return _compared(method, found, document["metric"])
    return ""


def _compared(method: str, found: Mapping[str, Any], metric: str) -> str:
    seeds = [str(run["seed"]) for run in found["runs"] if run["score"] is not None]
    text = f"One of {len(seeds)} runs of `aft compare` with {method}, seeds {', '.join(seeds)}"
    if found["std"] is not None:
        text += f": mean {metric_words(metric)} {found['mean']:.4f}"
        text += f", standard deviation {found['std']:.4f}"
    if found["difference"] is not None:
        text += f". Against the labels alone, paired by seed: {describe_difference(metric, found)}"
    return f"{text}."


def _limits(known: Mapping[str, Any]) -> Iterator[str]:
    """How inputs are cut, and what training reported."""
    how = known["preprocessing"]
    for name, part in how.get("columns", {known["columns"][0]["name"]: how}).items():
        if "max_tokens" in part:
            side = "last" if part.get("truncate") == "start" else "first"
            yield f"Of {name}, at most the {side} {part['max_tokens']} tokens are read."
        elif "size" in part:
            yield f"{name}: images are reduced to {part['size']} x {part['size']} pixels."
    yield from known.get("about", {}).get("notes", ())


def _licences(start: str | None, teachers: Sequence[Mapping[str, Any]]) -> str:
    own = f"The student: as the weights it started from, {_plain(start)}."
    if start is None:
        own = (
            "The student's weights were random before training, so no licence comes with them: who "
            "trained it chooses one."
        )
    rows = [(_plain(one["spec"]), _plain(one.get("licence") or UNKNOWN)) for one in teachers]
    return f"{own}\n\n{table([('teacher', 'licence of its weights'), *rows])}" if rows else own


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    yield "file", "SHA-256"
    for name, file in list_files(folder).items():
        if name != CARD:
            yield _plain(name), sha256_of(file)


def list_files(folder: Path) -> dict[str, Path]:
    """The files below a folder by name; hidden files and folders are left out."""
    files = {one.relative_to(folder): one for one in sorted(folder.rglob("*")) if one.is_file()}
    return {
        name.as_posix(): file
        for name, file in files.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def _plain(text: Any) -> str:
    """A text of others on one line, in which nothing is Markdown or HTML, with short paths."""
    return re.sub(r"([\\`*\[<|&])", r"\\\1", " ".join(shorten_paths(str(text)).split()))
