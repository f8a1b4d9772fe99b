"""Run teachers over samples and keep their features: what the store has is never computed again."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from aft.columns import asked_columns, columns_for
from aft.config import ExtractConfig, resolve
from aft.data import Samples, default_cache_dir, load_inputs
from aft.devices import choose_device
from aft.errors import ConfigError, DataError, TeacherError
from aft.forward import Compute, Positions, Precision, compute_features
from aft.options import FeatureOptions
from aft.shards import as_keys, format_bytes
from aft.specs import split_column
from aft.store import FeatureStore, FeatureWriter, Statistics
from aft.teachers import FeatureTable, Teacher, load_teacher
from aft.tokenization import Tokenization

if TYPE_CHECKING:
    from pathlib import Path

_TIMED_BATCHES = 3
_SHOWN = 3
_MOST_COUNTED = 10_000


class Verification(NamedTuple):
    """Stored against recomputed features: the positions of the samples, and a cosine for each."""

    positions: Positions
    cosines: NDArray[np.float32]


@dataclass
class StoredFeatures:
    """What the store holds of one teacher, by position in a data set.

    Attributes:
        spec: The teacher as the user wrote it.
        store: Its store.
        samples: The samples, with the columns that the teacher takes.
        notes: What people should know of these features.
        missing: What stands for the features of a missing input, ``(dim,)``; the mean over the
            samples if None.
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
        """Width of a row."""
        return self.store.dim

    def gather(self, rows: Positions) -> Tensor:
        """Features of the samples at ``rows``, float32 ``(B, dim)``.

        Where the teacher's input is missing these are its mean features: nothing is known. Held-out
        samples may be given those of the training samples in :attr:`missing`.
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


def store_identity(
    teacher: Teacher | FeatureTable, dtype: str = "fp16", precision: Precision = "fp32"
) -> dict[str, Any]:
    """What ``teacher.json`` says of the features of ``teacher`` computed and stored like this."""
    identity = {**teacher.identity, "dim": teacher.dim, "dtype": dtype}
    if precision != "fp32" and not isinstance(teacher, FeatureTable):
        identity["precision"] = precision
    return identity


def extract_features(
    teacher: Teacher | FeatureTable,
    samples: Samples,
    features_dir: str | Path,
    *,
    dtype: str = "fp16",
    batch_size: int = 64,
    batch_tokens: int = 1024,
    num_workers: int | None = None,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    progress: bool = True,
    rank: int = 0,
    world_size: int = 1,
    shard_rows: int = 1024,
) -> FeatureStore:
    """Compute the features that the teacher's store lacks, and return the store.

    The same content is computed once, however often it is among the samples; samples whose input
    is missing have no features. A run that is killed goes on where it stopped. With several ranks
    each computes and writes its share; wait for all of them, then call ``store.refresh()`` to see
    every row.

    Args:
        teacher: A model, or a table of features made elsewhere, which is copied.
        samples: The samples, with the columns that the teacher takes.
        features_dir: The folder that holds the stores, one a teacher.
        dtype: Number format of stored features: ``fp16``, ``fp32`` or ``bf16``.
        batch_size: Images that the teacher sees at once.
        batch_tokens: Tokens of text that the teacher sees at once.
        num_workers: Processes that read inputs; chosen by size and machine if None.
        device: Where the teacher runs.
        precision: Arithmetic of the teacher; other than ``fp32`` under autocast.
        progress: Say what it will cost and show a bar, on the error stream.
        rank: Number of this process among those that extract together.
        world_size: How many they are.
        shard_rows: Rows of a file of features.

    Raises:
        TeacherError: If an input cannot be prepared, or features have the wrong shape or are not
            finite. Rows finished before are kept.
        StoreError: If the store does not fit, is damaged or cannot be written.
    """
    store = FeatureStore.open(features_dir, store_identity(teacher, dtype, precision))
    unique = np.sort(np.unique(as_keys(samples.ids), return_index=True)[1])
    unique = unique[samples.present[unique].any(axis=1)]
    if not store.missing(samples.ids[unique]).any():
        return store
    show = progress and rank == 0
    with FeatureWriter(store, rank, shard_rows) as writer:  # waits while another writes; then look
        all_missing = store.missing(samples.ids[unique])
        store.require_space(int(all_missing.sum()))
        # Each rank's share does not depend on how far the others are already.
        share = np.arange(len(unique)) % world_size == rank
        rows = unique[all_missing & share]
        show = show and len(rows) > 0
        if show:
            _announce(teacher.spec, store, int(all_missing.sum()), len(unique))
        how = Compute(batch_size, batch_tokens, num_workers, torch.device(device), precision)
        with tqdm(total=len(rows), desc=_name(teacher), unit="sample", disable=not show) as bar:
            forecast = _Forecast(len(rows)) if show else None
            done = 0
            for positions, values in compute_features(teacher, samples, rows, how):
                finite = values.isfinite().all(1)
                keep = finite.numpy()
                writer.add(samples.ids[positions[keep]], values[finite])
                if not keep.all():
                    raise TeacherError(_explain_not_finite(teacher, samples, positions, keep))
                bar.update(len(positions))
                done += len(positions)
                if forecast:
                    forecast.update(done)
    return store


def verify_features(
    store: FeatureStore,
    teacher: Teacher | FeatureTable,
    samples: Samples,
    k: int = 16,
    seed: int = 0,
    *,
    batch_size: int = 64,
    batch_tokens: int = 1024,
    device: str | torch.device = "cpu",
) -> Verification:
    """Recompute ``k`` stored samples, drawn with ``seed``, and compare (cosine, 1 is the same).

    Raises:
        StoreError: If none of the samples is in the store.
    """
    stored = np.flatnonzero(~store.missing(samples.ids))
    if not len(stored):
        store.gather(samples.ids[:1])  # says what to do
    drawn = np.sort(np.random.default_rng(seed).permutation(stored)[:k])
    precision = store.identity.get("precision", "fp32")
    how = Compute(batch_size, batch_tokens, 0, torch.device(device), precision)
    batches = list(compute_features(teacher, samples, drawn, how))
    positions = np.concatenate([rows for rows, _ in batches])
    recomputed = torch.cat([values for _, values in batches]).double()
    kept = store.gather(samples.ids[positions]).double()
    cosines = nn.functional.cosine_similarity(recomputed, kept, eps=1e-300)
    cosines[(recomputed == kept).all(1)] = 1.0  # two zero vectors too
    return Verification(positions, cosines.float().numpy())


class _Forecast:
    """Says once, after a few batches, how long the rest will take."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.batches = 0
        self.first_done = 0
        self.start = 0.0

    def update(self, done: int) -> None:
        self.batches += 1
        if self.batches == 1:  # the first batch pays for warming up
            self.first_done, self.start = done, time.monotonic()
        elif self.batches == 1 + _TIMED_BATCHES and done < self.total:
            rate = (done - self.first_done) / max(1e-9, time.monotonic() - self.start)
            left = format_seconds((self.total - done) / rate)
            tqdm.write(f"about {left} to go at {rate:.3g} samples a second", file=sys.stderr)


