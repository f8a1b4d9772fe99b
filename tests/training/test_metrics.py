"""Metrics against closed forms, and which of them decides."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch.nn import functional as F

import aft
from aft.errors import ConfigError
from aft.files import strict_json
from aft.metrics import (
    CHOICES,
    choose_metric,
    compute_metrics,
    explain_undefined,
    standard_error,
)
from aft.tasks import Task
from aft.training.transfer_model import TransferModel
from helpers.errors import says
from helpers.text_data import FILLERS

CLASSES = Task("classification", ("a", "b", "c"))
TAGS = Task("multilabel", ("x", "y"))
NUMBERS = Task("regression", ("t", "u"))


def labels_of(*counts: int) -> np.ndarray:
    """Labels with this many rows of each class."""
    return np.repeat(np.arange(len(counts)), counts)


# Which metric decides ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((30, 30, 30), "accuracy"),
        ((40, 30, 20), "accuracy"),
        ((90, 5, 5), "balanced_accuracy"),
        ((50, 50, 0), "balanced_accuracy"),  # two of three classes: 2 / 3 < 0.75
        ((1000, 0, 0), "balanced_accuracy"),
    ],
)
def test_sizes_of_classes_choose_the_metric(counts: tuple[int, ...], expected: str) -> None:
    assert choose_metric("auto", CLASSES, labels_of(*counts)) == expected


def test_the_limit_is_three_quarters_of_the_classes() -> None:
    """Equal classes of which one is empty: of four classes 3 / 4 are effective, of three 2 / 3."""
    four = Task("classification", tuple("abcd"))
    for rare, expected in ((0, "balanced_accuracy"), (1, "accuracy")):
        shares = np.array([100, 100, 99, rare]) / (299 + rare)
        shares = shares[shares > 0]
        effective = math.exp(-(shares * np.log(shares)).sum())
        assert (effective < 3) == (expected == "balanced_accuracy")
        assert choose_metric("auto", four, labels_of(100, 100, 99, rare)) == expected


def test_other_tasks_have_one_default() -> None:
    assert choose_metric("auto", TAGS, np.zeros((4, 2))) == "mean_average_precision"
    assert choose_metric("auto", NUMBERS, np.zeros((4, 2))) == "r2"


@pytest.mark.parametrize("task", [CLASSES, TAGS, NUMBERS], ids=lambda task: task.kind)
def test_a_metric_that_is_asked_for(task: Task) -> None:
    labels = labels_of(98, 1, 1) if task is CLASSES else np.zeros((4, 2))
    for asked in sum(CHOICES.values(), ()):
        if asked in CHOICES[task.kind]:
            assert choose_metric(asked, task, labels) == asked
            continue
        with pytest.raises(ConfigError) as error:
            choose_metric(asked, task, labels)
        assert says(error.value, f"--metric {asked}", task.kind, *CHOICES[task.kind])


# Closed forms ------------------------------------------------------------------------------------


def test_classes() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])  # class c is absent
    predicted = np.array([0, 0, 0, 1, 1, 2])
    logits = np.full((6, 3), 0.0, dtype=np.float32)
    logits[np.arange(6), predicted] = math.log(3)  # probabilities 3/5, 1/5, 1/5
    found = compute_metrics(logits, labels, CLASSES)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    f1 = (2 * 3 / (2 * 3 + 0 + 1), 2 * 1 / (2 * 1 + 1 + 1))
    assert found["macro_f1"] == pytest.approx(sum(f1) / 2)
    assert found["nll"] == pytest.approx(-(4 * math.log(3 / 5) + 2 * math.log(1 / 5)) / 6)
    assert all(type(value) is float for value in found.values())


def test_log_loss_of_large_outputs_is_finite() -> None:
    found = compute_metrics(np.array([[1000.0, 0.0, -1000.0]] * 2), np.array([0, 1]), CLASSES)
    assert found["nll"] == pytest.approx(500)


def test_several_labels() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], dtype=np.float32)  # y is absent
    logits = np.array([[3, -1], [2, 1], [1, -1], [-1, -1]], dtype=np.float32)
    found = compute_metrics(logits, labels, TAGS)
    assert found["mean_average_precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found["micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 2 + 0))
    expected = F.binary_cross_entropy_with_logits(torch.tensor(logits), torch.tensor(labels))
    assert found["bce"] == pytest.approx(expected.item())
    nothing = compute_metrics(logits, np.zeros_like(labels), TAGS)
    assert math.isnan(nothing["mean_average_precision"]) and nothing["micro_f1"] == 0


def test_numbers() -> None:
    labels = np.array([[0, 0], [2, 10], [4, 20]], dtype=np.float32)
    outputs = labels + np.array([[1, 0], [-1, 0], [0, 6]], dtype=np.float32)
    found = compute_metrics(outputs, labels, NUMBERS)
    assert found["r2"] == pytest.approx(((1 - 2 / 8) + (1 - 36 / 200)) / 2)
    assert found["rmse"] == pytest.approx(math.sqrt((1 + 1 + 36) / 6))
    assert found["mae"] == pytest.approx((1 + 1 + 6) / 6)
    mean = np.broadcast_to(labels.mean(0), labels.shape)
    assert compute_metrics(mean, labels, NUMBERS)["r2"] == pytest.approx(0)
    constant = np.array([[0, 3], [1, 3]], dtype=np.float32)
    assert math.isnan(compute_metrics(constant, constant, NUMBERS)["r2"])
    assert math.isnan(compute_metrics(labels[:1], labels[:1], NUMBERS)["r2"])


@pytest.mark.parametrize(
    ("mean", "spread"),
    [(101325, 50), (5e4, 10), (1.7e9, 3e5), (2010, 7)],
    ids=["pressure", "zip code", "unix time", "year"],
)
def test_targets_far_from_zero(mean: float, spread: float) -> None:
    """As in float64: float32 sums of squares cancel here, and gave values above 1."""
    rng = np.random.default_rng(0)
    true = (mean + spread * rng.standard_normal((1000, 1))).astype(np.float32)
    outputs = (true + 0.7 * spread * rng.standard_normal((1000, 1))).astype(np.float32)
    p, t = outputs.astype(np.float64), true.astype(np.float64)
    expected = 1 - ((p - t) ** 2).sum() / ((t - t.mean()) ** 2).sum()
    found = compute_metrics(outputs, true, Task("regression", ("y",)))
    assert found["r2"] == pytest.approx(expected, abs=1e-9) and 0.4 < expected < 0.6
    assert found["rmse"] == pytest.approx(math.sqrt(((p - t) ** 2).mean()), rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_metric_is_computed_in_float64(dtype: Any) -> None:
    """Of inputs in any format, as of the same numbers in float64."""
    rng = np.random.default_rng(0)
    outputs = (1000 + rng.standard_normal((3000, 3))).astype(dtype)
    tags, numbers = rng.random((3000, 3)) < 0.3, 1000 + rng.standard_normal((3000, 3))
    for kind, labels in (
        ("classification", rng.integers(0, 3, 3000)),
        ("multilabel", tags.astype(dtype)),
        ("regression", numbers.astype(dtype)),
    ):
        task = Task(kind, ("a", "b", "c"))  # type: ignore[arg-type]
        wide = labels if kind == "classification" else labels.astype(np.float64)
        found = compute_metrics(outputs, labels, task)
        assert found == compute_metrics(outputs.astype(np.float64), wide, task)
        assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize(
    ("task", "labels", "said"),
    [
        (NUMBERS, np.array([[0.0, 1.0]]), ("R²", "single row")),
        (NUMBERS, np.array([[0.0, 5.0], [1.0, 5.0]]), ("R²", " u")),
        (TAGS, np.zeros((3, 2)), ("mean average precision",)),
    ],
)
def test_an_undefined_metric_is_explained(task: Task, labels: Any, said: tuple[str, ...]) -> None:
    metrics = compute_metrics(np.zeros_like(labels), labels, task)
    (sentence,) = explain_undefined(metrics, labels, task, "test")
    assert all(one in sentence for one in (*said, "test")) and "RMSE" not in sentence


def test_defined_and_diverged_metrics() -> None:
    labels = np.array([[0.0, 1.0], [1.0, 2.0]])
    assert not explain_undefined(compute_metrics(labels, labels, NUMBERS), labels, NUMBERS, "test")
    diverged = compute_metrics(np.full_like(labels, np.nan), labels, NUMBERS)
    (sentence,) = explain_undefined(diverged, labels, NUMBERS, "test")
    assert "--lr" in sentence and "RMSE" in sentence


def test_json_has_no_nan() -> None:
    values = {"a": math.nan, "b": [1.5, math.inf, {"c": -math.inf}], "d": (None, "nan", 3)}
    assert strict_json(values) == {"a": None, "b": [1.5, None, {"c": None}], "d": [None, "nan", 3]}


def test_files_of_a_run_with_an_undefined_score(tmp_path: Path) -> None:
    """R² of a single validation row."""
    rows = "".join(f"row {i},{i * 0.37:.2f}\n" for i in range(6))
    (tmp_path / "t.csv").write_text("text,score\n" + rows)
    result = aft.train(
        data=str(tmp_path / "t.csv"),
        student="small:static?dim=8",
        out=tmp_path / "run",
        steps=2,
        device="cpu",
        num_workers=0,
        progress=False,
    )

    def refuse(token: str) -> None:
        raise AssertionError(token)

    text = (tmp_path / "run/result.json").read_text()
    assert json.loads(text, parse_constant=refuse)["metrics"]["r2"] is None
    for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    assert math.isnan(result.metrics["r2"]) and math.isfinite(result.metrics["rmse"])
    assert any("R²" in note and "single row" in note for note in result.summary["notes"])
    assert (tmp_path / "run/report.html").exists()
    assert any("r2" in line for line in aft.inspect(path=str(tmp_path / "run"))["lines"])


# Standard errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_outputs_of_a_diverged_student_have_no_score(kind: Any, bad: float) -> None:
    task = Task(kind, ("a", "b", "c"))
    labels = np.array([0, 1, 2]) if kind == "classification" else np.eye(3)
    outputs = np.eye(3)
    known = compute_metrics(outputs, labels, task)
    outputs[1, 1] = bad
    found = compute_metrics(outputs, labels, task)
    assert found.keys() == known.keys() and all(np.isnan(one) for one in found.values())


def test_standard_error_of_a_share() -> None:
    labels = labels_of(80, 20, 0)
    right = np.concatenate([np.arange(80) < 60, np.arange(20) < 5])
    logits = np.eye(3)[np.where(right, labels, 2)]
    share = 65 / 100
    found = standard_error("accuracy", logits, labels, CLASSES)
    assert found == pytest.approx(math.sqrt(share * (1 - share) / 100))
    balanced = standard_error("balanced_accuracy", logits, labels, CLASSES)
    own = (0.75 * 0.25 / 80, 0.25 * 0.75 / 20)
    assert balanced == pytest.approx(math.sqrt(sum(own)) / 2)
    assert standard_error("accuracy", np.eye(3)[labels], labels, CLASSES) == 0


def test_standard_error_is_how_far_the_score_varies() -> None:
    """Over many draws of rows, for both metrics."""
    rng = np.random.default_rng(0)
    labels, hit = labels_of(60, 30, 30), np.array([0.9, 0.5, 0.3])
    scores, errors = (dict[str, list[float]]() for _ in range(2))
    for _ in range(400):
        predicted = np.where(rng.random(len(labels)) < hit[labels], labels, (labels + 1) % 3)
        found = {
            "accuracy": (predicted == labels).mean(),
            "balanced_accuracy": balanced_accuracy_score(labels, predicted),
        }
        for metric, score in found.items():
            scores.setdefault(metric, []).append(float(score))
            errors.setdefault(metric, []).append(
                standard_error(metric, np.eye(3)[predicted], labels, CLASSES)
            )
    for metric in ("accuracy", "balanced_accuracy"):
        # Rows of each class are fixed here, which makes accuracy vary a little less.
        assert 0.8 < np.std(scores[metric]) / np.mean(errors[metric]) < 1.1


def test_other_metrics_have_no_standard_error() -> None:
    outputs = np.random.default_rng(0).normal(size=(8, 2))
    assert standard_error("mean_average_precision", outputs, outputs > 0, TAGS) == 0
    assert standard_error("r2", outputs, outputs, NUMBERS) == 0


# Weights of classes, and the options in a run ----------------------------------------------------


def test_weights_reach_the_task_loss() -> None:
    weights = torch.tensor([0.5, 2.0, 1.0])
    logits, labels = torch.randn(8, 3), torch.arange(8) % 3
    model = TransferModel(torch.nn.Identity(), class_weights=weights, label_smoothing=0.2)
    log_probability = logits.log_softmax(1)
    each = -0.8 * log_probability[torch.arange(8), labels] - 0.2 * log_probability.mean(1)
    found = model._task_loss(logits, labels)
    torch.testing.assert_close(found, (weights[labels] * each).mean())
    # The same in two processes that take half of the rows each.
    halves = [model._task_loss(logits[rows], labels[rows]) for rows in (slice(4), slice(4, 8))]
    torch.testing.assert_close(found, (halves[0] + halves[1]) / 2)
    assert "class_weights" not in model.state_dict()


def test_log_frequencies_are_added_in_the_losses_of_both_students() -> None:
    class Outputs(torch.nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(scale))

        def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.scale * inputs, inputs

    class Seen(torch.nn.Module):
        needs = "logits"

        def forward(self, logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
            return (logits - teacher).square().mean()

    prior = torch.tensor([0.7, 0.2, 0.1]).log()
    inputs, labels, teacher = torch.randn(8, 3), torch.arange(8) % 3, torch.randn(12, 3)
    more = torch.randn(4, 3)
    model = TransferModel(Outputs(1.0), Seen(), alone=Outputs(2.0), log_prior=prior)
    out = model(inputs, teacher[:8], labels, more, teacher[8:])
    expected = torch.nn.functional.cross_entropy(inputs + prior, labels)
    torch.testing.assert_close(out["task_loss"], expected)
    alone = torch.nn.functional.cross_entropy(2 * inputs + prior, labels)
    torch.testing.assert_close(out["alone_loss"], alone)
    joined = torch.cat([inputs, more]) + prior
    torch.testing.assert_close(out["transfer_loss"], (joined - teacher).square().mean())
    assert "log_prior" not in model.state_dict()


@pytest.fixture
def rare(tmp_path: Path) -> dict[str, Any]:
    """Texts without a trace of their class, of which one has nine in ten."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "text": f"{' '.join(rng.choice(FILLERS, 6))} {i}",
            "label": "rare" if i % 10 == 0 else "common",
            "split": ("train", "train", "validation", "test")[i // 10 % 4],
        }
        for i in range(400)
    ]
    table = tmp_path / "rare.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "data": str(table),
        "student": "small:static?dim=8",
        "out": tmp_path / "run",
        "steps": 60,
        "eval_every": 15,
        "batch_size": 40,
        "device": "cpu",
        "num_workers": 0,
        "progress": False,
    }


