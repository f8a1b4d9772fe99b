"""Your own dataset and data loader, with stored features, in plain PyTorch.

    python examples/plain_pytorch.py

50 pictures have a label and 400 have none. One student learns from the labels alone, and one also
from what the teacher sees in all 450 pictures. The held-out pictures need no teacher.
"""

import sys

import torch
from torch.utils.data import DataLoader

import aft
from aft.losses import AFTSoftLoss, SoftLabelLoss
from digits import Digits, Student, pictures


def endless(loader):
    """The batches of a loader, pass after pass."""
    while True:
        yield from loader


def train(model, labelled, unlabelled, steps):
    """Train on the labels and, if the model has a transfer loss, on the teachers' features."""
    loss = model.transfer_loss
    optimizer = torch.optim.AdamW(
        [
            {"params": model.student.parameters(), "lr": 2e-3},
            {"params": loss.parameters() if loss else [], "lr": 1e-2, "weight_decay": 0.0},
        ]
    )
    batches = endless(DataLoader(labelled, batch_size=50, shuffle=True))
    more = endless(DataLoader(unlabelled, batch_size=100, shuffle=True, drop_last=True))
    for _ in range(steps):
        (images, labels), features = next(batches)
        if loss:
            (extra, _), extra_features = next(more)
            out = model(images, features, labels, extra, extra_features)
        else:
            out = model(images, labels=labels)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()


@torch.no_grad()
def accuracy(student, dataset):
    """Share of right answers; the held-out rows have no features of the teacher."""
    student.eval()
    right = [student(x)[0].argmax(1) == y for x, y in DataLoader(dataset, batch_size=200)]
    return torch.cat(right).float().mean().item()


def main(teacher="timm:tf_efficientnet_lite0?size=64", features="features", steps=150):
    """Train both students; returns their accuracies."""
    images, labels = pictures()
    train_rows, other_rows, held_out = range(50), range(50, 450), range(450, 850)

    # A content id leads from a row to its features. It also shows copies: a picture that is held
    # out must not be among those that train.
    ids = aft.sample_ids(images)
    seen = {ids[row].tobytes() for row in held_out}
    train_rows, other_rows = (
        [row for row in rows if ids[row].tobytes() not in seen] for rows in (train_rows, other_rows)
    )

    # Compute the features that the store lacks.
    inputs = [images[row] for row in [*train_rows, *other_rows]]
    made = aft.extract(data=inputs, teachers=teacher, features=features)
    stores = [aft.FeatureStore.at(one["folder"]) for one in made]

    def dataset(rows, moves):
        return Digits([images[row] for row in rows], labels[rows], moves)

    labelled = aft.WithFeatures(dataset(train_rows, moves=True), ids[train_rows], stores)
    unlabelled = aft.WithFeatures(dataset(other_rows, moves=True), ids[other_rows], stores)
    test = dataset(list(held_out), moves=False)

    # Everything that is fitted sees training rows only.
    known, targets = labelled.features(), torch.from_numpy(labels[train_rows])
    soft = SoftLabelLoss.fit(known, targets, kind="classification", num_outputs=10)
    scores = {}
    for name, loss in {"alone": None, "with teacher": AFTSoftLoss.fit(soft, known)}.items():
        torch.manual_seed(0)
        model = aft.TransferModel(Student(), loss, beta=3.0)
        train(model, labelled, unlabelled, steps)
        scores[name] = accuracy(model.student, test)
        print(f"{name}: {scores[name]:.3f}")
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
