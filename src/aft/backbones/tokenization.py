"""Tokenization of one or several texts; the counterpart of image preprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aft.config.groups import Augmentation
from aft.errors import InputError, ModelError
from aft.files import reading

if TYPE_CHECKING:
    import tokenizers

MOST_BYTES = 100_000_000
"""Largest tokenizer file that is read; those of published models have at most some 60 MB."""
MOST_WORDS = 2**20
"""Largest number of tokens of a tokenizer; those of published models have at most 902,000."""
SIDES = ("end", "start")
FILLED = "filled"
"""Truncation of saved students of earlier versions: at the end of the filled template."""

Tokens = NDArray[np.int64]
Text = str | None | Mapping[str, str | None]
"""A text (None counts as empty), or several texts by column name, in order."""


@dataclass(frozen=True)
class Tokenization:
    """Tokenization of a text to ``(L,)`` token ids, or ``(2, L)`` ids and token types.

    Without a template, two texts are encoded as a pair (``[CLS] a [SEP] b [SEP]``) if the
    tokenizer separates pairs with special tokens. Otherwise, and for more than two texts, they
    are joined with newlines. Texts that are too long are truncated and keep their special tokens;
    in a pair, the longer text is truncated first. A template stays whole: the texts are cut to the
    room that it leaves.

    Attributes:
        tokenizer_json: Content of a ``tokenizer.json`` of the library `tokenizers`.
        max_tokens: Maximum number of tokens per input, including special tokens.
        template: Format applied to the text first, with ``{0}`` for the text and ``{1}`` for a
            second one, e.g. ``query: {0}``.
        token_types: Whether the model distinguishes the texts of a pair by token types.
        truncate: Side on which texts that are too long are cut: ``end`` or ``start``.

    Raises:
        ModelError: If the tokenizer, the template or ``truncate`` is invalid, the tokenizer has
            more than a million tokens, or ``max_tokens`` is too small for a text with its template
            and special tokens.
    """

    tokenizer_json: str
    max_tokens: int
    template: str | None = None
    token_types: bool = False
    truncate: str = "end"

    def __post_init__(self) -> None:
        if self.truncate not in (*SIDES, FILLED):
            raise ModelError(f"expected truncate=end or truncate=start, got {self.truncate!r}")
        if self.template is not None:
            _count_fields(self.template)
        _ = self._tokenizer  # raises if it cannot be used
        if self.template is None or self.truncate == FILLED:
            return
        if (lacking := len(self._places) - self._room) > 0:
            raise ModelError(
                f"expected max_tokens >= {self.max_tokens + lacking} for the template "
                f"{self.template!r} with one token of each text, got {self.max_tokens}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def describe(self) -> dict[str, Any]:
        """The settings as plain JSON values; the tokenizer is represented by its hash.

        ``truncate`` is left out where earlier versions cut the same tokens.
        """
        side = {"truncate": self.truncate} if self.truncate == "start" or self._cuts_texts else {}
        return {
            "kind": "text",
            "max_tokens": self.max_tokens,
            "template": self.template,
            "token_types": self.token_types,
            "tokenizer_sha256": _sha256(self.tokenizer_json),
            **side,
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
                f"expected a tokenizer.json with SHA-256 {expected}, got {given}; it was "
                "changed after the description was saved: restore the original"
            )
        made = cls(
            tokenizer_json,
            description["max_tokens"],
            description["template"],
            description["token_types"],
            description.get("truncate", "end"),
        )
        if "truncate" not in description and made._cuts_texts:
            return replace(made, truncate=FILLED)
        return made

    def __call__(self, value: Text) -> Tensor:
        """The tokens of one or several texts, an int64 tensor ``(L,)`` or ``(2, L)``."""
        return torch.from_numpy(self.encode_batch([value])[0])

    def evaluate(self) -> Tokenization:
        """Itself, the counterpart of :meth:`aft.backbones.preprocessing.Preprocessing.evaluate`."""
        return self

    def augment(self, kind: Augmentation = "standard") -> Tokenization:
        """Itself: texts are not augmented."""
        return self

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
        """One more than the highest token id.

        Raises:
            ModelError: If it is more than a million, or there is no token.
        """
        size = 1 + max(self._tokenizer.get_vocab().values(), default=-1)
        if not 0 < size <= MOST_WORDS:
            raise ModelError(f"expected token ids below {MOST_WORDS:,}, got up to {size - 1:,}")
        return size

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

    def plan(self) -> dict[str, Any]:
        """What a program without aft needs to make the same tokens, beside the tokenizer.

        Returns:
            The settings, and ``pairs`` (two texts are encoded as a pair), ``side`` (the side that
            is cut, in the words of `tokenizers`), ``places`` (the text in each field of a template
            that stays whole; None if the filled template is cut) and ``room`` (the number of
            tokens that such a template leaves to the texts).
        """
        whole = self._cuts_texts
        return {
            "max_tokens": self.max_tokens,
            "template": self.template,
            "token_types": self.token_types,
            "pairs": self.template is None and self._separates_pairs,
            "side": _direction(self.truncate),
            "places": self._places if whole else None,
            "room": self._room if whole else 0,
        }

    # One text or many ---------------------------------------------------------------------------

    def _encode(self, values: Sequence[Text]) -> list[tuple[Tokens, bool]]:
        """The tokens of each input, and whether it was truncated."""
        texts = [self._texts(value) for value in values]
        if any(len(parts) == 2 for parts in texts):
            self._check_room()
        single = [parts[0] for parts in texts if len(parts) == 1]
        try:
            encoded = iter(self._tokenizer.encode_batch_fast(single))
        except Exception as error:  # e.g. a character that is neither known nor replaced
            raise InputError(f"the tokenizer fails on a text: {error}") from error
        encodings = [self._pair(*p) if len(p) == 2 else next(encoded) for p in texts]
        return [
            (
                self._array(
                    self._cut(value) if encoding.overflowing and self._cuts_texts else encoding,
                    len(parts) == 2,
                ),
                bool(encoding.overflowing),
            )
            for encoding, parts, value in zip(encodings, texts, values, strict=True)
        ]

    def _cut(self, value: Text) -> tokenizers.Encoding:
        """The encoding of the whole template with texts cut to the room that it leaves."""
        texts = self._parts(value)
        whole = self._whole.encode_batch(texts, add_special_tokens=False)
        most = _share(self._room, [len(whole[place].ids) for place in self._places])
        while True:
            cut = [
                _cut_text(text, one.offsets, most, self.truncate == "start")
                for text, one in zip(texts, whole, strict=True)
            ]
            encoding = self._whole.encode(str(self.template).format(*cut))
            excess = len(encoding.ids) - self.max_tokens
            if excess <= 0 or most == 0:  # without any text it fits, see __post_init__
                return encoding
            # Where texts join the template, the tokens may be others than those of the texts alone.
            most = max(0, most - max(1, excess // len(self._places)))

    def _pair(self, first: str, second: str) -> tokenizers.Encoding:
        """The encoding of two texts.

        Both are cut to about the maximum length first, the longer one to one token more: the
        library creates all combinations of what is left over of either.
        """
        a, b = self._whole.encode_batch([first, second], add_special_tokens=False)
        longer = len(a.ids) - len(b.ids)
        side = _direction(self.truncate)
        a.truncate(self.max_tokens + 1 + (longer > 0), direction=side)
        b.truncate(self.max_tokens + 1 + (longer < 0), direction=side)
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
        if self.template is None and isinstance(value, str):
            return [value]
        texts = self._parts(value)
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

    def _parts(self, value: Text) -> list[str]:
        """The texts of a value."""
        parts = list(value.values()) if isinstance(value, Mapping) else [value]
        texts = ["" if part is None else part for part in parts]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(
                "expected a text or a dict of texts by column name, got "
                + (", ".join(type(part).__name__ for part in parts) or "an empty dict")
            )
        return texts

    @cached_property
    def _cuts_texts(self) -> bool:
        """Whether cutting the filled template would cut the template too."""
        if self.template is None or self.truncate == FILLED:
            return False
        at_side = self.template.startswith if self.truncate == "start" else self.template.endswith
        return len(self._places) > 1 or not at_side("{0}")

    @cached_property
    def _places(self) -> list[int]:
        """The number of the text in each field of the template."""
        fields = (name for _, name, _, _ in Formatter().parse(str(self.template)))
        return [int(name) for name in fields if name is not None]

    @cached_property
    def _room(self) -> int:
        """Number of tokens that the template and the special tokens leave to the texts."""
        template = str(self.template)
        empty = template.format(*[""] * _count_fields(template))
        return self.max_tokens - len(self._whole.encode(empty).ids)

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

        check_tokenizer_size(len(self.tokenizer_json), "tokenizer.json")
        try:
            tokenizer = Tokenizer.from_str(self.tokenizer_json)
            tokenizer.encode_batch_fast([""])  # some damage shows only here
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # plain Exception, or the panic of a program in Rust
            raise ModelError(f"cannot use the content of tokenizer.json: {error}") from error
        if (size := tokenizer.get_vocab_size()) > MOST_WORDS:
            raise ModelError(
                f"expected a tokenizer with at most {MOST_WORDS:,} tokens, got {size:,}"
            )
        tokenizer.no_padding()
        # Whatever the file says: the special tokens stay, the longer text of a pair is cut first.
        specials = tokenizer.num_special_tokens_to_add(is_pair=False)
        if self.max_tokens < specials + 1:
            raise ModelError(
                f"expected max_tokens >= {specials + 1}, since this tokenizer adds {specials} "
                f"special tokens, got {self.max_tokens}"
            )
        side = _direction(self.truncate)
        tokenizer.enable_truncation(self.max_tokens, strategy="longest_first", direction=side)
        return tokenizer

    @cached_property
    def _separates_pairs(self) -> bool:
        """Whether the tokenizer separates the texts of a pair with special tokens."""
        added = (self._tokenizer.num_special_tokens_to_add(is_pair) for is_pair in (True, False))
        return int.__sub__(*added) > 0


def read_tokenizer(file: Path) -> str:
    """Read a ``tokenizer.json``; ModelError if it cannot be read."""
    with reading(file, ModelError):
        check_tokenizer_size(file.stat().st_size, file)
        return file.read_text(encoding="utf-8")


def check_tokenizer_size(size: int, name: object) -> None:
    """Raise ``ModelError`` if a tokenizer's file has too many bytes to be read."""
    if size > MOST_BYTES:
        raise ModelError(
            f"expected a tokenizer of at most {MOST_BYTES / 1e6:.0f} MB, got {size / 1e6:.0f} MB "
            f"in {name}"
        )


def _direction(side: str) -> str:
    """The side that is cut, in the words of `tokenizers`."""
    return "left" if side == "start" else "right"


def _share(room: int, lengths: Sequence[int]) -> int:
    """The largest length that texts can keep if they share the room, the longest cut first."""
    left = len(lengths)
    for length in sorted(lengths):
        if length * left > room:
            break
        room, left = room - length, left - 1
    return room // left if left else max(lengths)


def _cut_text(text: str, offsets: Sequence[tuple[int, int]], most: int, at_start: bool) -> str:
    """A text cut to ``most`` of its tokens, given the place of each."""
    if len(offsets) <= most:
        return text
    if most == 0:
        return ""
    return text[offsets[-most][0] :] if at_start else text[: offsets[most - 1][1]]


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
