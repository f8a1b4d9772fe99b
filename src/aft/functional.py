"""Pure tensor functions: centring, Gram matrices, kernels and the distances between them.

Every function works in at least float32, under ``torch.autocast`` too. Half precision would not
do: entries of a normalised kernel differ by less than bfloat16's 8 bits resolve, and the small
epsilons below round to zero in float16, which turns gradients at zero into NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROW_EPS = 1e-8
DISTANCE_EPS = 1e-8
PAIR_EPS = 1e-12


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it already is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in full precision: autocast, which would compute it in half, is switched off."""
    with torch.autocast(a.device.type, enabled=False):
        return full_precision(a) @ full_precision(b)


def centre(features: Tensor) -> Tensor:
    """Take the batch's mean off every dimension of ``(B, D)`` features."""
    features = full_precision(features)
    return features - features.mean(dim=0, keepdim=True)


def standardize(features: Tensor, mean: Tensor | None = None, std: Tensor | None = None) -> Tensor:
    """Shift and scale every dimension to mean 0 and standard deviation 1.

    A dimension that does not vary becomes 0: its deviation is nothing but rounding error, up to
    about 1e-7 of its mean, and dividing by that would blow noise up to the size of the others.

    Args:
        features: ``(B, D)``.
        mean: ``(D,)``; the batch's where not given.
        std: ``(D,)``, the standard deviation; the batch's (over B, not B - 1) where not given.
    """
    features = full_precision(features)
    if mean is None:
        mean = features.mean(dim=0)
    centred = features - mean
    variance = centred.square().mean(dim=0) if std is None else std.square()
    varies = variance > (1e-6 * mean.abs() + 1e-12).square()
    # sqrt only sees what varies: its gradient at 0 is infinite, and infinity * 0 is NaN.
    scale = varies / torch.where(varies, variance, 1.0).sqrt()
    # A product, not a selection, so that a NaN in a constant dimension is still seen.
    return centred * scale


def normalize_rows(features: Tensor, eps: float = ROW_EPS) -> Tensor:
    """Divide every row of ``(B, D)`` by its L2 norm + ``eps``; a row of zeros stays zero."""
    features = full_precision(features)
    norm: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (norm + eps)


def gram(features: Tensor) -> Tensor:
    """The inner products of all rows with each other: ``(B, D)`` to ``(B, B)``."""
    return matmul(features, features.T)


def product_gram(features: Sequence[Tensor]) -> Tensor:
    """Gram matrix of the centred outer product of several feature sets, without building it.

    For ``(B, D1)`` and ``(B, D2)`` this equals ``gram(centre(outer))`` with
    ``outer[i] = flatten(x[i] ⊗ y[i])`` of shape ``(B, D1·D2)``, at the cost of the two Gram
    matrices: the inner products of outer products are the products of the inner products.

    Centring removes all of the product that does not vary within the batch. With large feature
    means that is nearly all of it and the rest would drown in rounding error, so the constant
    part is kept apart: ``gram(x) = |mean|² + varying``, and only what varies is multiplied out.

    Args:
        features: one ``(B, D_t)`` tensor per feature set.

    Returns:
        ``(B, B)``
    """
    constant: Tensor | float = 1.0
    product: Tensor | float = 0.0
    for x in map(full_precision, features):
        mean, centred = x.mean(dim=0), centre(x)
        level = mean.square().sum()
        along_mean = (centred * mean).sum(dim=1)
        varying = gram(centred) + along_mean[:, None] + along_mean
        product = product * (level + varying) + constant * varying
        constant = constant * level
    assert isinstance(product, Tensor)
    return centre(centre(product).T)


def normalize_gram(gram_matrix: Tensor, eps: float = ROW_EPS) -> Tensor:
    """The Gram matrix that ``gram(normalize_rows(x))`` has, from ``gram(x)`` alone."""
    squared = full_precision(gram_matrix).diagonal()
    # Rounding may leave a zero row's square just below 0, and sqrt has no gradient at 0.
    positive = squared > 0
    norm = torch.where(positive, squared, 1.0).sqrt() * positive + eps
    return gram_matrix / (norm[:, None] * norm)


