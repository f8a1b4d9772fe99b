"""Every recipe of benchmarks/paper/ is read, and run for one step on stand-ins for the hub.

The data have the columns, splits and classes of the real ones and few rows; the models are tiny
ones of the same source.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm

from aft.backbones.specs import Spec, split_column
from aft.backbones.tokenization import Tokenization
from aft.errors import ConfigError, DataError
from aft.students.backbone import load_backbone
from helpers import text_models
from helpers.errors import says
from helpers.pictures import SHAPES, draw_picture

_FILE = Path(__file__).parents[2] / "benchmarks" / "paper.py"
_MODULE = importlib.util.spec_from_file_location("paper", _FILE)
assert _MODULE is not None and _MODULE.loader is not None
paper = sys.modules["paper"] = importlib.util.module_from_spec(_MODULE)
_MODULE.loader.exec_module(paper)

FILES = {path.stem: path for path in sorted((_FILE.parent / "paper").glob("*.yaml"))}
IMAGE, LABEL = {"image": "image"}, {"label": "label"}
PAIR = {"sentence1": "text", "sentence2": "text", **LABEL, "idx": "number"}
SPLITS = ("train", "validation", "test")
# Name on the hub: columns, number of classes (0: true or false), splits.
HUB: dict[str, tuple[dict[str, str], int, tuple[str, ...]]] = {
    "uoft-cs/cifar10": ({"img": "image", **LABEL}, 10, ("train", "test")),
    "uoft-cs/cifar100": (
        {"img": "image", "fine_label": "label", "coarse_label": "number"},
        100,
        ("train", "test"),
    ),
    "dpdl-benchmark/oxford_flowers102": (IMAGE | LABEL, 102, SPLITS),
    "timm/oxford-iiit-pet": (
        IMAGE | LABEL | {"image_id": "text", "label_cat_dog": "number"},
        37,
        ("train", "test"),
    ),
    "Donghyun99/FGVC-Aircraft": (IMAGE | LABEL, 100, ("train", "val", "test")),
    "mcimpoi/dtd_split_1": (IMAGE | LABEL, 47, SPLITS),
    "ethz/food101": (IMAGE | LABEL, 101, ("train", "validation")),
    "stanfordnlp/imdb": ({"text": "text", **LABEL}, 2, ("train", "test", "unsupervised")),
    "google/boolq": (
        {"question": "text", "answer": "label", "passage": "text"},
        0,
        ("train", "validation"),
    ),
    "nyu-mll/glue:mnli": (
        {"premise": "text", "hypothesis": "text", **LABEL, "idx": "number"},
        3,
        (
            *("train", "validation_matched", "validation_mismatched"),
            *("test_matched", "test_mismatched"),
        ),
    ),
    "nyu-mll/glue:mrpc": (PAIR, 2, SPLITS),
    "nyu-mll/glue:qnli": ({"question": "text", "sentence": "text", **LABEL}, 2, SPLITS),
    "nyu-mll/glue:qqp": ({"question1": "text", "question2": "text", **LABEL}, 2, SPLITS),
    "nyu-mll/glue:rte": (PAIR, 2, SPLITS),
    "nyu-mll/glue:cola": ({"sentence": "text", **LABEL, "idx": "number"}, 2, SPLITS),
    "nyu-mll/glue:sst2": ({"sentence": "text", **LABEL, "idx": "number"}, 2, SPLITS),
    "sedrickkeh/snli-ve": (
        IMAGE | {"filename": "text", "premise": "text", "hypothesis": "text"} | LABEL,
        3,
        SPLITS,
    ),
}
TIMM = {"vit": "test_vit", "mixer": "test_convnext", "resnet": "test_resnet"}
# One of these runs beside AFT, in turn; not ft, whose autoencoder takes long to fit.
OTHERS = ("kd", "rkd", "b-tuning")
# To save time the others have no probes, and all teachers together only.
WHOLE = ("pets", "rte")


@pytest.fixture(scope="module")
def hub() -> dict[str, datasets.DatasetDict]:
    generator = np.random.default_rng(0)
    return {
        name: datasets.DatasetDict(
            {split: make_split(generator, name, split, columns, classes) for split in splits}
        )
        for name, (columns, classes, splits) in HUB.items()
    }


def make_split(
    generator: np.random.Generator, name: str, split: str, columns: dict[str, str], classes: int
) -> datasets.Dataset:
    """At least two rows of every class in train, one in the others."""
    count = max(2 * classes, 24) if split == "train" else max(classes, 8 + len(split))
    labels = [i % max(classes, 2) for i in range(count)]
    unlabelled = split == "unsupervised" or ("glue" in name and split.startswith("test"))
    values: dict[str, list[Any]] = {}
    features: dict[str, Any] = {}
    for column, kind in columns.items():
        if kind == "image":
            values[column] = [draw_picture(i % len(SHAPES), 32, generator) for i in labels]
            features[column] = datasets.Image()
        elif kind == "text":
            values[column] = [
                f"{column} {number}: {generator.choice(text_models.SENTENCES)}"
                for number in generator.integers(10**6, size=count)
            ]
            features[column] = datasets.Value("string")
        elif kind == "number":
            values[column] = [i // 5 for i in labels]
            features[column] = datasets.Value("int64")
        elif classes:
            values[column] = [-1] * count if unlabelled else labels
            features[column] = datasets.ClassLabel(names=[f"class {i}" for i in range(classes)])
        else:
            values[column] = [bool(i) for i in labels]
            features[column] = datasets.Value("bool")
    return datasets.Dataset.from_dict(values, datasets.Features(features))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models of transformers, by a part of the real one's name, and a feature store."""
    root = tmp_path_factory.mktemp("stand-ins")
    gpt2 = text_models.make_gpt2(root / "gpt2", n_positions=128)
    return {
        "bert": text_models.make_bert(root / "bert"),
        "gpt2": gpt2,
        "llama": gpt2,
        "t5": text_models.make_t5(root / "t5"),
        "clip": text_models.make_clip(root / "clip"),
        "features": root / "features",
    }


