"""`small:static`: averaged token embeddings, tens of thousands of short texts per second."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aft.backbones.checks import check, integer_option
from aft.backbones.network import Network, require, seeded, versions
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization, read_tokenizer
from aft.backbones.weights import load_into, load_weights
from aft.errors import ModelError

if TYPE_CHECKING:
    import tokenizers

_UNKNOWN = "[UNK]"
_SPACELESS = r"\x{0e00}-\x{0eff}\x{3040}-\x{30ff}\x{3400}-\x{9fff}\x{f900}-\x{faff}"
_WORD = rf"[^\W{_SPACELESS}]+|\S"  # letters, digits and underscores, or one other character
WORD = re.sub(r"\\x\{(\w+)\}", r"\\u\1", _WORD)
"""The pattern of a word, for Python's `re`."""
_DROPOUT = 0.3
# Small compared to an Adam step for a rare word: with nn.Embedding's default of 1.0, the noise of
# untrained words would dominate the average.
EMBEDDING_STD = 0.02


class StaticNetwork(nn.Module):
    """Learned token embeddings; a text's features are their normalised average.

    Unknown words are left out of the average: nothing trains their embedding if every word of the
    training texts is known.

    Args:
        vocabulary: Number of tokens.
        dim: Dimension of the embeddings and of the features.
        unknown: Id of the token for unknown words; -1 if there is none.

    Attributes:
        from_teacher: Whether training starts from a teacher's features of each word.
    """

    unknown: Tensor

    def __init__(self, vocabulary: int, dim: int, unknown: int = -1) -> None:
        super().__init__()
        self.from_teacher = False
        self.register_buffer("unknown", torch.tensor(unknown))
        self.embedding = nn.Embedding(vocabulary, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(_DROPOUT)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        """Features ``(B, dim)`` of tokens ``(B, L)`` or ``(B, 2, L)``, padded with -1.

        Token types are ignored. A text without tokens is treated as a zero average.
        """
        ids = tokens[:, 0] if tokens.ndim == 3 else tokens
        mask = (ids >= 0) & (ids != self.unknown)
        weights = mask.to(self.embedding.weight.dtype)
        total = sum_vectors(self.embedding, ids.clamp(min=0), weights, self.training)
        average = total / weights.sum(1, keepdim=True).clamp(min=1)
        features: Tensor = self.dropout(self.norm(average))
        return features

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Load weights; those without ``unknown`` were trained with unknown words averaged in."""
        state.setdefault(f"{prefix}unknown", torch.tensor(-1))
        super()._load_from_state_dict(state, prefix, *rest)


def sum_vectors(embedding: nn.Embedding, rows: Tensor, weights: Tensor, training: bool) -> Tensor:
    """The weighted sum of some rows of an embedding, ``(B, D)``, for each text.

    In training, entries of weight 0 are left out: where texts differ in length, most are padding.

    Args:
        embedding: The word vectors.
        rows: Numbers of rows, ``(B, L)``.
        weights: Their weights, ``(B, L)``, without gradient.
        training: Whether gradients are needed; otherwise the computation can be exported.
    """
    if not training:
        return torch.einsum("bl,bld->bd", weights, embedding(rows))
    counted = weights != 0
    number = counted.sum(dim=1)
    return F.embedding_bag(
        rows[counted],
        embedding.weight,
        number.cumsum(dim=0) - number,
        mode="sum",
        per_sample_weights=weights[counted],
        sparse=embedding.sparse,
    )


def build(spec: Spec, *, seed: int = 0, texts: Iterable[str] | None = None) -> Network:
    """Build a network of averaged static token embeddings.

    Args:
        spec: ``small:static``; options ``vocabulary`` (maximum size, default 20,000),
            ``dim`` (default 128), ``max_tokens`` (default 512), ``template``, ``truncate``,
            ``tokenizer`` (a ``tokenizer.json`` or its folder, instead of one trained on ``texts``),
            ``weights`` (``random``, the default, or a file), ``init`` (``teacher``: the vectors
            start from a text teacher's features of each word), ``seed``.
        seed: Seed of random weights if the specification has no ``seed``.
        texts: The training texts; their most frequent words form the vocabulary.

    Raises:
        ModelError: If an option is invalid, there are neither texts nor a tokenizer, or the
            weights do not match.
    """
    check(spec)
    require("tokenizers", "text")
    tokenization = Tokenization(
        _tokenizer(spec, texts),
        integer_option(spec, "max_tokens", 512),
        spec.options.get("template"),
        truncate=spec.options.get("truncate", "end"),
    )
    dim = integer_option(spec, "dim", 128)
    module = seeded(
        integer_option(spec, "seed", seed),
        lambda: StaticNetwork(tokenization.vocabulary_size, dim, tokenization.unknown),
    )
    source = spec.options.get("weights", "random")
    module.from_teacher = spec.options.get("init") == "teacher"
    if source != "random":
        load_into(module, _with_unknown(load_weights(source)))
        source = str(Path(source).expanduser())
    layer = "normalised average of token embeddings"
    return text_network(spec, module, dim, tokenization, layer=layer, weights=source)


def text_network(
    spec: Spec,
    module: nn.Module,
    dim: int,
    tokenization: Tokenization,
    *,
    layer: str,
    weights: str = "random",
    **options: str,
) -> Network:
    """The network of a built-in text model.

    Args:
        spec: The specification.
        module: The module.
        dim: Dimension of the features.
        tokenization: The tokenization, whose tokenizer is saved with the network.
        layer: The features in words.
        weights: ``random``, or the file of the weights.
        options: Further options that are needed to build the saved network again.
    """
    saved = {
        "tokenizer": "{folder}/tokenizer.json",
        **options,
        "dim": str(dim),
        "max_tokens": str(tokenization.max_tokens),
        **({"template": tokenization.template} if tokenization.template else {}),
        **({"truncate": "start"} if tokenization.truncate == "start" else {}),
    }
    return Network(
        spec=spec,
        module=module,
        dim=dim,
        preprocessing=tokenization,
        weights=weights,
        layer=layer,
        versions=versions("tokenizers", "torch"),
        pooling="mean",
        files={"tokenizer.json": tokenization.tokenizer_json},
        architecture=str(Spec(spec.source, spec.name, saved)),
    )


def _with_unknown(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of any version: earlier ones were trained with unknown words in the average."""
    name = next((name for name in weights if name.endswith("embedding.weight")), "embedding.weight")
    return {f"{name.removesuffix('embedding.weight')}unknown": torch.tensor(-1), **weights}


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> tokenizers.Tokenizer:
    """Train a tokenizer on the most frequent words and punctuation marks of texts.

    Text is lower-cased and normalised to Unicode NFKC. In scripts without spaces between words
    (Chinese, Japanese, Thai) each character is a word. The result depends only on the word
    counts.

    Args:
        texts: The training texts.
        vocabulary: Maximum number of tokens, including the one for unknown words.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), "removed", invert=True)
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary, special_tokens=[_UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer_option(spec: Spec) -> str:
    """Read the ``tokenizer.json`` that the option ``tokenizer`` names.

    Raises:
        ModelError: If it cannot be read.
    """
    place = Path(spec.options["tokenizer"]).expanduser()
    return read_tokenizer(place / "tokenizer.json" if place.is_dir() else place)


def _tokenizer(spec: Spec, texts: Iterable[str] | None) -> str:
    if "tokenizer" in spec.options:
        if "vocabulary" in spec.options:
            raise ModelError(
                f"expected vocabulary or tokenizer, not both, got {spec}; a tokenizer has its own "
                "vocabulary"
            )
        return tokenizer_option(spec)
    if texts is None:
        raise ModelError(
            f"{spec} builds its vocabulary from training texts, but there are none; use an "
            f"existing tokenizer: small:{spec.name}?tokenizer=FILE"
        )
    tokenizer = train_tokenizer(texts, integer_option(spec, "vocabulary", 20_000))
    if tokenizer.get_vocab_size() == 1:
        raise ModelError(f"{spec} cannot build a vocabulary: all training texts are empty")
    return str(tokenizer.to_str())
