"""AFT with soft labels: the sum of both losses, and the scores in the kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from aft.errors import InputError
from aft.losses import AFTLoss, AFTSoftLoss, SoftLabelLoss
from aft.tasks import TaskKind
from helpers.soft_labels import KINDS, outputs, stored

OPTIONS = [
    {"weights": weights, "normalize": normalize}
    for weights in ("diagonal", "dense", "fixed")
    for normalize in ("standardize", "none")
]


def fit(
    kind: TaskKind = "classification", noise: float = 0.3, **options: Any
) -> tuple[AFTSoftLoss, list[Tensor]]:
    """A loss, and the features it was fitted on."""
    teachers, labels = stored(kind, noise=noise)
    soft = SoftLabelLoss.fit(teachers, labels, kind=kind, num_outputs=3)
    return AFTSoftLoss.fit(soft, teachers, **options), teachers


def batch(
    rows: int = 8, dtype: torch.dtype = torch.float32
) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    student = torch.randn(rows, 3, dtype=dtype), torch.randn(rows, 5, dtype=dtype)
    return student, [torch.randn(rows, dim, dtype=dtype) for dim in (4, 3)]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
@pytest.mark.parametrize("kind", KINDS)
def test_is_the_sum_of_both(kind: TaskKind, options: dict[str, Any]) -> None:
    loss_fn, teachers = fit(kind, **options)
    (logits, features), some = batch()
    known, seen = torch.cat(teachers, dim=1), torch.cat(some, dim=1)
    scores, scores_seen = outputs(loss_fn.labels, teachers), outputs(loss_fn.labels, some)
    if options["normalize"] == "standardize":
        mean, std = known.mean(0), known.std(0, correction=0)
        known, seen = (known - mean) / std, (seen - mean) / std
    # On the rows of the fit, scores vary as much as features, and all scores equally.
    variance = known.var(0, correction=0).sum() / 3
    scale = (variance / scores.var(0, correction=0)).sqrt()
    kernel = AFTLoss([7, 3], weights=options["weights"], normalize="none")
    with torch.no_grad():
        kernel.feature_weights.copy_(loss_fn.kernel.feature_weights)
    expected = kernel(features, [seen, scores_seen * scale]) + loss_fn.labels(logits, some)
    torch.testing.assert_close(loss_fn((logits, features), some), expected)
    together = loss_fn((logits, features), torch.cat(some, dim=1))
    torch.testing.assert_close(together, expected)


def test_features_may_be_multiplied_without_scores() -> None:
    loss_fn, teachers = fit(combine="product")
    (logits, features), some = batch()
    statistics = [(one.mean(0), one.std(0, correction=0)) for one in teachers]
    kernel = AFTLoss([4, 3], combine="product", statistics=statistics)
    expected = kernel(features, some) + loss_fn.labels(logits, some)
    torch.testing.assert_close(loss_fn((logits, features), some), expected)
    assert loss_fn.kernel_shares(some) == [0.5, 0.5]


def test_gates_and_shares_are_those_of_the_teachers() -> None:
    loss_fn, teachers = fit()
    assert [gate.tolist() for gate in loss_fn.gates()] == [[0.5] * 4, [0.5] * 3]
    shares = loss_fn.kernel_shares(teachers)
    assert sum(shares) == pytest.approx(1) and min(shares) > 0.3
    with torch.no_grad():
        loss_fn.kernel.feature_weights[4:7] = -20
    first, second = loss_fn.gates()
    assert first.tolist() == [0.5] * 4 and float(second.max()) < 1e-6
    assert loss_fn.kernel_shares(teachers) == pytest.approx([1, 0])


def test_a_score_that_never_changes_is_left_out() -> None:
    teachers, labels = stored("regression")
    labels[:, 1] = 7.0
    soft = SoftLabelLoss.fit(teachers, labels, kind="regression", num_outputs=3)
    loss_fn = AFTSoftLoss.fit(soft, teachers)
    assert loss_fn.score_scale is not None
    assert [bool(scale > 0) for scale in loss_fn.score_scale] == [True, False, True]
    assert loss_fn(*batch()).isfinite()


def test_of_a_matrix_the_largest_weight_of_a_teacher_is_1() -> None:
    loss_fn, _ = fit(weights="dense")
    with torch.no_grad():
        loss_fn.kernel.feature_weights[-1] = 50.0  # of a score
    assert float(torch.cat(loss_fn.gates()).max()) == 1


def test_gradcheck() -> None:
    loss_fn = fit()[0].double()
    (logits, features), teachers = batch(5, torch.float64)
    gates = loss_fn.kernel.feature_weights.detach().clone()

    def loss(logits: Tensor, features: Tensor, gates: Tensor) -> Tensor:
        state = {"kernel.feature_weights": gates}
        result = torch.func.functional_call(loss_fn, state, ((logits, features), teachers))
        assert isinstance(result, Tensor)
        return result

    inputs = (logits, features, gates)
    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in inputs))
    assert [name for name, _ in loss_fn.named_parameters()] == ["kernel.feature_weights"]


def test_half_precision_is_close_and_autocast_changes_nothing() -> None:
    loss_fn, _ = fit()
    student, teachers = batch(16)
    expected = loss_fn(student, teachers)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss_fn(student, teachers), expected, rtol=0, atol=0)
    halves = [teacher.half() for teacher in teachers]
    torch.testing.assert_close(loss_fn(student, halves), expected, rtol=1e-2, atol=1e-3)


def test_the_state_has_all_that_was_fitted() -> None:
    (first, _), (second, _) = fit(), fit(noise=2.0)
    student, teachers = batch()
    assert first(student, teachers) != second(student, teachers)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(student, teachers), first(student, teachers))


def test_parts_that_do_not_fit() -> None:
    labels = fit()[0].labels
    with pytest.raises(InputError, match=r"`teacher_dims`.*\[4, 3\].*\[5\]"):
        AFTSoftLoss(AFTLoss([5]), labels)
    with pytest.raises(InputError, match=r"`teacher_dims`.*\[4, 3, 3\].*\[4, 3\]"):
        AFTSoftLoss(AFTLoss([4, 3]), labels, torch.ones(3))
    with pytest.raises(InputError, match=r"`score_scale`.*\(3,\).*\(2,\)"):
        AFTSoftLoss(AFTLoss([4, 3, 3]), labels, torch.ones(2))
    good = (torch.zeros(4), torch.ones(4))
    teachers, _ = stored("classification")
    with pytest.raises(InputError, match=r"`statistics`.*\b2\b.*\b1\b"):
        AFTSoftLoss.fit(labels, teachers, statistics=[good])
    with pytest.raises(InputError, match="`statistics`.*normalize='none'"):
        AFTSoftLoss.fit(labels, teachers, statistics=[good, good], normalize="none")
    loss_fn = AFTSoftLoss(AFTLoss([4, 3]), labels)
    (logits, features), teachers = batch()
    teachers[1][3] = torch.nan
    with pytest.raises(InputError, match=r"`teacher_features`.*\b1\b.*\b3\b"):
        loss_fn((logits, features), teachers)
