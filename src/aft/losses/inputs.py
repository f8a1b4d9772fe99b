"""What the losses expect to be given, and what they say when it is something else."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

import torch
from torch import Tensor

from aft.errors import InputError


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


def check_student_features(features: Tensor) -> Tensor:
    """The student's features themselves.

    Raises:
        InputError: unless they are floating point of shape ``(B, S)``.
    """
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
        raise InputError(
            "Expected `student_features` to be a floating-point tensor of shape (batch, dim), what "
            f"enters the student's last linear layer after pooling, but got {describe(features)}."
        )
    return features


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


def check_batch(rows: int) -> None:
    """Raises InputError if a batch is too small to compare samples in."""
    if rows < 2:
        raise InputError(
            f"Expected at least 2 rows in a batch, but got {rows}: the loss compares samples with "
            "each other. Use a larger batch, or DataLoader(..., drop_last=True) if it is the last."
        )


def explain_non_finite(
    student_features: Tensor,
    teacher_features: Tensor,
    teacher_dims: Sequence[int],
    feature_weights: Tensor,
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
    if not feature_weights.isfinite().all():
        return InputError(
            "Expected finite gates, but `feature_weights` holds NaN or infinity: training has "
            "diverged. Lower the learning rate of the loss's parameters."
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