def format_seconds(seconds: float) -> str:
    """``4000`` as ``1 h 7 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _announce(spec: str, store: FeatureStore, rows: int, unique: int) -> None:
    print(
        f"{spec}: {rows} of {unique} samples to compute, "
        f"{format_bytes(rows * store.row_bytes)} in {store.path}",
        file=sys.stderr,
    )


def _name(teacher: Teacher | FeatureTable) -> str:
    return teacher.spec if len(teacher.spec) <= 40 else teacher.spec[:39] + "…"


def _explain_not_finite(
    teacher: Teacher | FeatureTable, samples: Samples, positions: Positions, keep: NDArray[np.bool_]
) -> str:
    bad = positions[~keep]
    names = ", ".join(samples.files[int(row)] for row in bad[:_SHOWN])
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return (
        f"{teacher.spec} gives NaN or infinite features for {len(bad)} of {len(positions)} samples "
        f"of a batch: {names}{more}. Look at these inputs, or compute with precision fp32"
    )


def features_folder(asked: Path | None) -> Path:
    """The folder of the feature stores: the one asked for, or the one in the user's cache."""
    return asked if asked is not None else default_cache_dir() / "features"


def open_teacher(
    text: str, samples: Samples, trust_remote_code: bool = False
) -> tuple[Teacher | FeatureTable, Samples]:
    """A teacher written ``[COLUMN=]source:name``, and the samples with the columns it takes.

    Raises:
        AftError: If the teacher cannot be loaded or takes none of the columns.
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
    """The stored features of each teacher of the options, for every sample that it can take.

    Raises:
        DataError: If no sample has the input of a teacher, unless they may lack it.
    """
    found = []
    for text in config.teachers:
        teacher, inputs = open_teacher(text, samples, config.trust_remote_code)
        if not may_lack and not inputs.present.any():
            names = ", ".join(column.name for column in inputs.columns)
            raise DataError(f"no row has {names}, which {text} takes; leave it out")
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
        found.append(StoredFeatures(text, store, inputs, _notes(text, teacher, inputs)))
    return found


def _notes(text: str, teacher: Teacher | FeatureTable, samples: Samples) -> list[str]:
    if isinstance(teacher, FeatureTable) or not isinstance(teacher.preprocess, Tokenization):
        return []
    return note_truncation(text, teacher.preprocess, samples)


def note_truncation(model: str, tokenization: Tokenization, samples: Samples) -> list[str]:
    """A sentence on texts that are longer than a model takes; none where there are none.

    Of very many samples ten thousand are looked at.
    """
    some = np.arange(len(samples))
    if len(some) > _MOST_COUNTED:
        some = np.sort(np.random.default_rng(0).permutation(some)[:_MOST_COUNTED])
    texts: list[Any] = [samples.input(int(row)) for row in some]
    cut = tokenization.count_truncated(texts)
    if not cut:
        return []
    return [
        f"{model} reads the first {tokenization.max_tokens} tokens of {cut} of {len(some)} texts, "
        "which are longer"
    ]


def extract(config: ExtractConfig | None = None, /, **options: Any) -> list[dict[str, Any]]:
    """Compute features; options are those of :class:`aft.config.ExtractConfig`.

    Returns:
        For each teacher its spec, the samples asked for, width, rows and bytes of its store, the
        store's folder, and notes.

    Raises:
        AftError: Whatever in options, data or teachers is wrong, in a sentence.
    """
    config = resolve(ExtractConfig, config, options)
    if not config.teachers:
        raise ConfigError("extract needs --teachers, e.g. --teachers timm:tf_efficientnet_lite0")
    device = choose_device(config.device)
    samples, report = load_inputs(
        config.data,
        asked_columns(config),
        on_bad_input=config.on_bad_input,
        progress=config.progress,
    )
    for line in report.lines():
        print(line, file=sys.stderr)
    chosen = np.flatnonzero(np.isin(samples.splits, ["", *config.splits]))
    if not len(chosen):
        raise DataError(f"{config.data} has no rows in {', '.join(config.splits)}")
    samples = samples.subset(chosen)
    return [
        {
            "teacher": features.spec,
            "samples": int(features.present.sum()),
            "dim": features.dim,
            "rows in store": len(features.store),
            "bytes": features.store.summary().bytes,
            "folder": str(features.store.path),
            **({"notes": features.notes} if features.notes else {}),
        }
        for features in extract_teachers(config, samples, device)
    ]
