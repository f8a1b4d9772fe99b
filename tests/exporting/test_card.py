"""Model cards: what they say of students of every kind, and what they do not guess."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from aft.backbones.network import licence_of
from aft.data.loading import DataReport, DataSet
from aft.data.readers.find_columns import InputColumn
from aft.errors import StudentError
from aft.exporting.card import make_card, write_card
from aft.students.backbone import load_backbone
from aft.students.saved import SavedStudent
from aft.students.student import new_student
from aft.students.towers import join
from aft.tasks import Task
from helpers.damage import edit

CLASSES = Task("classification", ("a", "b"))
TEXT, IMAGE = InputColumn("text", "text"), InputColumn("photo", "image")
ABOUT: dict[str, Any] = {
    "version": "0.1.0",
    "date": "2026-01-02",
    "student_weights": "random",
    "num_parameters": 12345,
    "teachers": [
        {"spec": "timm:big", "dim": 9, "folder": "timm-big-1", "licence": "mit"},
        {"spec": "features:/home/me/tables/table.npy", "dim": 4, "folder": "t", "licence": None},
    ],
    "data": {
        **{"name": "owner/films:plain", "on_hub": True},
        "content": {"train": "3,000 rows (0123abcd)", "outputs": "a, b"},
    },
    "rows": {"train": 2500, "test": 90},
    "scores": {
        **{"metric": "accuracy", "split": "test", "metrics": {"accuracy": 0.875, "nll": None}},
        "intervals": {"accuracy": [0.8, 0.9]},
    },
    **{"loss": "aft-soft", "seed": 3, "steps": 1500, "training_seconds": 61.4},
    **{"rows_without_labels": 8000, "views": 4, "labels_alone": False},
    "notes": ["2 texts are empty"],
}


def save(
    folder: Path,
    specs: str | Mapping[str, str],
    columns: Sequence[InputColumn],
    task: Task = CLASSES,
    about: Mapping[str, Any] = ABOUT,
) -> Path:
    if isinstance(specs, str):
        backbone = load_backbone(specs, texts=lambda: ["birds sing"])
    else:
        parts = {k: load_backbone(v, texts=lambda: ["birds sing"]) for k, v in specs.items()}
        backbone = join(parts)
    module = new_student(backbone, task).eval()
    SavedStudent(module, task, tuple(columns), backbone, dict(about)).save(folder)
    write_card(folder)
    return folder


def cells(card: str) -> dict[str, list[str]]:
    """The rows of all tables, by their first cell."""
    rows = [line.strip("|").split(" | ") for line in card.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_what_is_known_is_told(tmp_path: Path) -> None:
    folder = save(tmp_path, "small:cnn-tiny?size=32", [IMAGE])
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-classification" and card.data.license is None
    assert card.data.datasets == ["owner/films"] and card.data.metrics == ["accuracy"]
    (result,) = card.data.eval_results or []
    assert (result.metric_type, result.metric_value, result.dataset_split) == (
        *("accuracy", 0.875),
        "test",
    )
    told = cells(card.text)
    assert told["timm:big"] == ["mit"] and told["features:…/tables/table.npy"] == ["unknown"]
    assert told["accuracy"] == ["0.8750", "0.8000 to 0.9000"] and told["log loss"] == [
        "undefined",
        "",
    ]
    assert told["labels"] == ["a, b"] and told["parameters"] == ["12345"]
    assert told["training time"] == ["61 s"] and told["seed"] == ["3"]
    assert told["train"] == ["3,000 rows (0123abcd)"] and "8,000 views" in card.text
    assert "32 x 32 pixels" in card.text and "2 texts are empty" in card.text
    names = {"model.safetensors", "student.json"}
    for name in names:
        assert told[name] == [hashlib.sha256((folder / name).read_bytes()).hexdigest()]
    assert names == {one.name for one in folder.iterdir()} - {"README.md"}
    known = json.loads((folder / "student.json").read_text())
    assert known["about"] == ABOUT and known["info"]["licence"] is None
    assert known["shapes"] == {"inputs": ["rows", 3, 32, 32], "outputs": ["rows", 2]}
    assert SavedStudent.load(folder).about == ABOUT


def test_a_student_of_earlier_versions(tmp_path: Path) -> None:
    folder = save(tmp_path, "small:static?dim=8", [TEXT])

    new = ("about", "shapes")
    edit(folder / "student.json", lambda old: {k: v for k, v in old.items() if k not in new})
    assert SavedStudent.load(folder).about == {}
    write_card(folder)
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results is None and card.data.datasets is None
    told = cells(card.text)
    assert told["date"] == told["seed"] == told["loss"] == told["parameters"] == ["unknown"]
    assert told["training time"] == ["unknown"]
    assert "Not recorded" in card.text


def test_columns_regression_and_many_names(tmp_path: Path) -> None:
    specs = {"photo": "small:cnn-tiny?size=32", "text": "small:static?dim=8"}
    task = Task("regression", ("price", "age"))
    card = ModelCard.load(save(tmp_path / "two", specs, [IMAGE, TEXT], task) / "README.md")
    assert card.data.pipeline_tag is None and cells(card.text)["targets"] == ["price, age"]
    assert '[{"photo": "photo.jpg", "text": "a text"}]' in card.text
    known = json.loads((tmp_path / "two/student.json").read_text())
    assert known["shapes"]["inputs"] == {
        "photo": ["rows", 3, 32, 32],
        "text": ["rows", "tokens"],
    }
    many = Task("multilabel", tuple(f"c{number}" for number in range(25)))
    alone = {**ABOUT, "labels_alone": True}
    card = ModelCard.load(
        save(tmp_path / "many", "small:cnn-tiny", [IMAGE], many, alone) / "README.md"
    )
    assert cells(card.text)["labels"][0].endswith("c18, c19 and 5 more")
    assert "on labels alone." in card.text


def test_strange_names_are_text(tmp_path: Path) -> None:
    task = Task("classification", ("a|b", "<img src=x>\n# c"))
    about = {**ABOUT, "data": {**ABOUT["data"], "name": "---\nlicense: [x](y)", "on_hub": False}}
    card = ModelCard.load(save(tmp_path, "small:cnn-tiny", [IMAGE], task, about) / "README.md")
    assert card.data.license is None and card.data.pipeline_tag == "image-classification"
    assert r"a\|b, \<img src=x> # c" in card.text and r"license: \[x](y)" in card.text


@pytest.mark.parametrize("damage", [{"task": {}}, {"about": [1]}, {"about": {"teachers": 3}}])
def test_damage_is_an_error(damage: dict[str, Any], tmp_path: Path) -> None:
    folder = save(tmp_path, "small:cnn-tiny", [IMAGE])
    edit(folder / "student.json", lambda values: values | damage)
    with pytest.raises(StudentError, match=r"student\.json"):
        make_card(folder, folder)


@pytest.mark.parametrize(
    ("info", "licence", "shown"),
    [
        ({"weights": "random", "licence": "Apache-2.0"}, None, None),  # as earlier versions had it
        ({"weights": "pretrained (hub a/b)", "licence": "Apache-2.0"}, "Apache-2.0", "apache-2.0"),
        ({"weights": "pretrained (hub a/b)", "licence": "own terms"}, "own terms", "other"),
        ({"weights": "w.pth", "licence": None}, "unknown", None),
        (
            {"weights": "pretrained (torchvision V1)", "licence": "not stated; trained as in x"},
            *("not stated; trained as in x", None),
        ),
        (
            {
                "towers": {
                    "a": {"weights": "random", "licence": None},
                    "b": {"weights": "w.pth", "licence": None},
                    "c": {"weights": "pretrained (hub a/b)", "licence": "mit"},
                },
                **{"weights": "pretrained (…)", "licence": "mit"},
            },
            "mit + unknown",
            None,
        ),
    ],
)
def test_licences(
    info: dict[str, Any], licence: str | None, shown: str | None, tmp_path: Path
) -> None:
    assert licence_of(info) == licence
    folder = save(tmp_path, "small:cnn-tiny", [IMAGE])
    edit(folder / "student.json", lambda values: values | {"info": values["info"] | info})
    write_card(folder)
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == shown
    assert ("no licence comes with them" in card.text) == (licence is None)
    assert licence is None or f"started from, {licence}." in card.text


@pytest.mark.parametrize(
    ("source", "name", "on_hub"),
    [
        ("owner/films:plain", "owner/films:plain", True),
        ("{here}/photos/", "photos", False),
        ("{here}/gone/t.csv", "t.csv", False),
        ("s3://bucket/some/t.csv?token=x", "t.csv", False),
        ("data in memory", "data in memory", False),
    ],
)
def test_data_are_named_without_their_place(
    source: str, name: str, on_hub: bool, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    data = DataSet(source.format(here=tmp_path), CLASSES, {}, DataReport())
    assert data.origin() == {"name": name, "on_hub": on_hub, "content": {}}
