"""Input checks of the losses, and their error messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from operator import index
from typing import get_args

import torch
from torch import Tensor, nn

from aft import functional as AF
from aft.errors import InputError
from aft.losses.distributed import gather_rows

_LAG = 2
"""Number of the latest checks on a GPU that are not read yet."""
_unread: deque[tuple[Tensor, torch.cuda.Event, Callable[[], InputError]]] = deque()


def check_choice(name: str, value: str, choices: object) -> None:
    """Raise InputError unless ``value`` is one of the strings of ``choices``, a ``Literal``."""
    if value not in get_args(choices):
        allowed = ", ".join(map(repr, get_args(choices)))
        raise InputError(f"Expected `{name}` to be one of {allowed}, but got {value!r}.")


def check_count(name: str, value: int) -> int:
    """Return the argument ``name`` as an ``int``.

    Raises:
        InputError: If it is not a positive integer.
    """
    try:
        count = index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise InputError(f"Expected `{name}` to be a positive integer, but got {value!r}.")
    return count


def check_teacher_dims(teacher_dims: Sequence[int]) -> tuple[int, ...]:
    """Return the widths of the teachers' features as a tuple.

    Raises:
        InputError: If they are not one or more positive integers.
    """
    try:
        dims = tuple(index(dim) for dim in teacher_dims)
    except TypeError:
        dims = ()
    if not dims or min(dims) < 1:
        raise InputError(
            "Expected `teacher_dims` to be a list with the feature width of each teacher, for "
            f"example [1280], but got {teacher_dims!r}."
        )
    return dims


def gather_batch(
    student_features: Tensor,
    teacher_features: Tensor | Sequence[Tensor],
    teacher_dims: Sequence[int],
    student_dim: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Check the batch and gather it from all processes: ``(B, S)``, ``(B, sum of teacher_dims)``.

    Both tensors are float32, or float64 if ``student_features`` are.

    Raises:
        InputError: If types or shapes do not match ``teacher_dims`` and ``student_dim``.
    """
    student = AF.full_precision(check_student_features(student_features, student_dim))
    teacher = join_teachers(teacher_features, teacher_dims, len(student))
    student, teacher = gather_rows(student, teacher.to(student.dtype))
    return student, teacher


def check_student_features(features: Tensor, student_dim: int | None = None) -> Tensor:
    """Return the student's features unchanged.

    Raises:
        InputError: If they are not a floating-point tensor of shape ``(B, S)``, with ``S`` equal
            to ``student_dim`` if it is given.
    """
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
        raise InputError(
            "Expected `student_features` to be a floating-point tensor of shape (batch, dim), the "
            "pooled input of the student's last linear layer, but got "
            f"{describe(features)}."
        )
    if student_dim is not None and features.shape[1] != student_dim:
        raise InputError(
            f"Expected `student_features` to have shape (batch, {student_dim}), as `student_dim` "
            f"is {student_dim}, but got {describe(features)}."
        )
    return features


def infer_teacher_dims(features: Tensor | Sequence[Tensor]) -> tuple[int, ...]:
    """Widths of the teachers' features, for losses that accept any; one width for a single tensor.

    Raises:
        InputError: If they are not one or more tensors of shape ``(B, D_t)`` with ``D_t > 0``.
    """
    parts = [features] if isinstance(features, Tensor) else list(features)
    for part in parts:
        if not isinstance(part, Tensor) or part.ndim != 2 or not part.shape[1]:
            raise InputError(
                "Expected `teacher_features` to be a tensor of shape (batch, dim), or one such "
                f"tensor per teacher, but got {describe(part)}."
            )
    if not parts:
        raise InputError("Expected `teacher_features` of at least one teacher, but got none.")
    return tuple(part.shape[1] for part in parts)


def join_teachers(
    features: Tensor | Sequence[Tensor], teacher_dims: Sequence[int], rows: int | None = None
) -> Tensor:
    """Concatenate the features of all teachers: ``(B, sum of teacher_dims)``.

    Args:
        features: The concatenated tensor, or one ``(B, teacher_dims[t])`` tensor per teacher.
        teacher_dims: Feature width of each teacher.
        rows: B, if known.

    Raises:
        InputError: If the number of tensors or a shape does not match; the message names the
            teacher.
    """
    if isinstance(features, Tensor):
        wanted = " + ".join(map(str, teacher_dims))
        parts = {f"`teacher_features` ({wanted} = {sum(teacher_dims)} wide)": features}
        widths: Sequence[int] = [sum(teacher_dims)]
    elif len(features) != len(teacher_dims):
        raise InputError(
            f"Expected `teacher_features` to be one tensor or {len(teacher_dims)} tensors, one per "
            f"teacher, but got {len(features)}."
        )
    else:
        parts = {f"`teacher_features[{t}]`": part for t, part in enumerate(features)}
        widths = teacher_dims
    for (name, part), width in zip(parts.items(), widths, strict=True):
        if not isinstance(part, Tensor) or not part.is_floating_point():
            raise InputError(
                f"Expected {name} to be a floating-point tensor, but got {describe(part)}."
            )
        if rows is None:
            rows = len(part)
        if part.shape != (rows, width):
            raise InputError(
                f"Expected {name} to have shape ({rows}, {width}), but got {describe(part)}. Rows "
                "are samples of the batch and columns are features; `teacher_dims` is "
                f"{list(teacher_dims)}."
            )
    joined = list(parts.values())
    return joined[0] if len(joined) == 1 else torch.cat(joined, dim=1)


