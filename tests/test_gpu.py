"""What only a GPU can show; skipped without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aft
from aft.data.loading import load_data
from aft.errors import AftError, InputError
from aft.features.extraction import extract_features
from aft.features.stored import open_teacher
from aft.losses import AFTLoss, checks
from aft.training.run_folder import read_metrics
from aft.training.trainer import Trainer
from helpers.errors import says
from helpers.losses import LOSSES
from helpers.training import STUDENT, TEACHER, weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),
]
STEPS = 12
CONVOLUTIONS = """
import torch
from torch import nn

def convolutions():
    from aft import Preprocessing
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2), nn.GELU(), nn.Conv2d(32, 64, 3, stride=2),
                           nn.AdaptiveAvgPool2d(2), nn.Flatten(1))
    return module, Preprocessing(32).evaluate(), 256
"""


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    checks._unread.clear()


@pytest.fixture
def options(picture_folder: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "teacher.py").write_text(TEACHER)
    (tmp_path / "student.py").write_text(STUDENT)
    return {
        "data": str(picture_folder(train=20, test=4, size=32)),
        "teachers": (f"python:{tmp_path / 'teacher.py'}:colours",),
        "student": f"python:{tmp_path / 'student.py'}:plain",
        "features": tmp_path / "features",
        "steps": STEPS,
        "batch_size": 8,
        "num_workers": 0,
        "progress": False,
    }


def values_on(device: str, name: str) -> dict[str, Tensor]:
    """Loss and gradients of a loss, on the CPU afterwards."""
    torch.manual_seed(0)
    student, loss_fn = nn.Linear(6, 5), LOSSES[name]()
    inputs, *teachers = torch.randn(8, 6), torch.randn(8, 4), torch.randn(8, 3)
    student.to(device), loss_fn.to(device)
    loss = loss_fn(student(inputs.to(device)), [one.to(device) for one in teachers])
    loss.backward()
    checks.read_checks()
    parameters = {**dict(student.named_parameters()), **dict(loss_fn.named_parameters())}
    gradients = {key: p.grad.cpu() for key, p in parameters.items() if p.grad is not None}
    return {"loss": loss.detach().cpu(), **gradients}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_the_cpu(name: str) -> None:
    expected, found = (values_on(device, name) for device in ("cpu", "cuda"))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")


@pytest.mark.parametrize("name", LOSSES)
def test_losses_do_not_wait_for_the_gpu(name: str) -> None:
    loss_fn = LOSSES[name]().cuda()
    student = torch.randn(8, 5, device="cuda", requires_grad=True)
    teachers = [torch.randn(8, dim, device="cuda") for dim in (4, 3)]
    loss_fn(student, teachers).backward()  # libraries set themselves up
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss_fn(student, teachers).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_features_that_are_not_finite_are_named_two_calls_later() -> None:
    loss_fn = AFTLoss([7]).cuda()
    good, teacher = torch.randn(8, 5, device="cuda"), torch.randn(8, 7, device="cuda")
    bad = good.clone()
    bad[0, 0] = torch.nan
    for student in (bad, good):
        loss_fn(student, teacher)
    with pytest.raises(InputError) as error:
        loss_fn(good, teacher)
    assert says(error.value, "student_features", "1 of 8")


def test_training_is_that_of_the_cpu(options: dict[str, Any], tmp_path: Path) -> None:
    one, other = (
        aft.train(**options, device=device, augment="none", out=tmp_path / device)
        for device in ("cpu", "cuda")
    )
    first, second = weights(one.out), weights(other.out)
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-2, atol=1e-3)
    losses = [
        [line["loss"] for line in read_metrics(run.out) if "loss" in line and "lr" in line]
        for run in (one, other)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_a_step_does_not_wait_for_the_gpu(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, checked = Trainer._step, []

    def step(self: Trainer, *batches: Any) -> dict[str, Tensor]:
        warm = self.progress.step >= 3
        torch.cuda.set_sync_debug_mode("error" if warm else "default")
        try:
            losses = own(self, *batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        checked.append(warm)
        return losses

    monkeypatch.setattr(Trainer, "_step", step)
    options |= {"eval_every": STEPS, "device": "cuda"}
    aft.train(**options, out=tmp_path / "run")
    assert sum(checked) == STEPS - 3


def test_a_loss_that_is_not_finite_ends_the_run(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Trainer._step

    def step(self: Trainer, *batches: Any) -> dict[str, Tensor]:
        if self.progress.step == 3:
            with torch.no_grad():
                next(iter(self.module.student.parameters())).fill_(torch.nan)
        return own(self, *batches)

    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(AftError):
        aft.train(**options, device="cuda", out=tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()


def test_features_computed_in_bf16_are_close(options: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "convolutions.py"
    file.write_text(CONVOLUTIONS)
    samples = load_data(options["data"], progress=False).splits["train"]
    teacher, inputs = open_teacher(f"python:{file}:convolutions", samples)
    places = (("fp32", "cpu"), ("fp32", "cuda"), ("bf16", "cuda"))
    first, *others = (
        extract_features(
            teacher,
            inputs,
            tmp_path / device / precision,
            dtype="fp32",
            num_workers=0,
            device=device,
            precision=precision,
            progress=False,
        ).gather(inputs.ids)
        for precision, device in places
    )
    torch.testing.assert_close(others[0], first, rtol=1e-3, atol=1e-4)
    assert not torch.equal(others[1], others[0])
    assert nn.functional.cosine_similarity(others[1], first).min() > 0.999
