"""Tokenization of one or several texts; the counterpart of image preprocessing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import TYPE_CHECKING, Any, NamedTuple

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

_PROBES = ("a", "A", "0", ".", "the", "\u4e00")
_GROWTH = 4
_REACH = 64


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
        needed = self._single.specials + 1
        if self.max_tokens < needed:
            raise ModelError(
                f"expected max_tokens >= {needed}, since this tokenizer adds "
                f"{needed - 1} special tokens, got {self.max_tokens}"
            )

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

    # One text or many ---------------------------------------------------------------------------

    def _encode_one(self, value: Text) -> Tensor:
        return torch.from_numpy(self.encode_batch([value])[0])

    def _encode(self, values: Sequence[Text]) -> list[tuple[Tokens, bool]]:
        """The tokens of each input, and whether it was truncated."""
        texts = [self._texts(value) for value in values]
        bounds = np.cumsum([0, *(len(parts) for parts in texts)])
        flat = [part for parts in texts for part in parts]
        found = self._first_tokens(flat, self.max_tokens)
        encoded = []
        for start, parts in zip(bounds[:-1], texts, strict=True):
            if len(parts) == 2:
                encoded.append(self._join_pair(parts, found[start], found[start + 1]))
            else:
                encoded.append(self._finish(found[start]))
        return encoded

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
        if len(texts) == 2 and self._pair is not None:
            return texts
        return ["\n".join(texts)]

    def _finish(self, tokens: Tokens) -> tuple[Tokens, bool]:
        frame = self._single
        room = self.max_tokens - frame.specials
        return np.concatenate([frame.before, tokens[:room], frame.after]), len(tokens) > room

    def _join_pair(self, texts: list[str], first: Tokens, second: Tokens) -> tuple[Tokens, bool]:
        frame = self._pair
        assert frame is not None
        room = self.max_tokens - frame.specials
        if room < 2:
            raise InputError(
                f"expected max_tokens >= {frame.specials + 2} for pairs of texts, since this "
                f"tokenizer adds {frame.specials} special tokens to a pair, got {self.max_tokens}"
            )
        truncated = len(first) + len(second) > room
        if truncated:
            kept = self._share(room, texts, first, second)
            first, second = first[: kept[0]], second[: kept[1]]
        parts = (frame.before, first, frame.between, second, frame.after)
        ids = np.concatenate(parts)
        if not self.token_types:
            return ids, truncated
        types = np.repeat(frame.types, [len(part) for part in parts])
        return np.stack([ids, types]), truncated

    def _share(self, room: int, texts: list[str], first: Tokens, second: Tokens) -> tuple[int, int]:
        """Number of tokens that each text of a pair keeps; the longer one is truncated first."""
        half = room // 2
        if len(first) <= half:
            return len(first), room - len(first)
        if len(second) <= half:
            return room - len(second), len(second)
        if room % 2 == 0:
            return half, half
        # The longer text gets the odd token, so the full lengths are needed.
        shorter, longer = sorted((0, 1), key=lambda i: len(texts[i]))
        counts = [0, 0]
        counts[shorter] = len(self._tokens(texts[shorter]))
        counts[longer] = len(self._first_tokens([texts[longer]], counts[shorter])[0])
        return (half + 1, half) if counts[0] > counts[1] else (half, half + 1)

    # Tokens without special tokens ----------------------------------------------------------------

    def _first_tokens(self, texts: Sequence[str], needed: int) -> list[Tokens]:
        """All tokens of each text, or at least the first ``needed + 1`` of a very long text.

        Only the beginning of a very long text is tokenized if the rest cannot change the result.
        """
        size = 1024 + 16 * needed
        short = [index for index, text in enumerate(texts) if len(text) <= size]
        encodings = self._tokenizer.encode_batch_fast(
            [texts[index] for index in short], add_special_tokens=False
        )
        found = {i: _array(encoding.ids) for i, encoding in zip(short, encodings, strict=True)}
        return [
            found[index] if index in found else self._beginning(text, size, needed)
            for index, text in enumerate(texts)
        ]

    def _beginning(self, text: str, size: int, needed: int) -> Tokens:
        while size < len(text):
            # Trailing whitespace and the last characters may depend on the text that follows.
            beginning = text[:size].rstrip()
            settled = beginning[: max(0, len(beginning) - self._reach)]
            if self._looks_ahead:
                settled = settled[: len(settled) - len(_last_word(settled))]
            encoding = self._tokenizer.encode(beginning, add_special_tokens=False)
            count = _count_settled(encoding, len(settled))
            if count > needed:
                return _array(encoding.ids[:count])
            size *= _GROWTH
        return self._tokens(text)

    def _tokens(self, text: str) -> Tokens:
        encodings = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return _array(encodings[0].ids)

    @cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(self.tokenizer_json)
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"cannot parse the content of tokenizer.json: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def _reach(self) -> int:
        """Number of characters at a cut whose tokens may depend on the text that follows."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return max([_REACH, *(len(token.content) for token in added)])

    @cached_property
    def _looks_ahead(self) -> bool:
        """Whether tokens may depend on the following text up to the next whitespace.

        A regular expression with a look-ahead may, for example, group digits from the right.
        """
        described = json.loads(self.tokenizer_json)
        steps = json.dumps([described.get("normalizer"), described.get("pre_tokenizer")])
        return '"Regex"' in steps and "(?" in steps

    @cached_property
    def _single(self) -> _Frame:
        probe = self._probe
        return _Frame.of(self._tokenizer.encode(probe))

    @cached_property
    def _pair(self) -> _Frame | None:
        """Special tokens of a pair, or None if the tokenizer does not separate the texts."""
        tokenizer = self._tokenizer
        added = (tokenizer.num_special_tokens_to_add(is_pair) for is_pair in (True, False))
        if int.__sub__(*added) <= 0:
            return None
        return _Frame.of(tokenizer.encode(self._probe, self._probe))

    @cached_property
    def _probe(self) -> str:
        """A text with at least one token, used to locate special tokens."""
        for text in (*_PROBES, *self._tokenizer.get_vocab()):
            if self._tokenizer.encode(text, add_special_tokens=False).ids:
                return text
        raise ModelError("expected a tokenizer that returns tokens, got none for any text")