def test_balanced_weights_let_rare_classes_count(rare: dict[str, Any], tmp_path: Path) -> None:
    from aft.config.commands import TrainConfig, resolve
    from aft.data.options import load_training_data
    from aft.training.prepare import _class_weights

    config = resolve(TrainConfig, None, {**rare, "class_weights": "balanced"})
    data = load_training_data(config)
    train = data.splits["train"]
    weights = _class_weights(config, train, data.task)
    assert weights is not None
    counts = data.task.counts(train.labels)
    named = dict(zip(data.task.names, weights.tolist(), strict=True))
    assert named["rare"] * counts["rare"] == pytest.approx(named["common"] * counts["common"])
    assert weights[torch.from_numpy(np.asarray(train.labels))].mean() == pytest.approx(1)
    plain = resolve(TrainConfig, None, rare)
    assert _class_weights(plain, train, data.task) is None

    def said_rare(**options: Any) -> float:
        # By balanced accuracy the untrained student may be the best, as there is nothing to learn.
        result = aft.train(**{**rare, **options}, metric="accuracy")
        texts = [train.input(i) for i in range(len(train))]
        logits = result.student().logits(texts)
        return float(torch.softmax(logits, 1)[:, data.task.names.index("rare")].mean())

    balanced = {"class_weights": "balanced", "out": tmp_path / "balanced"}
    assert said_rare() < 0.3 < 0.35 < said_rare(**balanced) < 0.65


