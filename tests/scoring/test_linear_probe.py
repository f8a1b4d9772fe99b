"""Linear probes on features, and the cost of a forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aft.comparison.costs import _count
from aft.errors import InputError
from aft.scoring.measures import linear_probe
from aft.tasks import Task


def test_classes_that_a_line_tells_apart() -> None:
    torch.manual_seed(0)
    labels = torch.arange(120) % 3
    centres = 4 * torch.randn(3, 10)
    features = centres[labels] + torch.randn(120, 10)
    outputs = linear_probe(features[:60], labels[:60], features[60:], Task("classification", "abc"))
    assert outputs.shape == (60, 3) and outputs.dtype == torch.float32
    assert (outputs.argmax(1) == labels[60:]).float().mean() > 0.95


def test_targets_come_in_their_own_units() -> None:
    """Invariant to the scale of the features, even with a constant dimension."""
    torch.manual_seed(0)
    features = torch.randn(300, 6) * torch.tensor([1e-3, 1.0, 1e3, 1, 1, 0]) + 5
    weights = torch.tensor([[2e3, -1.0, 3e-3, 0, 0, 0], [0, 0, 0, 1, 1, 0]])
    targets = features @ weights.T + 100
    found = linear_probe(
        features[:200], targets[:200], features[200:], Task("regression", ("x", "y"))
    )
    torch.testing.assert_close(found, targets[200:], rtol=1e-3, atol=0.02)


def test_noise_teaches_the_mean() -> None:
    torch.manual_seed(0)
    features, targets = torch.randn(400, 50), torch.randn(400, 1) + 3
    found = linear_probe(features[:200], targets[:200], features[200:], Task("regression", ("x",)))
    assert found.std() < 0.5 and abs(float(found.mean()) - 3) < 0.3


def test_several_labels_are_ranked() -> None:
    torch.manual_seed(0)
    features = torch.randn(200, 8)
    labels = (features[:, :2] > 0).float()
    found = linear_probe(
        features[:100], labels[:100], features[100:], Task("multilabel", ("x", "y"))
    )
    right = (found > found.mean(0)) == (labels[100:] > 0)
    assert right.float().mean() > 0.85


def test_features_that_say_nothing() -> None:
    with pytest.raises(InputError, match="`features`"):
        linear_probe(
            torch.ones(20, 3), torch.randn(20, 1), torch.ones(5, 3), Task("regression", ("x",))
        )


def test_operations_are_counted() -> None:
    linear, inputs = nn.Linear(7, 5), torch.randn(4, 7)
    assert _count((linear(inputs) for _ in range(3)), 12) == 2 * 7 * 5
    query = torch.randn(1, 2, 8, 16)
    attention = (nn.functional.scaled_dot_product_attention(query, query, query) for _ in range(1))
    assert _count(attention, 1) == 2 * (2 * 2 * 8 * 8 * 16)
    assert _count(iter([1, 2]), 2) is None
