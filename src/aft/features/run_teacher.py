"""Run a teacher over samples batch by batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from aft.backbones.batches import PADDING, collate, to_device
from aft.backbones.checks import FAULTS
from aft.backbones.preprocessing import ImageTransform
from aft.backbones.tokenization import Tokenization
from aft.data.samples import Samples
from aft.devices import choose_num_workers
from aft.errors import AftError, TeacherError
from aft.teachers.feature_table import FeatureTable
from aft.teachers.teacher import Teacher

Precision = Literal["fp32", "bf16", "fp16"]
Positions = NDArray[np.int64]

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_TABLE_ROWS = 4096
_WINDOW_TEXTS = 4096
_WINDOW_CHARACTERS = 2**24
_FEWEST_TOKENS = 16  # smaller matrix products are rounded differently
_EXACT_LENGTH = 32  # shorter texts are not padded
_T = TypeVar("_T")


@dataclass(frozen=True)
class Compute:
    """Settings for running a teacher.

    Attributes:
        batch_size: Number of images per batch.
        batch_tokens: Number of text tokens per batch.
        num_workers: Number of data-loading processes; chosen by measurement if None.
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
    return ((part, values) for part, (values,) in _run_over_inputs([teacher], samples, rows, how))


def compute_together(
    teachers: Sequence[Teacher | FeatureTable],
    samples: Samples,
    rows: Positions,
    how: Compute,
    compute: RunTeacher = compute_features,
) -> Iterator[tuple[Positions, list[Tensor]]]:
    """Like :func:`compute_features` for several teachers, with their features in a list.

    Each input is read once. Several teachers must have an :class:`ImageTransform` each; `compute`
    runs a single one.
    """
    if len(teachers) > 1:
        return _run_over_inputs(teachers, samples, rows, how)  # type: ignore[arg-type]
    return ((part, [values]) for part, values in compute(teachers[0], samples, rows, how))


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
    module = teacher.place(how.device)
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
    teachers: Sequence[Teacher], samples: Samples, rows: Positions, how: Compute
) -> Iterator[tuple[Positions, list[Tensor]]]:
    modules = [teacher.place(how.device) for teacher in teachers]
    parts = [rows[i : i + how.batch_size] for i in range(0, len(rows), how.batch_size)]
    prepared = _Prepared(samples, [teacher.preprocess for teacher in teachers], parts)

    def run(batches: list[Tensor]) -> list[Tensor]:
        found = []
        for teacher, module, batch in zip(teachers, modules, batches, strict=True):
            number, lacking = len(batch), how.batch_size - len(batch)
            if lacking:
                batch = torch.cat([batch, batch[-1:].expand(lacking, *batch.shape[1:])])
            found.append(_forward(teacher, module, batch, how)[:number])
        return found

    workers = how.num_workers
    if workers is None:
        workers = choose_num_workers(how.device, len(parts), lambda: prepared[0], run)
    pinned = how.device.type == "cuda"
    loader = DataLoader(prepared, batch_size=None, num_workers=workers, pin_memory=pinned)
    for part, batches in zip(parts, loader if workers else _one_ahead(loader), strict=True):
        yield part, run(batches)


def _one_ahead(batches: Iterable[_T]) -> Iterator[_T]:
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


class _Prepared(Dataset[list[Tensor]]):
    """For each part, a batch of preprocessed inputs for every teacher."""

    def __init__(
        self, samples: Samples, preprocess: Sequence[Any], parts: Sequence[Positions]
    ) -> None:
        self.samples = samples
        self.preprocess = preprocess
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> list[Tensor]:
        rows = zip(*(self._prepare(int(row)) for row in self.parts[index]), strict=True)
        return [_collate(how, made) for how, made in zip(self.preprocess, rows, strict=True)]

    def _prepare(self, row: int) -> list[Any]:
        """What each teacher needs of an input; images are normalized together, see `_collate`."""
        try:
            value: Any = self.samples.input(row)
            if isinstance(self.preprocess[0], ImageTransform):
                return [how.keep(value) for how in self.preprocess]
            prepared = self.preprocess[0](value)
            if isinstance(prepared, Tensor):
                return [prepared]
            problem = f"expected preprocessing to return a tensor, got {type(prepared).__name__}"
        except AftError:
            raise
        except Exception as error:  # decoders and user code may raise anything
            problem = f"preprocessing failed: {type(error).__name__}: {error}"
        raise TeacherError(f"{self.samples.files[row]}: {problem}")


def _collate(preprocess: Any, tensors: Sequence[Any]) -> Tensor:
    if isinstance(preprocess, ImageTransform):
        return preprocess.finish(tensors)
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1 and tensors[0].is_floating_point():
        problem = "expected preprocessing to return tensors of equal shape, got "
        raise TeacherError(problem + " and ".join(map(str, sorted(shapes))))
    return collate(tensors)  # type: ignore[return-value]