class _Frame(NamedTuple):
    """Special tokens around one or two texts, and the token types of the five parts."""

    before: Tokens
    between: Tokens
    after: Tokens
    types: Tokens  # (5,): before, first text, between, second text, after

    @property
    def specials(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    @classmethod
    def of(cls, encoding: tokenizers.Encoding) -> _Frame:
        """Derive the frame from an encoding of one or two texts with at least one token each."""
        sequences = encoding.sequence_ids
        last = max(sequence for sequence in sequences if sequence is not None)
        starts, ends = [], []
        for sequence in range(last + 1):
            places = [i for i, of in enumerate(sequences) if of == sequence]
            starts.append(places[0])
            ends.append(places[-1] + 1)
        parts = [
            slice(0, starts[0]),
            slice(starts[0], ends[0]),
            slice(ends[0], starts[1]) if last else slice(0, 0),
            slice(starts[1], ends[1]) if last else slice(0, 0),
            slice(ends[-1], None),
        ]
        types = [next(iter(encoding.type_ids[part]), 0) for part in parts]
        before, between, after = (_array(encoding.ids[parts[i]]) for i in (0, 2, 4))
        return cls(before, between, after, _array(types))


def _count_settled(encoding: tokenizers.Encoding, end: int) -> int:
    """Number of leading tokens whose words end before a character position."""
    unsettled = {
        word
        for word, (_, stop) in zip(encoding.word_ids, encoding.offsets, strict=True)
        if stop > end
    }
    for count, word in enumerate(encoding.word_ids):
        if word in unsettled:
            return count
    return len(encoding.ids)


def _last_word(text: str) -> str:
    """The text after the last whitespace; the whole text if there is none."""
    return text.rsplit(maxsplit=1)[-1] if text else ""


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


def _array(values: Sequence[int]) -> Tokens:
    return np.asarray(values, np.int64)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
