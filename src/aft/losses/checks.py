"""What the losses expect to be given, and what they say when it is something else."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import get_args

import torch
from torch import Tensor, nn

from aft import functional as AF
from aft.errors import InputError
from aft.losses.distributed import gather_rows


def check_choice(name: str, value: str, choices: object) -> None:
    """Raises InputError unless ``value`` is one of the strings of ``choices``, a ``Literal``."""
    if value not in get_args(choices):
        allowed = ", ".join(map(repr, get_args(choices)))
        raise InputError(f"Expected `{name}` to be one of {allowed}, but got {value!r}.")


def check_count(name: str, value: int) -> int:
    """The argument ``name`` as an ``int``.

    Raises:
        InputError: unless it is a positive integer.
    """
    try:
        count = index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise InputError(f"Expected `{name}` to be a positive integer, but got {value!r}.")
    return count


def check_teacher_dims(teacher_dims: Sequence[int]) -> tuple[int, ...]:
    """The teachers' widths as a tuple.

    Raises:
        InputError: unless they are one or more positive integers.
    """
    try:
        dims = tuple(index(dim) for dim in teacher_dims)
    except TypeError:
        dims = ()
    if not dims or min(dims) < 1:
        raise InputError(
            "Expected `teacher_dims` to be a list with the feature width of each teacher, such as "
            f"[1280], but got {teacher_dims!r}."
        )
    return dims


def gather_batch(
    student_features: Tensor,
    teacher_features: Tensor | Sequence[Tensor],
    teacher_dims: Sequence[int],
    student_dim: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The batch of all processes, checked: ``(B, S)`` and ``(B, sum of teacher_dims)``.

    Both are in float32, or in float64 where ``student_features`` are.

    Raises:
        InputError: if types or shapes do not fit ``teacher_dims`` and ``student_dim``.
    """
    student = AF.full_precision(check_student_features(student_features, student_dim))
    teacher = join_teachers(teacher_features, teacher_dims, len(student))
    student, teacher = gather_rows(student, teacher.to(student.dtype))
    return student, teacher


def check_student_features(features: Tensor, student_dim: int | None = None) -> Tensor:
    """The student's features themselves.

    Raises:
        InputError: unless they are floating point of shape ``(B, S)``, S being ``student_dim``
            where that is given.
    """
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
        raise InputError(
            "Expected `student_features` to be a floating-point tensor of shape (batch, dim), what "
            f"enters the student's last linear layer after pooling, but got {describe(features)}."
        )
    if student_dim is not None and features.shape[1] != student_dim:
        raise InputError(
            f"Expected `student_features` to have shape (batch, {student_dim}), `student_dim` "
            f"being {student_dim}, but got {describe(features)}."
        )
    return features


def infer_teacher_dims(features: Tensor | Sequence[Tensor]) -> tuple[int, ...]:
    """The widths of the teachers' features, for losses that take any; one for a single tensor.

    Raises:
        InputError: unless they are one or more tensors of shape ``(B, D_t)``, with columns.
    """
    parts = [features] if isinstance(features, Tensor) else list(features)
    for part in parts:
        if not isinstance(part, Tensor) or part.ndim != 2 or not part.shape[1]:
            raise InputError(
                "Expected `teacher_features` to be one tensor of shape (batch, dim), or one per "
                f"teacher, but got {describe(part)}."
            )
    if not parts:
        raise InputError("Expected the features of at least one teacher, but got none.")
    return tuple(part.shape[1] for part in parts)


def join_teachers(
    features: Tensor | Sequence[Tensor], teacher_dims: Sequence[int], rows: int | None = None
) -> Tensor:
    """All teachers' features side by side, ``(B, sum of teacher_dims)``.

    Args:
        features: that tensor already, or one ``(B, teacher_dims[t])`` tensor per teacher.
        teacher_dims: the feature width of each teacher.
        rows: B, where it is known.

    Raises:
        InputError: if the number of tensors or a shape differs, naming the teacher.
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
                "are the batch's samples, columns the teacher's features; `teacher_dims` is "
                f"{list(teacher_dims)}."
            )
    joined = list(parts.values())
    return joined[0] if len(joined) == 1 else torch.cat(joined, dim=1)


def check_batch(rows: int, compares: bool = True) -> None:
    """Raises InputError if a batch is empty, or too small to compare samples in."""
    if not compares and rows < 1:
        raise InputError("Expected at least 1 row in a batch, but got 0.")
    if compares and rows < 2:
        raise InputError(
            f"Expected at least 2 rows in a batch, but got {rows}: the loss compares samples with "
            "each other. Use a larger batch, or DataLoader(..., drop_last=True) if it is the last."
        )


def explain_non_finite(
    student_features: Tensor,
    teacher_features: Tensor,
    teacher_dims: Sequence[int],
    loss_fn: nn.Module,
) -> InputError:
    """The error to raise when the loss is NaN or infinite: which argument is at fault and why.

    Looking at the loss first keeps the check at one scalar a step; this runs only on failure.
    """
    for t, part in enumerate(teacher_features.split(list(teacher_dims), dim=1)):
        if bad := _bad_rows(part):
            return InputError(
                f"Expected finite `teacher_features`, but teacher {t} (of width {teacher_dims[t]}) "
                f"has NaN or infinity in {bad} of {len(part)} rows. Extract its features anew "
                "(in fp32 or bf16 if they overflow fp16) or leave those samples out."
            )
    if bad := _bad_rows(student_features):
        return InputError(
            f"Expected finite `student_features`, but {bad} of {len(student_features)} rows hold "
            "NaN or infinity: training has diverged. Lower the student's learning rate, clip its "
            "gradients, or check its inputs."
        )
    for name, values in loss_fn.state_dict().items():
        if not values.isfinite().all():
            return InputError(
                f"Expected the loss's `{name}` to be finite, but it holds NaN or infinity: "
                "training has diverged. Lower the learning rate of the loss's parameters."
            )
    largest = {
        "student_features": float(student_features.abs().max()),
        "teacher_features": float(teacher_features.abs().max()),
    }
    name = max(largest, key=lambda key: largest[key])
    return InputError(
        f"The loss overflows {student_features.dtype}: `{name}` holds values up to "
        f"{largest[name]:.2g}. Scale the features down."
    )


def describe(value: object) -> str:
    """A value in an error message: shape and type of a tensor, else the Python type."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return type(value).__name__


def _bad_rows(features: Tensor) -> int:
    return int((~features.isfinite()).any(dim=1).sum())
