"""Run a teacher over samples batch by batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from aft.backbones.batches import PADDING, Inputs, collate, to_device
from aft.backbones.checks import FAULTS
from aft.backbones.preprocessing import Transform
from aft.backbones.tokenization import Tokenization
from aft.data.samples import Samples
from aft.devices import choose_num_workers
from aft.errors import AftError, TeacherError
from aft.teachers.feature_table import FeatureTable
from aft.teachers.teacher import Teacher

Precision = Literal["fp32", "bf16", "fp16"]
Positions = NDArray[np.int64]

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_FEW = 512  # for fewer samples, starting worker processes takes longer than it saves
_TABLE_ROWS = 4096
_WINDOW_TEXTS = 4096
_WINDOW_CHARACTERS = 2**24
_FEWEST_TOKENS = 16  # smaller matrix products are rounded differently
_EXACT_LENGTH = 32  # shorter texts are not padded


@dataclass(frozen=True)
class Compute:
    """Settings for running a teacher.

    Attributes:
        batch_size: Number of images per batch.
        batch_tokens: Number of text tokens per batch.
        num_workers: Number of data-loading processes; chosen automatically if None.
        device: Device of the teacher.
        precision: Precision of the teacher's computation; other than ``fp32`` with autocast.
    """

    batch_size: int = 64
    batch_tokens: int = 1024
    num_workers: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "fp32"


RunTeacher = Callable[..., Iterator[tuple[Positions, Tensor]]]
"""The type of :func:`compute_features`."""


def compute_features(
    teacher: Teacher | FeatureTable, samples: Samples, rows: Positions, how: Compute
) -> Iterator[tuple[Positions, Tensor]]:
    """Compute the features of the samples at ``rows``, batch by batch.

    The features of a sample do not depend on the other samples, bit for bit. Therefore incomplete
    image batches are filled up to ``batch_size``, and the padded length of a text depends only on
    its own length.

    Yields:
        Positions ``(n,)`` and their features ``(n, dim)``, float32 on the CPU. Each position in
        ``rows`` occurs once, in any order.

    Raises:
        TeacherError: If an input cannot be preprocessed, or features have the wrong shape.
    """
    if isinstance(teacher, FeatureTable):
        return _look_up(teacher, samples, rows)
    if isinstance(teacher.preprocess, Tokenization):
        return _run_over_texts(teacher, teacher.preprocess, samples, rows, how)
    return _run_over_inputs(teacher, teacher.preprocess, samples, rows, how)


def _look_up(
    table: FeatureTable, samples: Samples, rows: Positions
) -> Iterator[tuple[Positions, Tensor]]:
    names = samples.files
    for start in range(0, len(rows), _TABLE_ROWS):
        part = rows[start : start + _TABLE_ROWS]
        values = table.rows(samples.ids[part], [names[int(row)] for row in part])
        yield part, torch.from_numpy(np.asarray(values, np.float32))


# ------------------------------------------------------------------------------------------ texts


def _run_over_texts(
    teacher: Teacher, tokenization: Tokenization, samples: Samples, rows: Positions, how: Compute
) -> Iterator[tuple[Positions, Tensor]]:
    """Batch texts of similar length together, which minimises padding.

    Unlike for convolutions, the batch size does not change the features of a row unless it is
    very small; the padded length does.
    """
    module = teacher.module.eval().to(how.device)
    waiting: dict[tuple[int, ...], list[tuple[int, NDArray[Any]]]] = defaultdict(list)

    def run(shape: tuple[int, ...]) -> tuple[Positions, Tensor]:
        batch = waiting.pop(shape)
        positions = np.asarray([position for position, _ in batch], dtype=np.int64)
        fewest = -(-_FEWEST_TOKENS // max(1, shape[-1]))
        tokens = np.full((max(len(batch), fewest), *shape), PADDING, dtype=np.int64)
        for row, (_, one) in zip(tokens, batch, strict=False):
            row[..., : one.shape[-1]] = one
        tokens[len(batch) :] = tokens[len(batch) - 1]
        features = _forward(teacher, module, torch.from_numpy(tokens), how)
        return positions, features[: len(batch)]

    for window in _windows(samples, rows):
        encoded = tokenization.encode_batch([text for _, text in window])
        for (position, _), tokens in zip(window, encoded, strict=True):
            length = _rounded(tokens.shape[-1], tokenization.max_tokens)
            shape = (*tokens.shape[:-1], length)
            waiting[shape].append((position, tokens))
            if len(waiting[shape]) == max(1, how.batch_tokens // max(1, length)):
                yield run(shape)
    for shape in sorted(waiting):
        yield run(shape)


def _rounded(length: int, most: int) -> int:
    """Round a length up so that similar lengths share it: 16 steps per power of two."""
    if length <= _EXACT_LENGTH:
        return length
    step = 1 << (length.bit_length() - 5)
    return min(most, -(-length // step) * step)


def _windows(samples: Samples, rows: Positions) -> Iterator[list[tuple[int, Any]]]:
    """Positions and texts in chunks of a few thousand, fewer for very long texts."""
    window: list[tuple[int, Any]] = []
    characters = 0
    for row in rows:
        text = samples.input(int(row))
        parts = text.values() if isinstance(text, dict) else (text,)
        characters += sum(len(part) for part in parts if isinstance(part, str))
        window.append((int(row), text))
        if len(window) == _WINDOW_TEXTS or characters > _WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


# ----------------------------------------------------------------------------------- other inputs


def _run_over_inputs(
    teacher: Teacher, preprocess: Transform, samples: Samples, rows: Positions, how: Compute
) -> Iterator[tuple[Positions, Tensor]]:
    few = len(rows) < _FEW and how.num_workers is None
    workers = 0 if few else choose_num_workers(how.num_workers, how.device)
    loader = DataLoader(
        _Prepared(samples, preprocess, rows),
        how.batch_size,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=how.device.type == "cuda",
    )
    module = teacher.module.eval().to(how.device)
    start = 0
    for batch in loader if workers else _one_ahead(loader):
        part = rows[start : start + how.batch_size]
        start += how.batch_size
        lacking = how.batch_size - len(batch)
        if lacking:
            batch = torch.cat([batch, batch[-1:].expand(lacking, *batch.shape[1:])])
        yield part, _forward(teacher, module, batch, how)[: len(part)]


def _one_ahead(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches; a thread prepares the next one while the network runs on this one."""
    waiting = iter(batches)
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, waiting, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, waiting, None)
            yield batch


