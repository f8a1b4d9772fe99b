from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from aft.errors import InputError
from aft.losses import LogitKDLoss
from aft.losses.heads import LinearHead, fit_head


def stored(n: int = 90, noise: float = 1.0) -> tuple[list[Tensor], Tensor]:
    """Features of two teachers for three classes, and the labels."""
    labels = torch.arange(n) % 3
    joined = torch.randn(3, 7)[labels] + noise * torch.randn(n, 7) + 2
    return list(joined.split([4, 3], dim=1)), labels


def make(temperature: float = 4.0) -> LogitKDLoss:
    head = LinearHead(torch.randn(3, 7), torch.randn(3), 1.0)
    return LogitKDLoss([4, 3], head, temperature=temperature)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_is_the_transcribed_formula(temperature: float) -> None:
    loss_fn = make(temperature)
    teachers, _ = stored(8)
    logits = torch.randn(8, 3)
    joined = torch.cat(teachers, dim=1)
    soft = torch.softmax((joined @ loss_fn.weight.T + loss_fn.bias) / temperature, dim=1)
    predicted = torch.softmax(logits / temperature, dim=1)
    divergence = (soft * (soft / predicted).log()).sum(dim=1).mean()
    expected = temperature**2 * divergence
    torch.testing.assert_close(loss_fn(logits, teachers), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss_fn(logits, joined), expected, rtol=1e-4, atol=1e-6)


def test_equal_logits_give_zero_and_no_gradient() -> None:
    loss_fn = make()
    teachers, _ = stored(8)
    logits = (loss_fn.teacher_logits(teachers) + 5).requires_grad_()
    loss = loss_fn(logits, teachers)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert logits.grad is not None and float(logits.grad.abs().max()) < 1e-5


def test_at_a_high_temperature_it_matches_centred_logits() -> None:
    # Hinton et al., section 2.1: the gradient becomes that of a squared difference.
    loss_fn = make(1e3).double()
    teachers, _ = stored(8)
    logits = torch.randn(8, 3, dtype=torch.float64)
    targets = loss_fn.teacher_logits([t.double() for t in teachers])
    difference = (logits - logits.mean(1, keepdim=True)) - (targets - targets.mean(1, keepdim=True))
    expected = difference.square().sum(dim=1).mean() / (2 * 3)
    torch.testing.assert_close(loss_fn(logits, teachers), expected, rtol=2e-2, atol=0)


def test_gradcheck() -> None:
    loss_fn = make().double()
    teachers, _ = stored(5)
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss_fn(x, teachers), logits)


def test_only_the_student_learns_and_it_asks_for_logits() -> None:
    loss_fn = make()
    assert not list(loss_fn.parameters())
    assert loss_fn.needs == LogitKDLoss.needs == "logits"
    assert set(loss_fn.state_dict()) == {"weight", "bias"}
    teachers = [t.requires_grad_() for t in stored(8)[0]]
    loss_fn(torch.randn(8, 3, requires_grad=True), teachers).backward()
    assert teachers[0].grad is None


