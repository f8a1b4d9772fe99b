"""`small:ngrams`: TF-IDF weighted averages of learned word and word-pair embeddings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from aft.backbones.checks import check, integer_option
from aft.backbones.network import Network, require, seeded
from aft.backbones.small_texts import (
    sum_vectors,
    text_network,
    tokenizer_option,
    train_tokenizer,
)
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.errors import ModelError

_BUCKETS = 2**20
_HASH = (2_654_435_761, 2_246_822_519)  # odd; the upper bits of the products' sum are the hash
_WORDS = 0.4  # the largest share of the features that are words; the rest are word pairs
_SPELLING = 0.5  # norm of a text's character n-grams; that of its words and pairs is 1
_SIZES = (3, 4, 5)  # of character n-grams; a word starts and ends with a space
_MOST_CHARACTERS = 50  # of a word; more are not words
_STD = 0.02
_DROPOUT = 0.3


class NgramNetwork(nn.Module):
    """Features are weighted averages of the embeddings of a text's words and word pairs.

    The weight of a word or pair of adjacent words is its inverse document frequency (Spärck Jones,
    1972); the weights of a text without repeated words have the Euclidean norm 1. Each word has a
    second embedding for its spelling, which starts as the sum over its character n-grams.
    Therefore a linear layer on the features is a linear model on TF-IDF vectors of words, word
    pairs and character n-grams, of at most the rank ``dim``. Unknown words have the weight 0, and
    so have unknown pairs, but for a few percent that share the hash bucket of a known one.

    Args:
        words: Number of words, including the one for all unknown words.
        pairs: Number of word pairs.
        dim: Dimension of the embeddings and of the features.
        unknown: Number of the unknown word; -1 if every word is known.

    Attributes:
        spelling: ``(words, character n-grams)``, the weights of each word's character n-grams, of
            norm 1; None for a saved network, which no longer needs them.
    """

    buckets: Tensor
    weights: Tensor
    lengths: Tensor
    unknown: Tensor

    def __init__(self, words: int, pairs: int, dim: int, unknown: int = 0) -> None:
        super().__init__()
        # Rows: words, word pairs, spelling of words.
        self.embedding = nn.Embedding(2 * words + pairs, dim)
        self.dropout = nn.Dropout(_DROPOUT)
        nn.init.normal_(self.embedding.weight, std=_STD)
        self.register_buffer("buckets", torch.full((_BUCKETS,), -1, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(words + pairs))
        self.register_buffer("lengths", torch.zeros(words))  # norms of the spelling
        self.register_buffer("unknown", torch.tensor(unknown))
        self.spelling: csr_array | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """Features ``(B, dim)`` of word numbers ``(B, L)``, padded with -1."""
        rows, weights = self.weigh(tokens)
        features: Tensor = self.dropout(sum_vectors(self.embedding, rows, weights, self.training))
        return features

    def weigh(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the embedding and their weights, ``(B, 3 L)`` each."""
        ids = tokens.clamp(min=0)
        following = F.pad(ids, (0, 1))[:, 1:]
        is_known = (tokens >= 0) & (tokens != self.unknown)
        known = is_known.to(self.weights.dtype)
        pairs = self.buckets[pair_bucket(ids, following)].long()
        counted = torch.cat([ids, pairs.clamp(min=0)], dim=1)
        # Buckets without a pair have the row -1, and the weight 0.
        paired = known * F.pad(known, (0, 1))[:, 1:] * (pairs >= 0)
        mask = torch.cat([known, paired], dim=1)
        weights = self.weights[counted] * mask
        spelled = _normalize(self.lengths[ids] * known)
        rows = torch.cat([counted, ids + len(self.weights)], dim=1)
        return rows, torch.cat([_normalize(weights), _SPELLING * spelled], dim=1)


def _normalize(weights: Tensor) -> Tensor:
    """Weights with the Euclidean norm 1 in each row, or 0 if all are 0."""
    return weights / weights.square().sum(dim=1, keepdim=True).clamp(min=1e-12).sqrt()


def pair_bucket(first: Tensor, second: Tensor) -> Tensor:
    """The hash bucket of pairs of word numbers (multiplicative hashing)."""
    return (first * _HASH[0] + second * _HASH[1]) % 2**32 // (2**32 // _BUCKETS)


