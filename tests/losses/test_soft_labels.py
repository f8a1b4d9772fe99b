"""Soft labels of a linear head, and heads for multi-label tasks and regression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from aft.errors import InputError
from aft.losses import LogitKDLoss, SoftLabelLoss
from aft.losses.heads import LinearHead, fit_head, fit_label_heads, fit_ridge, fit_task_head
from aft.losses.logme import log_me
from aft.scoring.measures import linear_probe
from aft.tasks import Task, TaskKind
from helpers.soft_labels import KINDS, outputs, stored

STD = torch.tensor([0.5, 2.0, 30.0])


def make(kind: TaskKind = "classification", temperature: float = 1.0) -> SoftLabelLoss:
    head = LinearHead(torch.randn(3, 7), torch.randn(3), 1.0)
    std = STD if kind == "regression" else None
    return SoftLabelLoss([4, 3], head, kind=kind, target_std=std, temperature=temperature)


def batch(rows: int = 8) -> tuple[Tensor, list[Tensor]]:
    return torch.randn(rows, 3), [torch.randn(rows, 4), torch.randn(rows, 3)]


class TestLoss:
    @pytest.mark.parametrize("temperature", [1.0, 3.0])
    def test_classes_by_the_transcribed_formula(self, temperature: float) -> None:
        loss_fn, (logits, teachers) = make(temperature=temperature), batch()
        soft = torch.softmax(outputs(loss_fn, teachers) / temperature, dim=1)
        predicted = torch.softmax(logits / temperature, dim=1)
        expected = temperature**2 * (soft * (soft / predicted).log()).sum(dim=1).mean()
        torch.testing.assert_close(loss_fn(logits, teachers), expected, rtol=1e-4, atol=1e-6)
        joined = torch.cat(teachers, dim=1)
        torch.testing.assert_close(loss_fn(logits, joined), expected, rtol=1e-4, atol=1e-6)
        head = LinearHead(loss_fn.weight, loss_fn.bias, 1.0)
        same = LogitKDLoss([4, 3], head, temperature=temperature)
        assert torch.equal(same(logits, teachers), loss_fn(logits, teachers))

    def test_several_labels_by_the_transcribed_formula(self) -> None:
        loss_fn, (logits, teachers) = make("multilabel"), batch()
        soft, predicted = outputs(loss_fn, teachers).sigmoid(), logits.sigmoid()
        cross_entropy = -(soft * predicted.log() + (1 - soft) * (1 - predicted).log())
        entropy = -(soft * soft.log() + (1 - soft) * (1 - soft).log())
        expected = (cross_entropy - entropy).mean()
        torch.testing.assert_close(loss_fn(logits, teachers), expected, rtol=1e-4, atol=1e-6)

    def test_targets_by_the_transcribed_formula(self) -> None:
        loss_fn, (logits, teachers) = make("regression"), batch()
        squares = (logits - outputs(loss_fn, teachers)).square().mean(dim=0)
        expected = (squares / STD.square()).mean()
        torch.testing.assert_close(loss_fn(logits, teachers), expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("kind", KINDS)
    def test_equal_outputs_give_zero_and_no_gradient(self, kind: TaskKind) -> None:
        loss_fn, (_, teachers) = make(kind), batch()
        logits = loss_fn.teacher_logits(teachers).requires_grad_()
        loss = loss_fn(logits, teachers)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
        assert logits.grad is not None and float(logits.grad.abs().max()) < 1e-6
        assert float(loss_fn(logits.detach() + torch.randn(8, 3), teachers)) > 1e-4

    @pytest.mark.parametrize("kind", KINDS)
    def test_gradcheck(self, kind: TaskKind) -> None:
        loss_fn, (_, teachers) = make(kind).double(), batch(5)
        logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: loss_fn(x, teachers), logits)

    @pytest.mark.parametrize("kind", KINDS)
    def test_only_the_student_learns(self, kind: TaskKind) -> None:
        loss_fn, (logits, teachers) = make(kind), batch()
        assert not list(loss_fn.parameters())
        assert loss_fn.needs == SoftLabelLoss.needs == "logits"
        more = {"target_std"} if kind == "regression" else set()
        assert set(loss_fn.state_dict()) == {"weight", "bias"} | more
        teachers = [t.requires_grad_() for t in teachers]
        loss_fn(logits.requires_grad_(), teachers).backward()
        assert teachers[0].grad is None and logits.grad is not None

    def test_repr_shows_the_options(self) -> None:
        shown = "teacher_dims=[4, 3], kind='multilabel', num_outputs=3, temperature=1.0"
        assert shown in repr(make("multilabel"))


class TestFit:
    @pytest.mark.parametrize("kind", KINDS)
    def test_unseen_rows_get_the_right_labels(self, kind: TaskKind) -> None:
        teachers, labels = stored(kind)
        loss_fn = SoftLabelLoss.fit(
            [part[:60] for part in teachers], labels[:60], kind=kind, num_outputs=3
        )
        told, true = loss_fn.teacher_logits([part[60:] for part in teachers]), labels[60:]
        if kind == "classification":
            assert torch.equal(told.argmax(1), true)
        elif kind == "multilabel":
            assert torch.equal((told > 0).float(), true)
        else:
            assert loss_fn.target_std is not None
            torch.testing.assert_close(loss_fn.target_std, labels[:60].std(0, correction=0))
            torch.testing.assert_close(told, true, rtol=1e-3, atol=0.02)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_student_learns_from_rows_without_labels(self, kind: TaskKind) -> None:
        teachers, labels = stored(kind)
        loss_fn = SoftLabelLoss.fit(
            [part[:60] for part in teachers], labels[:60], kind=kind, num_outputs=3
        )
        others = [part[60:] for part in teachers]
        student = torch.nn.Linear(7, 3)
        optimizer = torch.optim.LBFGS(
            student.parameters(), max_iter=100, line_search_fn="strong_wolfe"
        )

        def objective() -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = loss_fn(student(torch.cat(others, dim=1)), others)
            loss.backward()
            return loss

        optimizer.step(objective)
        told = student(torch.cat(teachers, dim=1)[:60]).detach()
        if kind == "classification":
            right = told.argmax(1) == labels[:60]
        elif kind == "multilabel":
            right = (told > 0) == (labels[:60] > 0)
        else:
            assert loss_fn.target_std is not None
            right = (told - labels[:60]).abs() < 0.2 * loss_fn.target_std
        assert float(right.float().mean()) > 0.95

    def test_a_target_that_never_changes_is_no_division_by_zero(self) -> None:
        teachers, labels = stored("regression")
        labels[:, 1] = 7.3
        loss_fn = SoftLabelLoss.fit(teachers, labels, kind="regression", num_outputs=3)
        told = loss_fn.teacher_logits(teachers)
        torch.testing.assert_close(told[:, 1], labels[:, 1], rtol=1e-5, atol=1e-4)
        assert loss_fn(torch.randn(120, 3), teachers).isfinite()

    def test_labels_that_all_or_no_rows_have_are_certain(self) -> None:
        teachers, labels = stored("multilabel")
        labels = torch.cat([torch.zeros(120, 1), labels, torch.ones(120, 1)], dim=1)
        loss_fn = SoftLabelLoss.fit(teachers, labels, kind="multilabel", num_outputs=5)
        soft = loss_fn.teacher_logits(teachers).sigmoid()
        assert not soft[:, 0].any() and bool((soft[:, 4] == 1).all())
        logits = torch.randn(120, 5, requires_grad=True)
        loss = loss_fn(logits, teachers)
        loss.backward()
        assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


class TestLabelHeads:
    @pytest.mark.parametrize(("l2", "dim"), [(1.0, 7), (1e-2, 7), (1e-2, 150)])
    def test_are_the_regularized_optimum(self, l2: float, dim: int) -> None:
        x = torch.randn(120, dim, dtype=torch.float64) * 3 + 1
        labels = (x[:, :3] + torch.randn(120, 3) > 1).long()
        head = fit_label_heads(x, labels, l2=l2)
        scaled = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
        found = torch.sigmoid(x @ head.weight.T + head.bias)
        for label in range(3):
            peer = LogisticRegression(C=1 / (l2 * 120), tol=1e-10, max_iter=2000)
            peer.fit(scaled, labels[:, label].numpy())
            expected = torch.from_numpy(peer.predict_proba(scaled)[:, 1])
            torch.testing.assert_close(found[:, label], expected, rtol=1e-3, atol=1e-4)
        assert head.l2 == l2

    def test_noise_asks_for_more_regularization(self) -> None:
        labels = torch.randint(2, (90, 4)).float()
        noise = fit_label_heads(torch.randn(90, 40), labels)
        easy = fit_label_heads(labels + 0.01 * torch.randn(90, 4), labels)
        assert noise.l2 > easy.l2
        again = fit_label_heads(labels + 0.0, labels, seed=1)
        assert torch.equal(again.weight, fit_label_heads(labels + 0.0, labels, seed=1).weight)

    def test_rare_labels_do_not_frighten(self) -> None:
        x = torch.randn(100, 5)
        labels = torch.stack([x[:, 0] > 0, torch.arange(100) < 2, torch.arange(100) < 1], dim=1)
        head = fit_label_heads(x, labels)
        right = ((x @ head.weight.T + head.bias)[:, 0] > 0) == labels[:, 0]
        assert float(right.float().mean()) > 0.9

    @pytest.mark.parametrize(
        ("labels", "match"),
        [
            (torch.zeros(6), r"`labels`.*\(6, labels\).*\(6,\)"),
            (torch.zeros(5, 2), r"`labels`.*\(6, labels\).*\(5, 2\)"),
            (torch.full((6, 2), 3), r"`labels`.*\b0 or 1\b.*\b3 to 3\b"),
            (torch.full((6, 2), torch.nan), r"`labels`.*\bnan to nan\b"),
            (torch.tensor([[0, 1]] * 6), r"`labels`.*\b6\b"),
        ],
    )
    def test_wrong_labels(self, labels: Tensor, match: str) -> None:
        with pytest.raises(InputError, match=match):
            fit_label_heads(torch.randn(6, 3), labels)
        with pytest.raises(InputError, match=r"`l2`.*-1\.0\b"):
            fit_label_heads(torch.randn(6, 3), torch.eye(6), l2=-1.0)


class TestRidge:
    def test_is_what_the_linear_probe_says(self) -> None:
        x = torch.randn(80, 6) * torch.tensor([1e-3, 1, 1e3, 1, 1, 0]) + 50
        targets = x[:, :2] @ torch.tensor([[1e3, 0.0], [1, -2]]) + torch.randn(80, 2) + 1000
        head = fit_ridge(x[:60], targets[:60])
        found = (x[60:].double() @ head.weight.T + head.bias).float()
        probe = linear_probe(x[:60], targets[:60], x[60:], Task("regression", ("a", "b")))
        torch.testing.assert_close(found, probe, rtol=0, atol=0)
        assert head.weight.dtype == torch.float64 and not head.weight[:, 5].any()

    def test_is_the_posterior_mean_on_standardized_features(self) -> None:
        x = torch.randn(80, 6, dtype=torch.float64) * 10 + 50
        y = x[:, 0] / 10 + torch.randn(80)
        head = fit_ridge(x, y)
        rows = (x - x.mean(0)) / x.std(0, correction=0)
        evidence = log_me(rows, y - y.mean())
        expected = rows @ evidence.mean_weights.T + y.mean()
        torch.testing.assert_close(x @ head.weight.T + head.bias, expected)
        strength = float(evidence.alpha / evidence.beta)
        assert head.l2 == pytest.approx(strength / 80)
        solved = torch.linalg.solve(
            rows.T @ rows + strength * torch.eye(6), rows.T @ (y - y.mean())
        )
        torch.testing.assert_close(evidence.mean_weights[0], solved, rtol=1e-2, atol=1e-4)

    @pytest.mark.parametrize(
        ("targets", "match"),
        [
            (torch.zeros(5), r"`targets`.*\(6,\).*\(6, targets\).*\(5,\)"),
            (torch.tensor([1.0, 2, 3, 4, 5, torch.nan]), r"`targets`.*\b1 of 6\b"),
            (torch.full((6, 1), 0.1), r"`targets`.*\b6\b"),
        ],
    )
    def test_wrong_targets(self, targets: Tensor, match: str) -> None:
        with pytest.raises(InputError, match=match):
            fit_ridge(torch.randn(6, 3), targets)


class TestTaskHead:
    def test_goes_by_the_kind(self) -> None:
        fits: tuple[Callable[[Tensor, Tensor], LinearHead], ...] = (
            fit_head,
            fit_label_heads,
            fit_ridge,
        )
        for kind, fit in zip(KINDS, fits, strict=True):
            teachers, labels = stored(kind)
            joined = torch.cat(teachers, dim=1)
            found, expected = fit_task_head(joined, labels, kind, 3), fit(joined, labels)
            assert torch.equal(found.weight, expected.weight) and found.l2 == expected.l2

    @pytest.mark.parametrize(
        ("labels", "kind", "match"),
        [
            (torch.arange(6), "ranking", "`kind`.*'multilabel'.*'ranking'"),
            (torch.arange(6), "classification", r"`labels`.*\b0 to 2\b.*\b0 to 5\b"),
            (torch.arange(6), "multilabel", r"`labels`.*multilabel.*\(6, 3\).*\(6,\)"),
            (torch.randn(6), "regression", r"`labels`.*regression.*\(6, 3\).*\(6, 1\)"),
        ],
    )
    def test_wrong_arguments(self, labels: Tensor, kind: Any, match: str) -> None:
        with pytest.raises(InputError, match=match):
            fit_task_head(torch.randn(6, 2), labels, kind, 3)


class TestFolds:
    def test_the_strength_is_the_best_of_five_folds(self) -> None:
        """Compared with an independent fit of every fold and strength."""
        x, labels = torch.randn(60, 4).double(), torch.arange(60) % 3
        x = x + 0.8 * F.one_hot(labels, 4)
        chosen = fit_head(x, labels).l2
        order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
        order = order[labels[order].argsort(stable=True)]
        number = torch.empty(60, dtype=torch.long)
        number[order] = torch.arange(60) % 5
        rows = (x - x.mean(0)) / x.std(0, correction=0)
        losses = {}
        for l2 in (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5):
            losses[l2] = 0.0
            for fold in range(5):
                kept = number != fold
                peer = LogisticRegression(C=1 / (l2 * int(kept.sum())), tol=1e-8, max_iter=1000)
                peer.fit(rows[kept].numpy(), labels[kept].numpy())
                told = torch.from_numpy(peer.predict_proba(rows[~kept].numpy()))
                losses[l2] += float(F.nll_loss(told.log(), labels[~kept], reduction="sum"))
        assert chosen == min(losses, key=lambda l2: losses[l2])

    def test_few_rows_a_class_do(self) -> None:
        labels = torch.tensor([0, 0, 1, 1, 2, 3])
        x = F.one_hot(labels).float() + 0.1 * torch.randn(6, 4)
        head = fit_head(x, labels)
        assert torch.equal((x @ head.weight.T + head.bias).argmax(1), labels)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kind": "ranking"}, "`kind`.*'multilabel'.*'ranking'"),
        ({"kind": "classification", "target_std": STD}, "`target_std`.*classification"),
        ({"kind": "regression"}, r"`target_std`.*\(3,\).*NoneType"),
        ({"kind": "regression", "target_std": STD[:2]}, r"`target_std`.*\(3,\).*\(2,\)"),
        ({"kind": "regression", "target_std": STD * 0}, r"`target_std`.*\[0\.0, 0\.0, 0\.0\]"),
        ({"kind": "multilabel", "temperature": 4.0}, r"`temperature`.*\b1\b.*multilabel.*\b4\.0\b"),
        ({"kind": "classification", "temperature": 0.0}, r"`temperature`.*\b0\.0\b"),
    ],
)
def test_wrong_options(options: dict[str, Any], match: str) -> None:
    head = LinearHead(torch.ones(3, 7), torch.ones(3), 1.0)
    with pytest.raises(InputError, match=match):
        SoftLabelLoss([4, 3], head, **options)


def test_wrong_heads() -> None:
    one = LinearHead(torch.ones(1, 7), torch.ones(1), 1.0)
    with pytest.raises(InputError, match=r"weight.*\b2\b.*\(1, 7\)"):
        SoftLabelLoss([4, 3], one, kind="classification")
    loss_fn = SoftLabelLoss([4, 3], one, kind="regression", target_std=torch.ones(1))
    assert loss_fn(torch.randn(5, 1), torch.randn(5, 7)).isfinite()
    with pytest.raises(InputError, match=r"weight.*\(outputs, 6\).*\(1, 7\)"):
        SoftLabelLoss([4, 2], one, kind="multilabel")
    with pytest.raises(InputError, match=r"bias.*\(1,\).*\(2,\)"):
        SoftLabelLoss([7], one._replace(bias=torch.ones(2)), kind="multilabel")


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_batches(kind: TaskKind) -> None:
    loss_fn, (logits, teachers) = make(kind), batch()
    with pytest.raises(InputError, match=r"`student_logits`.*\(batch, 3\).*\(8, 512\)"):
        loss_fn(torch.randn(8, 512), teachers)
    with pytest.raises(InputError, match=r"`teacher_features\[1\]`.*\(8, 3\).*\(8, 4\)"):
        loss_fn(logits, [teachers[0], teachers[0]])
    with pytest.raises(InputError, match=r"\b0\b"):
        loss_fn(logits[:0], [t[:0] for t in teachers])
    teachers[1][3] = torch.inf
    with pytest.raises(InputError, match=r"`teacher_features`.*\b1\b.*\b3\b.*\b1 of 8\b"):
        loss_fn(logits, teachers)
    logits[2] = torch.nan
    with pytest.raises(InputError, match=r"`student_logits`.*\b1 of 8\b"):
        loss_fn(logits, batch()[1])
