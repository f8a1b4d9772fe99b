"""The safety net: a student beside the student, which learns from the labels alone."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import aft
from aft.errors import StudentError
from aft.losses import AFTLoss
from aft.students.student import Student
from aft.tasks import Task
from aft.training.run_folder import read_metrics
from aft.training.safety_net import judge
from aft.training.transfer_model import TransferModel
from helpers.errors import says
from helpers.pictures import make_picture_folder
from helpers.report_pages import Page
from helpers.training import TEACHER, assert_same, weights

# Beside the helpful teacher one whose features are noise.
NOISE = """
class Noise(nn.Module):
    def forward(self, images):
        seeds = (images.double().flatten(1).abs().sum(1) * 1e6).long() % 2**31
        draw = lambda seed: torch.randn(24, generator=torch.Generator().manual_seed(int(seed)))
        return torch.stack([draw(seed) for seed in seeds])

def noise():
    from aft import Preprocessing
    return Noise(), Preprocessing(32).evaluate(), 24
"""

# Dropout and batch normalisation: whatever one student draws or counts, the other must not see.
STUDENT = """
from torch import nn

def noisy():
    from aft import Preprocessing
    module = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.GELU(),
                           nn.Dropout(0.2), nn.AdaptiveAvgPool2d(4), nn.Flatten(1),
                           nn.Linear(128, 16), nn.GELU())
    return module, Preprocessing(32)

def locked():
    import threading
    module, preprocessing = noisy()
    module.lock = threading.Lock()
    return module, preprocessing
