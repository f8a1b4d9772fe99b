"""Pure tensor functions: centring, Gram matrices, kernels and the distances between them.

Every function computes in float32 or float64, even under ``torch.autocast``. Half precision is not
sufficient: entries of a normalized kernel differ by less than the 8 bits of bfloat16 can resolve,
and the small epsilons below round to zero in float16, which makes gradients at zero NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROW_EPS = 1e-8
DISTANCE_EPS = 1e-8
PAIR_EPS = 1e-12


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
    """Inner products of all pairs of rows: ``(B, D)`` to ``(B, B)``."""
    return matmul(features, features.T)


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
    """Compute ``gram(normalize_rows(x))`` from ``gram(x)``."""
    squared = full_precision(gram_matrix).diagonal()
    # Rounding may make the squared norm of a zero row negative; sqrt has no gradient at 0.
    positive = squared > 0
    norm = torch.where(positive, squared, 1.0).sqrt() * positive + eps
    return gram_matrix / (norm[:, None] * norm)


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
    # ||A^T B||² = <A A^T, B B^T>: use the side with the smaller matrices.
    if len(a) <= max(a.shape[1], b.shape[1]):
        gram_a, gram_b = gram(a), gram(b)
        shared = (gram_a * gram_b).sum()
    else:
        gram_a, gram_b = gram(a.T), gram(b.T)
        shared = matmul(a.T, b).square().sum()
    norms = torch.linalg.matrix_norm(gram_a) * torch.linalg.matrix_norm(gram_b)
    alignment: Tensor = shared / norms.clamp_min(torch.finfo(shared.dtype).tiny)
    return alignment
