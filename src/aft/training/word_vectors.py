"""Start the word vectors of `small:static` from what a text teacher says about each word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from aft.backbones.small_texts import EMBEDDING_STD, StaticNetwork
from aft.backbones.specs import shorten_paths, split_column
from aft.backbones.tokenization import Tokenization
from aft.config.commands import TrainConfig
from aft.data.readers.find_columns import InputColumn
from aft.data.readers.rows import column_of
from aft.data.samples import Samples
from aft.features.stored import StoredFeatures
from aft.ids import ID_BYTES, content_id
from aft.linear.rows import PreparedRows
from aft.students.saved import SavedStudent
from aft.students.towers import ColumnPreprocessing, Towers
from aft.training.prepare import extract_for_run

_CHUNK = 1024


def start_words(
    config: TrainConfig, saved: SavedStudent, rows: Sequence[PreparedRows], accelerator: Accelerator
) -> list[str]:
    """Give each word the teacher's features of that word alone, in fewer dimensions.

    The features go into the feature store as those of texts do. They are centred and projected on
    their first principal components, where each word counts as often as it occurs, and scaled to
    the variance of random vectors.

    References:
        Tulkens and van Dongen, "Model2Vec: Fast State-of-the-Art Static Embeddings", 2024, for
        word vectors that are reduced outputs of a sentence model.

    Args:
        config: Options of the run.
        saved: The student; only networks with the option ``init=teacher`` change.
        rows: The labelled rows, with their teachers, and perhaps others.
        accelerator: The work is divided among its processes.

    Returns:
        A line for the user about each of these networks.
    """
    lines = []
    for name, column, network, tokenization in _networks(saved):
        teacher = _teacher_of(rows[0].teachers, column)
        if teacher is None:
            lines.append(f"no text teacher of {column}: its word vectors start at random")
            continue
        words = _as_samples(tokenization.words, column)
        asked = config.model_copy(update={"teachers": (teacher.spec,)})
        ((stored,),) = extract_for_run(asked, [words], accelerator)
        features = stored.gather(np.arange(len(words)))
        counts = _count(rows, name, len(words))
        vectors, share = _reduce(features.double(), counts, network.embedding.embedding_dim)
        with torch.no_grad():
            network.embedding.weight.copy_(vectors)
        lines.append(
            f"{len(words)} word vectors start from {shorten_paths(teacher.spec)}: "
            f"{share:.0%} of the variance of its features"
        )
    return lines


def _networks(saved: SavedStudent) -> Iterator[tuple[str, str, StaticNetwork, Tokenization]]:
    """Each network that starts from a teacher, after the names of its inputs and its column."""
    whole, preprocessing = saved.module.backbone, saved.backbone.preprocessing
    found = [("", saved.columns[0].name, whole, preprocessing)]
    if isinstance(whole, Towers) and isinstance(preprocessing, ColumnPreprocessing):
        parts = preprocessing.parts
        found = [
            (name, preprocessing.takes.get(name, (name,))[0], tower, parts[name])
            for name, tower in zip(whole.columns, whole.towers, strict=True)
        ]
    for name, column, network, part in found:
        if isinstance(network, StaticNetwork) and network.from_teacher:
            assert isinstance(part, Tokenization)
            yield name, column, network, part


def _teacher_of(teachers: Sequence[StoredFeatures], column: str) -> StoredFeatures | None:
    """The first model, not a table, that reads the column alone."""
    for one in teachers:
        names = [own.name for own in one.samples.columns]
        if names == [column] and not split_column(one.spec)[1].startswith("features:"):
            return one
    return None


def _as_samples(words: Sequence[str], column: str) -> Samples:
    values = column_of(words)
    ids = b"".join(content_id(word.encode()) for word in words)
    return Samples(
        [InputColumn(column, "text")],
        [values],
        np.frombuffer(ids, np.uint8).reshape(-1, 1, ID_BYTES),
        np.ones((len(words), 1), dtype=bool),
        np.asarray(words, dtype=object),
        np.full(len(words), ""),
    )


def _count(rows: Sequence[PreparedRows], name: str, words: int) -> Tensor:
    """How often each word occurs."""
    counts = torch.zeros(words, dtype=torch.float64)
    for part in rows:
        tower = part.inputs.towers[name]
        for start in range(0, len(part.samples), _CHUNK):
            tokens = tower.batch(range(start, len(part.samples))[:_CHUNK], None)
            counts += torch.bincount(tokens[tokens >= 0], minlength=words)
    return counts


def _reduce(features: Tensor, counts: Tensor, dim: int) -> tuple[Tensor, float]:
    """Centred features in their first `dim` principal components, and these' share of variance."""
    counts = counts if counts.any() else torch.ones_like(counts)
    weights = counts / counts.sum()
    centred = features - weights @ features
    _, s, axes = torch.linalg.svd(centred * weights.sqrt()[:, None], full_matrices=False)
    vectors = torch.zeros(len(features), dim, dtype=torch.float64)
    vectors[:, : len(axes)] = centred @ axes[:dim].T
    vectors *= EMBEDDING_STD / vectors.square().mean().sqrt().clamp(min=1e-12)
    return vectors.float(), float(s[:dim].square().sum() / s.square().sum().clamp(min=1e-12))
