"""Stored features of the teachers of a run, indexed by position in a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from aft.data.unlabelled import concatenate
from aft.devices import available_memory
from aft.errors import DataError
from aft.features.engine import choose_engine
from aft.features.extraction import extract_features, store_identity
from aft.features.run_teacher import Positions, RunTeacher, compute_features
from aft.features.shards import as_floats
from aft.features.store import FeatureStore, Rows, Statistics
from aft.ids import default_cache_dir
from aft.teachers.feature_table import FeatureTable
from aft.teachers.loading import load_teacher
from aft.teachers.teacher import Teacher, share_images

if TYPE_CHECKING:
    from pathlib import Path


_MOST_COUNTED = 10_000
MOST_KEPT_BYTES, MOST_KEPT_SHARE = 8 * 2**30, 0.25
"""Limits of what a run keeps in memory, over all teachers; the share is of what is available."""


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
        self._kept: NDArray[Any] | None = None
        self._places: Rows = np.empty(0, np.int64)  # of samples in the store or in `_kept`
        self._generation = -1  # of these places

    @property
    def dim(self) -> int:
        """Feature dimension."""
        return self.store.dim

    def gather(self, rows: Positions) -> Tensor:
        """Features of the samples at ``rows``, float32 ``(B, dim)``.

        Samples without an input get the mean features. Set :attr:`missing` to use the mean of the
        training samples for held-out samples.
        """
        places = self._locate()[rows]
        if places.min(initial=0) >= 0:
            return self._read(places)
        present = self.present[rows]
        if (places[present] < 0).any():
            self.store.gather(self.samples.ids[rows[present]])  # raises the error
        if self.missing is None:
            self.missing = self.statistics().mean
        features = self.missing.repeat(len(rows), 1)
        features[torch.from_numpy(present)] = self._read(places[present])
        return features

    def keep(self, limit: int) -> int:
        """Keep the features of all samples in memory if they have at most ``limit`` bytes.

        Returns:
            The number of bytes kept.
        """
        places = self._locate()
        rows = np.unique(places[self.present])
        fits = len(rows) * self.store.row_bytes <= limit and rows.min(initial=0) >= 0
        if self._kept is None and fits:
            self._kept = self.store.read_stored(rows)
            self._places = np.where(self.present, np.searchsorted(rows, places), -1)
        return 0 if self._kept is None else self._kept.nbytes

    def statistics(self) -> Statistics:
        """Mean and standard deviation over the samples that have an input."""
        return self.store.statistics(self.samples.ids[self.present])

    def _read(self, places: Rows) -> Tensor:
        stored, kept = self.store, self._kept
        values = stored.read_stored(places) if kept is None else kept.take(places, axis=0)
        return as_floats(values, stored.dtype)

    def _locate(self) -> Rows:
        """Row of every sample in the store, looked up once, or in what is kept; -1 without one."""
        if self._kept is None and self._generation != self.store.generation:
            self._places = np.where(self.present, self.store.locate(self.samples.ids), -1)
            self._generation = self.store.generation
        return self._places


def keep_in_memory(stored: Iterable[StoredFeatures], processes: int = 1) -> None:
    """Keep the features of each teacher in memory, as long as all together are within the limits.

    Args:
        stored: Features that are read many times.
        processes: Number of processes that share the memory.
    """
    left = int(min(MOST_KEPT_BYTES, MOST_KEPT_SHARE * available_memory())) // processes
    for one in stored:
        left -= one.keep(left)


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
    parts: Sequence[Samples],
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    compute: RunTeacher = compute_features,
) -> list[list[StoredFeatures]]:
    """Extract the features of each configured teacher for all samples that have its input.

    Teachers of the same images that follow each other, and the views and originals among the
    parts, share one decoding.

    Args:
        config: The teachers and their options.
        parts: Parts of the data; each teacher is loaded once for all.
        device: Device of the teachers.
        rank: Rank of this process.
        world_size: Number of processes.
        compute: What runs a teacher, as for :func:`aft.features.extraction.extract_features`.

    Returns:
        For each part, the features of each teacher.

    Raises:
        DataError: If no sample of the first part has the input of a teacher.
    """
    found: list[list[StoredFeatures]] = [[] for _ in parts]
    most_bytes = min(MOST_KEPT_BYTES, MOST_KEPT_SHARE * available_memory())
    folder = features_folder(config.features)

    def extract(teachers: Sequence[Teacher | FeatureTable], names: Sequence[str]) -> None:
        dtype, precision = config.features_dtype, config.extract_precision
        some = [part.only(*names) for part in parts]
        views = any(one.view for one in some) and share_images(teachers)
        for inputs in [concatenate(some)] if views else some:
            extract_features(
                teachers[0],
                inputs,
                folder,
                dtype=dtype,
                batch_size=config.extract_batch_size,
                batch_tokens=config.extract_batch_tokens,
                num_workers=config.num_workers,
                device=device,
                precision=precision,
                progress=config.progress,
                rank=rank,
                world_size=world_size,
                beside=teachers[1:],  # type: ignore[arg-type]
                compute=compute,
            )
        for teacher in teachers:
            store = FeatureStore.open(folder, store_identity(teacher, dtype, precision))
            for one, rows in zip(found, some, strict=True):
                notes = note_truncation(teacher.spec, getattr(teacher, "preprocess", None), rows)
                one.append(StoredFeatures(teacher.spec, store, rows, notes))

    group: list[Teacher | FeatureTable] = []
    names: tuple[str, ...] = ()
    for text in config.teachers:
        teacher, inputs = open_teacher(text, parts[0], config.trust_remote_code)
        own = tuple(column.name for column in inputs.columns)
        if not inputs.present.any():
            raise DataError(
                f"expected rows with {', '.join(own)}, the input of {text}, got none; remove this "
                "teacher"
            )
        teacher = choose_engine(teacher, inputs, config, folder, device, rank, world_size)
        shares = compute is compute_features and own == names
        if group and not (shares and share_images([*group, teacher], most_bytes)):
            extract(group, names)
            group = []
        group, names = [*group, teacher], own
    if group:
        extract(group, names)
    return found


def note_truncation(model: str, tokenization: Any, samples: Samples) -> list[str]:
    """A note on texts that are longer than the model's limit; an empty list if there are none.

    At most 10,000 randomly chosen samples are checked. Other preprocessing truncates nothing.
    """
    if not isinstance(tokenization, Tokenization):
        return []
    some = np.arange(len(samples))
    if len(some) > _MOST_COUNTED:
        some = np.sort(np.random.default_rng(0).permutation(some)[:_MOST_COUNTED])
    texts: list[Any] = [samples.input(int(row)) for row in some]
    cut = tokenization.count_truncated(texts)
    if not cut:
        return []
    return [f"{model} truncates {cut} of {len(some)} texts to {tokenization.max_tokens} tokens"]
