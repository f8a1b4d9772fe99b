"""Pure tensor functions: centring, Gram matrices, kernels and the distances between them.

Every function computes in float32 or float64, even under ``torch.autocast``. Half precision is not
sufficient: entries of a normalized kernel differ by less than the 8 bits of bfloat16 can resolve,
and the small epsilons below round to zero in float16, which makes gradients at zero NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

ROW_EPS = 1e-8
DISTANCE_EPS = 1e-8
PAIR_EPS = 1e-12
TILE = 2**23
"""Number of kernel values to compute at a time, 32 MiB in float32. glibc returns blocks of this
size to the system; smaller ones leave gaps in its heap, so memory would grow with ``B²``."""
CLOSE = 0.02
"""Kernels whose squared distance is below this part of their squared norms are close."""


def full_precision(tensor: Tensor) -> Tensor:
    """Convert to float32; float64 tensors are returned unchanged."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in full precision, with autocast to half precision disabled."""
    with torch.autocast(a.device.type, enabled=False):
        return full_precision(a) @ full_precision(b)


def centre(features: Tensor) -> Tensor:
    """Subtract the mean over the batch from every dimension of ``(B, D)`` features."""
    features = full_precision(features)
    return features - features.mean(dim=0, keepdim=True)


def standardize(features: Tensor, mean: Tensor | None = None, std: Tensor | None = None) -> Tensor:
    """Shift and scale every dimension to mean 0 and standard deviation 1.

    A constant dimension becomes 0. Its computed standard deviation is only rounding error, up to
    about 1e-7 of its mean; dividing by it would amplify noise to the scale of the other dimensions.

    Args:
        features: ``(B, D)``.
        mean: ``(D,)``; default: the mean of the batch.
        std: ``(D,)``, the standard deviation; default: that of the batch (divided by B, not
            B - 1).
    """
    features = full_precision(features)
    if mean is None:
        mean = features.mean(dim=0)
    centred = features - mean
    variance = centred.square().mean(dim=0) if std is None else std.square()
    varies = variance > (1e-6 * mean.abs() + 1e-12).square()
    # Mask before sqrt: its gradient at 0 is infinite, and infinity * 0 is NaN.
    scale = varies / torch.where(varies, variance, 1.0).sqrt()
    # Multiply instead of masking, so that a NaN in a constant dimension is propagated.
    return centred * scale


def normalize_rows(features: Tensor, eps: float = ROW_EPS) -> Tensor:
    """Divide every row of ``(B, D)`` by its L2 norm + ``eps``; a zero row stays zero."""
    features = full_precision(features)
    norm: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (norm + eps)


def gram(features: Tensor) -> Tensor:
    """Inner products of all pairs of rows: ``(B, D)`` to ``(B, B)``; differentiable once."""
    matrix: Tensor = _Gram.apply(full_precision(features))  # type: ignore[no-untyped-call]
    return matrix


