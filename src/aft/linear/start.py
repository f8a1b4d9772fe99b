"""Start a student of words and word pairs from a linear model on its TF-IDF vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from aft.backbones.ngrams import NgramNetwork
from aft.linear.models import LinearModel, SparseRows, fit_linear
from aft.linear.rows import PreparedRows, label_targets, soft_targets
from aft.losses.soft_labels import SoftLabelLoss
from aft.students.student import Student
from aft.tasks import Task

_CHUNK = 512
MOST_WEIGHTS = 50_000_000
"""Largest product of features and outputs, and of rows and outputs, to fit."""


def start_linear(
    student: Student,
    task: Task,
    train: PreparedRows,
    validation: PreparedRows,
    pool: PreparedRows | None = None,
    soft: SoftLabelLoss | None = None,
    *,
    soft_weight: float = 1.0,
    class_weights: Tensor | None = None,
    progress: bool = False,
) -> None:
    """Fit a linear model on TF-IDF vectors, and put it into the embeddings and the head.

    Gradient descent on few labels finds worse linear models than the convex problem has. The
    model learns from the labels and, if there are any, from the soft labels of all rows. The
    strength of its regularization is chosen on the validation rows. Its weights are factorized
    (singular value decomposition) into the embeddings and the head, up to rank ``student.dim``,
    and take the place of the random values in as many directions. With very many outputs, the
    model learns only from the most frequent words and pairs, and from random rows, so that it has
    at most :data:`MOST_WEIGHTS` weights, and as many outputs of rows.

    Args:
        student: The student; nothing is done unless its backbone is an
            :class:`aft.backbones.ngrams.NgramNetwork`.
        task: The task.
        train: The labelled rows, with the features of the teachers if there are soft labels.
        validation: Held-out rows.
        pool: Rows that join the transfer loss without labels.
        soft: Makes the soft labels; None for a student from the labels alone.
        soft_weight: Weight of a soft label; a label has 1.
        class_weights: Class weights of the labels, ``(C,)``.
        progress: Whether to show a progress bar if it takes more than two seconds.
    """
    network = student.backbone
    if not isinstance(network, NgramNetwork) or network.spelling is None:
        return
    student.cpu()  # a loss may have run it on another device
    train, validation, pool = _draw(task.num_outputs, train, validation, pool, soft is not None)
    kept = _most_frequent(network, task.num_outputs)
    rows, targets, weights = [], [], []
    if train.samples.labels is not None:
        labels = label_targets(train.samples, task, student.rescale)
        rows, targets = [train], [labels]
        plain = torch.ones(len(labels))
        weights = [plain if class_weights is None else labels @ class_weights]
    if soft is not None:
        for part in (train, *([] if pool is None else [pool])):
            rows.append(part)
            targets.append(soft_targets(soft, part, student.rescale))
            weights.append(torch.full((len(targets[-1]),), soft_weight))
    found = fit_linear(
        _vectors(network, rows, kept),
        torch.cat(targets),
        _vectors(network, [validation], kept),
        label_targets(validation.samples, task, student.rescale),
        task.kind,
        torch.cat(weights),
        progress,
    )
    _put(student, network, found, kept)


def _draw(
    outputs: int,
    train: PreparedRows,
    validation: PreparedRows,
    pool: PreparedRows | None,
    soft: bool,
) -> tuple[PreparedRows, PreparedRows, PreparedRows | None]:
    """Random rows, few enough for their outputs to fit; all of them if they do."""
    number = (1 + soft) * len(train.samples) + (len(pool.samples) if soft and pool else 0)
    most = max(1, MOST_WEIGHTS // outputs)
    share = min(1.0, most / max(1, number))
    return (
        train.draw(max(1, int(share * len(train.samples)))),
        validation.draw(most),
        pool and pool.draw(max(1, int(share * len(pool.samples)))),
    )


def _most_frequent(network: NgramNetwork, outputs: int) -> Tensor | None:
    """The most frequent words and pairs, if not all features fit; None if they do."""
    assert network.spelling is not None
    if (len(network.weights) + network.spelling.shape[1]) * outputs <= MOST_WEIGHTS:
        return None
    # The inverse frequency is 0 for words that do not occur.
    rarity = torch.where(network.weights > 0, network.weights, torch.inf)
    return rarity.argsort(stable=True)[: max(1, MOST_WEIGHTS // outputs)].sort().values


@torch.no_grad()
def _put(student: Student, network: NgramNetwork, model: LinearModel, kept: Tensor | None) -> None:
    """Add the model to the embeddings, and make the head read it."""
    assert network.spelling is not None
    rows: slice | Tensor = slice(None)
    if kept is None:
        counted = len(network.weights)
        spelled = torch.from_numpy(network.spelling @ model.weight[counted:].numpy()).float()
        weight = torch.cat([model.weight[:counted], spelled])
    else:
        weight, rows = model.weight, kept
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    rank = min(student.dim, len(s))
    # Random orthonormal directions, since single ones may suit the kernel less than others.
    drawn = torch.randn(student.dim, rank, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(drawn)[0]
    embedding = network.embedding.weight
    embedding -= embedding @ basis @ basis.T  # the head ignores the other directions
    embedding[rows] += u[:, :rank] * s[:rank].sqrt() @ basis.T
    student.head.weight.copy_((v[:rank].T * s[:rank].sqrt()) @ basis.T)
    student.head.bias.copy_(model.bias)


def _vectors(
    network: NgramNetwork, parts: Sequence[PreparedRows], kept: Tensor | None
) -> SparseRows:
    """The TF-IDF vectors of rows, ``(n, words and pairs and character n-grams)``.

    Only the words and pairs in ``kept``, if it is given.
    """
    assert network.spelling is not None
    blocks = []
    for rows in parts:
        samples = rows.samples
        for start in range(0, len(samples), _CHUNK):
            chosen = range(start, len(samples))[:_CHUNK]
            tokens = rows.inputs.batch(chosen)
            assert isinstance(tokens, Tensor)
            columns, weights = network.weigh(tokens)
            ends = np.arange(len(chosen) + 1) * columns.shape[1]
            entries = (weights.numpy().ravel(), columns.numpy().ravel(), ends)
            blocks.append(csr_array(entries, (len(chosen), network.embedding.num_embeddings)))
            blocks[-1].sum_duplicates()
            blocks[-1].eliminate_zeros()
    joined, counted = vstack(blocks, format="csr"), len(network.weights)
    if kept is not None:
        return SparseRows([joined[:, kept.numpy()]])
    return SparseRows([joined[:, :counted]], [joined[:, counted:], network.spelling])
