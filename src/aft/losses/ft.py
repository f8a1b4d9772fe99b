"""Factor transfer: match an autoencoder's code of the teachers' features."""

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
    check_finite,
    describe,
    gather_batch,
    infer_teacher_dims,
    read_checks,
)
from aft.losses.linear import Linear
from aft.losses.standardize import Normalize, Standardize


class Autoencoder(nn.Module):
    """Encodes the concatenated features of the teachers; see :func:`fit_autoencoder`.

    Args:
        teacher_dim: Width of the features of all teachers together.
        factor_dim: Width of the code.
        normalize: ``standardize`` or ``none``, applied to the features first.
        statistics: Mean and standard deviation for each teacher; see :mod:`aft.losses`.

    Raises:
        InputError: If an argument is invalid.
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
                f"Expected `statistics` with a total width of {self.teacher_dim}, the value of "
                f"`teacher_dim`, but got widths {list(self.standardize.teacher_dims or ())}."
            )
        # With a hidden layer as narrow as the code, training tends to reach a poor local minimum.
        hidden = 2 * self.factor_dim
        self.encoder = _two_layers(self.teacher_dim, hidden, self.factor_dim)
        self.decoder = _two_layers(self.factor_dim, hidden, self.teacher_dim)

    def forward(self, teacher_features: Tensor) -> Tensor:
        """Encode ``(B, teacher_dim)`` features as ``(B, factor_dim)``."""
        code: Tensor = self.encoder(self.standardize(teacher_features))
        return code

    def reconstruction_error(self, teacher_features: Tensor) -> Tensor:
        """Mean squared error of the reconstructed (standardized) features, a scalar.

        With ``normalize="standardize"`` it is the fraction of their variance that the code loses.
        """
        features = self.standardize(teacher_features)
        return F.mse_loss(self.decoder(self.encoder(features)), features)


class FTLoss(nn.Module):
    """L1 distance between the translated features of the student and a code of the teachers'.

    An autoencoder, fitted beforehand, encodes the teachers' features as a code, called factors.
    Three learned layers map the student's features to the same width. Both are divided by their L2
    norm, and the loss is the sum of absolute differences, averaged over samples.

    References:
        Kim et al., "Paraphrasing Complex Network: Network Compression via Factor Transfer",
        NeurIPS 2018, arXiv 1802.04977.

    Inputs:
        ==================  ==================================================================
        student_features    ``(B, student_dim)``: the input of the student's last linear layer
        teacher_features    the code, ``(B, factor_dim)``; with ``encoder`` its input features,
                            as one tensor or one ``(B, D_t)`` tensor per teacher
        ==================  ==================================================================

        ``B`` is at least 1. Returns a scalar between 0 and ``2 * sqrt(factor_dim)``. See
        :mod:`aft.losses` for precision and several processes.

    Relations:
        Like ``KDLoss`` it is a regression on the teachers' features, but only on a compressed
        code, and through a nonlinear map. It needs a fitted autoencoder; ``AFTLoss`` needs no
        preparation.

    Args:
        student_dim: Width of the student's features.
        factor_dim: Width of the code.
        encoder: Computes the code from the teachers' features, as returned by
            :func:`fit_autoencoder`. It is frozen and saved with the loss. Without it, pass codes
            to the loss.

    Attributes:
        translator: The three layers. Train them with the student.

    Raises:
        InputError: If shapes do not match the dimensions or the encoder, the batch is empty, or
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
                f"Expected `encoder` to have `factor_dim` = {self.factor_dim}, but got "
                f"{encoder.factor_dim}."
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
        """Return the loss of one batch, a scalar; see the class for shapes and errors."""
        dims = infer_teacher_dims(teacher_features)
        width = self.factor_dim if self.encoder is None else self.encoder.teacher_dim
        if sum(dims) != width:
            what = "codes" if self.encoder is None else "the input of `encoder`"
            raise InputError(
                f"Expected `teacher_features` to be {what} with a total width of {width}, but got "
                f"widths {list(dims)}. See `fit_autoencoder` for how to compute codes."
            )
        student, teacher = gather_batch(student_features, teacher_features, dims, self.student_dim)
        check_batch(len(student), compares=False)
        code = AF.normalize_rows(teacher if self.encoder is None else self.encoder(teacher))
        translated = AF.normalize_rows(self.translator(student))
        loss = (translated - code).abs().sum(dim=1).mean()
        # ReLU maps -infinity to 0, so checking the loss alone is not enough.
        finite = loss.isfinite() & student.isfinite().all() & teacher.isfinite().all()
        check_finite(finite, student, teacher, dims, self)
        return loss

    def extra_repr(self) -> str:
        """Dimensions, for ``print(loss_fn)``."""
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

    Encoder and decoder have two linear layers each and are trained with Adam to reconstruct the
    features. The same features and seed give the same autoencoder on the same machine. The global
    random state of torch is not changed.

    Args:
        features: ``(N, D)``, the concatenated features of the teachers. For features that do not
            fit in memory, an iterable of batches ``(b, D)`` that can be iterated repeatedly, such
            as a list or a DataLoader. Batches are used in the given order, so shuffle them.
        factor_dim: Width of the code.
        steps: Number of optimizer steps.
        seed: Seed of the initial weights and, for a tensor, of the sampled rows.
        batch_size: Rows per step, for a tensor.
        learning_rate: Learning rate of Adam.
        normalize: ``standardize`` first scales every dimension to mean 0 and standard deviation 1;
            ``none`` leaves the features as they are.
        statistics: One ``(mean, std)`` pair per teacher, each ``(D_t,)``, over the training set,
            for ``normalize="standardize"``. By default they are computed from all features.

    Returns:
        The frozen autoencoder on the device of the features; calling it with features returns
        their code.

    Raises:
        InputError: If there are no features, a shape or argument is invalid, or features are NaN
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
        torch.default_generator.manual_seed(seed)  # CPU only: weights are initialized there
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
                    f"Expected all batches to have width {first.shape[1]}, but got "
                    f"{describe(batch)}."
                )
        with torch.enable_grad():
            error = autoencoder.reconstruction_error(batch.detach())
        check_finite(error, batch, batch, [batch.shape[1]], autoencoder)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    read_checks()
    return autoencoder.requires_grad_(False).eval()


