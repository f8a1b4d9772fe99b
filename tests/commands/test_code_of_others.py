"""Nobody's code runs unasked: every command and function that takes a folder or a file from outside
is given each kind of hole. What the hole would run leaves a mark."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("sentence_transformers")

import aft
from aft.cli import main
from aft.errors import AftError
from helpers.damage import edit
from helpers.text_data import make_text_table
from helpers.text_models import make_bert
from helpers.training import TEACHERS

Options = dict[str, Any]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    folder = tmp_path_factory.mktemp("common")
    return {
        "data": str(make_text_table(folder / "texts.jsonl", 24, 12)),
        "features": folder / "features",
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
    }


@pytest.fixture(scope="module")
def training(options: Options) -> Options:
    return {
        **options,
        "student": "small:static?dim=8",
        "steps": 1,
        "batch_size": 8,
        "baselines": False,
    }


@pytest.fixture(scope="module")
def trained(training: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    aft.train(**training, out=out)
    return out


@pytest.fixture(scope="module")
def compared(training: Options, tmp_path_factory: pytest.TempPathFactory) -> tuple[Options, Path]:
    folder = tmp_path_factory.mktemp("compared")
    (folder / "teachers.py").write_text(TEACHERS)
    own = {k: v for k, v in training.items() if k != "baselines"} | {
        "teachers": f"python:{folder / 'teachers.py'}:words",
        "methods": ("kd",),
        "betas": (1.0,),
        "seeds": 2,
    }
    assert not aft.compare(**own, out=folder / "out")["errors"]
    return own, folder / "out"


BERT: dict[str, Path] = {}


@pytest.fixture(scope="module", autouse=True)
def _bert(tmp_path_factory: pytest.TempPathFactory) -> None:
    BERT["folder"] = make_bert(tmp_path_factory.mktemp("bert"))


def copy_bert(folder: Path) -> Path:
    return shutil.copytree(BERT["folder"], folder)


class Mark:
    """A pickle of this object leaves a mark when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def marking(mark: Path) -> str:
    return f"import os\nos.mkdir({str(mark)!r})\n"


# Holes in a student's folder: the architecture that its student.json asks for ---------------------

STUDENT = "from torch import nn\ndef net():\n    return nn.Flatten()\n"


def python_student(folder: Path, mark: Path) -> str:
    (folder / "own.py").write_text(marking(mark) + STUDENT)
    return f"python:{folder / 'own.py'}:net"


def python_tower(folder: Path, mark: Path) -> dict[str, Any]:
    spec = python_student(folder, mark)
    return {"towers": {"text": {"architecture_spec": spec}}, "fusion": "concat"}


