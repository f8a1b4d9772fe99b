"""Which samples make the batch of a step, and as which random views.

Everything random is a function of the seed, the step or epoch, and the sample, never of what was
drawn before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from aft.backbones.batches import Inputs, collate
from aft.data.samples import Samples
from aft.features.stored import StoredFeatures

Transform = Callable[[Any], Inputs]
ViewBatch = tuple[Inputs, NDArray[np.int64]]
"""A batch of inputs, and the positions of its samples."""
VIEW, BATCH, STEP, UNLABELLED = 1, 2, 3, 4  # what a random stream is for


@dataclass(frozen=True)
class PreparedRows:
    """Samples with what a model makes of them.

    Attributes:
        samples: The samples, with the columns that the student takes.
        transform: From a sample's input to the student's.
        teachers: The stored features of each teacher for these samples.
    """

    samples: Samples
    transform: Transform
    teachers: Sequence[StoredFeatures] = ()


def stream(*parts: int) -> int:
    """A seed for one purpose, unrelated to those of other purposes."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def seed_everything(seed: int, device: str = "cpu") -> None:
    """Seed torch's default generators; for the CPU alone where no other device computes.

    Where CUDA was never used, `torch.manual_seed` notes every call, with the stack it came from,
    for the day that it will be: slow for each sample, and kept for ever.
    """
    if device == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class Views(Dataset[tuple[Inputs, int]]):
    """Random views of samples; the view depends on seed, epoch and position alone."""

    def __init__(self, samples: Samples, augment: Transform, seed: int) -> None:
        self.samples = samples
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Inputs, int]:
        epoch, index = key
        value = self.samples.input(index)
        with torch.random.fork_rng(devices=[]):
            seed_everything(stream(self.seed, VIEW, epoch, index))
            return self.augment(value), index


def collate_views(views: list[tuple[Inputs, int]]) -> ViewBatch:
    """A batch of inputs, and the positions of its samples."""
    inputs, rows = zip(*views, strict=True)
    return collate(inputs), np.asarray(rows, dtype=np.int64)


class Batches(Sampler[list[tuple[int, int]]]):
    """The batches of some steps, each a list of (epoch, position).

    Every epoch is a permutation cut into whole batches; what is left over rests until the next.
    A data set smaller than a batch is one batch.

    Args:
        num_samples: Size of the data set.
        batch_size: Samples a step, over all processes.
        steps: The steps to make batches for.
        seed: Of the order.
        rank: Number of this process.
        world_size: How many share each batch.
        purpose: Which random stream draws the order.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        steps: range,
        seed: int,
        rank: int,
        world_size: int,
        purpose: int = BATCH,
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = min(batch_size, num_samples) // world_size * world_size
        self.steps = steps
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.purpose = purpose

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = self.num_samples // self.batch_size
        current, order = -1, np.empty(0, dtype=np.int64)
        for step in self.steps:
            epoch, part = divmod(step, per_epoch)
            if epoch != current:
                current = epoch
                rng = np.random.default_rng([self.seed, self.purpose, epoch])
                order = rng.permutation(self.num_samples)
            batch = order[part * self.batch_size : (part + 1) * self.batch_size]
            yield [(epoch, int(i)) for i in batch[self.rank :: self.world_size]]