def rbf_from_gram(gram_matrix: Tensor) -> Tensor:
    """The kernel ``exp(-||a_i - a_j||²)`` from the rows' inner products ``(B, B)``.

    The squared distance is not clamped at 0: rounding makes it -1e-7 at worst, which ``exp`` does
    not mind, while a clamp (or the square root in ``torch.cdist``) would spoil gradients there.
    """
    gram_matrix = full_precision(gram_matrix)
    squared = gram_matrix.diagonal()
    return torch.exp(2 * gram_matrix - squared[:, None] - squared)


def rbf_gram(features: Tensor) -> Tensor:
    """The kernel ``exp(-||a_i - a_j||²)`` of all rows of ``(B, D)`` with each other."""
    return rbf_from_gram(gram(features))


def kernel_distance(kernel_a: Tensor, kernel_b: Tensor, eps: float = DISTANCE_EPS) -> Tensor:
    """Root mean square difference of two ``(B, B)`` kernels, as a scalar.

    ``eps`` is added under the root so that the gradient at equal kernels is 0 instead of NaN; the
    distance of equal kernels is therefore ``sqrt(eps)``, 1e-4.
    """
    difference = full_precision(kernel_a) - full_precision(kernel_b)
    distance: Tensor = (difference.square().mean() + eps).sqrt()
    return distance


def squared_distances(gram_matrix: Tensor) -> Tensor:
    """The squares ``||a_i - a_j||²`` of all rows' distances from their inner products ``(B, B)``.

    What is no larger than the rounding error of the inner products is exactly 0, without a
    gradient: the square root of such noise would have a gradient of any size. Centre the features
    first, since the error grows with their lengths and distances do not.
    """
    gram_matrix = full_precision(gram_matrix)
    squared = gram_matrix.diagonal()
    lengths = squared[:, None] + squared
    distances = lengths - 2 * gram_matrix
    # Written so that NaN, which is never smaller or equal, stays NaN.
    return distances.masked_fill(distances <= 8 * torch.finfo(lengths.dtype).eps * lengths, 0.0)


def relative_distances(squared: Tensor, eps: float = PAIR_EPS) -> Tensor:
    """All pairs' distances divided by the mean over pairs, ``(B, B)``; 0 on the diagonal.

    Args:
        squared: ``(B, B)`` squared distances.
        eps: the least squared distance of two different rows. Equal rows have a distance of
            ``sqrt(eps)``, 1e-6, and no gradient, for that of the square root at 0 is infinite.
    """
    same = torch.eye(len(squared), dtype=torch.bool, device=squared.device)
    distances = full_precision(squared).clamp_min(eps).sqrt().masked_fill(same, 0.0)
    return distances / (distances.sum() / (len(squared) * (len(squared) - 1)))


def angle_cosines(gram_matrix: Tensor, squared: Tensor, corners: slice) -> Tensor:
    """Cosines of the angles that any two rows make at a third, the corner: ``(corners, B, B)``.

    Entry ``(i, j, k)`` is the cosine between ``a_j - a_i`` and ``a_k - a_i``, and 0 where one of
    these is 0. It is made of inner products alone, so the differences of all pairs of rows, a
    ``(B, B, D)`` tensor, are never built.

    Args:
        gram_matrix: ``(B, B)`` inner products of the rows, best of centred ones.
        squared: ``(B, B)``, their :func:`squared_distances`.
        corners: the rows to take as corners.
    """
    gram_matrix = full_precision(gram_matrix)
    at = gram_matrix[corners]
    length = gram_matrix.diagonal()[corners, None, None]
    products = gram_matrix - at[:, :, None] - at[:, None] + length
    apart = squared[corners] > 0
    inverse = apart / torch.where(apart, squared[corners], 1.0).sqrt()
    # Rounding may leave the cosine of nearly equal rows outside of its range.
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
    # ||A^T B||² = <A A^T, B B^T>: take whichever side needs the smaller matrices.
    if len(a) <= max(a.shape[1], b.shape[1]):
        gram_a, gram_b = gram(a), gram(b)
        shared = (gram_a * gram_b).sum()
    else:
        gram_a, gram_b = gram(a.T), gram(b.T)
        shared = matmul(a.T, b).square().sum()
    norms = torch.linalg.matrix_norm(gram_a) * torch.linalg.matrix_norm(gram_b)
    alignment: Tensor = shared / norms.clamp_min(torch.finfo(shared.dtype).tiny)
    return alignment
