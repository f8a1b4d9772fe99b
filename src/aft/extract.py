"""Run a teacher over samples and keep its features: what the store has is never computed again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from aft.config import ExtractConfig, FeatureOptions, resolve
from aft.data import Columns, Samples, default_cache_dir, load_inputs
from aft.devices import choose_device, choose_num_workers
from aft.errors import AftError, ConfigError, DataError, TeacherError
from aft.shards import as_keys, format_bytes
from aft.store import FeatureStore, FeatureWriter
from aft.teachers import FeatureTable, Teacher, load_teacher

if TYPE_CHECKING:
    from pathlib import Path

    from aft.preprocessing import Transform

Precision = Literal["fp32", "bf16", "fp16"]
Positions = NDArray[np.int64]

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_FEW = 512  # samples that are done before reading processes would have started
_TIMED_BATCHES = 3
_TABLE_ROWS = 4096
_SHOWN = 3


class Verification(NamedTuple):
    """Stored against recomputed features: the positions of the samples, and a cosine for each."""

    positions: Positions
    cosines: NDArray[np.float32]


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
    num_workers: int | None = None,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    progress: bool = True,
    rank: int = 0,
    world_size: int = 1,
    shard_rows: int = 1024,
) -> FeatureStore:
    """Compute the features that the teacher's store lacks, and return the store.

    The same content is computed once, however often it is among the samples. A run that is killed
    goes on where it stopped. With several ranks each computes and writes its share; wait for all
    of them, then call ``store.refresh()`` to see every row.

    Args:
        teacher: A model, or a table of features made elsewhere, which is copied.
        samples: The samples.
        features_dir: The folder that holds the stores, one a teacher.
        dtype: Number format of stored features: ``fp16``, ``fp32`` or ``bf16``.
        batch_size: Samples that the teacher sees at once.
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
        features = _features(
            teacher, samples, rows, batch_size, num_workers, torch.device(device), precision
        )
        with tqdm(total=len(rows), desc=_name(teacher), unit="sample", disable=not show) as bar:
            forecast = _Forecast(len(rows)) if show else None
            done = 0
            for positions, values in features:
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
    device: str | torch.device = "cpu",
) -> Verification:
    """Recompute ``k`` stored samples, drawn with ``seed``, and compare (cosine, 1 is the same).

    Raises:
        StoreError: If none of the samples is in the store.
    """
    stored = np.flatnonzero(~store.missing(samples.ids))
    if not len(stored):
        store.gather(samples.ids[:1])  # says what to do
    positions = np.sort(np.random.default_rng(seed).permutation(stored)[:k])
    precision = store.identity.get("precision", "fp32")
    batches = _features(teacher, samples, positions, batch_size, 0, torch.device(device), precision)
    recomputed = torch.cat([values for _, values in batches]).double()
    kept = store.gather(samples.ids[positions]).double()
    cosines = nn.functional.cosine_similarity(recomputed, kept, eps=1e-300)
    cosines[(recomputed == kept).all(1)] = 1.0  # two zero vectors too
    return Verification(positions, cosines.float().numpy())


