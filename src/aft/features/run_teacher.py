"""Run a teacher over samples: batches of inputs in, batches of features out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from aft.backbones.batches import PADDING, Inputs, collate, to_device
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
_FEW = 512  # samples that are done before reading processes would have started
_TABLE_ROWS = 4096
_WINDOW_TEXTS = 4096
_WINDOW_CHARACTERS = 2**24
_FEWEST_TOKENS = 16  # products of smaller matrices are rounded in other ways
_EXACT_LENGTH = 32  # shorter texts are never filled up


@dataclass(frozen=True)
class Compute:
    """How a teacher is run.

    Attributes:
        batch_size: Images at once.
        batch_tokens: Tokens of text at once.
        num_workers: Processes that read inputs; chosen by size and machine if None.
        device: Where the teacher runs.
        precision: Arithmetic of the teacher; other than ``fp32`` under autocast.
    """

    batch_size: int = 64
    batch_tokens: int = 1024
    num_workers: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "fp32"


def compute_features(
    teacher: Teacher | FeatureTable, samples: Samples, rows: Positions, how: Compute
) -> Iterator[tuple[Positions, Tensor]]:
    """The features of the samples at ``rows``, batch by batch.

    What a sample's features are should not depend on the others, not even in the last bit. So a
    batch of images is filled up where samples are lacking, and the length that a text is padded to
    follows from its own length alone.

    Yields:
        Positions ``(n,)``, each of ``rows`` once but in any order, and their features ``(n, dim)``,
        float32 on the CPU.

    Raises:
        TeacherError: If an input cannot be prepared, or features have the wrong shape.
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
    """Texts of about one length go together, so that next to nothing is spent on padding.

    How many they are does not matter to a row, as it does in convolutions, unless they are very
    few; its length does.
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
    """A length that texts of similar lengths share: sixteen from each power of two to the next."""
    if length <= _EXACT_LENGTH:
        return length
    step = 1 << (length.bit_length() - 5)
    return min(most, -(-length // step) * step)


def _windows(samples: Samples, rows: Positions) -> Iterator[list[tuple[int, Any]]]:
    """Positions and texts, a few thousand at a time, fewer where they are very long."""
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
    loader = DataLoader(
        _Prepared(samples, preprocess, rows),
        how.batch_size,
        num_workers=0 if few else choose_num_workers(how.num_workers, how.device),
        collate_fn=_collate,
        pin_memory=how.device.type == "cuda",
    )
    module = teacher.module.eval().to(how.device)
    start = 0
    for batch in loader:
        part = rows[start : start + how.batch_size]
        start += how.batch_size
        if isinstance(batch, _Failure):
            raise batch.kind(batch.text)
        lacking = how.batch_size - len(batch)
        if lacking:
            batch = torch.cat([batch, batch[-1:].expand(lacking, *batch.shape[1:])])
        yield part, _forward(teacher, module, batch, how)[: len(part)]


@torch.inference_mode()
def _forward(teacher: Teacher, module: nn.Module, inputs: Tensor, how: Compute) -> Tensor:
    inputs = to_device(inputs, how.device)
    dtype = _AUTOCAST[how.precision]
    try:
        with torch.autocast(how.device.type, dtype) if dtype else nullcontext():
            features = module(inputs)
    except torch.cuda.OutOfMemoryError as error:
        raise TeacherError(
            f"{teacher.spec} does not fit the memory of {how.device} with inputs of shape "
            f"{tuple(inputs.shape)}: choose a smaller --extract-batch-"
            f"{'tokens' if teacher.modality == 'text' else 'size'}"
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


class _Prepared(Dataset["Tensor | _Failure"]):
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


def _collate(inputs: list[Tensor | _Failure]) -> Inputs | _Failure:
    tensors = []
    for prepared in inputs:
        if isinstance(prepared, _Failure):
            return prepared
        tensors.append(prepared)
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1 and tensors[0].is_floating_point():
        problem = "expected a teacher's preprocessing to return tensors of one shape, got "
        return _Failure(TeacherError, problem + " and ".join(map(str, sorted(shapes))))
    return collate(tensors)