def test_outputs_are_for_equally_frequent_classes(rare: dict[str, Any], tmp_path: Path) -> None:
    """There is nothing to learn but the frequencies; a constant word tells them to n-grams."""
    from aft.config.commands import TrainConfig, resolve
    from aft.data.options import load_training_data
    from aft.training.prepare import choose_prior

    config = resolve(TrainConfig, None, rare)
    data = load_training_data(config)
    train = data.splits["train"]
    prior = choose_prior(config, train, data.task, "balanced_accuracy")
    assert prior is not None
    assert dict(zip(data.task.names, prior.exp().tolist(), strict=True)) == pytest.approx(
        {"common": 0.9, "rare": 0.1}
    )
    assert choose_prior(config, train, data.task, "accuracy") is None
    natural = config.model_copy(update={"class_weights": "none"})
    assert choose_prior(natural, train, data.task, "balanced_accuracy") is None
    three = Task(data.task.kind, (*data.task.names, "unseen"))
    unseen = choose_prior(config, train, three, "balanced_accuracy")
    assert unseen is not None and unseen[2] == 0  # nothing is known about it

    def said_rare(student: str, name: str, **options: Any) -> float:
        result = aft.train(**{**rare, "student": student, "out": tmp_path / name, **options})
        texts = [train.input(i) for i in range(len(train))]
        logits = result.student().logits(texts)
        return float(torch.softmax(logits, 1)[:, data.task.names.index("rare")].mean())

    for student in ("small:static?dim=8", "small:ngrams"):
        name = student.partition("?")[0].replace(":", "-")
        assert said_rare(student, name) == pytest.approx(0.5, abs=0.12)
        plain = said_rare(student, f"{name}-none", class_weights="none", metric="accuracy")
        assert plain < 0.3


def test_balanced_weights_are_for_classes(rare: dict[str, Any]) -> None:
    rows = [json.loads(line) for line in Path(rare["data"]).read_text().splitlines()]
    lines = [json.dumps({**row, "label": i / 7}) for i, row in enumerate(rows)]
    Path(rare["data"]).write_text("\n".join(lines))
    with pytest.raises(ConfigError) as error:
        aft.train(**rare, class_weights="balanced")
    assert says(error.value, "--class-weights balanced", "regression")
    with pytest.raises(ConfigError) as error:
        aft.train(**rare, metric="accuracy", overwrite=True)
    assert says(error.value, "--metric accuracy", "regression", "r2")


@pytest.mark.parametrize("metric", ["auto", "accuracy", "macro_f1"])
def test_the_metric_chooses_the_checkpoint(metric: str, rare: dict[str, Any]) -> None:
    result = aft.train(**rare, metric=metric, patience=None)
    expected = "balanced_accuracy" if metric == "auto" else metric  # one class has nine in ten
    assert result.summary["metric"] == expected
    assert set(result.metrics) >= {"accuracy", "balanced_accuracy", "macro_f1", "nll"}