def _two_layers(width_in: int, hidden: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(Linear(width_in, hidden), nn.LeakyReLU(0.1), Linear(hidden, width_out))


def _again_and_again(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    while True:
        yield from _with_rows(batches)


def _with_rows(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Check the batches and skip empty ones; at least one batch must have rows."""
    empty = True
    for batch in batches:
        if not isinstance(batch, Tensor) or batch.ndim != 2 or not batch.is_floating_point():
            raise InputError(
                "Expected `features` to be a floating-point tensor of shape (rows, dim), or "
                f"batches of this shape, but got {describe(batch)}."
            )
        if len(batch):
            empty = False
            yield batch
    if empty:
        raise InputError(
            "Expected `features` to have rows, but got none. A generator can be iterated only "
            "once; pass a list or a DataLoader instead."
        )


def _mean_and_std(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every dimension over all batches, in one pass."""
    count = 0
    mean = squares = torch.zeros(1, dtype=torch.float64)
    for batch in _with_rows(batches):
        rows = batch.detach().cpu().double()
        own = rows.mean(dim=0)
        shift = own - mean
        # Chan et al. 1979: merge two sums of squares about their own means into one.
        squares = (
            squares
            + (rows - own).square().sum(dim=0)
            + shift.square() * (count * len(rows) / (count + len(rows)))
        )
        count += len(rows)
        mean = mean + shift * (len(rows) / count)
    return mean, (squares / count).sqrt()