def stand_in(model: str, folders: dict[str, Path]) -> str:
    """The same column, source and options with a tiny model."""
    column, rest = split_column(model)
    spec = Spec.parse(rest)
    if spec.source == "timm":
        name = next(tiny for part, tiny in TIMM.items() if spec.name.startswith(part))
        spec = Spec("timm", name, {**spec.options, "weights": "random", "size": "32"})
    else:
        folder = next(path for part, path in folders.items() if part in spec.name.lower())
        room = {"max_tokens": "100"} if folder == folders["gpt2"] else {}  # for long templates
        spec = Spec(spec.source, str(folder), {**spec.options, **room})
    return str(spec) if column is None else f"{column}={spec}"


def no_report(folder: Path, *_: Any) -> Path:
    """In place of pages, which take most of the time and have tests of their own."""
    return folder


@pytest.mark.parametrize("name", FILES)
def test_names(name: str) -> None:
    """Weights of timm that there are; for transformers OWNER/NAME; data that has a stand-in."""
    recipe = paper.Recipe.read(FILES[name])
    assert recipe.compare["data"] in HUB
    students = [[one] if isinstance(one, str) else one for one in recipe.students]
    for model in (*recipe.compare["teachers"], *(part for one in students for part in one)):
        spec = Spec.parse(split_column(model)[1])
        assert spec.source in ("timm", "hf")
        if spec.source == "timm":
            assert timm.list_pretrained(spec.name) == [spec.name]
        else:
            assert len(spec.name.split("/")) == 2
    assert recipe.compare["batch_size"] == 128 and recipe.compare["optimizer"] == "adam"


