"""Your own dataset and data loader, with stored features, in plain PyTorch.

    python examples/plain_pytorch.py [TEACHER]

50 pictures of digits have a label and 600 have none. The student learns from the labels, and from
what the teacher sees in all pictures. The held-out pictures need no teacher.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset

import aft
from aft.losses import AFTSoftLoss, SoftLabelLoss


class Digits(Dataset):
    """Pictures of digits, moved by up to one pixel for training: a dataset of your own."""

    def __init__(self, images, labels, moves=False):
        self.images, self.labels, self.moves = images, labels, moves

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        image = np.asarray(self.images[row], dtype=np.float32)[None] / 255
        if self.moves:
            image = np.roll(image, np.random.randint(-1, 2, size=2), axis=(1, 2))
        return torch.from_numpy(image), self.labels[row]


class Student(nn.Module):
    """A small network that returns logits and features."""

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(32 * 4 * 4, 64), nn.ReLU()),
        )
        self.head = nn.Linear(64, classes)

    def forward(self, images):
        features = self.body(images)
        return self.head(features), features


def endless(loader):
    """The batches of a loader, pass after pass."""
    while True:
        yield from loader


def accuracy(student, dataset):
    """Share of right answers on held-out pictures, which have no teacher features."""
    student.eval()
    with torch.no_grad():
        right = [student(x)[0].argmax(1) == y for x, y in DataLoader(dataset, batch_size=200)]
    student.train()
    return torch.cat(right).float().mean().item()


def main(teacher="timm:tf_efficientnet_lite0?size=64", features="features", steps=150):
    """Train one student on the labels alone and one with the teacher; returns their accuracies."""
    digits = load_digits()
    grey = (digits.images * 255 / 16).astype(np.uint8)
    images = [Image.fromarray(one) for one in grey]
    labels = digits.target.astype(np.int64)
    train, unlabelled, held_out = range(50), range(50, 650), range(650, 1250)

    # Content ids lead from a row to its features. A held-out picture must not be among the others.
    ids = aft.sample_ids(images)
    known = {ids[row].tobytes() for row in held_out}
    train, unlabelled = (
        [row for row in rows if ids[row].tobytes() not in known] for rows in (train, unlabelled)
    )

    # Compute what the store lacks, for the rows that train. Repeat it as often as you like.
    some = [images[row] for row in [*train, *unlabelled]]
    made = aft.extract(data=some, teachers=teacher, features=features)
    stores = [aft.FeatureStore.at(one["folder"]) for one in made]

    def dataset(rows, moves=False):
        return Digits([images[row] for row in rows], labels[rows], moves)

    labelled = aft.WithFeatures(dataset(train, moves=True), ids[train], stores)
    others = aft.WithFeatures(dataset(unlabelled, moves=True), ids[unlabelled], stores)
    test = dataset(list(held_out))

    scores = {}
    for name in ("labels alone", "with the teacher"):
        torch.manual_seed(0)
        loss = None
        if name == "with the teacher":
            known = labelled.features()  # of the labelled rows only
            targets = torch.from_numpy(labelled.dataset.labels)
            soft = SoftLabelLoss.fit(known, targets, kind="classification", num_outputs=10)
            loss = AFTSoftLoss.fit(soft, known)
        model = aft.TransferModel(Student(classes=10), loss, beta=3.0)
        optimizer = torch.optim.AdamW(
            [
                {"params": model.student.parameters(), "lr": 2e-3},
                {"params": loss.parameters() if loss else [], "lr": 1e-2, "weight_decay": 0.0},
            ]
        )
        batches = endless(DataLoader(labelled, batch_size=50, shuffle=True))
        more = endless(DataLoader(others, batch_size=100, shuffle=True, drop_last=True))
        for _, ((x, y), known), ((extra, _), seen) in zip(range(steps), batches, more):
            out = model(x, known, y, extra, seen) if loss else model(x, labels=y)
            optimizer.zero_grad()
            out["loss"].backward()
            optimizer.step()
        scores[name] = accuracy(model.student, test)
        print(f"{name}: {scores[name]:.3f}")
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