def auto_map(folder: Path, mark: Path, kind: str = "own") -> str:
    """A model of transformers with its own code, in a folder of its own."""
    place = copy_bert(folder / "model")
    config = json.loads((place / "config.json").read_text())
    config |= {"model_type": kind, "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (place / "config.json").write_text(json.dumps(config))
    (place / "own.py").write_text(marking(mark) + "class Own: pass\n")
    return f"hf:{place}"


def pickled_model(folder: Path, mark: Path) -> str:
    place = copy_bert(folder / "model")
    (place / "model.safetensors").unlink()
    torch.save({"weight": Mark(mark)}, place / "pytorch_model.bin")
    return f"hf:{place}"


def pickled_weights(folder: Path, mark: Path) -> str:
    torch.save({"weight": Mark(mark)}, folder / "w.pth")
    return f"hf:{copy_bert(folder / 'model')}?weights={folder / 'w.pth'}"


STUDENTS = [python_student, python_tower, auto_map, pickled_model, pickled_weights]

# Holes in a model's folder or file ----------------------------------------------------------------


def modules(folder: Path, *types: str) -> str:
    place = copy_bert(folder / "sentences")
    listed = [
        {"idx": i, "name": str(i), "path": f"{i}_Own", "type": kind}
        for i, kind in enumerate(("sentence_transformers.models.Transformer", *types))
    ]
    listed[0]["path"] = ""
    (place / "modules.json").write_text(json.dumps(listed))
    (place / "1_Own").mkdir()
    return f"st:{place}"


def custom_module(folder: Path, mark: Path) -> str:
    spec = modules(folder, "own.Own")
    (folder / "sentences" / "own.py").write_text(marking(mark) + "class Own: pass\n")
    return spec


def nested(folder: Path, mark: Path, kind: str, file: str) -> str:
    """A module whose own configuration names a class, here one that reads a pickle."""
    spec = modules(folder, kind)
    inner = folder / "sentences" / "1_Own" / "0"
    inner.mkdir()
    content = {"types": {"0": "torch.load", "a": "own.Own"}, "structure": {"a": ["0"]}}
    (inner.parent / file).write_text(json.dumps(content))
    (inner / "config.json").write_text("{}")
    torch.save(Mark(mark), inner / "pytorch_model.bin")
    return spec


def router(folder: Path, mark: Path) -> str:
    return nested(folder, mark, "sentence_transformers.models.Router", "router_config.json")


def asym(folder: Path, mark: Path) -> str:
    return nested(folder, mark, "sentence_transformers.models.Asym", "config.json")


def reads_pickles(folder: Path, mark: Path) -> str:
    return nested(folder, mark, "sentence_transformers.models.LSTM", "lstm_config.json")


def other_class(folder: Path, mark: Path) -> str:
    """A name within the library that is no module."""
    return nested(folder, mark, "sentence_transformers.util.misc.import_from_string", "config.json")


def activation(folder: Path, mark: Path) -> str:
    spec = modules(folder, "sentence_transformers.models.Dense")
    content = {"in_features": 32, "out_features": 4, "activation_function": "torch.hub.list"}
    (folder / "sentences" / "1_Own" / "config.json").write_text(json.dumps(content))
    return spec


def absolute(folder: Path, mark: Path) -> str:
    """The configuration that the library reads lies elsewhere."""
    spec = activation(folder, mark)
    file = folder / "sentences" / "modules.json"
    listed = json.loads(file.read_text())
    listed[1]["path"] = str(folder / "sentences" / "1_Own")
    file.write_text(json.dumps(listed))
    return spec


def timm_weights(folder: Path, mark: Path) -> str:
    torch.save({"weight": Mark(mark)}, folder / "w.pth")
    return f"timm:test_vit?weights={folder / 'w.pth'}"


def numpy_pickle(folder: Path, mark: Path) -> str:
    (folder / "w.pkl").write_bytes(pickle.dumps(Mark(mark)))
    return f"torchvision:squeezenet1_1?weights={folder / 'w.pkl'}"


def feature_table(folder: Path, mark: Path) -> str:
    np.save(folder / "f.npy", np.array([[Mark(mark)]], object), allow_pickle=True)
    (folder / "f.ids.txt").write_text("a.png\n")
    return f"features:{folder / 'f.npy'}"


def tokenizer_code(folder: Path, mark: Path) -> str:
    place = copy_bert(folder / "model")
    file = place / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    file.write_text(json.dumps(settings))
    (place / "own.py").write_text(marking(mark) + "class Own: pass\n")
    return f"hf:{place}"


MODELS = [
    *(auto_map, tokenizer_code, pickled_model, pickled_weights, custom_module, router, asym),
    *(reads_pickles, other_class, activation, absolute, timm_weights, numpy_pickle, feature_table),
]
HARMLESS = {tokenizer_code}
"""Holes that need not be refused: the library has classes of its own for such a folder."""
FEW = (auto_map, pickled_weights, custom_module, router)
"""To save time, the other entries are given these: all load models in the same way."""

# Where folders come in ----------------------------------------------------------------------------


def evaluate(run: Path, options: Options) -> Any:
    return aft.evaluate(run=run, device="cpu", progress=False)


def evaluate_elsewhere(run: Path, options: Options) -> Any:
    return aft.evaluate(run=run, data=options["data"], device="cpu", progress=False)


def predict(run: Path, options: Options) -> Any:
    out = run / "predictions.csv"
    return aft.predict(run=run, data=options["data"], out=out, device="cpu", progress=False)


RUNS: dict[str, Callable[[Path, Options], Any]] = {
    "evaluate": evaluate,
    "evaluate --data": evaluate_elsewhere,
    "predict": predict,
    "SavedStudent.load": lambda run, options: aft.SavedStudent.load(run),
    "SavedStudent.load of student": lambda run, options: aft.SavedStudent.load(run / "student"),
    "TrainResult.student": lambda run, options: aft.TrainResult.load(run).student(),
}


def inspect_verify(spec: str, options: Options, out: Path) -> Any:
    return aft.inspect(
        data=options["data"],
        teachers=spec,
        verify=True,
        features=options["features"],
        progress=False,
    )


TEACHER_ENTRIES: dict[str, Callable[[str, Options, Path], Any]] = {
    "load_teacher": lambda spec, options, out: aft.load_teacher(spec),
    "extract": lambda spec, options, out: aft.extract(**options, teachers=spec),
    "score": lambda spec, options, out: aft.score(**options, teachers=spec, out=out),
    "inspect --verify": inspect_verify,
    "train": lambda spec, options, out: aft.train(
        **options, teachers=spec, student="small:static", steps=1, out=out
    ),
    "compare": lambda spec, options, out: aft.compare(
        **options, teachers=spec, student="small:static", steps=1, out=out
    ),
}
STUDENT_ENTRIES: dict[str, Callable[[str, Options, Path], Any]] = {
    "load_backbone": lambda spec, options, out: aft.load_backbone(spec),
    "train": lambda spec, options, out: aft.train(**options, student=spec, steps=1, out=out),
    "score": lambda spec, options, out: aft.score(**options, student=spec, out=out),
}


def replaced(run: Path, out: Path, architecture: str | dict[str, Any]) -> Path:
    """A copy of a run whose student asks for another architecture."""
    if run != out:
        shutil.copytree(run, out)

    def change(content: dict[str, Any]) -> dict[str, Any]:
        if isinstance(architecture, dict):
            content["info"] |= architecture
            content["preprocessing"] = {"columns": {"text": content["preprocessing"]}}
        else:
            content["info"]["architecture_spec"] = architecture
        return content

    edit(out / "student" / "student.json", change)
    return out


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.mark.parametrize("hole", STUDENTS)
@pytest.mark.parametrize("entry", RUNS)
def test_a_run_of_somebody_else(
    entry: str,
    hole: Callable[[Path, Path], Any],
    trained: Path,
    options: Options,
    mark: Path,
    tmp_path: Path,
) -> None:
    run = replaced(trained, tmp_path / "run", hole(tmp_path, mark))
    with pytest.raises(AftError):
        RUNS[entry](run, options)
    assert not mark.exists()


@pytest.mark.parametrize("entry", RUNS)
def test_a_pickle_in_place_of_a_students_weights(
    entry: str, trained: Path, options: Options, mark: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    torch.save({"weight": Mark(mark)}, run / "student" / "model.safetensors")
    edit(run / "student" / "student.json", dict)
    with pytest.raises(AftError, match=r"model\.safetensors"):
        RUNS[entry](run, options)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("entry", "hole"),
    [
        (entry, hole)
        for entry in TEACHER_ENTRIES
        for hole in (MODELS if entry == "load_teacher" else FEW)
    ],
)
def test_a_teacher_of_somebody_else(
    entry: str, hole: Callable[[Path, Path], str], options: Options, mark: Path, tmp_path: Path
) -> None:
    spec = hole(tmp_path, mark)
    try:
        TEACHER_ENTRIES[entry](spec, options, tmp_path / "out")
    except AftError:
        pass
    else:
        assert hole in HARMLESS
    assert not mark.exists()


@pytest.mark.parametrize(
    ("entry", "hole"),
    [
        (entry, hole)
        for entry in STUDENT_ENTRIES
        for hole in (MODELS if entry == "load_backbone" else FEW)
    ],
)
def test_a_student_of_somebody_else(
    entry: str, hole: Callable[[Path, Path], str], options: Options, mark: Path, tmp_path: Path
) -> None:
    spec = hole(tmp_path, mark)
    try:
        STUDENT_ENTRIES[entry](spec, options, tmp_path / "out")
    except AftError:
        pass
    else:
        assert hole in HARMLESS
    assert not mark.exists()


@pytest.mark.parametrize("hole", STUDENTS)
def test_going_on_with_a_comparison_of_somebody_else(
    hole: Callable[[Path, Path], Any],
    compared: tuple[Options, Path],
    mark: Path,
    tmp_path: Path,
) -> None:
    options, out = compared
    copy = shutil.copytree(out, tmp_path / "out")
    asked = hole(tmp_path, mark)
    for run in copy.glob("runs/*"):
        replaced(run, run, asked)
    found = aft.compare(**options, out=copy)
    assert {"costs", "probes"} <= set(found["errors"])
    assert not mark.exists()


def test_a_comparison_runs_the_file_that_the_user_names(
    training: Options, tmp_path: Path, mark: Path
) -> None:
    """The student of the command line needs no further consent, one of another file does."""
    (tmp_path / "teachers.py").write_text(TEACHERS)
    (tmp_path / "mine.py").write_text(WORDS)
    options = {k: v for k, v in training.items() if k != "baselines"} | {
        "teachers": f"python:{tmp_path / 'teachers.py'}:words",
        "student": f"python:{tmp_path / 'mine.py'}:net",
        "methods": ("kd",),
        "betas": (1.0,),
        "seeds": 2,
    }
    assert not aft.compare(**options, out=tmp_path / "out")["errors"]
    with pytest.raises(AftError, match="--trust-remote-code"):
        aft.TrainResult.load(tmp_path / "out/runs/alone-seed0").student()
    aft.TrainResult.load(tmp_path / "out/runs/alone-seed0").student(trust_remote_code=True)
    other = python_student(tmp_path, mark)
    for run in (tmp_path / "out").glob("runs/*"):
        replaced(run, run, other)
    assert {"costs", "probes"} <= set(aft.compare(**options, out=tmp_path / "out")["errors"])
    assert not mark.exists()


WORDS = """
import sys
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from teachers import words


def net():
    module, tokenization = words()
    return nn.Sequential(module, nn.Linear(24, 8)), tokenization
"""


@pytest.mark.parametrize("command", ["train", "extract", "score", "compare"])
@pytest.mark.parametrize("kind", ["student", "teachers", "trust_remote_code"])
def test_a_configuration_file_of_somebody_else(
    command: str,
    kind: str,
    options: Options,
    mark: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if command == "extract" and kind == "student":
        pytest.skip("extract has no student")
    trust = kind == "trust_remote_code"
    spec = auto_map(tmp_path, mark) if trust else f"text={python_student(tmp_path, mark)}"
    values: Options = {"data": options["data"], "teachers": ["timm:test_vit"]}
    values |= {} if command == "extract" else {"student": "small:static"}
    values["teachers" if trust else kind] = [spec]
    values |= {"trust_remote_code": True} if trust else {}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert main([command, "--config", str(tmp_path / "config.yaml")]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / "config.yaml") in said and "--trust-remote-code" in said
    assert not mark.exists()
    # With the file named on the command line, and with the option, it is not refused at once.
    if kind == "teachers":
        line = [command, "--config", str(tmp_path / "config.yaml"), "--teachers", spec]
        assert main([*line, "--device", "cpu"]) == 1
        assert mark.exists()


@pytest.mark.parametrize("hole", [python_student, auto_map])
def test_a_run_runs_when_trusted(
    hole: Callable[[Path, Path], Any], trained: Path, mark: Path, tmp_path: Path
) -> None:
    """The holes are holes."""
    run = replaced(trained, tmp_path / "run", hole(tmp_path, mark))
    with pytest.raises(AftError):  # it does not fit the weights
        aft.SavedStudent.load(run, trust_remote_code=True)
    assert mark.exists()


@pytest.mark.parametrize("hole", [auto_map, custom_module])
def test_a_model_runs_when_trusted(
    hole: Callable[[Path, Path], str], mark: Path, tmp_path: Path
) -> None:
    with pytest.raises(AftError):
        aft.load_teacher(hole(tmp_path, mark), trust_remote_code=True)
    assert mark.exists()


def test_a_pickle_leaves_a_mark(mark: Path) -> None:
    pickle.loads(pickle.dumps(Mark(mark)))
    assert mark.exists()
