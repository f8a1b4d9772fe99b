"""The linear model on the features of a run's teachers, beside the student."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

pytest.importorskip("starlette")

import aft
from aft.errors import AftError, ConfigError
from aft.losses.heads import fit_task_head
from aft.serving import answers
from aft.serving.answers import TeachersHead
from aft.students.predictions import probabilities_of
from aft.teachers.loading import load_teacher
from helpers.pictures import draw_picture, make_picture_folder
from helpers.serving import as_base64, make_service, predict
from helpers.text_data import make_text_table
from helpers.training import TEACHER

QUIET: dict[str, Any] = {
    **{"progress": False, "num_workers": 0, "device": "cpu", "steps": 1, "batch_size": 8},
    **{"baselines": False, "safety_net": False, "views": "clean"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pictures with a teacher that knows colours."""
    folder = tmp_path_factory.mktemp("teachers")
    (folder / "teacher.py").write_text(TEACHER)
    aft.train(
        data=make_picture_folder(folder / "pictures", 3, 12, 4, size=32),
        student="small:cnn-tiny?size=32",
        teachers=[f"python:{folder / 'teacher.py'}:colours"],
        features=folder / "features",
        out=folder / "run",
        **QUIET,
    )
    return folder / "run"


def outputs(run: Path) -> Callable[[Path], Any]:
    """A plain computation of the linear model's probabilities of the classes for a picture."""
    folder = run.parent
    teacher = load_teacher(f"python:{folder / 'teacher.py'}:colours")
    data = aft.load_data(folder / "pictures", progress=False).splits["train"]

    def features(image: Image.Image) -> torch.Tensor:
        with torch.no_grad():
            return teacher.module(teacher.preprocess(image)[None])[0].half().float()

    seen = torch.stack([features(data.input(i)) for i in range(len(data))])
    task = aft.load_student(run).task
    head = fit_task_head(seen, torch.from_numpy(np.asarray(data.labels)), task.kind, 3)

    def probabilities(path: Path) -> Any:
        with Image.open(path) as image:
            found = features(image.convert("RGB")) @ head.weight.T + head.bias
        return probabilities_of(found[None].numpy(), task)[0]

    return probabilities


def test_stored_and_new_inputs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = aft.load_student(run)
    service = make_service(run, teachers=TeachersHead.fit(run, student, True))
    expected, computed = outputs(run), []
    whole = answers.compute_features

    def noted(teacher: Any, samples: Any, rows: Any, how: Any) -> Any:
        computed.extend(rows.tolist())
        return whole(teacher, samples, rows, how)

    monkeypatch.setattr(answers, "compute_features", noted)
    stored = sorted((run.parent / "pictures" / "train").glob("*/*.png"))[::5]
    new = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(new):
        draw_picture(i % 3, 32, np.random.default_rng(100 + i)).save(path)
    for paths, number in ((stored, 0), (new, len(new)), ([stored[0], new[1], stored[2]], 1)):
        computed.clear()
        inputs = [as_base64(path.read_bytes()) for path in paths]
        found = predict(service, {"inputs": inputs, "probabilities": True})
        assert len(computed) == number
        for path, one in zip(paths, found["teachers"], strict=True):
            chances = expected(path)
            assert one["label"] == student.task.names[chances.argmax()]
            assert list(one["probabilities"].values()) == pytest.approx(chances, abs=2e-3)
        wanted = student.predict(paths)
        assert [one["label"] for one in found["predictions"]] == [one["label"] for one in wanted]
    assert service.about["teachers"] and "teachers" not in predict(
        make_service(run), {"inputs": [as_base64(new[0].read_bytes())]}
    )


def test_code_of_a_run_is_run_only_if_trusted(run: Path) -> None:
    student = aft.load_student(run)
    with pytest.raises(ConfigError, match="--trust-remote-code"):
        TeachersHead.fit(run, student, False)
    with pytest.raises(ConfigError, match="--trust-remote-code"):
        aft.serve(run, with_teachers=True, port=0)


def test_a_run_that_has_changed(run: Path, tmp_path: Path) -> None:
    student = aft.load_student(run)
    text = (run / "config.yaml").read_text()
    for option, value, named in [
        ("teachers", [], "no teachers"),
        ("features", str(tmp_path), str(tmp_path)),
        ("data", "data in memory", "in memory"),
        ("data", str(make_picture_folder(tmp_path / "others", 3, 12, 4, 32, 1)), "changed"),
    ]:
        try:
            changed = {**yaml.safe_load(text), option: value}
            (run / "config.yaml").write_text(yaml.safe_dump(changed))
            with pytest.raises(AftError, match=named):
                TeachersHead.fit(run, student, True)
        finally:
            (run / "config.yaml").write_text(text)


def test_a_table_of_features_has_no_answer_for_other_inputs(tmp_path: Path) -> None:
    data = make_text_table(tmp_path / "texts.jsonl", 60, 12)
    samples = aft.load_data(data, progress=False).splits["train"]
    generator = np.random.default_rng(0)
    whole = [*samples.ids, *aft.load_data(data, progress=False).splits["validation"].ids]
    lines = "\n".join(bytes(one).hex() for one in whole)
    np.save(tmp_path / "table.npy", generator.normal(size=(len(whole), 6)).astype(np.float32))
    (tmp_path / "table.ids.txt").write_text(lines)
    options = {"features": tmp_path / "features", "out": tmp_path / "run", **QUIET}
    teachers = [f"features:{tmp_path / 'table.npy'}"]
    aft.train(data=data, student="small:static?dim=8", teachers=teachers, **options)
    student = aft.load_student(tmp_path / "run")
    head = TeachersHead.fit(tmp_path / "run", student, False)
    service = make_service(tmp_path / "run", teachers=head)
    inputs = ["something new", samples.input(3)]
    found = predict(service, {"inputs": inputs})
    assert all(found["predictions"])
    assert found["teachers"][0] is None and found["teachers"][1]["label"] in student.task.names