@pytest.mark.parametrize("l2", [1.0, 1e-2])
def test_head_is_the_regularized_optimum(l2: float) -> None:
    teachers, labels = stored()
    x = torch.cat(teachers, dim=1).double()
    head = fit_head(x, labels, l2=l2)
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    peer = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-10, max_iter=1000)
    peer.fit(((x - mean) / std).numpy(), labels.numpy())
    expected = torch.from_numpy(peer.predict_proba(((x - mean) / std).numpy()))
    found = torch.softmax(x @ head.weight.T + head.bias, dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert head.l2 == l2


def test_head_in_float32_agrees_and_is_deterministic() -> None:
    teachers, labels = stored()
    x = torch.cat(teachers, dim=1)
    head, again = fit_head(x, labels), fit_head(x, labels)
    assert torch.equal(head.weight, again.weight) and torch.equal(head.bias, again.bias)
    wide = fit_head(x.double(), labels)
    assert (head.weight.dtype, wide.weight.dtype) == (torch.float32, torch.float64)
    assert head.l2 == wide.l2
    torch.testing.assert_close(head.weight.double(), wide.weight, rtol=1e-2, atol=1e-3)
    half = fit_head(x.half(), labels, l2=head.l2)
    torch.testing.assert_close(half.weight, head.weight, rtol=5e-2, atol=1e-2)


def test_noise_asks_for_more_regularization() -> None:
    labels = torch.randint(3, (90,))
    noise = fit_head(torch.randn(90, 40), labels)
    easy = fit_head(F.one_hot(labels).float() + 0.01 * torch.randn(90, 3), labels)
    assert noise.l2 > easy.l2


def test_a_fitted_head_knows_the_classes_and_ignores_units() -> None:
    teachers, labels = stored(noise=0.3)
    loss_fn = LogitKDLoss.fit(teachers, labels)
    assert float((loss_fn.teacher_logits(teachers).argmax(1) == labels).float().mean()) > 0.97
    scaled = [1e3 * teachers[0] - 70, teachers[1]]
    found = LogitKDLoss.fit(scaled, labels).teacher_logits(scaled).softmax(1)
    expected = loss_fn.teacher_logits(teachers).softmax(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_dead_dimensions_get_no_weight() -> None:
    teachers, labels = stored()
    x = torch.cat([*teachers, torch.full((90, 2), 0.3)], dim=1)
    head = fit_head(x, labels, l2=0.1)
    assert head.weight.isfinite().all() and not head.weight[:, 7:].any()


def test_absent_classes_get_probability_zero() -> None:
    teachers, labels = stored()
    loss_fn = LogitKDLoss.fit(teachers, 2 * labels, num_classes=6)
    soft = (loss_fn.teacher_logits(teachers) / loss_fn.temperature).softmax(1)
    assert not soft[:, [1, 3, 5]].any()
    logits = torch.randn(90, 6, requires_grad=True)
    loss = loss_fn(logits, teachers)
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_one_sample_a_class_cannot_choose_but_fits() -> None:
    head = fit_head(torch.eye(3), torch.arange(3))
    assert head.l2 == 0.1
    assert (torch.eye(3) @ head.weight.T + head.bias).argmax(1).tolist() == [0, 1, 2]


def test_student_learns_from_soft_labels_alone() -> None:
    teachers, labels = stored(noise=0.3)
    loss_fn = LogitKDLoss.fit(teachers, labels)
    student = torch.nn.Linear(7, 3)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss_fn(student(torch.cat(teachers, dim=1)), teachers).backward()
        optimizer.step()
    right = student(torch.cat(teachers, dim=1)).argmax(1) == labels
    assert float(right.float().mean()) > 0.95


def test_bfloat16_is_close_to_float32() -> None:
    loss_fn = make()
    teachers, _ = stored(16)
    logits = torch.randn(16, 3)
    expected = loss_fn(logits, teachers)
    half = logits.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_fn(half, [t.bfloat16() for t in teachers])
        torch.testing.assert_close(loss_fn(logits, teachers), expected, rtol=0, atol=0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=5e-2, atol=0)


def test_wrong_batches() -> None:
    loss_fn = make()
    teachers, _ = stored(8)
    with pytest.raises(InputError, match=r"`student_logits`.*\(batch, 3\).*\(8, 512\)"):
        loss_fn(torch.randn(8, 512), teachers)
    with pytest.raises(InputError, match=r"`teacher_features\[1\]`.*\(8, 3\).*\(8, 4\)"):
        loss_fn(torch.randn(8, 3), [teachers[0], teachers[0]])
    with pytest.raises(InputError, match=r"\b0\b"):
        loss_fn(torch.randn(0, 3), [t[:0] for t in teachers])
    logits = torch.randn(8, 3)
    logits[2] = torch.nan
    with pytest.raises(InputError, match=r"`student_logits`.*\b1 of 8\b"):
        loss_fn(logits, teachers)
    teachers[1][3] = torch.inf
    with pytest.raises(InputError, match=r"`teacher_features`.*\b1\b.*\b3\b.*\b1 of 8\b"):
        loss_fn(torch.randn(8, 3), teachers)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"features": torch.randn(6)}, r"`features`.*\(6,\)"),
        ({"labels": torch.arange(5)}, r"`labels`.*\(6,\).*\(5,\)"),
        ({"labels": torch.randn(6)}, r"`labels`.*float32.*\(6,\)"),
        ({"labels": torch.zeros(6).long()}, r"`labels`.*\b2\b.*\b6\b.*\b0\b"),
        ({"labels": torch.arange(6) - 1}, r"`labels`.*-1 to 4\b"),
        ({"num_classes": 3}, r"`labels`.*\b0 to 2\b.*\b0 to 5\b"),
        ({"l2": 0.0}, r"`l2`.*\b0\.0\b"),
        ({"features": torch.full((6, 2), torch.nan)}, r"`features`.*\b6 of 6\b"),
    ],
)
def test_wrong_arguments_of_fit_head(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        fit_head(**{"features": torch.randn(6, 2), "labels": torch.arange(6), **options})


@pytest.mark.parametrize(
    ("weight", "bias", "temperature", "match"),
    [
        (torch.ones(3, 6), torch.ones(3), 1.0, r"weight.*\(classes, 7\).*\(3, 6\)"),
        (torch.ones(1, 7), torch.ones(1), 1.0, r"weight.*\b2\b.*\(1, 7\)"),
        (torch.ones(3, 7), torch.ones(2), 1.0, r"bias.*\(3,\).*\(2,\)"),
        (torch.ones(3, 7), torch.ones(3), 0.0, r"`temperature`.*\b0\.0\b"),
    ],
)
def test_wrong_heads(weight: Tensor, bias: Tensor, temperature: float, match: str) -> None:
    with pytest.raises(InputError, match=match):
        LogitKDLoss([4, 3], LinearHead(weight, bias, 1.0), temperature=temperature)


def test_repr_shows_the_options() -> None:
    assert "teacher_dims=[4, 3], temperature=4.0" in repr(make())
