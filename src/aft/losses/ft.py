"""Factor transfer: match a code of the teachers' features that an autoencoder found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aft import functional as AF
from aft.errors import InputError
from aft.losses.checks import (
    check_batch,
    check_count,
    describe,
    explain_non_finite,
    gather_batch,
    infer_teacher_dims,
)
from aft.losses.linear import Linear
from aft.losses.standardize import Normalize, Standardize


class Autoencoder(nn.Module):
    """Compresses the teachers' features, side by side, to a code; see :func:`fit_autoencoder`.

    Args:
        teacher_dim: Width of all teachers' features together.
        factor_dim: Width of the code.
        normalize: ``standardize`` or ``none``: what is done to the features first.
        statistics: One ``(mean, std)`` per teacher, each ``(D_t,)``, for
            ``normalize="standardize"``. Without them each batch is standardized by its own.

    Raises:
        InputError: If an argument is none of these.
    """

    def __init__(
        self,
        teacher_dim: int,
        factor_dim: int,
        *,
        normalize: Normalize = "standardize",
        statistics: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.teacher_dim = check_count("teacher_dim", teacher_dim)
        self.factor_dim = check_count("factor_dim", factor_dim)
        dims = [self.teacher_dim] if statistics is None else None
        self.standardize = Standardize(dims, normalize, statistics)
        if sum(self.standardize.teacher_dims or ()) != self.teacher_dim:
            raise InputError(
                f"Expected `statistics` to be {self.teacher_dim} wide in all, as `teacher_dim` "
                f"says, but got widths {list(self.standardize.teacher_dims or ())}."
            )
        # A hidden layer no wider than the code tends to get stuck at a poor one.
        hidden = 2 * self.factor_dim
        self.encoder = _two_layers(self.teacher_dim, hidden, self.factor_dim)
        self.decoder = _two_layers(self.factor_dim, hidden, self.teacher_dim)

    def forward(self, teacher_features: Tensor) -> Tensor:
        """The code of ``(B, teacher_dim)`` features, ``(B, factor_dim)``."""
        code: Tensor = self.encoder(self.standardize(teacher_features))
        return code

    def reconstruction_error(self, teacher_features: Tensor) -> Tensor:
        """Mean squared error of what the code tells about the (standardized) features, a scalar.

        With ``normalize="standardize"`` it is the part of their variance that the code loses.
        """
        features = self.standardize(teacher_features)
        return F.mse_loss(self.decoder(self.encoder(features)), features)


class FTLoss(nn.Module):
    """How far a map of the student's features is from a code of the teachers' features.

    An autoencoder, fitted beforehand, compresses the teachers' features to a code, their factors.
    Three learned layers map the student's features to as many numbers. Both are divided by their
    length, and the loss is the sum of absolute differences, averaged over samples.

    References:
        Kim et al., "Paraphrasing Complex Network: Network Compression via Factor Transfer",
        NeurIPS 2018, arXiv 1802.04977.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, student_dim)``: what enters the student's last linear layer
        teacher_features    the code, ``(B, factor_dim)``; with ``encoder`` the features that it
                            takes, in one tensor or one ``(B, D_t)`` tensor a teacher
        ==================  ==================================================================

        ``B`` is at least 1. Any floating-point type; all is computed in float32 (float64 where
        ``student_features`` are), under autocast too. Returns a scalar, between 0 and
        ``2 * sqrt(factor_dim)``.

        Within a ``torch.distributed`` process group the batch is that of all ranks together. So
        every rank has to call the loss equally often, and value and gradients (after
        DistributedDataParallel) are those of a single process with the whole batch.

    Relations:
        Like ``KDLoss`` it regresses what the teachers know, but only the main of it, and through a
        map that bends. It takes an autoencoder; ``AFTLoss`` needs no preparation.

    Args:
        student_dim: Width of the student's features.
        factor_dim: Width of the code.
        encoder: Computes the code from the teachers' features, as :func:`fit_autoencoder` returns.
            It is frozen, and saved with the loss. Without it the loss is given codes.

    Attributes:
        translator: The three layers. Train them with the student.

    Raises:
        InputError: If shapes do not fit the dimensions or the encoder, or the batch is empty, or
            features are NaN or infinite.

    Example::

        encoder = fit_autoencoder(teacher_features_of_the_training_set, factor_dim=256)
        loss_fn = FTLoss(student_dim=384, factor_dim=256, encoder=encoder)
        optimizer = torch.optim.AdamW(
            [*student.parameters(), *loss_fn.translator.parameters()], lr=1e-4
        )
        loss = F.cross_entropy(logits, labels) + beta * loss_fn(student_features, teacher_features)
    """

    def __init__(
        self, student_dim: int, factor_dim: int, *, encoder: Autoencoder | None = None
    ) -> None:
        super().__init__()
        self.student_dim = check_count("student_dim", student_dim)
        self.factor_dim = check_count("factor_dim", factor_dim)
        if encoder is not None and encoder.factor_dim != self.factor_dim:
            raise InputError(
                f"Expected an `encoder` with a code of `factor_dim` = {self.factor_dim} numbers, "
                f"but got one of {encoder.factor_dim}."
            )
        self.encoder = None if encoder is None else encoder.requires_grad_(False)
        self.translator = nn.Sequential(
            Linear(self.student_dim, self.student_dim),
            nn.ReLU(),
            Linear(self.student_dim, self.factor_dim),
            nn.ReLU(),
            Linear(self.factor_dim, self.factor_dim),
        )

    def forward(
        self, student_features: Tensor, teacher_features: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """The loss of one batch, a scalar; see the class for shapes and errors."""
        dims = infer_teacher_dims(teacher_features)
        width = self.factor_dim if self.encoder is None else self.encoder.teacher_dim
        if sum(dims) != width:
            what = "codes" if self.encoder is None else "features that `encoder` takes, together"
            raise InputError(
                f"Expected `teacher_features` to be {what} {width} wide, but got widths "
                f"{list(dims)}. See `fit_autoencoder` for how codes are made."
            )
        student, teacher = gather_batch(student_features, teacher_features, dims, self.student_dim)
        check_batch(len(student), compares=False)
        code = AF.normalize_rows(teacher if self.encoder is None else self.encoder(teacher))
        translated = AF.normalize_rows(self.translator(student))
        loss = (translated - code).abs().sum(dim=1).mean()
        # ReLU makes -infinity 0, so the loss alone does not tell.
        if not (loss.isfinite() & student.isfinite().all() & teacher.isfinite().all()):
            raise explain_non_finite(student, teacher, dims, self)
        return loss

    def extra_repr(self) -> str:
        """The widths, for ``print(loss_fn)``."""
        return f"student_dim={self.student_dim}, factor_dim={self.factor_dim}"


def fit_autoencoder(
    features: Tensor | Iterable[Tensor],
    factor_dim: int,
    steps: int = 1000,
    seed: int = 0,
    *,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    normalize: Normalize = "standardize",
    statistics: Sequence[tuple[Tensor, Tensor]] | None = None,
) -> Autoencoder:
    """Fit the autoencoder of factor transfer to the teachers' features of the training set.

    Encoder and decoder have two linear layers each and are trained by Adam to give back the
    features. The same features and seed give the same autoencoder on the same machine, and torch's
    own random state is left as it was.

    Args:
        features: ``(N, D)``, the teachers side by side. Or batches ``(b, D)`` of them, for what
            does not fit in memory: a list, a DataLoader or the like that can be gone through
            again and again. Shuffle them; they are taken as they come.
        factor_dim: Width of the code.
        steps: Optimizer steps.
        seed: Of the first weights and, for a tensor, the choice of rows.
        batch_size: Rows a step, for a tensor.
        learning_rate: Of Adam.
        normalize: ``standardize`` brings every dimension of the features to mean 0 and deviation 1
            first; ``none`` leaves them as they are.
        statistics: One ``(mean, std)`` per teacher, each ``(D_t,)``, over the training set, for
            ``normalize="standardize"``. Without them they are computed first, from all features.

    Returns:
        The autoencoder on the features' device, frozen; called with features it gives their code.

    Raises:
        InputError: If there are no features, or a shape or argument is wrong, or features are NaN
            or infinite.
    """
    steps = check_count("steps", steps)
    batch_size = check_count("batch_size", batch_size)
    check_count("factor_dim", factor_dim)
    generator = torch.Generator().manual_seed(seed)
    whole = isinstance(features, Tensor)
    passes: Iterable[Tensor] = [features] if isinstance(features, Tensor) else features
    if normalize == "standardize" and statistics is None:
        statistics = [_mean_and_std(passes)]
    batches = _again_and_again(passes)
    first = next(batches)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # that of the CPU alone, where weights are drawn
        autoencoder = Autoencoder(
            first.shape[1], factor_dim, normalize=normalize, statistics=statistics
        ).to(first.device)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=learning_rate)
    batch = first
    for step in range(steps):
        if whole:
            rows = torch.randint(len(first), (min(batch_size, len(first)),), generator=generator)
            batch = first[rows.to(first.device)]
        elif step:
            batch = next(batches)
            if batch.shape[1] != first.shape[1]:
                raise InputError(
                    f"Expected all batches to be {first.shape[1]} wide, but got {describe(batch)}."
                )
        with torch.enable_grad():
            error = autoencoder.reconstruction_error(batch.detach())
        if not error.isfinite():
            raise explain_non_finite(batch, batch, [batch.shape[1]], autoencoder)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    return autoencoder.requires_grad_(False).eval()


def _two_layers(width_in: int, hidden: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(Linear(width_in, hidden), nn.LeakyReLU(0.1), Linear(hidden, width_out))


def _again_and_again(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    while True:
        yield from _with_rows(batches)


def _with_rows(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches that have rows, checked; at least one."""
    empty = True
    for batch in batches:
        if not isinstance(batch, Tensor) or batch.ndim != 2 or not batch.is_floating_point():
            raise InputError(
                "Expected `features` to be a floating-point tensor of shape (rows, dim) or "
                f"batches of them, but got {describe(batch)}."
            )
        if len(batch):
            empty = False
            yield batch
    if empty:
        raise InputError(
            "Expected `features` to have rows, but got none. If it is a generator, which is "
            "used up after one pass, give a list or DataLoader."
        )


def _mean_and_std(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Of every dimension over all batches, in one pass."""
    count = 0
    mean = squares = torch.zeros(1, dtype=torch.float64)
    for batch in _with_rows(batches):
        rows = batch.detach().cpu().double()
        own = rows.mean(dim=0)
        shift = own - mean
        # Chan et al. 1979: sums of squares about two means, joined about their common mean.
        squares = (
            squares
            + (rows - own).square().sum(dim=0)
            + shift.square() * (count * len(rows) / (count + len(rows)))
        )
        count += len(rows)
        mean = mean + shift * (len(rows) / count)
    return mean, (squares / count).sqrt()