"""

CLASSES = Task("classification", ("a", "b", "c"))
TAGS = Task("multilabel", ("a", "b"))
NUMBERS = Task("regression", ("x", "y"))


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("net")
    (folder / "teachers.py").write_text(TEACHER + NOISE)
    (folder / "student.py").write_text(STUDENT)
    return {
        "data": str(make_picture_folder(folder / "pictures", train=20, test=6, size=32)),
        "student": f"python:{folder / 'student.py'}:noisy",
        "features": folder / "features",
        "validation_fraction": 0.3,
        "steps": 40,
        "batch_size": 16,
        "lr": 5e-3,
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
    }


@pytest.fixture(scope="module")
def teachers(common: dict[str, Any]) -> dict[str, str]:
    file = Path(common["data"]).parent / "teachers.py"
    return {name: f"python:{file}:{name}" for name in ("colours", "noise")}


@pytest.fixture(scope="module")
def plain(common: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> aft.TrainResult:
    """The run without teachers."""
    return aft.train(**common, out=tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def harmed(
    common: dict[str, Any], teachers: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> aft.TrainResult:
    """A run with a teacher that knows nothing, and is believed."""
    out = tmp_path_factory.mktemp("harmed") / "run"
    return aft.train(**common, teachers=teachers["noise"], beta=1000.0, out=out)


@pytest.fixture(scope="module")
def helped(
    common: dict[str, Any], teachers: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> aft.TrainResult:
    """A run with a teacher that knows the colours, which are all there is to know."""
    out = tmp_path_factory.mktemp("helped") / "run"
    return aft.train(**common, teachers=teachers["colours"], beta=1.0, out=out)


class TestHarm:
    def test_the_student_of_the_labels_alone_is_kept(
        self, harmed: aft.TrainResult, plain: aft.TrainResult
    ) -> None:
        """And it is the one of a run without teachers, to the bit."""
        found = harmed.summary["safety_net"]
        assert found["fell_back"] and found["difference"] < -found["standard_error"] < 0
        assert_same(weights(harmed.out), weights(plain.out))
        assert harmed.metrics == plain.metrics
        assert harmed.summary["validation"] == plain.summary["validation"]
        assert harmed.summary["best_step"] == plain.summary["best_step"]

    def test_its_predictions_are_those_of_a_run_without_teachers(
        self, harmed: aft.TrainResult, plain: aft.TrainResult, common: dict[str, Any]
    ) -> None:
        images = [Image.open(p) for p in sorted(Path(common["data"]).glob("test/*/*.png"))]
        logits = [run.student(trust_remote_code=True).logits(images) for run in (harmed, plain)]
        assert torch.equal(*logits)
        evaluations = [(run.out / "evaluation.parquet").read_bytes() for run in (harmed, plain)]
        assert evaluations[0] == evaluations[1]

    def test_it_is_said(self, harmed: aft.TrainResult) -> None:
        found = harmed.summary["safety_net"]
        note = found["sentence"]
        assert note in harmed.summary["notes"]
        assert "18 validation rows" in note and "accuracy" in note
        both = found["with_transfer"], found["alone"]
        for student in both:
            assert f"{student['validation']:.3f}" in note
        assert both[1]["final"] == harmed.metrics["accuracy"] > both[0]["final"]
        page = Page(harmed.out / "report.html")
        assert note[1:] in page.text and "labels alone" in page.text

    def test_both_students_are_logged(
        self, harmed: aft.TrainResult, plain: aft.TrainResult
    ) -> None:
        def looks(run: aft.TrainResult, split: str) -> list[dict[str, Any]]:
            lines = [line for line in read_metrics(run.out) if line["split"] == split]
            return [{**line, "split": ""} for line in lines]

        assert looks(harmed, "validation_alone") == looks(plain, "validation")
        assert looks(harmed, "validation") != looks(plain, "validation")
        first = next(line for line in read_metrics(harmed.out) if line["split"] == "train")
        assert first["alone_loss"] == first["task_loss"]  # they start from the same weights


class TestNoHarm:
    def test_the_student_with_transfer_is_kept(
        self, helped: aft.TrainResult, plain: aft.TrainResult
    ) -> None:
        found = helped.summary["safety_net"]
        assert not found["fell_back"]
        assert found["with_transfer"]["final"] == helped.metrics["accuracy"]
        assert found["alone"]["final"] == plain.metrics["accuracy"]
        assert found["alone"]["best_step"] == plain.summary["best_step"]
        assert found["with_transfer"]["best_step"] == helped.summary["best_step"]
        assert found["sentence"] in helped.summary["notes"]
        assert all(
            f"{found[name]['validation']:.3f}" in found["sentence"]
            for name in ("alone", "with_transfer")
        )

    def test_it_is_the_same_without_the_net(
        self,
        helped: aft.TrainResult,
        common: dict[str, Any],
        teachers: dict[str, str],
        tmp_path: Path,
    ) -> None:
        options = {**common, "teachers": teachers["colours"], "beta": 1.0, "safety_net": False}
        bare = aft.train(**options, out=tmp_path / "bare")
        assert_same(weights(bare.out), weights(helped.out))
        assert "safety_net" not in bare.summary
        assert {line["split"] for line in read_metrics(bare.out)} == {"train", "validation"}
        assert not (bare.out / "checkpoints" / "best-alone.safetensors").exists()
        assert not any(
            "alone" in name for name in load_file(bare.out / "checkpoints/best.safetensors")
        )


@pytest.mark.parametrize("changes", [{"teachers": ()}, {"beta": 0.0}], ids=str)
def test_no_second_student_where_nothing_is_transferred(
    changes: dict[str, Any], common: dict[str, Any], teachers: dict[str, str], tmp_path: Path
) -> None:
    options = {**common, "teachers": teachers["colours"], "steps": 2, **changes}
    result = aft.train(**options, out=tmp_path / "run")
    assert "safety_net" not in result.summary
    assert not (result.out / "checkpoints" / "best-alone.safetensors").exists()


def test_a_student_that_cannot_be_copied(
    common: dict[str, Any], teachers: dict[str, str], tmp_path: Path
) -> None:
    student = common["student"].replace("noisy", "locked")
    options = {**common, "student": student, "teachers": teachers["colours"], "steps": 2}
    with pytest.raises(StudentError) as error:
        aft.train(**options, out=tmp_path / "a")
    assert says(error.value, "--no-safety-net")
    aft.train(**options, safety_net=False, out=tmp_path / "b")


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_other_tasks(
    kind: str, common: dict[str, Any], teachers: dict[str, str], tmp_path: Path
) -> None:
    """Judged by the share of right labels, or by squared errors."""
    tags = {"circle": ["round"], "square": [], "triangle": ["round", "red"]}
    rows = [
        {
            "path": str(path),
            "labels": tags[path.parent.name]
            if kind == "multilabel"
            else float(len(tags[path.parent.name])) + 0.5,
        }
        for path in sorted(Path(common["data"]).glob("train/*/*.png"))
    ]
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {**common, "data": str(table), "teachers": teachers["noise"], "beta": 1000.0}
    result = aft.train(**options, allow_outside=True, out=tmp_path / "run")
    found = result.summary["safety_net"]
    assert found["fell_back"]
    assert found["metric"] == {"multilabel": "mean_average_precision", "regression": "r2"}[kind]
    assert found["alone"]["final"] > found["with_transfer"]["final"]
    # without a test split the final score is that of validation
    assert all(
        one["final"] == one["validation"] for one in (found["alone"], found["with_transfer"])
    )


class TestJudge:
    def test_rare_classes_weigh_as_much_under_balanced_accuracy(self) -> None:
        labels = np.array([0] * 18 + [1] * 2)
        common, rare = (np.zeros((20, 3), dtype=np.float32) for _ in range(2))
        common[:, 0] = 1  # right on class 0 only
        rare[np.arange(20), labels] = 1
        rare[:3] = [0, 1, 0]  # right on class 1 and on most of class 0
        plain = judge(rare, common, labels, CLASSES, "accuracy").difference
        balanced = judge(rare, common, labels, CLASSES, "balanced_accuracy").difference
        assert plain == pytest.approx(17 / 20 - 18 / 20)
        assert balanced == pytest.approx((15 / 18 + 1) / 2 - 1 / 2)

    def test_classes(self) -> None:
        labels = np.arange(16) % 3
        right = np.eye(3, dtype=np.float32)[labels]
        wrong = np.roll(right, 1, axis=1)
        half = np.where(np.arange(16)[:, None] < 8, right, wrong)
        found = judge(half, right, labels, CLASSES, "accuracy")
        # eight 0, eight -1, and the made-up +1 and -1: 10 squares, sum -8, of 18 rows
        assert found.difference == -0.5
        assert found.standard_error == pytest.approx(np.sqrt((10 - 64 / 18) / 17 / 18))
        assert found.fell_back
        assert not judge(right, half, labels, CLASSES, "accuracy").fell_back
        same = judge(half, half, labels, CLASSES, "accuracy")
        assert (same.difference, same.standard_error, same.fell_back) == (0.0, 0.0, False)
        assert (same.log_likelihood, same.log_likelihood_error) == (0.0, 0.0)

    def test_a_small_loss_may_be_chance(self) -> None:
        """One row of a hundred may be chance; three that all speak for one student are not."""
        labels = np.zeros(100, dtype=np.int64)
        right = np.eye(3, dtype=np.float32)[labels]
        fewer = {number: right.copy() for number in (1, 3, 7)}
        for number, outputs in fewer.items():
            outputs[:number] = [0, 1, 0]
        found = {n: judge(one, right, labels, CLASSES, "accuracy") for n, one in fewer.items()}
        assert {n: one.fell_back for n, one in found.items()} == {1: False, 3: True, 7: True}
        # by the likelihood alone: right answers show it only with more rows
        assert found[3].difference > -2 * found[3].standard_error

    def test_few_rows_show_harm_in_the_likelihood(self) -> None:
        """As many right answers, but a wrong class is nearly certain in some rows."""
        labels = np.arange(12) % 3
        alone = np.eye(3, dtype=np.float32)[labels]
        alone[:3] = np.roll(alone[:3], 1, axis=1)
        sure = alone.copy()
        sure[:3] *= 8
        found = judge(sure, alone, labels, CLASSES, "accuracy")
        logs = np.log(np.exp([8, 1]) + 2) - [0, 0]
        expected = np.append(-np.full(3, logs[0] - logs[1]), np.zeros(9))
        assert found.difference == 0 and found.fell_back
        assert found.log_likelihood == pytest.approx(expected.mean(), rel=1e-5)
        assert not judge(alone, sure, labels, CLASSES, "accuracy").fell_back
        # a student with more right answers is kept
        better = sure.copy()
        better[0] = np.eye(3, dtype=np.float32)[labels[0]]
        assert not judge(better, alone, labels, CLASSES, "accuracy").fell_back

    def test_several_labels(self) -> None:
        labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], dtype=np.float32)
        right = 4 * labels - 2
        one_wrong = right.copy()
        one_wrong[:3, 0] *= -1
        found = judge(one_wrong, right, labels, TAGS, "micro_f1")
        assert found.difference == pytest.approx(-3 / 8) and found.fell_back
        # how sure they are does not count
        assert judge(right * np.float32(0.1), right, labels, TAGS, "micro_f1").difference == 0

    def test_numbers(self) -> None:
        """Each target in units of its own spread."""
        generator = np.random.default_rng(0)
        labels = (generator.normal(size=(50, 2)) * [1.0, 1000.0]).astype(np.float32)
        spread = labels.std(0)
        off = labels + np.array([0.5, 0.0], dtype=np.float32) * spread
        found = judge(off, labels, labels, NUMBERS, "r2")
        assert found.difference == pytest.approx(-0.125, rel=1e-4)
        assert found.standard_error < 0.03 and found.fell_back
        mirrored = judge(labels, off, labels, NUMBERS, "r2")
        assert mirrored.difference == pytest.approx(0.125, rel=1e-4) and not mirrored.fell_back

    def test_one_row_and_a_constant_target(self) -> None:
        classes = np.eye(3, dtype=np.float32)
        assert not judge(classes[[1]], classes[[0]], np.array([0]), CLASSES, "accuracy").fell_back
        constant = np.full((4, 2), 3.0, dtype=np.float32)
        assert not judge(constant, constant, constant, NUMBERS, "r2").fell_back


def make_model(beta: float) -> TransferModel:
    """Two students with dropout that start from the same weights."""
    student = Student(nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5)), 8, 3)
    return TransferModel(student, AFTLoss([4]), beta, alone=copy.deepcopy(student))


def test_both_students_draw_the_same_and_leave_the_stream_as_it_was() -> None:
    model = make_model(2.0)
    inputs, labels = torch.randn(6, 5), torch.arange(6) % 3
    batch: tuple[Tensor, ...] = (inputs, torch.randn(6, 4), labels, inputs + 1, torch.randn(6, 4))
    torch.manual_seed(3)
    out = model(*batch)
    after = torch.rand(1)
    assert torch.equal(out["alone_loss"], out["task_loss"])
    model.alone = None
    torch.manual_seed(3)
    without = model(*batch)
    assert torch.equal(without["loss"], out["loss"]) and torch.equal(torch.rand(1), after)
    assert "alone_loss" not in without


def test_trainers_of_others_find_labels_and_logits() -> None:
    """The one of transformers looks for "label" in the names of arguments, and at the order."""
    arguments = inspect.signature(TransferModel.forward).parameters
    assert [name for name in arguments if "label" in name] == ["labels"]
    out = make_model(1.0)(torch.randn(6, 5), labels=torch.arange(6) % 3)
    assert list(out)[:2] == ["logits", "features"]


def test_each_student_learns_from_its_own_loss() -> None:
    model = make_model(2.0)
    alone = model.alone
    assert alone is not None
    inputs, labels = torch.randn(6, 5), torch.arange(6) % 3
    out = model(inputs, torch.randn(6, 4), labels)
    out["alone_loss"].backward(retain_graph=True)
    assert all(p.grad is None for p in model.student.parameters())
    assert all(p.grad is not None for p in alone.parameters())
    alone.zero_grad()
    out["loss"].backward()
    assert all(p.grad is None for p in alone.parameters())
    assert "alone_loss" not in model(inputs)  # nothing to learn from
