from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import aft
from aft.backbones.batches import collate
from aft.backbones.weights import file_hash
from aft.errors import StudentError, TeacherError
from aft.students.backbone import load_backbone
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

def texts():
    return lambda texts: [[len(text), text.count("e")] for text in texts], 2

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


def test_functions_of_texts_make_teachers(user_file: Path) -> None:
    teacher = model(f"python:{user_file}:texts")
    assert teacher.modality == "text" and teacher.dim == 2
    batch = collate([teacher.preprocess(text) for text in ("a tree", "é", "a tree")])
    assert teacher.module(batch).tolist() == [[6, 2], [1, 0], [6, 2]]
    assert "0x" not in json.dumps(teacher.identity)


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


EXITS = {
    "import": "import sys\nsys.exit(0)\ndef f(): pass\n",
    "function": "def f():\n    raise SystemExit\n",
    "preprocess": """
import sys
from torch import nn
def f():
    return nn.Flatten(), lambda image: sys.exit(0)
""",
    "forward": """
import sys
from torch import nn
from aft import Preprocessing
class Net(nn.Module):
    def forward(self, images):
        sys.exit()
def f():
    return Net(), Preprocessing(8)
""",
}
LATE = """
import sys
import torch
from torch import nn
from torchvision.transforms.functional import pil_to_tensor
from aft import Preprocessing

class Net(nn.Module):
    calls = 0
    def forward(self, images):
        Net.calls += 1
        if Net.calls > 1:
            sys.exit(0)
        return images.flatten(1)[:, :4]

def prepare(image):
    if image.size != (320, 256):
        sys.exit(0)
    return pil_to_tensor(image.resize((8, 8))) / 255

def forward():
    return Net(), Preprocessing(8)

def preprocess():
    return nn.Flatten(), prepare
"""


@pytest.mark.parametrize("place", EXITS)
def test_a_file_that_exits_is_an_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "exits.py").write_text(EXITS[place])
    spec = f"python:{tmp_path / 'exits.py'}:f"
    with pytest.raises(TeacherError) as error:
        load_teacher(spec)
    assert says(error.value, "exits.py", "SystemExit")
    if place != "preprocess":
        with pytest.raises(StudentError) as student:
            load_backbone(spec)
        assert says(student.value, "exits.py", "SystemExit")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("place", ["forward", "preprocess"])
def test_an_exit_during_the_work_is_an_error(tmp_path: Path, place: str, workers: int) -> None:
    (tmp_path / "late.py").write_text(LATE)
    for number in range(3):
        (tmp_path / "d" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        PICTURE.save(tmp_path / "d" / "ab"[number % 2] / f"{number}.png")
    with pytest.raises(TeacherError) as error:
        aft.extract(
            data=str(tmp_path / "d"),
            teachers=f"python:{tmp_path / 'late.py'}:{place}",
            features=tmp_path / "f",
            num_workers=workers,
            device="cpu",
            progress=False,
        )
    assert says(error.value, "late.py", "SystemExit")


NEIGHBOURS = {
    "main.py": """
import numbers_of_mine
from package_of_mine import part
def pair():
    import late_of_mine
    from torch import nn
    return nn.Flatten(), prepare
def prepare(image):
    from torchvision.transforms.functional import pil_to_tensor
    return pil_to_tensor(image.resize((numbers_of_mine.SIZE, numbers_of_mine.SIZE))) / 255
""",
    "numbers_of_mine.py": "SIZE = 2\n",
    "late_of_mine.py": "from package_of_mine.deep import leaf\n",
    "unused_of_mine.py": "",
    "package_of_mine/__init__.py": "",
    "package_of_mine/part.py": "from . import beside\nfrom .deep.leaf import x\n",
    "package_of_mine/beside.py": "",
    "package_of_mine/unused.py": "",
    "package_of_mine/deep/leaf.py": "x = 1\n",  # without __init__.py
}


@pytest.fixture
def neighbours(tmp_path: Path) -> Path:
    for name, text in NEIGHBOURS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_what_a_file_imports_beside_it_is_part_of_the_identity(neighbours: Path) -> None:
    def sha256() -> str:
        return str(model(f"python:{neighbours / 'main.py'}:pair").identity["source_sha256"])

    first = sha256()
    assert first == sha256()
    for name in NEIGHBOURS:
        file = neighbours / name
        file.write_text(file.read_text() + "\n# edited\n")
        assert (sha256() != first) == ("unused" not in name)
        first = sha256()


def test_a_file_without_neighbours_keeps_its_identity(user_file: Path) -> None:
    identity = model(f"python:{user_file}:pair").identity
    assert identity["source_sha256"] == file_hash(user_file)


def test_an_edited_neighbour_is_imported_again(neighbours: Path) -> None:
    spec = f"python:{neighbours / 'main.py'}:pair"
    assert model(spec).dim == 12
    (neighbours / "numbers_of_mine.py").write_text("SIZE = 30\n")
    assert model(spec).dim == 2700


def test_neighbours_of_one_name_in_two_folders(neighbours: Path, tmp_path: Path) -> None:
    other = shutil.copytree(neighbours, tmp_path / "other", ignore=lambda *_: ["other"])
    (other / "numbers_of_mine.py").write_text("SIZE = 4\n")
    for _ in range(2):
        assert model(f"python:{neighbours / 'main.py'}:pair").dim == 12
        assert model(f"python:{other / 'main.py'}:pair").dim == 48


@pytest.mark.parametrize("name", ["mine.py", "not-a-name.py", "json.py"])
def test_a_function_is_found_by_another_process(tmp_path: Path, name: str) -> None:
    """On macOS and Windows, worker processes get preprocess as a pickle."""
    (tmp_path / name).write_text(USER)
    prepare = model(f"python:{tmp_path / name}:pair").preprocess
    content = pickle.dumps(prepare)
    assert torch.equal(pickle.loads(content)(PICTURE), prepare(PICTURE))
    own = sys.modules[prepare.function.__module__]  # type: ignore[union-attr]
    del sys.modules[own.__name__]  # as in a new process
    assert torch.equal(pickle.loads(content)(PICTURE), prepare(PICTURE))


def test_a_function_that_cannot_be_sent_to_another_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        USER + "\ndef local():\n    return net(5), lambda image: preprocess(image)\n"
    )
    spec = f"python:{tmp_path / 'mine.py'}:local"
    prepare = model(spec).preprocess
    assert prepare(PICTURE).shape == (3, 8, 8)
    with pytest.raises(TeacherError) as error:
        pickle.dumps(prepare)
    assert says(error.value, spec, "--num-workers 0")
