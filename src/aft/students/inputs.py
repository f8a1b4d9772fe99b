"""Inputs of a student, batch by batch; what is the same in every step is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from aft.backbones.batches import PADDING, Inputs, collate
from aft.backbones.preprocessing import ImageTransform
from aft.backbones.tokenization import Tokenization
from aft.data.samples import Samples
from aft.students.kept_images import KeptImages
from aft.students.towers import ColumnTransform

Transform = Callable[[Any], Inputs]
"""Maps a sample's input to a network's input."""
MOST_TOKENS = 2**28
"""Most tokens to keep in memory, 1 GiB; the texts of larger data are tokenized in every batch."""
_TEXTS_AT_ONCE = 1024


class StudentInputs(Dataset[Inputs]):
    """The inputs of a student for samples.

    Args:
        samples: The samples, with the columns that the student takes.
        transform: Maps a sample's input to the student's input, perhaps at random.
    """

    def __init__(self, samples: Samples, transform: Transform) -> None:
        self.samples = samples
        self.towers: dict[str, Images | Texts | Others] = {}
        if isinstance(transform, ColumnTransform):
            for name, own in transform.transforms.items():
                self.towers[name] = _one_tower(samples.only(*transform.columns(name)), own)
        else:
            self.towers[""] = _one_tower(samples, transform)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, rows: Sequence[int]) -> Inputs:
        return self.batch(rows)

    def batch(self, rows: Sequence[int], seeds: Sequence[int] | None = None) -> Inputs:
        """The inputs of the samples at these positions, as from :func:`collate`.

        Args:
            rows: The positions.
            seeds: Seed of the random transform of each; by default torch's generator is used.
        """
        made: dict[str, Any] = {}
        for name, tower in self.towers.items():
            made[name] = tower.batch(rows, seeds)
        return made.get("", made)  # type: ignore[no-any-return]

    def tokenize(self) -> None:
        """Tokenize all texts now, and keep the tokens in memory if they are not too many."""
        for tower in self.towers.values():
            if isinstance(tower, Texts):
                tower.tokenize()


def unchanged(batch: Any) -> Any:
    """A batch as it is; for a DataLoader, which cannot send a lambda to other processes."""
    return batch


def _one_tower(samples: Samples, transform: Any) -> Images | Texts | Others:
    if isinstance(transform, ImageTransform):
        return Images(samples, transform)
    if isinstance(transform, Tokenization):
        return Texts(samples, transform)
    return Others(samples, transform)


class Images:
    """The image inputs of one network.

    Attributes:
        kept: Images that were decoded before.
        places: The place of each sample in it; -1 if it is not there.
    """

    def __init__(self, samples: Samples, transform: ImageTransform) -> None:
        self.samples = samples
        self.transform = transform
        self.kept: KeptImages | None = None
        self.places = np.full(len(samples), -1)

    def batch(self, rows: Sequence[int], seeds: Sequence[int] | None) -> Tensor:
        """``(B, 3, size, size)``."""
        if seeds is None and self.transform.augment != "none":
            seeds = torch.randint(2**62, (len(rows),)).tolist()
        return self.transform.finish([self.small(row) for row in rows], seeds)

    def small(self, row: int) -> NDArray[np.uint8] | None:
        """The image after the first step of the transform; None if it is missing."""
        if self.kept is not None and self.places[row] >= 0:
            with suppress(OSError):  # deleted before this process mapped it
                return self.kept[int(self.places[row])]
        image = self.samples.image(row, self.transform.least_side)
        return None if image is None else self.transform.keep(image)


class Tokens(NamedTuple):
    """Tokens of many texts: those of text ``i`` are ``flat[..., ends[i] : ends[i + 1]]``."""

    flat: NDArray[np.int32]
    ends: NDArray[np.int64]


class Texts:
    """The tokens of one network."""

    def __init__(self, samples: Samples, tokenization: Tokenization) -> None:
        self.samples = samples
        self.tokenization = tokenization
        self.tokens: Tokens | None = None

    def batch(self, rows: Sequence[int], seeds: Sequence[int] | None = None) -> Tensor:
        """``(B, L)`` or ``(B, 2, L)``, padded on the right."""
        if self.tokens is None:
            return collate([torch.from_numpy(one) for one in self._encode(rows)])  # type: ignore[return-value]
        flat, ends = self.tokens
        chosen = np.asarray(rows, dtype=np.int64)
        starts = ends[chosen]
        lengths = ends[chosen + 1] - starts
        column = np.arange(lengths.max(initial=0))
        found = np.full((*flat.shape[:-1], len(chosen), len(column)), PADDING, dtype=np.int64)
        if flat.size:
            places = flat.take(starts[:, None] + column, axis=-1, mode="clip")
            found = np.where(column < lengths[:, None], places, np.int64(PADDING))
        return torch.from_numpy(found if found.ndim == 2 else np.moveaxis(found, 0, 1).copy())

    def tokenize(self) -> None:
        """Keep the tokens of all texts in memory, unless they are too many or differ in form."""
        parts: list[NDArray[np.int32]] = []
        lengths = [0]
        for start in range(0, len(self.samples), _TEXTS_AT_ONCE):
            encoded = self._encode(range(start, len(self.samples))[:_TEXTS_AT_ONCE])
            lengths += [one.shape[-1] for one in encoded]
            parts.append(np.concatenate(encoded, axis=-1, dtype=np.int32))
            if sum(part.size for part in parts) > MOST_TOKENS:
                return
        if parts:
            self.tokens = Tokens(np.concatenate(parts, axis=-1), np.cumsum(lengths))

    def _encode(self, rows: Sequence[int]) -> list[NDArray[np.int64]]:
        return self.tokenization.encode_batch([self.samples.input(row) for row in rows])  # type: ignore[misc]


class Others:
    """The inputs of a network whose transform is a function of one sample's input."""

    def __init__(self, samples: Samples, transform: Transform) -> None:
        self.samples = samples
        self.transform = transform

    def batch(self, rows: Sequence[int], seeds: Sequence[int] | None) -> Any:
        """The collated inputs."""
        if seeds is None:
            return collate([self.transform(self.samples.input(row)) for row in rows])
        made = []
        with torch.random.fork_rng(devices=[]):
            for row, seed in zip(rows, seeds, strict=True):
                torch.default_generator.manual_seed(seed)
                made.append(self.transform(self.samples.input(row)))
        return collate(made)
