"""Pictures of digits, which come with scikit-learn, and a small network, for the examples."""

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset


def pictures():
    """1,797 pictures of 8 x 8 pixels, and their digits."""
    digits = load_digits()
    grey = (digits.images * 255 / 16).astype(np.uint8)
    return [Image.fromarray(one) for one in grey], digits.target.astype(np.int64)


class Digits(Dataset):
    """A dataset of pictures and labels; for training, pictures move by up to one pixel."""

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
    """A small network that returns logits and features, the input of its last layer."""

    def __init__(self, classes=10):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(32 * 4 * 4, 64), nn.ReLU()),
        )
        self.head = nn.Linear(64, classes)

    def forward(self, images):
        """Logits ``(B, classes)`` and features ``(B, 64)``."""
        features = self.body(images)
        return self.head(features), features
