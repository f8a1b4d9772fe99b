"""Tokenization of one or several texts; the counterpart of image preprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aft.backbones.weights import ModelError
from aft.config.groups import Augmentation
from aft.errors import InputError

if TYPE_CHECKING:
    import tokenizers

Tokens = NDArray[np.int64]
Text = str | None | Mapping[str, str | None]
"""A text (None counts as empty), or several texts by column name, in order."""


@dataclass(frozen=True)
class Tokenization:
    """Tokenization of a text to ``(L,)`` token ids, or ``(2, L)`` ids and token types.

    Without a template, two texts are encoded as a pair (``[CLS] a [SEP] b [SEP]``) if the
    tokenizer separates pairs with special tokens. Otherwise, and for more than two texts, they
    are joined with newlines. Texts that are too long are truncated at the end and keep their
    special tokens; in a pair, the longer text is truncated first.

    Attributes:
        tokenizer_json: Content of a ``tokenizer.json`` of the library `tokenizers`.
        max_tokens: Maximum number of tokens per input, including special tokens.
        template: Format applied to the text first, with ``{0}`` for the text and ``{1}`` for a
            second one, e.g. ``query: {0}``.
        token_types: Whether the model distinguishes the texts of a pair by token types.

    Raises:
        ModelError: If the tokenizer or the template is invalid, or ``max_tokens`` is too small
            for a text with its special tokens.
    """

    tokenizer_json: str
    max_tokens: int
    template: str | None = None
    token_types: bool = False

    def __post_init__(self) -> None:
        if self.template is not None:
            _count_fields(self.template)
        _ = self._tokenizer  # raises if it cannot be used

    def __getstate__(self) -> dict[str, Any]:
        fields = ("tokenizer_json", "max_tokens", "template", "token_types")
        return {name: getattr(self, name) for name in fields}

    def describe(self) -> dict[str, Any]:
        """The settings as plain JSON values; the tokenizer is represented by its hash."""
        return {
            "kind": "text",
            "max_tokens": self.max_tokens,
            "template": self.template,
            "token_types": self.token_types,
            "tokenizer_sha256": _sha256(self.tokenizer_json),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any], tokenizer_json: str) -> Tokenization:
        """The inverse of :meth:`describe`.

        Raises:
            ModelError: If ``tokenizer_json`` does not have the described hash.
        """
        expected, given = description["tokenizer_sha256"], _sha256(tokenizer_json)
        if given != expected:
            raise ModelError(
                f"expected a tokenizer with SHA-256 {expected}, got {given}; the tokenizer was "
                "changed after the description was saved: restore the original"
            )
        return cls(
            tokenizer_json,
            description["max_tokens"],
            description["template"],
            description["token_types"],
        )

    def evaluate(self) -> Callable[[Text], Tensor]:
        """A function from one or several texts to an int64 tensor ``(L,)`` or ``(2, L)``."""
        return self._encode_one

    def augment(self, kind: Augmentation = "standard") -> Callable[[Text], Tensor]:
        """The same as :meth:`evaluate`: texts are not augmented."""
        return self.evaluate()

    def encode_batch(self, values: Sequence[Text]) -> list[Tokens]:
        """Encode a batch of texts, faster than one by one.

        Args:
            values: Inputs as for :meth:`evaluate`: a text or a dict of texts each.

        Returns:
            One int64 array per input: ``(L,)``, or ``(2, L)`` (token ids, token types) for pairs
            if the model has token types.

        Raises:
            InputError: If a value is not text, or does not match the template.
        """
        return [tokens for tokens, _ in self._encode(values)]

    def count_truncated(self, values: Sequence[Text]) -> int:
        """Number of inputs that are longer than ``max_tokens`` and get truncated."""
        return sum(truncated for _, truncated in self._encode(values))

    @property
    def num_texts(self) -> int | None:
        """Number of texts in the template; None without a template (any number)."""
        return None if self.template is None else _count_fields(self.template)

    @property
    def vocabulary_size(self) -> int:
        """One more than the highest token id."""
        return max(self._tokenizer.get_vocab().values()) + 1

    @property
    def unknown(self) -> int:
        """Id of the token for unknown words; -1 if there is none."""
        name = getattr(self._tokenizer.model, "unk_token", None)
        found = None if name is None else self._tokenizer.token_to_id(name)
        return -1 if found is None else found

    @property
    def words(self) -> list[str]:
        """The text of each token id; empty for ids without one."""
        words = [""] * self.vocabulary_size
        for word, number in self._tokenizer.get_vocab().items():
            words[number] = word
        return words

    # One text or many ---------------------------------------------------------------------------

    def _encode_one(self, value: Text) -> Tensor:
        return torch.from_numpy(self.encode_batch([value])[0])

    def _encode(self, values: Sequence[Text]) -> list[tuple[Tokens, bool]]:
        """The tokens of each input, and whether it was truncated."""
        texts = [self._texts(value) for value in values]
        if any(len(parts) == 2 for parts in texts):
            self._check_room()
        single = [parts[0] for parts in texts if len(parts) == 1]
        encoded = iter(self._tokenizer.encode_batch_fast(single))
        encodings = [self._pair(*p) if len(p) == 2 else next(encoded) for p in texts]
        return [
            (self._array(encoding, len(parts) == 2), bool(encoding.overflowing))
            for encoding, parts in zip(encodings, texts, strict=True)
        ]

    def _pair(self, first: str, second: str) -> tokenizers.Encoding:
        """The encoding of two texts.

        Both are cut to about the maximum length first, the longer one to one token more: the
        library creates all combinations of what is left over of either.
        """
        a, b = self._whole.encode_batch([first, second], add_special_tokens=False)
        longer = len(a.ids) - len(b.ids)
        a.truncate(self.max_tokens + 1 + (longer > 0))
        b.truncate(self.max_tokens + 1 + (longer < 0))
        return self._tokenizer.post_process(a, b)

    def _array(self, encoding: tokenizers.Encoding, is_pair: bool) -> Tokens:
        rows = [encoding.ids, encoding.type_ids] if is_pair and self.token_types else encoding.ids
        return np.asarray(rows, np.int64)

    def _check_room(self) -> None:
        specials = self._tokenizer.num_special_tokens_to_add(is_pair=True)
        if self.max_tokens < specials + 2:
            raise InputError(
                f"expected max_tokens >= {specials + 2} for pairs of texts, since this tokenizer "
                f"adds {specials} special tokens to a pair, got {self.max_tokens}"
            )

    def _texts(self, value: Text) -> list[str]:
        """The one or two texts to tokenize for a value."""
        parts = list(value.values()) if isinstance(value, Mapping) else [value]
        texts = ["" if part is None else part for part in parts]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(
                "expected a text or a dict of texts by column name, got "
                + (", ".join(type(part).__name__ for part in parts) or "an empty dict")
            )
        if self.template is not None:
            fields = _count_fields(self.template)
            if fields != len(texts):
                raise InputError(
                    f"expected {fields} text{'s' * (fields > 1)} for the template "
                    f"{self.template!r}, got {len(texts)}"
                )
            return [self.template.format(*texts)]
        if len(texts) == 2 and self._separates_pairs:
            return texts
        return ["\n".join(texts)]

    @cached_property
    def _whole(self) -> tokenizers.Tokenizer:
        """The tokenizer without truncation."""
        tokenizer = type(self._tokenizer).from_str(self.tokenizer_json)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(self.tokenizer_json)
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"cannot parse the content of tokenizer.json: {error}") from error
        tokenizer.no_padding()
        # Whatever the file says: the special tokens stay, the longer text of a pair is cut first.
        specials = tokenizer.num_special_tokens_to_add(is_pair=False)
        if self.max_tokens < specials + 1:
            raise ModelError(
                f"expected max_tokens >= {specials + 1}, since this tokenizer adds {specials} "
                f"special tokens, got {self.max_tokens}"
            )
        tokenizer.enable_truncation(self.max_tokens, strategy="longest_first")
        return tokenizer

    @cached_property
    def _separates_pairs(self) -> bool:
        """Whether the tokenizer separates the texts of a pair with special tokens."""
        added = (self._tokenizer.num_special_tokens_to_add(is_pair) for is_pair in (True, False))
        return int.__sub__(*added) > 0


def _count_fields(template: str) -> int:
    """Number of texts in a template."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ModelError(f"cannot parse the template {template!r}: {error}") from error
    fields = {name for _, name, _, _ in parts if name is not None}
    plain = all(not spec and not conversion for _, _, spec, conversion in parts)
    if not fields or not plain or fields != {str(index) for index in range(len(fields))}:
        raise ModelError(
            "expected a template with {0} for the text and {1} for a second one, e.g. "
            f"'query: {{0}}', got {template!r}; write literal braces as {{{{ and }}}}"
        )
    return len(fields)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
