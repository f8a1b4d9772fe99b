"""Selection of the samples of each batch, and their random views.

All randomness is a function of the seed, the step or epoch, and the sample. It never depends on
earlier draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from aft.backbones.batches import Inputs
from aft.students.inputs import StudentInputs

ViewBatch = tuple[Inputs, NDArray[np.int64]]
"""A batch of inputs, and the positions of its samples."""
Chosen = tuple[int, NDArray[np.int64]]
"""The epoch of a batch, and the positions of its samples."""
VIEW, BATCH, STEP, UNLABELLED = 1, 2, 3, 4  # purposes of random streams


@lru_cache
def stream(*parts: int) -> int:
    """A seed for one purpose, independent of the seeds for other purposes."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def seed_everything(seed: int, device: str = "cpu") -> None:
    """Seed torch's default generators; with device ``cpu`` only the CPU generator.

    Before CUDA is initialised, `torch.manual_seed` queues every call with its stack trace, to be
    repeated at initialisation. Per sample that is slow, and the queue is never freed.
    """
    if device == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class Views(Dataset[ViewBatch]):
    """Random views of samples; a view depends only on the seed, the epoch and the position."""

    def __init__(self, inputs: StudentInputs, seed: int) -> None:
        self.inputs = inputs
        self.seed = seed

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, chosen: Chosen) -> ViewBatch:
        """The batch of these positions, as they look in this epoch."""
        epoch, rows = chosen
        first, numbers = stream(self.seed, VIEW, epoch), rows.tolist()
        return self.inputs.batch(numbers, [(first + row) % 2**63 for row in numbers]), rows


class Batches(Sampler[Chosen]):
    """The batches of a range of steps.

    Every epoch is a permutation divided into full batches; the remaining samples are skipped in
    that epoch. A data set smaller than a batch is one batch. If processes cannot share a batch
    evenly, the first ones have one sample more.

    Args:
        num_samples: Size of the data set.
        batch_size: Samples per step, over all processes.
        steps: The steps for which to produce batches.
        seed: Seed of the order.
        rank: Rank of this process.
        world_size: Number of processes that share each batch.
        purpose: The random stream that determines the order.
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
        self.batch_size = min(batch_size, num_samples)
        self.steps = steps
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.purpose = purpose

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Chosen]:
        per_epoch = self.num_samples // self.batch_size
        current, order = -1, np.empty(0, dtype=np.int64)
        for step in self.steps:
            epoch, part = divmod(step, per_epoch)
            if epoch != current:
                current = epoch
                rng = np.random.default_rng([self.seed, self.purpose, epoch])
                order = rng.permutation(self.num_samples)
            batch = order[part * self.batch_size : (part + 1) * self.batch_size]
            yield epoch, batch[self.rank :: self.world_size]
