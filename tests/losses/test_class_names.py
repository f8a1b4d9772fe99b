from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aft.errors import InputError
from aft.losses.class_names import SCALE, ClassNameLoss, EmbeddedClasses

B, C, D = 6, 3, 8


def draws(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosines(features: Tensor, names: Tensor) -> Tensor:
    return F.normalize(features, dim=1) @ F.normalize(names, dim=1).T


def test_the_target_is_the_similarity_with_the_names() -> None:
    features, names, logits = draws(0, B, D), draws(1, C, D), draws(2, B, C)
    loss = ClassNameLoss([D], [EmbeddedClasses(names)])
    expected = SCALE * cosines(features, names)
    torch.testing.assert_close(loss.teacher_logits(features), expected)
    target = expected.softmax(1)
    divergence = (target * (target.log() - logits.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(loss(logits, features), divergence)


def test_features_are_projected_and_other_teachers_have_no_part() -> None:
    features, names, projection = draws(0, B, D), draws(1, C, 5), draws(2, 5, D)
    named = EmbeddedClasses(names, projection, 7.0)
    loss = ClassNameLoss([4, D], [None, named])
    expected = 7 * cosines(features @ projection.T, names)
    torch.testing.assert_close(loss.teacher_logits([draws(3, B, 4), features]), expected)
    both = ClassNameLoss([D, D], [named, EmbeddedClasses(draws(4, C, D), None, 3.0)])
    other = 3 * cosines(features, draws(4, C, D))
    torch.testing.assert_close(both.teacher_logits([features, features]), (expected + other) / 2)


def test_a_few_labels_correct_the_names_a_little_and_many_replace_them() -> None:
    generator = torch.Generator().manual_seed(0)
    names, wrong = torch.eye(C, D), torch.eye(C, D)[[1, 0, 2]]
    labels = torch.randint(C, (400,), generator=generator)
    features = names[labels] + 0.3 * torch.randn(400, D, generator=generator)
    swapped = [EmbeddedClasses(wrong)]

    def accuracy(loss: ClassNameLoss) -> float:
        return float((loss.teacher_logits(features[200:]).argmax(1) == labels[200:]).float().mean())

    plain = ClassNameLoss([D], swapped)
    scores = [accuracy(plain)]
    for rows in (3, 30, 200):
        fitted = ClassNameLoss.fit_few([features[:rows]], labels[:rows], swapped)
        scores.append(accuracy(fitted))
    assert scores[0] < 0.45 and scores[2] > 0.6 and scores[3] > 0.9


def test_a_class_without_labels_keeps_its_name() -> None:
    names = torch.eye(C, D)
    features, labels = names[[0, 1, 0, 1]] + 0.1 * draws(0, 4, D), torch.tensor([0, 1, 0, 1])
    fitted = ClassNameLoss.fit_few([features], labels, [EmbeddedClasses(names)])
    assert fitted.teacher_logits(names).argmax(1).tolist() == [0, 1, 2]
    one = ClassNameLoss.fit_few([features[:1]], labels[:1], [EmbeddedClasses(names)])
    assert one.teacher_logits(names).argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("dims", "classes"),
    [
        ([D], [None]),
        ([D, D], [EmbeddedClasses(torch.eye(C, D))]),
        ([D], [EmbeddedClasses(torch.eye(C, D + 1))]),
        ([D], [EmbeddedClasses(torch.eye(C, 4), torch.zeros(4, D + 1))]),
        ([D], [EmbeddedClasses(torch.eye(C, 4), torch.zeros(5, D))]),
    ],
)
def test_wrong_embeddings(dims: list[int], classes: list[EmbeddedClasses | None]) -> None:
    with pytest.raises(InputError):
        ClassNameLoss(dims, classes)