class _Gram(torch.autograd.Function):
    """One product in the backward pass; autograd would make one for each factor."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        return matmul(features, features.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        return matmul(gradient + gradient.T, features)


def product_gram(features: Sequence[Tensor]) -> Tensor:
    """Gram matrix of the centred outer product of several feature sets, without computing it.

    For ``(B, D1)`` and ``(B, D2)`` this equals ``gram(centre(outer))`` with
    ``outer[i] = flatten(x[i] ⊗ y[i])`` of shape ``(B, D1·D2)``, at the cost of the two Gram
    matrices: the inner product of outer products is the product of the inner products.

    Centring removes the part of the product that is constant over the batch. If feature means are
    large, this part is almost everything, and the remainder would be lost in rounding error.
    Therefore the constant part is kept separate, ``gram(x) = |mean|² + varying``, and only terms
    with a varying factor are multiplied out.

    Args:
        features: One ``(B, D_t)`` tensor per feature set.

    Returns:
        ``(B, B)``
    """
    samples = _product_samples(features)
    return centre(centre(_products(samples, samples)).T)


def normalize_gram(gram_matrix: Tensor, eps: float = ROW_EPS) -> Tensor:
    """Compute ``gram(normalize_rows(x))`` from ``gram(x)``."""
    norm = _norms(full_precision(gram_matrix).diagonal(), eps)
    return gram_matrix / (norm[:, None] * norm)


def _norms(squared: Tensor, eps: float) -> Tensor:
    # Rounding may make the squared norm of a zero row negative; sqrt has no gradient at 0.
    positive = squared > 0
    return torch.where(positive, squared, 1.0).sqrt() * positive + eps


def rbf_from_gram(gram_matrix: Tensor) -> Tensor:
    """RBF kernel ``exp(-||a_i - a_j||²)`` from the inner products of the rows, ``(B, B)``.

    The squared distance is not clamped at 0: rounding makes it -1e-7 at worst, which is harmless
    in ``exp``, while a clamp (or the square root in ``torch.cdist``) would give wrong gradients.
    """
    gram_matrix = full_precision(gram_matrix)
    squared = gram_matrix.diagonal()
    return torch.exp(2 * gram_matrix - squared[:, None] - squared)


def kernel_distance(kernel_a: Tensor, kernel_b: Tensor, eps: float = DISTANCE_EPS) -> Tensor:
    """Root mean square difference of two ``(B, B)`` kernels, a scalar.

    ``eps`` is added under the root so that the gradient at equal kernels is 0 instead of NaN. The
    distance of equal kernels is therefore ``sqrt(eps)``, 1e-4.
    """
    difference = full_precision(kernel_a) - full_precision(kernel_b)
    distance: Tensor = (difference.square().mean() + eps).sqrt()
    return distance


def gram_distance(a: Tensor, b: Tensor, eps: float = DISTANCE_EPS) -> Tensor:
    """:func:`kernel_distance` of the Gram matrices of ``(B, D_a)`` and ``(B, D_b)`` features.

    If it takes fewer operations, the distance is computed from covariances instead:
    ``||A Aᵀ - B Bᵀ||² = ||Aᵀ A||² + ||Bᵀ B||² - 2 ||Aᵀ B||²``. If the kernels are close, this
    difference is only rounding error, so the Gram matrices of close kernels are always compared.
    To find out, a GPU must be waited for, so there it is done with large batches only.
    """
    if covariances_pay(a, b) and (a.device.type == "cpu" or len(a) ** 2 > TILE):
        norms = gram(a.T).square().sum() + gram(b.T).square().sum()
        total = norms - 2 * matmul(a.T, b).square().sum()
        if total > CLOSE * norms:
            return (total / len(a) ** 2 + eps).sqrt()
    if len(a) ** 2 <= TILE:
        return kernel_distance(gram(a), gram(b), eps)
    return tiled_distance(linear_kernel(a), linear_kernel(b), eps)


def covariances_pay(a: Tensor, b: Tensor) -> bool:
    """Whether ``D x D`` matrices need fewer operations than ``B x B``, with the backward pass."""
    width_a, width_b = a.shape[1], b.shape[1]
    width = width_a + width_b
    backward = width_a * a.requires_grad + width_b * b.requires_grad
    covariances = width_a**2 + width_a * width_b + width_b**2 + width * backward
    return covariances < len(a) * (width + backward)


class Kernel(NamedTuple):
    """A kernel that is computed in tiles, for batches whose ``B x B`` matrix is too large.

    Attributes:
        values: Returns the kernel of ``t`` samples with all samples, ``(t, B)``, from both their
            quantities. It is symmetric.
        samples: The quantities that describe the samples, each ``(B, ...)``.
    """

    values: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
    samples: tuple[Tensor, ...]

    def squared(self) -> Tensor:
        """The kernel of each sample with itself, ``(B,)``."""
        single = [one.unsqueeze(1) for one in self.samples]  # B batches of one sample
        return self.values(single, single).flatten()


def linear_kernel(features: Tensor) -> Kernel:
    """:func:`gram` in tiles."""
    return Kernel(lambda rows, columns: matmul(rows[0], columns[0].mT), (full_precision(features),))


def rbf_kernel(kernel: Kernel) -> Kernel:
    """:func:`rbf_from_gram` in tiles."""

    def values(rows: Sequence[Tensor], columns: Sequence[Tensor]) -> Tensor:
        inner = kernel.values(rows[:-1], columns[:-1])
        return torch.exp(2 * inner - _add_pairs(rows[-1], columns[-1]))

    return Kernel(values, (*kernel.samples, kernel.squared()))


def product_kernel(features: Sequence[Tensor], eps: float = ROW_EPS) -> Kernel:
    """:func:`normalize_gram` of :func:`product_gram` in tiles."""
    samples = _product_samples(features)

    def row_means(part: slice, *samples: Tensor) -> Tensor:
        return _products([one[part] for one in samples], samples).mean(dim=1)

    def values(rows: Sequence[Tensor], columns: Sequence[Tensor]) -> Tensor:
        centred = _products(rows[:-2], columns[:-2]) - _add_pairs(rows[-2], columns[-2])
        return centred / (rows[-1][..., :, None] * columns[-1][..., None, :])

    means = torch.cat(_in_tiles(row_means, samples))
    shift = means - means.mean() / 2
    squared = Kernel(_products, samples).squared() - 2 * shift
    return Kernel(values, (*samples, shift, _norms(squared, eps)))


def tiled_distance(a: Kernel, b: Kernel, eps: float = DISTANCE_EPS) -> Tensor:
    """:func:`kernel_distance` in tiles, which are computed again in the backward pass."""
    split = len(a.samples)

    def squares(part: slice, *samples: Tensor) -> Tensor:
        rows, columns = [one[part] for one in samples], [one.detach() for one in samples]
        other = b.values(rows[split:], columns[split:])
        return (a.values(rows[:split], columns[:split]) - other).square().sum()

    parts = torch.stack(_in_tiles(squares, (*a.samples, *b.samples)))
    total: Tensor = _DoubleGradient.apply(parts.sum())  # type: ignore[no-untyped-call]
    return (total / len(a.samples[0]) ** 2 + eps).sqrt()


class _DoubleGradient(torch.autograd.Function):
    """By symmetry, twice the gradient with respect to the first sample of each pair is enough."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