@torch.inference_mode()
def _forward(teacher: Teacher, module: nn.Module, inputs: Tensor, how: Compute) -> Tensor:
    inputs = to_device(inputs, how.device)
    dtype = _AUTOCAST[how.precision]
    try:
        with torch.autocast(how.device.type, dtype) if dtype else nullcontext():
            features = module(inputs)
    except torch.cuda.OutOfMemoryError as error:
        raise TeacherError(
            f"{teacher.spec} ran out of memory on {how.device} with inputs of shape "
            f"{tuple(inputs.shape)}: use a smaller --extract-batch-"
            f"{'tokens' if teacher.modality == 'text' else 'size'}"
        ) from error
    except FAULTS as error:
        raise TeacherError(
            f"{teacher.spec} failed on an input of shape {tuple(inputs.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    expected = (len(inputs), teacher.dim)
    given = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if given != expected:
        raise TeacherError(f"expected features {expected} from {teacher.spec}, got {given}")
    return features.float().cpu()  # type: ignore[no-any-return]


class _Prepared(Dataset[Tensor]):
    """The preprocessed inputs of the samples at ``rows``."""

    def __init__(self, samples: Samples, preprocess: Transform, rows: Positions) -> None:
        self.samples = samples
        self.preprocess = preprocess
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        row = int(self.rows[index])
        try:
            prepared: Any = self.preprocess(self.samples.input(row))
            if isinstance(prepared, Tensor):
                return prepared
            problem = f"expected preprocessing to return a tensor, got {type(prepared).__name__}"
        except AftError:
            raise
        except Exception as error:  # decoders and user code may raise anything
            problem = f"preprocessing failed: {type(error).__name__}: {error}"
        raise TeacherError(f"{self.samples.files[row]}: {problem}")


def _collate(tensors: list[Tensor]) -> Inputs:
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1 and tensors[0].is_floating_point():
        problem = "expected preprocessing to return tensors of equal shape, got "
        raise TeacherError(problem + " and ".join(map(str, sorted(shapes))))
    return collate(tensors)
