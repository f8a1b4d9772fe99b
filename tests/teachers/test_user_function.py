from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
from PIL import Image

from aft.errors import TeacherError
from aft.teachers.loading import load_teacher
from aft.teachers.teacher import Teacher
from helpers.errors import says

pytest.importorskip("torchvision")


def model(spec: str) -> Teacher:
    teacher = load_teacher(spec)
    assert isinstance(teacher, Teacher)
    return teacher


PICTURE = Image.new("RGB", (90, 70), "red")
USER = """
import torch
from torch import nn
from torchvision.transforms.functional import pil_to_tensor
from aft.backbones.preprocessing import Preprocessing
from aft.teachers import Teacher

def preprocess(image):
    return pil_to_tensor(image.resize((8, 8))) / 255

def net(width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, int(width)))

def pair(width="5"):
    return net(width), preprocess

def triple():
    return net(5), Preprocessing(8), 5

def wrong_dim():
    return net(5), preprocess, 6

def teacher():
    return Teacher("mine", 5, net(5), preprocess, {"licence": "MIT", "spec": "mine"})

def failing():
    raise KeyError("weights")

def unknown():
    return 3

def bad_preprocess():
    return net(5), str
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_teacher.py"
    path.write_text(USER)
    return path


@pytest.mark.parametrize("function", ["pair", "triple", "teacher"])
def test_python_functions_make_teachers(user_file: Path, function: str) -> None:
    teacher = model(f"python:{user_file}:{function}")
    features = teacher.module(teacher.preprocess(PICTURE).unsqueeze(0))
    assert features.shape == (1, teacher.dim) == (1, 5)
    assert not features.requires_grad
    assert teacher.identity["spec"] == f"python:my_teacher.py:{function}"
    assert teacher.identity.get("licence") == ("MIT" if function == "teacher" else None)
    assert "0x" not in json.dumps(teacher.identity)
    pickle.loads(pickle.dumps(teacher.preprocess))(PICTURE)


def test_python_identity_knows_source_options_and_weights(user_file: Path) -> None:
    first = model(f"python:{user_file}:pair").identity
    assert first == model(f"python:{user_file}:pair").identity
    assert first != model(f"python:{user_file}:pair?width=6").identity
    before = user_file.stat()
    user_file.write_text(USER.replace("manual_seed(0)", "manual_seed(1)"))
    os.utime(user_file, ns=(before.st_atime_ns, before.st_mtime_ns))  # edited within a second
    second = model(f"python:{user_file}:pair").identity
    assert first["source_sha256"] != second["source_sha256"]
    assert first["weights_sha256"] != second["weights_sha256"]


@pytest.mark.parametrize(
    ("function", "values"),
    [
        ("failing", ("my_teacher.py, line 28, in failing: KeyError: 'weights'",)),
        ("missing", ("my_teacher.py", "'missing'")),
        ("pear", ("'pear'", "pair")),
        ("unknown", (":unknown", "Teacher", " int")),
        ("wrong_dim", (":wrong_dim", "dim=6", " 5 ")),
        ("bad_preprocess", (":bad_preprocess", "320 x 256", "AttributeError")),
        ("pair?height=3", ("my_teacher.py: TypeError", "'height'")),
    ],
)
def test_python_errors(user_file: Path, function: str, values: tuple[str, ...]) -> None:
    with pytest.raises(TeacherError) as error:
        load_teacher(f"python:{user_file}:{function}")
    assert says(error.value, *values)


@pytest.mark.parametrize("text", ["x = 1\ndef f(:\n", "x = 1\nimport no_such_library\n"])
def test_python_files_that_do_not_run_name_the_line(user_file: Path, text: str) -> None:
    user_file.write_text(text)
    with pytest.raises(TeacherError, match=r"my_teacher.py, line 2"):
        load_teacher(f"python:{user_file}:f")