def _features(
    teacher: Teacher | FeatureTable,
    samples: Samples,
    rows: Positions,
    batch_size: int,
    num_workers: int | None,
    device: torch.device,
    precision: Precision,
) -> Iterator[tuple[Positions, Tensor]]:
    """Batches of positions and their float32 features (n, dim) on the CPU."""
    if isinstance(teacher, FeatureTable):
        for start in range(0, len(rows), _TABLE_ROWS):
            part = rows[start : start + _TABLE_ROWS]
            names = samples.files
            values = teacher.rows(samples.ids[part], [names[int(row)] for row in part])
            yield part, torch.from_numpy(np.asarray(values, np.float32))
        return
    if len(rows) < _FEW and num_workers is None:
        num_workers = 0
    loader = DataLoader(
        _Inputs(samples, teacher.preprocess, rows),
        batch_size,
        num_workers=choose_num_workers(num_workers, device),
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    module = teacher.module.eval().to(device)
    start = 0
    for batch in loader:
        part = rows[start : start + batch_size]
        start += batch_size
        if isinstance(batch, _Failure):
            raise batch.kind(batch.text)
        # A smaller last batch would run other kernels, and its rows differ in the last bit from
        # what they are in a full one: what a sample's features are must not depend on the others.
        full = _filled(batch, batch_size)
        yield part, _forward(teacher, module, full, device, precision)[: len(batch)]


def _filled(inputs: Tensor, batch_size: int) -> Tensor:
    """A batch of this size: the last input is repeated where some are lacking."""
    lacking = batch_size - len(inputs)
    return (
        torch.cat([inputs, inputs[-1:].expand(lacking, *inputs.shape[1:])]) if lacking else inputs
    )


@torch.inference_mode()
def _forward(
    teacher: Teacher, module: nn.Module, inputs: Tensor, device: torch.device, precision: Precision
) -> Tensor:
    inputs = inputs.to(device, non_blocking=True)
    if device.type == "cpu" and inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)  # convolutions gain most
    dtype = _AUTOCAST[precision]
    try:
        with torch.autocast(device.type, dtype) if dtype else nullcontext():
            features = module(inputs)
    except torch.cuda.OutOfMemoryError as error:
        raise TeacherError(
            f"{teacher.spec} does not fit the memory of {device} with {len(inputs)} samples at "
            "once: choose a smaller batch"
        ) from error
    except Exception as error:  # a layer's complaint may be of any kind
        raise TeacherError(
            f"{teacher.spec} failed on an input of shape {tuple(inputs.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    expected = (len(inputs), teacher.dim)
    given = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if given != expected:
        raise TeacherError(f"expected features {expected} from {teacher.spec}, got {given}")
    return features.float().cpu()  # type: ignore[no-any-return]


class _Failure(NamedTuple):
    """An error on its way out of a reading process, without that process's stack trace."""

    kind: type[AftError]
    text: str


class _Inputs(Dataset["Tensor | _Failure"]):
    """The prepared inputs of the samples at ``rows``."""

    def __init__(self, samples: Samples, preprocess: Transform, rows: Positions) -> None:
        self.samples = samples
        self.preprocess = preprocess
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor | _Failure:
        row = int(self.rows[index])
        try:
            prepared: Any = self.preprocess(self.samples.input(row))
            if isinstance(prepared, Tensor):
                return prepared
            problem = (
                f"expected its preprocessing to return a tensor, got {type(prepared).__name__}"
            )
        except AftError as error:
            return _Failure(type(error), str(error))
        except Exception as error:  # whatever a decoder or a user's function raises
            problem = f"its preprocessing failed: {type(error).__name__}: {error}"
        return _Failure(TeacherError, f"{self.samples.files[row]}: {problem}")


def _collate(inputs: list[Tensor | _Failure]) -> Tensor | _Failure:
    tensors = []
    for prepared in inputs:
        if isinstance(prepared, _Failure):
            return prepared
        tensors.append(prepared)
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        problem = "expected a teacher's preprocessing to return tensors of one shape, got "
        return _Failure(TeacherError, problem + " and ".join(map(str, sorted(shapes))))
    return torch.stack(tensors)


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


def extract_teachers(
    config: FeatureOptions,
    samples: Samples,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> list[FeatureStore]:
    """One store a teacher of the options, each holding every sample."""
    stores = []
    for spec in config.teachers:
        stores.append(
            extract_features(
                load_teacher(spec),
                samples,
                features_folder(config.features),
                dtype=config.features_dtype,
                batch_size=config.extract_batch_size,
                num_workers=config.num_workers,
                device=device,
                progress=config.progress,
                rank=rank,
                world_size=world_size,
            )
        )
    return stores


def extract(config: ExtractConfig | None = None, /, **options: Any) -> list[dict[str, Any]]:
    """Compute features; options are those of :class:`aft.config.ExtractConfig`.

    Returns:
        For each teacher its spec, the samples asked for, width, rows and bytes of its store, and
        the store's folder.

    Raises:
        AftError: Whatever in options, data or teachers is wrong, in a sentence.
    """
    config = resolve(ExtractConfig, config, options)
    if not config.teachers:
        raise ConfigError("extract needs --teachers, e.g. --teachers timm:tf_efficientnet_lite0")
    device = choose_device(config.device)
    samples, report = load_inputs(
        config.data,
        Columns(config.image_column, split=config.split_column),
        on_bad_input=config.on_bad_input,
        progress=config.progress,
    )
    for line in report.lines():
        print(line, file=sys.stderr)
    splits = np.asarray(samples.rows["split"][:], dtype=str)
    chosen = np.flatnonzero(np.isin(splits, ["", *config.splits]))
    if not len(chosen):
        raise DataError(f"{config.data} has no rows in {', '.join(config.splits)}")
    samples = samples.subset(chosen)
    stores = extract_teachers(config, samples, device)
    return [
        {
            "teacher": spec,
            "samples": len(samples),
            "dim": store.dim,
            "rows in store": len(store),
            "bytes": store.summary().bytes,
            "folder": str(store.path),
        }
        for spec, store in zip(config.teachers, stores, strict=True)
    ]