def build(spec: Spec, *, seed: int = 0, texts: Iterable[str] | None = None) -> Network:
    """Build a network of words and word pairs.

    Args:
        spec: ``small:ngrams``; options ``features`` (maximum number of words and word pairs,
            default 50,000), ``dim`` (default 64), ``max_tokens`` (default 512), ``template``,
            ``tokenizer`` (a ``tokenizer.json`` or its folder, instead of one trained on
            ``texts``), ``seed``.
        seed: Seed of random weights if the specification has no ``seed``.
        texts: The training texts, whose most frequent words and word pairs are used. Without
            texts, as for a saved student, there are ``features`` rows without weights.

    Raises:
        ModelError: If an option is invalid, or there are neither texts nor a tokenizer.
    """
    check(spec)
    require("tokenizers", "text")
    most = integer_option(spec, "features", 50_000)
    dim = integer_option(spec, "dim", 64)
    known = None if texts is None else list(texts)
    if "tokenizer" in spec.options:
        content = tokenizer_option(spec)
    elif known is None:
        raise ModelError(f"{spec} takes its words from training texts, but there are none")
    else:
        content = str(train_tokenizer(known, max(2, int(_WORDS * most))).to_str())
    tokenization = Tokenization(
        content,
        integer_option(spec, "max_tokens", 512),
        spec.options.get("template"),
        truncate=spec.options.get("truncate", "end"),
    )
    words = tokenization.vocabulary_size
    if known is None:
        module = NgramNetwork(words, most - words, dim)
    else:
        module = seeded(
            integer_option(spec, "seed", seed),
            lambda: _learn(tokenization, known, most - words, dim),
        )
        if not module.weights.any():
            raise ModelError(f"{spec} cannot build a vocabulary: all training texts are empty")
    layer = "TF-IDF weighted average of word and word-pair embeddings"
    features = str(len(module.weights))
    return text_network(spec, module, dim, tokenization, layer=layer, features=features)


def _learn(tokenization: Tokenization, texts: Sequence[str], most: int, dim: int) -> NgramNetwork:
    """A network with random embeddings, and the words and pairs of texts with their weights."""
    words = tokenization.vocabulary_size
    # A template is for the inputs of a row, which may be several texts.
    encoded = replace(tokenization, template=None).encode_batch(texts)
    counts, pairs = _count(encoded, words, most, tokenization.unknown)
    module = NgramNetwork(words, len(pairs), dim, tokenization.unknown)
    module.weights.copy_(torch.from_numpy(_inverse_frequency(counts, len(texts))))
    buckets = pair_bucket(*torch.from_numpy(pairs).T)
    # Rarer pairs first: a bucket with several pairs belongs to the most frequent one.
    for row in reversed(range(len(pairs))):
        module.buckets[buckets[row]] = words + row
    spelling = _spell(tokenization.words, counts[:words], len(texts))
    lengths = np.sqrt(spelling.power(2).sum(axis=1)).astype(np.float32)
    module.lengths.copy_(torch.from_numpy(lengths))
    module.spelling = csr_array(spelling.multiply(1 / np.maximum(lengths, 1e-6)[:, None]))
    return module


def _count(
    texts: list[NDArray[np.int64]], words: int, most: int, unknown: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Number of texts with each word and pair, and the most frequent pairs ``(n, 2)``."""
    single: Counter[int] = Counter()
    double: Counter[tuple[int, int]] = Counter()
    for ids in texts:
        listed = ids.tolist()
        single.update({one for one in listed if one != unknown})
        double.update({pair for pair in pairwise(listed) if unknown not in pair})
    pairs = sorted(double, key=lambda pair: (-double[pair], pair))[: max(0, most)]
    counts = np.zeros(words + len(pairs))
    counts[list(single)] = list(single.values())
    counts[words:] = [double[pair] for pair in pairs]
    return counts, np.array(pairs, np.int64).reshape(-1, 2)


def _inverse_frequency(counts: NDArray[np.float64], texts: int) -> NDArray[np.float32]:
    """The weight of what occurs in ``counts`` texts; 0 if that is none."""
    weights = np.log((1 + texts) / (1 + np.minimum(counts, texts))) + 1
    return np.where(counts > 0, weights, 0).astype(np.float32)


def _spell(words: Sequence[str], counts: NDArray[np.float64], texts: int) -> csr_array:
    """Weights of the character n-grams of words, ``(words, n-grams)``.

    The number of texts with an n-gram is estimated by that of the texts with its words.
    """
    columns: defaultdict[str, int] = defaultdict(lambda: len(columns))
    entries = [
        (row, columns[gram])
        for row, word in enumerate(words)
        if counts[row] > 0
        for gram in character_ngrams(word)
    ]
    rows, found = np.array(entries, np.int64).reshape(-1, 2).T
    occurrences = csr_array((np.ones(len(rows)), (rows, found)), (len(words), len(columns)))
    weights = _inverse_frequency(occurrences.sign().T @ counts, texts)
    return csr_array(occurrences.multiply(weights[None, :]))


def character_ngrams(word: str) -> list[str]:
    """All parts of 3 to 5 characters of a word between spaces."""
    padded = f" {word[:_MOST_CHARACTERS]} "
    return [
        padded[start : start + size] for size in _SIZES for start in range(len(padded) - size + 1)
    ]