def check_batch(rows: int, compares: bool = True) -> None:
    """Raise InputError if a batch is empty, or has 1 row in a loss that compares samples."""
    if not compares and rows < 1:
        raise InputError("Expected at least 1 row in a batch, but got 0.")
    if compares and rows < 2:
        raise InputError(
            f"Expected at least 2 rows in a batch, but got {rows}: the loss compares samples with "
            "each other. Use a larger batch size, or DataLoader(..., drop_last=True) if only the "
            "last batch is too small."
        )


def check_finite(
    value: Tensor,
    student: Tensor,
    teacher: Tensor,
    teacher_dims: Sequence[int],
    loss_fn: nn.Module,
    name: str = "student_features",
) -> None:
    """Raise the error of :func:`explain_non_finite` if a loss is NaN or infinite.

    On a GPU, reading a value would wait for all work before it, so it is read two calls later, or
    by :func:`read_checks`.

    Args:
        value: The loss, or a bool tensor of whether it is finite; a scalar.
        student: As in :func:`explain_non_finite`, and so are the others.
        teacher: Kept without its graph.
        teacher_dims: Feature width of each teacher.
        loss_fn: The loss.
        name: The argument that ``student`` is.
    """
    finite = value if value.dtype == torch.bool else value.isfinite()
    why = partial(
        explain_non_finite, student.detach(), teacher.detach(), teacher_dims, loss_fn, name
    )
    if finite.is_cuda:
        flag, event = finite.to("cpu", non_blocking=True), torch.cuda.Event()
        event.record()
        _unread.append((flag, event, why))
        read_checks(_LAG)
    elif not finite.is_meta and not finite:
        raise why()


def read_checks(left: int = 0) -> None:
    """Read the results of :func:`check_finite` on a GPU, but not those of the last calls.

    Args:
        left: Number of calls to leave unread.

    Raises:
        InputError: Of the first call whose loss was NaN or infinite.
    """
    while len(_unread) > left:
        flag, event, explain = _unread.popleft()
        event.synchronize()
        if not flag:
            _unread.clear()
            raise explain()


def explain_non_finite(
    student_features: Tensor,
    teacher_features: Tensor,
    teacher_dims: Sequence[int],
    loss_fn: nn.Module,
    name: str = "student_features",
) -> InputError:
    """Build the error for a loss that is NaN or infinite: which argument caused it, and why.

    Losses check only their scalar result in every step, with :func:`check_finite`; this function
    runs only on failure.
    """
    for t, part in enumerate(teacher_features.split(list(teacher_dims), dim=1)):
        if bad := _bad_rows(part):
            return InputError(
                f"Expected finite `teacher_features`, but teacher {t} (of width {teacher_dims[t]}) "
                f"has NaN or infinity in {bad} of {len(part)} rows. Extract its features again "
                "(in fp32 or bf16 if they overflow fp16) or remove these samples."
            )
    if bad := _bad_rows(student_features):
        return InputError(
            f"Expected finite `{name}`, but {bad} of {len(student_features)} rows contain NaN or "
            "infinity: training has diverged. Lower the student's learning rate, "
            "clip its gradients, or check its inputs."
        )
    for own, values in loss_fn.state_dict().items():
        if not values.isfinite().all():
            return InputError(
                f"Expected `{own}` of the loss to be finite, but it contains NaN or infinity: "
                "training has diverged. Lower the learning rate of the loss parameters."
            )
    largest = {
        name: float(student_features.abs().max()),
        "teacher_features": float(teacher_features.abs().max()),
    }
    name = max(largest, key=lambda key: largest[key])
    return InputError(
        f"The loss overflows {student_features.dtype}: `{name}` contains values up to "
        f"{largest[name]:.2g}. Scale the features down."
    )


def describe(value: object) -> str:
    """Describe a value in an error message: type and shape of a tensor, else the Python type."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return type(value).__name__


def _bad_rows(features: Tensor) -> int:
    return int((~features.isfinite()).any(dim=1).sum())
