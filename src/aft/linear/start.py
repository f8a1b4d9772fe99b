"""Start a student of words and word pairs from a linear model on its TF-IDF vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from aft.backbones.batches import collate
from aft.backbones.ngrams import NgramNetwork
from aft.linear.models import LinearModel, SparseRows, fit_linear
from aft.linear.rows import PreparedRows, label_targets, soft_targets
from aft.losses.soft_labels import SoftLabelLoss
from aft.students.student import Student
from aft.tasks import Task

_CHUNK = 512


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
) -> None:
    """Fit a linear model on TF-IDF vectors, and put it into the embeddings and the head.

    Gradient descent on few labels finds worse linear models than the convex problem has. The
    model learns from the labels and, if there are any, from the soft labels of all rows. The
    strength of its regularization is chosen on the validation rows. Its weights are factorized
    (singular value decomposition) into the embeddings and the head, up to rank ``student.dim``,
    and take the place of the random values in as many directions.

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
    """
    network = student.backbone
    if not isinstance(network, NgramNetwork) or network.spelling is None:
        return
    student.cpu()  # a loss may have run it on another device
    labels = label_targets(train.samples, task, student.rescale)
    rows, targets, weights = [train], [labels], [torch.ones(len(labels))]
    if class_weights is not None:
        weights[0] = labels @ class_weights
    if soft is not None:
        for part in (train, *([] if pool is None else [pool])):
            rows.append(part)
            targets.append(soft_targets(soft, part, student.rescale))
            weights.append(torch.full((len(targets[-1]),), soft_weight))
    found = fit_linear(
        _vectors(network, rows),
        torch.cat(targets),
        _vectors(network, [validation]),
        label_targets(validation.samples, task, student.rescale),
        task.kind,
        torch.cat(weights),
    )
    _put(student, network, found)


@torch.no_grad()
def _put(student: Student, network: NgramNetwork, model: LinearModel) -> None:
    """Add the model to the embeddings, and make the head read it."""
    assert network.spelling is not None
    counted = len(network.weights)
    spelled = torch.from_numpy(network.spelling @ model.weight[counted:].numpy()).float()
    weight = torch.cat([model.weight[:counted], spelled])
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    rank = min(student.dim, len(s))
    # Random orthonormal directions, since single ones may suit the kernel less than others.
    drawn = torch.randn(student.dim, rank, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(drawn)[0]
    embedding = network.embedding.weight
    embedding -= embedding @ basis @ basis.T  # the head ignores the other directions
    embedding += u[:, :rank] * s[:rank].sqrt() @ basis.T
    student.head.weight.copy_((v[:rank].T * s[:rank].sqrt()) @ basis.T)
    student.head.bias.copy_(model.bias)


def _vectors(network: NgramNetwork, parts: Sequence[PreparedRows]) -> SparseRows:
    """The TF-IDF vectors of rows, ``(n, words and pairs and character n-grams)``."""
    assert network.spelling is not None
    blocks = []
    for rows in parts:
        samples = rows.samples
        for start in range(0, len(samples), _CHUNK):
            inputs = [rows.transform(samples.input(i)) for i in range(start, len(samples))[:_CHUNK]]
            tokens = collate(inputs)
            assert isinstance(tokens, Tensor)
            columns, weights = network.weigh(tokens)
            ends = np.arange(len(inputs) + 1) * columns.shape[1]
            entries = (weights.numpy().ravel(), columns.numpy().ravel(), ends)
            blocks.append(csr_array(entries, (len(inputs), network.embedding.num_embeddings)))
            blocks[-1].sum_duplicates()
            blocks[-1].eliminate_zeros()
    joined, counted = vstack(blocks, format="csr"), len(network.weights)
    return SparseRows([joined[:, :counted]], [joined[:, counted:], network.spelling])
