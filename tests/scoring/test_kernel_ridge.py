"""Kernel ridge regression: rows left out are exact, strengths are chosen, few labels are read."""

from __future__ import annotations

import pytest
import torch

from aft.errors import InputError
from aft.scoring.kernel_ridge import MOST_ROWS, fit_kernel_ridge, fit_logits
from aft.scoring.measures import kernel_ridge_score
from aft.scoring.teacher_sets import FeatureSource, ScoredRows, say_more_labels
from aft.tasks import Task


def made(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 12, generator=generator)
    return x, torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin()], dim=1)


def test_rows_left_out_are_those_of_a_model_without_the_row() -> None:
    x, y = made(40)
    found = fit_kernel_ridge([x], y)
    for row in (0, 7, 39):
        others = [i for i in range(40) if i != row]
        kernel = torch.exp(-found.gamma * torch.cdist(found.rows, found.rows).square()).double()
        centred = y.double() - found.bias
        inverse = torch.linalg.inv(
            kernel[others][:, others] + found.strength * torch.eye(39, dtype=torch.double)
        )
        expected = kernel[row, others] @ inverse @ centred[others] + found.bias
        torch.testing.assert_close(found.left_out[row].double(), expected, rtol=1e-4, atol=1e-4)


def test_predictions_of_known_rows_and_of_none() -> None:
    x, y = made(40)
    found = fit_kernel_ridge([x], y)
    same = fit_kernel_ridge([x], y).predict([x])
    torch.testing.assert_close(found.predict([x]), same, rtol=0, atol=0)
    assert found.predict([x]).shape == (40, 2)
    assert found.predict([x[:0]]).shape == (0, 2)


def test_noise_is_smoothed_and_a_pattern_is_learned() -> None:
    x, y = made(600)
    new, wanted = made(200, seed=1)
    noise = torch.randn(600, 1, generator=torch.Generator().manual_seed(2))
    pattern, guess = fit_kernel_ridge([x], y), fit_kernel_ridge([x], noise)
    assert guess.strength > pattern.strength
    error = (pattern.predict([new]) - wanted).square().mean(0) / wanted.var(0)
    assert error[1] < 0.2  # a sine of one feature
    assert guess.predict([new]).square().mean() < 0.1


def test_the_scale_of_a_teacher_does_not_matter_and_teachers_weigh_the_same() -> None:
    x, y = made(50)
    new = made(10, seed=1)[0]
    one = fit_kernel_ridge([x, x.square()], y).predict([new, new.square()])
    scaled = fit_kernel_ridge([x, 90 * x.square()], y).predict([new, 90 * new.square()])
    torch.testing.assert_close(scaled, one)
    constant = fit_kernel_ridge([torch.ones(5, 2)], torch.arange(5.0)[:, None])
    assert constant.predict([torch.ones(1, 2)]).item() == pytest.approx(2.0, abs=1e-3)
    assert constant.predict([torch.zeros(1, 2)]).isfinite().all()


def test_logits_have_the_likelihood_of_the_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    chances = torch.tensor([0.7, 0.2, 0.1])
    labels = torch.multinomial(chances, 5000, replacement=True, generator=generator)
    nothing = torch.zeros(5000, 3)  # predictions that know nothing: the bias has the frequencies
    scale, bias = fit_logits(nothing, labels)
    torch.testing.assert_close(bias.softmax(0), chances, rtol=0, atol=0.03)
    assert fit_logits(torch.zeros(5000, 4), labels)[1][3] < -1e3  # frequencies from other rows
    knows = torch.nn.functional.one_hot(labels, 3).float()
    scale, bias = fit_logits(knows, labels)
    assert (scale * knows + bias).softmax(1)[torch.arange(5000), labels].mean() > 0.95


def test_rows_left_out_do_not_tell_their_labels() -> None:
    """Without a row its class is rarer; a negative scale would read the label from that."""
    labels, task = (torch.arange(40) % 4 == 0).long(), Task("classification", ("a", "b"))
    scores = [kernel_ridge_score([made(40, seed)[0]], labels, task, True) for seed in range(12)]
    assert sum(scores) / 12 == pytest.approx(0.5, abs=0.06)


def test_more_labels_are_weighed_by_halves_with_all_classes() -> None:
    task = Task("classification", ("a", "b", "c"))
    few = torch.tensor([0] * 30 + [1] * 6 + [2] * 2)
    x = 5 * torch.eye(3)[few] + 0.1 * made(38)[0][:, :3]
    source = FeatureSource("t", "t", x, {})
    said = say_more_labels([source], ScoredRows(few, task, torch.arange(38), 0, True), 1.0)
    assert said is not None and "+0.333" in said  # a class of one row is never predicted in a half
    few[-1] = 0
    rows = ScoredRows(few, task, torch.arange(38), 0, True)
    assert say_more_labels([source], rows, 1.0) is None


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.zeros(3, 2), torch.zeros(4, 1)),
        (torch.zeros(3, 2), torch.zeros(3)),
        (torch.zeros(1, 2), torch.zeros(1, 1)),
        (torch.zeros(MOST_ROWS + 1, 1), torch.zeros(MOST_ROWS + 1, 1)),
    ],
)
def test_wrong_shapes_are_named(x: torch.Tensor, y: torch.Tensor) -> None:
    with pytest.raises(InputError, match=str(len(x))):
        fit_kernel_ridge([x], y)
