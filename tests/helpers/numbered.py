"""Samples whose picture holds their number, and a teacher that writes down what it computes.

Run as a program it extracts in a process of its own, which a test may kill.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from aft.data.readers.find_columns import InputColumn
from aft.features.extraction import extract_features
from aft.ids import content_id
from aft.teachers.teacher import Teacher

IDENTITY = {"spec": "python:numbered.py:teacher", "weights": "none"}


class Names(Sequence):
    def __init__(self, numbers):
        self.numbers = numbers

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        return f"picture-{self.numbers[index]}.png"


class NumberedSamples:
    """Stands for `aft.data.Samples`, of any size without files."""

    def __init__(self, numbers):
        self.numbers = np.asarray(numbers)
        self.ids = ids_of(self.numbers)
        self.files = Names(self.numbers)
        self.columns = (InputColumn("image", "image"),)
        self.parts = self.ids[:, None]
        self.view = None
        self.present = np.ones((len(self.numbers), 1), dtype=bool)

    def __len__(self):
        return len(self.numbers)

    def only(self, *names):
        return self

    def subset(self, indices):
        return type(self)(self.numbers[np.asarray(indices, dtype=np.int64)])

    def input(self, index):
        return Image.new("RGB", (1, 1), tuple(int(self.numbers[index]).to_bytes(3, "big")))


def ids_of(numbers):
    joined = b"".join(content_id(str(number).encode()) for number in numbers)
    return np.frombuffer(joined, np.uint8).reshape(-1, 16)


def preprocess(image):
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)


def features_of(numbers, dim):
    """What the teacher returns: elementwise, so the same in any batch."""
    rates = torch.arange(1, dim + 1) / 100
    return torch.cos(torch.as_tensor(np.asarray(numbers)).float()[:, None] * rates)


class Counting(nn.Module):
    def __init__(self, dim, log=None, seconds=0.0):
        super().__init__()
        self.dim, self.log, self.seconds = dim, log, seconds

    def forward(self, pixels):
        time.sleep(self.seconds)
        numbers = (pixels[:, :, 0, 0] @ torch.tensor([65536.0, 256.0, 1.0])).long().numpy()
        if self.log:
            end = len(numbers)
            while end > 1 and numbers[end - 1] == numbers[end - 2]:
                end -= 1  # the last batch is filled up with its last input
            with open(self.log, "a") as file:
                file.write("".join(f"{number}\n" for number in numbers[:end]))
        return features_of(numbers, self.dim)


def numbered_teacher(dim=8, log=None, seconds=0.0, **changes):
    module = Counting(dim, log, seconds).eval()
    identity = {**IDENTITY, "dim": dim, **changes}
    return Teacher(
        spec=identity["spec"], dim=dim, module=module, preprocess=preprocess, identity=identity
    )


def computed(log):
    """The numbers that the teacher computed, in order."""
    path = Path(log)
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def peak_memory():
    """Of this process, in bytes; ru_maxrss would count the parent's before exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("features")
    parser.add_argument("--log")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--shard-rows", type=int, default=16)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world-size", type=int, default=1)
    parser.add_argument("--largest-file", type=int)
    args = parser.parse_args()
    if args.largest_file:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (args.largest_file, args.largest_file))
    try:
        extract_features(
            numbered_teacher(args.dim, args.log, args.seconds),
            NumberedSamples(range(args.count)),
            args.features,
            batch_size=args.batch_size,
            shard_rows=args.shard_rows,
            num_workers=0,
            progress=False,
            rank=args.rank,
            world_size=args.world_size,
        )
    except Exception as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    if Path("/proc/self/status").exists():
        print(peak_memory())


if __name__ == "__main__":
    main()