def _in_tiles(function: Callable[..., Tensor], samples: Sequence[Tensor]) -> list[Tensor]:
    """``function(part, *samples)`` for each part, and again in the backward pass."""
    rows = len(samples[0])
    step = math.ceil(TILE / rows)
    run = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
    return [run(slice(start, start + step), *samples) for start in range(0, rows, step)]


def _product_samples(features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Quantities of each sample for :func:`_products`: three per feature set."""
    samples: tuple[Tensor, ...] = ()
    for x in map(full_precision, features):
        mean, centred = x.mean(dim=0), centre(x)
        half_level = (mean.square().sum() / 2).expand(len(x))
        samples += (centred, (centred * mean).sum(dim=1), half_level)
    return samples


def _products(rows: Sequence[Tensor], columns: Sequence[Tensor]) -> Tensor:
    """Products of the feature sets' inner products, without the constant part."""
    constant: Tensor | float = 1.0
    product: Tensor | float = 0.0
    for t in range(0, len(rows), 3):
        (x, along, half), (y, other_along, other_half) = rows[t : t + 3], columns[t : t + 3]
        inner = gram(x) if x is y and x.ndim == 2 else matmul(x, y.mT)
        varying = inner + _add_pairs(along, other_along)
        level = _add_pairs(half[..., :1], other_half[..., :1])
        product = product * (level + varying) + constant * varying
        constant = constant * level
    assert isinstance(product, Tensor)
    return product


def _add_pairs(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :, None] + b[..., None, :]


def squared_distances(gram_matrix: Tensor) -> Tensor:
    """Squared distances ``||a_i - a_j||²`` of all rows from their inner products ``(B, B)``.

    Values within the rounding error of the inner products are set to exactly 0, without a
    gradient; the square root of such noise would have an arbitrarily large gradient. Centre the
    features first: the rounding error grows with their norms, but the distances do not.
    """
    gram_matrix = full_precision(gram_matrix)
    squared = gram_matrix.diagonal()
    lengths = squared[:, None] + squared
    distances = lengths - 2 * gram_matrix
    # NaN never satisfies the comparison, so it stays NaN.
    return distances.masked_fill(distances <= 8 * torch.finfo(lengths.dtype).eps * lengths, 0.0)


def relative_distances(squared: Tensor, eps: float = PAIR_EPS) -> Tensor:
    """Distances of all pairs divided by their mean, ``(B, B)``; 0 on the diagonal.

    Args:
        squared: ``(B, B)`` squared distances.
        eps: Minimum squared distance of two different rows. Equal rows have a distance of
            ``sqrt(eps)``, 1e-6, and no gradient, since that of the square root at 0 is infinite.
    """
    same = torch.eye(len(squared), dtype=torch.bool, device=squared.device)
    distances = full_precision(squared).clamp_min(eps).sqrt().masked_fill(same, 0.0)
    return distances / (distances.sum() / (len(squared) * (len(squared) - 1)))


def angle_cosines(gram_matrix: Tensor, squared: Tensor, corners: slice) -> Tensor:
    """Cosines of the angles between two rows as seen from a third, the corner: ``(corners, B, B)``.

    Entry ``(i, j, k)`` is the cosine between ``a_j - a_i`` and ``a_k - a_i``, or 0 if one of these
    is 0. The computation uses inner products only, so the ``(B, B, D)`` tensor of differences is
    never built.

    Args:
        gram_matrix: ``(B, B)`` inner products of the rows, preferably centred.
        squared: ``(B, B)``, their :func:`squared_distances`.
        corners: Rows to use as corners.
    """
    gram_matrix = full_precision(gram_matrix)
    at = gram_matrix[corners]
    length = gram_matrix.diagonal()[corners, None, None]
    products = gram_matrix - at[:, :, None] - at[:, None] + length
    apart = squared[corners] > 0
    inverse = apart / torch.where(apart, squared[corners], 1.0).sqrt()
    # Rounding may move the cosine of nearly equal rows out of [-1, 1].
    return (products * inverse[:, :, None] * inverse[:, None]).clamp(-1.0, 1.0)


def cka(features_a: Tensor, features_b: Tensor) -> Tensor:
    """Linear centred kernel alignment of two feature sets of the same samples.

    Source: Kornblith et al. 2019, arXiv 1905.00414.

    Args:
        features_a: ``(N, D_a)``
        features_b: ``(N, D_b)``, the same samples in the same order

    Returns:
        A scalar from 0 (unrelated) to 1 (equal up to rotation and scale); 0 if either is constant.
    """
    a, b = centre(features_a), centre(features_b)
    if covariances_pay(a, b):  # ||A^T B||² = <A A^T, B B^T>
        gram_a, gram_b = gram(a.T), gram(b.T)
        shared = matmul(a.T, b).square().sum()
    else:
        gram_a, gram_b = gram(a), gram(b)
        shared = (gram_a * gram_b).sum()
    norms = torch.linalg.matrix_norm(gram_a) * torch.linalg.matrix_norm(gram_b)
    alignment: Tensor = shared / norms.clamp_min(torch.finfo(shared.dtype).tiny)
    return alignment
