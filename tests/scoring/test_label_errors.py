from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from aft.scoring.label_errors import OUTLIER, find_label_errors
from aft.scoring.measures import predict_out_of_fold
from aft.tasks import Task

CLASSES, LABELS = Task("classification", ("a", "b", "c")), Task("multilabel", ("p", "q"))
TARGETS = Task("regression", ("x", "y"))


def make_classes(n: int = 240, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """Features of separable classes of unequal size, and labels."""
    labels = torch.tensor([0, 0, 0, 1, 1, 2]).repeat(n // 6)
    return torch.randn(3, 8)[labels] * 2 + noise * torch.randn(n, 8), labels


def test_is_the_published_rule() -> None:
    n, task = 160, Task("classification", ("a", "b", "c", "only one row", "no row"))
    labels = torch.randint(3, (n,))
    labels[0] = 3
    outputs = torch.randn(n, 5) + 1.5 * torch.nn.functional.one_hot(labels, 5)
    chances = outputs.double().softmax(1).tolist()
    given = labels.tolist()
    of_class = [[row for row in range(n) if given[row] == j] for j in range(5)]
    thresholds = [
        sum(chances[row][j] for row in rows) / len(rows) if rows else math.inf
        for j, rows in enumerate(of_class)
    ]
    number, possible = 0, []
    for row in range(1, n):
        if max(chances[row]) == chances[row][given[row]]:
            continue
        possible.append(row)
        reached = [j for j in range(5) if chances[row][j] >= thresholds[j]]
        number += bool(reached) and max(reached, key=lambda j: chances[row][j]) != given[row]
    possible.sort(key=lambda row: chances[row][given[row]])
    found = find_label_errors(outputs, labels, task)
    assert [one.row for one in found] == possible[:number] and 5 < number < len(possible)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    for one in found:
        assert one.given == labels[one.row] and one.output is None
        assert one.probability_given == chances[one.row][int(one.given)]
        assert one.probability_predicted == max(chances[one.row])
        assert one.score == 1 - one.probability_given


def test_finds_flipped_classes() -> None:
    features, labels = make_classes()
    rows = torch.randperm(240)[:12]
    given = labels.clone()
    given[rows] = (labels[rows] + 1) % 3
    outputs = predict_out_of_fold(features, given, CLASSES)
    found = find_label_errors(outputs, given, CLASSES)
    assert {one.row for one in found} <= set(rows.tolist()) and len(found) >= 11
    assert all(one.predicted == labels[one.row] for one in found)
    clean = predict_out_of_fold(features, labels, CLASSES)
    assert not find_label_errors(clean, labels, CLASSES)


def test_finds_flipped_labels_of_each_column() -> None:
    hidden = torch.randn(240, 2)
    hidden = hidden.sign() * (hidden.abs() + 1)
    labels = (hidden > 0).float()
    features = torch.cat([hidden, hidden @ torch.randn(2, 4)], dim=1)
    flips = {(int(row), number % 2) for number, row in enumerate(torch.randperm(240)[:12])}
    given = labels.clone()
    for row, output in flips:
        given[row, output] = 1 - given[row, output]
    outputs = predict_out_of_fold(features, given, LABELS, logits=True)
    found = find_label_errors(outputs, given, LABELS)
    assert {(one.row, one.output) for one in found} <= flips and len(found) >= 10
    assert all(one.predicted == labels[one.row, one.output] for one in found)


def test_finds_wrong_numbers() -> None:
    features = torch.randn(240, 6)
    targets = features @ torch.randn(6, 2) * torch.tensor([1.0, 1000.0])
    targets += torch.rand(240, 2) * targets.std(0)
    targets[3, 0] += 20
    targets[7, 1] -= 9000
    outputs = predict_out_of_fold(features, targets, TARGETS)
    found = find_label_errors(outputs, targets, TARGETS)
    assert {(one.row, one.output) for one in found} == {(3, 0), (7, 1)}
    assert found[0].score >= found[1].score >= OUTLIER and math.isnan(found[0].probability_given)
    assert found[0].given == float(targets[found[0].row, found[0].output or 0])


@pytest.mark.parametrize("task", [CLASSES, LABELS, TARGETS], ids=lambda task: task.kind)
def test_perfect_predictions_are_no_errors(task: Task) -> None:
    labels = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    outputs = labels if task.kind == "regression" else 20 * labels - 10
    if task.kind == "classification":
        labels = torch.tensor([0, 1, 2, 0])
        outputs = 9.0 * torch.nn.functional.one_hot(labels, 3)
    assert find_label_errors(outputs, labels, task) == []


def test_logits_of_labels_are_probabilities() -> None:
    hidden = torch.randn(600, 1)
    labels = (torch.rand(600, 1) < (2 * hidden).sigmoid()).float()
    task = Task("multilabel", ("p",))
    outputs = predict_out_of_fold(hidden, labels, task, logits=True)
    torch.testing.assert_close(outputs.sigmoid(), (2 * hidden).sigmoid(), atol=0.15, rtol=0)
