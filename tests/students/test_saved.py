"""Saved students: damaged and foreign files are refused, older ones are read as they were."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.data.readers.find_columns import InputColumn
from aft.errors import AftError, StudentError
from aft.students.backbone import load_backbone
from aft.students.saved import SavedStudent
from aft.students.student import new_student
from aft.tasks import Task
from helpers.damage import DAMAGES, HEADERS, edit
from helpers.errors import says
from helpers.text_models import make_bert

TASK = Task("classification", ("no", "yes"))
FILES = ("student.json", "model.safetensors", "tokenizer.json")


def save(folder: Path, spec: str) -> SavedStudent:
    backbone = load_backbone(spec, texts=lambda: ["birds sing", "the garden is quiet"])
    module = new_student(backbone, TASK).eval()
    student = SavedStudent(module, TASK, (InputColumn("text", "text"),), backbone)
    student.save(folder)
    return student


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("students")
    save(root / "small", "small:static?dim=8")
    save(root / "hf", f"hf:{make_bert(root / 'bert')}")
    return {"small": root / "small", "hf": root / "hf"}


def refused(folder: Path, file: str) -> None:
    with pytest.raises(StudentError) as error:
        SavedStudent.load(folder)
    assert says(error.value, folder)
    assert file in str(error.value) or file in ("config.json", "tokenization.json")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("kind", "file"),
    [
        *(("small", file) for file in FILES),
        *(("hf", file) for file in (*FILES, "config.json", "tokenization.json")),
    ],
)
def test_damaged_files(
    kind: str, file: str, damage: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders[kind], tmp_path / "student")
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(DAMAGES[damage](content))
    refused(folder, file)


@pytest.mark.parametrize("name", HEADERS)
def test_crafted_weights(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["small"], tmp_path / "student")
    (folder / "model.safetensors").write_bytes(HEADERS[name])
    refused(folder, "model.safetensors")


def replace(content: Any, *path: str, value: Any) -> Any:
    if not path:
        return value
    return {**content, path[0]: replace(content[path[0]], *path[1:], value=value)}


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{
        f"no {name}": lambda one, name=name: {k: v for k, v in one.items() if k != name}
        for name in ("task", "columns", "preprocessing", "info")
    },
    "names that are no list": lambda one: replace(one, "task", "names", value=3),
    "columns of numbers": lambda one: replace(one, "columns", value=[1, 2]),
    "an architecture that is no text": lambda one: replace(
        one, "info", "architecture_spec", value=None
    ),
    "an unknown architecture": lambda one: replace(
        one, "info", "architecture_spec", value="smal:static"
    ),
    "another width": lambda one: replace(
        one, "info", "architecture_spec", value="small:static?tokenizer={folder}/tokenizer.json"
    ),
    "towers that are none": lambda one: replace(one, "info", value={"towers": 3}),
    "no preprocessing": lambda one: replace(one, "preprocessing", value=[]),
    "another tokenizer": lambda one: replace(
        one, "preprocessing", "tokenizer_sha256", value="0" * 64
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_description_that_cannot_be_used(
    wrong: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["small"], tmp_path / "student")
    file = folder / "student.json"
    edit(file, WRONG[wrong])
    with pytest.raises(AftError):
        SavedStudent.load(folder)


def test_a_missing_file_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in FILES:
        folder = shutil.copytree(folders["small"], tmp_path / file)
        (folder / file).unlink()
        refused(folder, file)


@pytest.mark.parametrize("source", ["small:static?dim=8", "hf:{bert}"])
@pytest.mark.parametrize("options", ["", "&truncate=start"])
def test_the_cut_of_long_texts_is_saved(source: str, options: str, tmp_path: Path) -> None:
    spec = source.format(bert=make_bert(tmp_path / "bert"))
    mark = "&" if "?" in spec else "?"
    made = save(tmp_path / "out", f"{spec}{mark}template={{0}} garden&max_tokens=16{options}")
    again = SavedStudent.load(tmp_path / "out")
    text = "birds sing " * 20 + "the"
    assert again.transform(text).tolist() == made.transform(text).tolist()
    # One of an earlier version, whose description does not say how texts are cut.
    files = [tmp_path / "out/student.json", tmp_path / "out/tokenization.json"]
    for file in filter(Path.is_file, files):
        edit(file, without_side)
    old = SavedStudent.load(tmp_path / "out").backbone.preprocessing
    assert isinstance(old, Tokenization)
    if not options:
        assert old.evaluate()(text).tolist() != made.transform(text).tolist()
        assert len(old.evaluate()(text)) == 16


def without_side(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {k: without_side(v) for k, v in value.items() if k != "truncate"}


def test_a_specification_keeps_the_side(tmp_path: Path) -> None:
    backbone = load_backbone("small:ngrams?truncate=start", texts=lambda: ["birds sing"])
    saved = Spec.parse(backbone.info["architecture_spec"])
    assert saved.options["truncate"] == "start"