@pytest.mark.parametrize("name", FILES)
def test_one_step(
    name: str,
    hub: dict[str, datasets.DatasetDict],
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load_dataset(repository: str, configuration: str | None = None) -> datasets.DatasetDict:
        return hub[repository if configuration is None else f"{repository}:{configuration}"]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("aft.hub.why_unreachable", lambda: None)
    monkeypatch.setattr(paper, "why_unreachable", lambda: None)
    for module, function in (("train", "write_run_report"), ("compare", "write_methods_report")):
        monkeypatch.setattr(importlib.import_module(f"aft.commands.{module}"), function, no_report)
    read, place = paper.Recipe.read(FILES[name]), list(FILES).index(name)
    student = read.students[place % len(read.students)]
    student = [student] if isinstance(student, str) else student
    teachers = dict.fromkeys(stand_in(model, folders) for model in read.compare["teachers"])
    other = next(m for m in (*OTHERS[place % 3 :], *OTHERS) if m in read.compare["methods"])
    small: dict[str, Any] = {
        "teachers": list(teachers),
        "methods": [other, "aft"],
        "betas": [1.0],
        "seeds": 2,
    }
    if name not in WHOLE:
        small |= {"methods": ["aft"], "each_teacher": False, "probes": False}
    recipe = replace(
        read,
        students=[[stand_in(model, folders) for model in student]],
        compare={**read.compare, **small, "batch_size": 16, "num_workers": 0},
    )
    paper.run(recipe, tmp_path, steps=1, device="cpu", features=folders["features"], progress=False)

    (file,) = tmp_path.glob("*/compare.json")
    found = json.loads(file.read_text())
    assert capsys.readouterr().out == f"{file.parent.name}: {found['sentence']}\n"
    assert not found["errors"] and found["split"] == "test"
    alone = 1 + (len(teachers) if recipe.compare.get("each_teacher") else 0)
    assert len(found["settings"]) == alone and len(teachers) > 1
    data = hub[recipe.compare["data"]]
    for setting in found["settings"]:
        assert list(setting["methods"]) == ["alone", *small["methods"]]
        assert sum(setting["rows"].values()) == sum(
            len(data[part])
            for split in ("train", "test")
            for part in recipe.splits.get(split, split).split("+")
        )
        assert setting["rows"]["validation"] < 0.3 * setting["rows"]["train"]
    described = json.loads((file.parent / "runs/aft-beta1-seed0/data.json").read_text())
    texts = recipe.compare.get("text_column", [])
    image = recipe.compare.get("image_column")
    assert list(described["columns"]) == [
        *([image] if image else []),
        *([texts] if isinstance(texts, str) else texts),
    ]
    assert len(described["task"]["names"]) == max(HUB[recipe.compare["data"]][1], 2)


@pytest.mark.parametrize("name", FILES)
def test_the_side_on_which_texts_are_cut(name: str) -> None:
    """The paper's code cuts texts on the left, those of QNLI on the right."""
    recipe = paper.Recipe.read(FILES[name])
    models = recipe.config(recipe.students[0])
    for model in (*models.student, *models.teachers):
        options = Spec.parse(split_column(model)[1]).options
        assert options.get("template") == (recipe.template if "hf:" in model else None)
        assert options.get("truncate", "end") == (
            "start" if "template" in options and name != "qnli" else "end"
        )


def test_the_end_of_a_long_review_stays(folders: dict[str, Path]) -> None:
    """The prompt that a last-token teacher reads, behind the end of the review."""
    recipe = replace(paper.Recipe.read(FILES["imdb"]), students=[f"hf:{folders['gpt2']}"])
    (model,) = recipe.config(recipe.students[0]).student
    tokenization = load_backbone(model).preprocessing
    assert isinstance(tokenization, Tokenization)
    tokens = tokenization.evaluate()("a dull film. " + "the movie was great. " * 200)
    tail = tokenization.evaluate()("the movie was great. ").tolist()[-20:]
    assert len(tokens) > 50 and tokens[-len(tail) :].tolist() == tail


def test_a_wrong_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = FILES["rte"].read_text()
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text + "batches: 3\n")
    with pytest.raises(ConfigError) as error:
        paper.Recipe.read(wrong)
    assert says(error.value, "wrong.yaml", "batches")
    wrong.write_text(text + "  batches: 3\n")
    with pytest.raises(ConfigError) as error:
        paper.Recipe.read(wrong)
    assert says(error.value, "batches")
    monkeypatch.setattr(paper, "why_unreachable", lambda: "no network")
    with pytest.raises(DataError) as unreachable:
        paper.run(paper.Recipe.read(FILES["rte"]), tmp_path / "out")
    assert says(unreachable.value, "nyu-mll/glue:rte")


def test_list(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["paper.py", "--list"])
    paper.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(FILES)
