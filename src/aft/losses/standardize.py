"""Standardization of the teachers' features to mean 0 and standard deviation 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from aft import functional as AF
from aft.errors import InputError
from aft.losses.checks import check_choice, check_teacher_dims, describe

Normalize = Literal["standardize", "none"]


class Standardize(nn.Module):
    """Preprocess the teachers' features in a loss.

    Args:
        teacher_dims: Feature width of each teacher; None takes the widths of ``statistics``.
        normalize: ``standardize`` scales every dimension to mean 0 and standard deviation 1, so
            that teachers with large values do not dominate; ``none`` leaves the features as they
            are.
        statistics: One ``(mean, std)`` pair per teacher, each ``(D_t,)``, over the training set.
            Without it, each batch is standardized by its own mean and standard deviation.

    Attributes:
        teacher_dims: The given widths, those of ``statistics``, or None.
        feature_mean: ``(sum of teacher_dims,)``, or None without ``statistics``.
        feature_std: ``(sum of teacher_dims,)``, or None without ``statistics``. Mean and standard
            deviation are saved in the state dict.

    Raises:
        InputError: If ``normalize`` is invalid, or ``statistics`` do not match the teachers or are
            not finite.
    """

    feature_mean: Tensor | None
    feature_std: Tensor | None

    def __init__(
        self,
        teacher_dims: Sequence[int] | None,
        normalize: Normalize = "standardize",
        statistics: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        check_choice("normalize", normalize, Normalize)
        self.normalize = normalize
        self.teacher_dims = None if teacher_dims is None else check_teacher_dims(teacher_dims)
        self.register_buffer("feature_mean", None)
        self.register_buffer("feature_std", None)
        if statistics is not None:
            if self.teacher_dims is None:
                self.teacher_dims = tuple(mean.numel() for mean, _ in statistics)
            mean, std = join_statistics(statistics, self.teacher_dims, normalize)
            self.feature_mean, self.feature_std = mean.float(), std.float()

    @property
    def uses_batch(self) -> bool:
        """Whether the result for a row depends on the other rows of its batch."""
        return self.normalize == "standardize" and self.feature_mean is None

    def forward(self, teacher_features: Tensor) -> Tensor:
        """Preprocess the concatenated features ``(B, sum of teacher_dims)``; the shape is kept."""
        features = AF.full_precision(teacher_features)
        if self.normalize == "none":
            return features
        if self.feature_mean is None or self.feature_std is None:
            return AF.standardize(features)
        dtype = features.dtype
        return AF.standardize(features, self.feature_mean.to(dtype), self.feature_std.to(dtype))

    def extra_repr(self) -> str:
        """Options, for ``print(loss_fn)``."""
        return f"normalize={self.normalize!r}, statistics={self.feature_mean is not None}"


def join_statistics(
    statistics: Sequence[tuple[Tensor, Tensor]], teacher_dims: Sequence[int], normalize: Normalize
) -> tuple[Tensor, Tensor]:
    """Check the statistics and concatenate the means and the standard deviations.

    Raises:
        InputError: If the number of pairs or a shape does not match the teachers, values are not
            finite, or ``normalize`` is ``none``.
    """
    if normalize != "standardize":
        raise InputError(
            "Expected no `statistics` with normalize='none', which does not use them. Use "
            "normalize='standardize' or omit `statistics`."
        )
    if len(statistics) != len(teacher_dims):
        raise InputError(
            f"Expected `statistics` to contain {len(teacher_dims)} pairs (mean, std), one "
            f"per teacher, but got {len(statistics)}."
        )
    for t, (dim, pair) in enumerate(zip(teacher_dims, statistics, strict=True)):
        for name, values in zip(("mean", "std"), pair, strict=True):
            if values.shape != (dim,):
                raise InputError(
                    f"Expected the {name} in `statistics[{t}]` to have shape ({dim},), but got "
                    f"{describe(values)}."
                )
            if not values.isfinite().all() or (name == "std" and (values < 0).any()):
                wanted = " and at least 0" if name == "std" else ""
                raise InputError(
                    f"Expected the {name} in `statistics[{t}]` to be finite{wanted}. Check the "
                    "features of this teacher for NaN or infinity."
                )
    means, stds = zip(*statistics, strict=True)
    return torch.cat(means).detach(), torch.cat(stds).detach()
