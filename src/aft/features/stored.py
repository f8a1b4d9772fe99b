"""Stored features of the teachers of a run, indexed by position in a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aft.backbones.specs import split_column
from aft.backbones.tokenization import Tokenization
from aft.config.groups import FeatureOptions
from aft.data.samples import Samples, columns_for
from aft.errors import DataError
from aft.features.extraction import extract_features
from aft.features.run_teacher import Positions
from aft.features.store import FeatureStore, Statistics
from aft.ids import default_cache_dir
from aft.teachers.feature_table import FeatureTable
from aft.teachers.loading import load_teacher
from aft.teachers.teacher import Teacher

if TYPE_CHECKING:
    from pathlib import Path


_MOST_COUNTED = 10_000


@dataclass
class StoredFeatures:
    """Stored features of one teacher, indexed by position in a data set.

    Attributes:
        spec: The teacher's specification as the user wrote it.
        store: The feature store.
        samples: The samples, with the teacher's input columns.
        notes: Notes for the user, e.g. on truncated texts.
        missing: Features of samples without an input, ``(dim,)``; the mean over the samples if
            None.
    """

    spec: str
    store: FeatureStore
    samples: Samples
    notes: list[str]
    missing: Tensor | None = None

    def __post_init__(self) -> None:
        self.present: NDArray[np.bool_] = np.asarray(self.samples.present.any(axis=1))

    @property
    def dim(self) -> int:
        """Feature dimension."""
        return self.store.dim

    def gather(self, rows: Positions) -> Tensor:
        """Features of the samples at ``rows``, float32 ``(B, dim)``.

        Samples without an input get the mean features. Set :attr:`missing` to use the mean of the
        training samples for held-out samples.
        """
        present = self.present[rows]
        if present.all():
            return self.store.gather(self.samples.ids[rows])
        if self.missing is None:
            self.missing = self.statistics().mean
        features = self.missing.repeat(len(rows), 1)
        features[torch.from_numpy(present)] = self.store.gather(self.samples.ids[rows[present]])
        return features

    def statistics(self) -> Statistics:
        """Mean and standard deviation over the samples that have an input."""
        return self.store.statistics(self.samples.ids[self.present])


def features_folder(folder: Path | None) -> Path:
    """Folder of the feature stores: the given one, or the default in the user's cache."""
    return folder if folder is not None else default_cache_dir() / "features"


def open_teacher(
    text: str, samples: Samples, trust_remote_code: bool = False
) -> tuple[Teacher | FeatureTable, Samples]:
    """Load the teacher ``[COLUMN=]source:name``, and select its input columns of the samples.

    Raises:
        AftError: If the teacher cannot be loaded or supports none of the columns.
    """
    column, spec = split_column(text)
    teacher = load_teacher(spec, trust_remote_code=trust_remote_code)
    teacher.spec = text
    modality = None if isinstance(teacher, FeatureTable) else teacher.modality
    return teacher, samples.only(*columns_for(spec, column, modality, samples.columns))


def extract_teachers(
    config: FeatureOptions,
    samples: Samples,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    may_lack: bool = False,
) -> list[StoredFeatures]:
    """Extract the features of each configured teacher for all samples that have its input.

    Raises:
        DataError: If no sample has the input of a teacher, unless ``may_lack`` is true.
    """
    stored = []
    for text in config.teachers:
        teacher, inputs = open_teacher(text, samples, config.trust_remote_code)
        if not may_lack and not inputs.present.any():
            names = ", ".join(column.name for column in inputs.columns)
            raise DataError(
                f"expected rows with {names}, the input of {text}, got none; remove this teacher"
            )
        store = extract_features(
            teacher,
            inputs,
            features_folder(config.features),
            dtype=config.features_dtype,
            batch_size=config.extract_batch_size,
            batch_tokens=config.extract_batch_tokens,
            num_workers=config.num_workers,
            device=device,
            progress=config.progress,
            rank=rank,
            world_size=world_size,
        )
        stored.append(StoredFeatures(text, store, inputs, _notes(text, teacher, inputs)))
    return stored


def _notes(text: str, teacher: Teacher | FeatureTable, samples: Samples) -> list[str]:
    if isinstance(teacher, FeatureTable) or not isinstance(teacher.preprocess, Tokenization):
        return []
    return note_truncation(text, teacher.preprocess, samples)


def note_truncation(model: str, tokenization: Tokenization, samples: Samples) -> list[str]:
    """A note on texts that are longer than the model's limit; an empty list if there are none.

    At most 10,000 randomly chosen samples are checked.
    """
    some = np.arange(len(samples))
    if len(some) > _MOST_COUNTED:
        some = np.sort(np.random.default_rng(0).permutation(some)[:_MOST_COUNTED])
    texts: list[Any] = [samples.input(int(row)) for row in some]
    cut = tokenization.count_truncated(texts)
    if not cut:
        return []
    return [f"{model} truncates {cut} of {len(some)} texts to {tokenization.max_tokens} tokens"]
