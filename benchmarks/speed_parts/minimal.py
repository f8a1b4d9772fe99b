"""A training script as short as it can be, for comparison: a small CNN with AFT's loss.

It reads pictures by class and stored features, trains, validates, and saves the weights. It has
no checks, no report, no resume, one fixed network, and knows nothing of other data.

    python minimal.py PICTURES FEATURES.npy STEPS WEIGHTS.pt
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

BATCH, SIZE, BETA, EVALUATIONS = 32, 64, 3.0, 10


def read(path: Path) -> torch.Tensor:
    """A picture of twice the size, for random crops."""
    image = Image.open(path)
    image.draft("RGB", (2 * SIZE, 2 * SIZE))
    pixels = np.asarray(image.convert("RGB").resize((2 * SIZE, 2 * SIZE)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def scale(batch: torch.Tensor) -> torch.Tensor:
    return F.interpolate(
        batch.float().div(127.5).sub(1), size=SIZE, mode="bilinear", antialias=True
    )


def view(batch: torch.Tensor) -> torch.Tensor:
    """A random crop and flip of every picture."""
    sides = torch.randint(int(1.2 * SIZE), 2 * SIZE + 1, (len(batch),)).tolist()
    crops = []
    for picture, side in zip(batch, sides, strict=True):
        top, left = torch.randint(0, 2 * SIZE - side + 1, (2,)).tolist()
        crop = picture[:, top : top + side, left : left + side]
        crops.append(scale((crop.flip(-1) if torch.rand(()) < 0.5 else crop)[None])[0])
    return torch.stack(crops)


def kernel(x: torch.Tensor) -> torch.Tensor:
    x = F.normalize(x - x.mean(0))
    return x @ x.T


def main(pictures: str, features: str, steps: str, out: str) -> None:
    torch.manual_seed(0)
    files = sorted(Path(pictures).glob("*/*.jpg"))
    names = sorted({file.parent.name for file in files})
    images = torch.stack([read(file) for file in files])
    labels = torch.tensor([names.index(file.parent.name) for file in files])
    teacher = torch.from_numpy(np.load(features)).float()
    teacher = (teacher - teacher.mean(0)) / (teacher.std(0) + 1e-6)
    order = torch.randperm(len(files))
    held, train = order[: len(files) // 10], order[len(files) // 10 :]
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128), (128, 256)):
        layers += [nn.MaxPool2d(2)] if before > 3 else []
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
        layers += [nn.ReLU(inplace=True)]
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    head, gates = nn.Linear(256, len(names)), nn.Parameter(torch.zeros(teacher.shape[1]))
    groups = [{"params": [*body.parameters(), *head.parameters()]}, {"params": [gates], "lr": 1e-2}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, weight_decay=0.02)
    for step in range(int(steps)):
        body.train()
        rows = train[torch.randint(0, len(train), (BATCH,))]
        student = body(view(images[rows]))
        difference = kernel(student) - kernel(teacher[rows] * gates.sigmoid())
        transfer = (difference.square().mean() + 1e-8).sqrt()
        loss = F.cross_entropy(head(student), labels[rows]) + BETA * transfer
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % -(-int(steps) // EVALUATIONS) == 0:
            with torch.inference_mode():
                right = head(body.eval()(scale(images[held]))).argmax(1) == labels[held]
            print(step + 1, float(right.float().mean()))
    torch.save(nn.Sequential(body, head).state_dict(), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
