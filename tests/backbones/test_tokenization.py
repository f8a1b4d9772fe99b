from __future__ import annotations

import json
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")

from tokenizers import Regex, Tokenizer, pre_tokenizers  # noqa: E402

from aft.backbones.tokenization import Tokenization, read_tokenizer  # noqa: E402
from aft.errors import InputError, ModelError  # noqa: E402
from helpers.errors import says  # noqa: E402
from helpers.text_models import SENTENCES, make_bert, make_gpt2, make_roberta, make_t5  # noqa: E402

MAKERS: dict[str, Callable[[Path], Path]] = {
    "bert": make_bert,
    "roberta": make_roberta,
    "gpt2": make_gpt2,
    "t5": make_t5,
}
PAIRS = ("bert", "roberta", "t5")  # those that put special tokens between two texts


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: transformers.AutoTokenizer.from_pretrained(make(folder / name))
        for name, make in MAKERS.items()
    }


def ours(tokenizer: Any, max_tokens: int = 64, **options: Any) -> Tokenization:
    return Tokenization(tokenizer.backend_tokenizer.to_str(), max_tokens, **options)


def random_text(generator: random.Random, words: int) -> str:
    known = [*" ".join(SENTENCES).split(), "xyzzy", "caf\u00e9", "\u6771\u4eac", "!?", "  ", "\n"]
    return " ".join(generator.choices(known, k=words))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("max_tokens", [5, 16, 17])
def test_one_text_as_transformers_encodes_it(
    name: str, max_tokens: int, tokenizers: dict[str, Any]
) -> None:
    tokenizer, generator = tokenizers[name], random.Random(0)
    tokenization = ours(tokenizer, max_tokens)
    texts = [random_text(generator, length) for length in range(30)]
    encoded = tokenization.encode_batch(texts)
    for text, tokens in zip(texts, encoded, strict=True):
        expected = tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]
        assert tokens.tolist() == expected
        assert tokenization.evaluate()(text).tolist() == expected
    lengths = [len(tokenizer(text)["input_ids"]) for text in texts]
    assert tokenization.count_truncated(texts) == sum(n > max_tokens for n in lengths)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("max_tokens", [7, 16, 17])
def test_pairs_as_transformers_encodes_them(
    name: str, max_tokens: int, tokenizers: dict[str, Any]
) -> None:
    tokenizer, generator = tokenizers[name], random.Random(0)
    tokenization = ours(tokenizer, max_tokens, token_types=name == "bert")
    pairs = [
        (random_text(generator, generator.randrange(20)), random_text(generator, 1 + index % 20))
        for index in range(60)
    ]
    encoded = tokenization.encode_batch([{"first": a, "second": b} for a, b in pairs])
    too_long = 0
    for (a, b), tokens in zip(pairs, encoded, strict=True):
        expected = tokenizer(a, b, truncation=True, max_length=max_tokens)
        too_long += len(tokenizer(a, b)["input_ids"]) > max_tokens
        if name == "bert":
            assert tokens.tolist() == [expected["input_ids"], expected["token_type_ids"]]
        else:
            assert tokens.tolist() == expected["input_ids"]
    assert tokenization.count_truncated([{"a": a, "b": b} for a, b in pairs]) == too_long


def test_a_pair_without_special_tokens_is_joined_by_a_newline(tokenizers: dict[str, Any]) -> None:
    encode = ours(tokenizers["gpt2"]).evaluate()
    assert encode({"a": "birds sing", "b": "now"}).tolist() == encode("birds sing\nnow").tolist()
    three = ours(tokenizers["bert"]).evaluate()({"a": "birds", "b": None, "c": "now"})
    assert three.tolist() == tokenizers["bert"]("birds\n\nnow")["input_ids"]


def test_templates(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["bert"]
    one = ours(tokenizer, template="what is {{{0}}}?").evaluate()
    assert one("the river").tolist() == tokenizer("what is {the river}?")["input_ids"]
    two = ours(tokenizer, template="story: {1} film: {0}", token_types=True).evaluate()
    pair = {"film": "great", "story": "dull"}
    assert two(pair).tolist() == tokenizer("story: dull film: great")["input_ids"]
    for encode, value, numbers in ((two, "great", ["2", "1"]), (one, pair, ["1", "2"])):
        with pytest.raises(InputError) as error:
            encode(value)
        before, template, after = str(error.value).split("'")
        assert re.findall(r"\d", before + after) == numbers
        assert template in ("what is {{{0}}}?", "story: {1} film: {0}")


@pytest.mark.parametrize("template", ["query:", "{text}", "{1}", "{0!r}", "{0:>9}", "{0", "{}"])
def test_a_template_that_cannot_be_used(template: str, tokenizers: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=re.escape(repr(template))):
        ours(tokenizers["bert"], template=template)


@pytest.mark.parametrize("name", MAKERS)
def test_missing_and_empty_texts(name: str, tokenizers: dict[str, Any]) -> None:
    tokenization = ours(tokenizers[name])
    empty = tokenizers[name]("")["input_ids"]
    assert [t.tolist() for t in tokenization.encode_batch([None, "", {"a": None}])] == [empty] * 3
    assert tokenization.encode_batch([]) == []


@pytest.mark.parametrize(
    ("value", "given"),
    [
        *((3, "int"), (b"text", "bytes"), ({}, "dict")),
        *(({"a": "b", "c": 4}, "str, int"), (["a", "b"], "list")),
    ],
)
def test_what_is_no_text(value: Any, given: str, tokenizers: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"\b{given}$"):
        ours(tokenizers["bert"]).evaluate()(value)


LONG = {
    "words": "the movie was great, and ",
    "spaces": " ",
    "one word": "movie",
    "points": ".",
    "lines": "birds\n",
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("kind", LONG)
def test_long_texts(name: str, kind: str, tokenizers: dict[str, Any]) -> None:
    tokenizer, text = tokenizers[name], LONG[kind] * (60_000 // len(LONG[kind]))
    tokenization = ours(tokenizer, 32)
    for long in (text, text + " birds", " " + text):
        expected = tokenizer(long, truncation=True, max_length=32)["input_ids"]
        assert tokenization.evaluate()(long).tolist() == expected
        assert tokenization.count_truncated([long, "birds"]) == (len(expected) == 32)


@pytest.mark.parametrize("kind", ["words", "spaces", "one word"])
def test_a_million_characters(kind: str, tokenizers: dict[str, Any]) -> None:
    tokenizer, text = tokenizers["bert"], LONG[kind] * (1_000_000 // len(LONG[kind]))
    expected = tokenizer(text, truncation=True, max_length=32)["input_ids"]
    assert ours(tokenizer, 32).evaluate()(text).tolist() == expected
    assert ours(tokenizer, 32).count_truncated([text]) == (len(expected) == 32)


@pytest.mark.parametrize("max_tokens", [16, 17])
def test_long_pairs(max_tokens: int, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["bert"]
    tokenization = ours(tokenizer, max_tokens)
    short, middle, long = "birds", "the garden " * 70, "the quiet river " * 90
    for a, b in [(long, short), (short, long), (long, middle), (middle, long), (long, long)]:
        expected = tokenizer(a, b, truncation=True, max_length=max_tokens)["input_ids"]
        assert tokenization.evaluate()({"a": a, "b": b}).tolist() == expected
    # transformers needs gigabytes for these, which begin like the last pair.
    very_long = "the quiet river " * 10_000
    assert tokenization.evaluate()({"a": very_long, "b": very_long}).tolist() == expected


def test_a_regular_expression_may_look_ahead_beyond_the_cut(tokenizers: dict[str, Any]) -> None:
    """A regular expression may look ahead as far as a word goes, and then nothing is cut short."""
    tokenizer = Tokenizer.from_str(tokenizers["bert"].backend_tokenizer.to_str())
    digits = Regex(r"[0-9]{1,3}(?=(?:[0-9]{3})*(?:[^0-9]|$))|\s+|[^0-9\s]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(digits, "isolated")
    tokenization = Tokenization(tokenizer.to_str(), 8)
    for text in ("1" + "25" * 1_500, "1" + "25" * 1_500 + " birds 25", "birds " * 9_000):
        expected = tokenizer.encode(text).ids
        assert tokenization.evaluate()(text).tolist() == [*expected[:7], expected[-1]]


def test_special_tokens_within_a_long_text(tokenizers: dict[str, Any]) -> None:
    tokenizer, generator = tokenizers["roberta"], random.Random(0)
    tokenization = ours(tokenizer, 100)
    for _ in range(20):
        words = generator.choices(["<mask>", "birds", " " * 700, "\n", "movie" * 90], k=60)
        text = "".join(words)
        expected = tokenizer(text, truncation=True, max_length=100)["input_ids"]
        assert tokenization.evaluate()(text).tolist() == expected


def test_described_pickled_and_read_again(tokenizers: dict[str, Any]) -> None:
    tokenization = ours(tokenizers["bert"], 12, template="film: {0}", token_types=True)
    description = json.loads(json.dumps(tokenization.describe()))
    assert description["kind"] == "text" and description["max_tokens"] == 12
    again = Tokenization.from_description(description, tokenization.tokenizer_json)
    sent = pickle.loads(pickle.dumps(tokenization))
    assert again == tokenization == sent
    assert sent.augment("standard")("birds").tolist() == again.evaluate()("birds").tolist()
    other = ours(tokenizers["gpt2"])
    with pytest.raises(ModelError) as error:
        Tokenization.from_description(description, other.tokenizer_json)
    hashes = (made["tokenizer_sha256"] for made in (description, other.describe()))
    assert says(error.value, *hashes)


def test_cutting_and_padding_that_a_file_asks_for_are_not_done(tokenizers: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_str(tokenizers["bert"].backend_tokenizer.to_str())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=30)
    tokens = Tokenization(tokenizer.to_str(), 64).evaluate()(SENTENCES[0])
    assert tokens.tolist() == tokenizers["bert"](SENTENCES[0])["input_ids"]


def test_what_cannot_be_used(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"max_tokens >= 3\b.*\b2$"):
        ours(tokenizers["bert"], 2)
    with pytest.raises(InputError, match=r"max_tokens >= 5\b.*\b3$"):
        ours(tokenizers["bert"], 3).evaluate()({"a": "birds", "b": "sing"})
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenization("{}", 8)


TEMPLATES = {
    "after": "{0} is the movie great?",
    "around": "the film {0} what is the country?",
    "two": "the birds {0} the garden {1} now",
    "twice": "{0} she looked at {0} now",
    "last": "the film {0}",
}


def literals(template: str) -> list[str]:
    return [words.strip() for words in re.split(r"\{\d\}", template) if words.strip()]


@pytest.mark.parametrize("truncate", ["end", "start"])
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", MAKERS)
def test_a_template_stays_whole(
    name: str, template: str, truncate: str, tokenizers: dict[str, Any]
) -> None:
    tokenizer, generator, words = tokenizers[name], random.Random(0), TEMPLATES[template]
    tokenization = ours(tokenizer, 56, template=words, truncate=truncate)
    for length in (0, 1, 5, 9, 12, 30, 200):
        texts = [random_text(generator, length), random_text(generator, 3 * length)]
        texts = texts[: tokenization.num_texts]
        value = texts[0] if len(texts) == 1 else dict(zip("ab", texts, strict=True))
        tokens = tokenization.evaluate()(value).tolist()
        whole = tokenizer(words.format(*texts))["input_ids"]
        assert len(tokens) <= 56
        assert tokenization.count_truncated([value]) == (len(whole) > 56)
        if len(whole) <= 56:
            assert tokens == whole
            continue
        assert len(tokens) > 56 - 8  # little room is left
        written = re.sub("##|[\\s\u0120\u2581]", "", tokenizer.decode(tokens))
        for literal in literals(words):  # spaces depend on the tokenizer
            assert "".join(literal.split()) in written
        empty = tokenizer(words.format("", ""))["input_ids"]
        assert tokens[-1] == empty[-1] or template == "last"


def test_the_side_that_is_cut(tokenizers: dict[str, Any]) -> None:
    text = "birds " + "the " * 100 + "garden"
    for template in (None, "{0}", "a film: {0}", "{0} now", "now: {0} now"):
        for side, (kept, lost) in {
            "end": ("birds", "garden"),
            "start": ("garden", "birds"),
        }.items():
            cut = ours(tokenizers["bert"], 20, template=template, truncate=side)
            written = tokenizers["bert"].decode(cut.evaluate()(text))
            assert kept in written and lost not in written
    pair = {"a": "birds sing", "b": text}
    cut = ours(tokenizers["bert"], 20, truncate="start").evaluate()(pair)
    assert tokenizers["bert"].decode(cut).count("birds") == 1  # of the shorter text
    with pytest.raises(ModelError, match="'left'"):
        ours(tokenizers["bert"], truncate="left")


def test_the_longest_text_of_a_template_is_cut_first(tokenizers: dict[str, Any]) -> None:
    cut = ours(tokenizers["bert"], 40, template="a: {0} b: {1} c: {2}").evaluate()
    long = {"a": "birds sing now", "b": "garden " * 90, "c": "river " * 70}
    written = tokenizers["bert"].decode(cut(long))
    assert "birds sing now" in written
    assert abs(written.count("garden") - written.count("river")) <= 1 < written.count("river")


def test_a_template_without_room_for_a_text(tokenizers: dict[str, Any]) -> None:
    needed = len(tokenizers["bert"]("birds sing in the garden now")["input_ids"]) + 1
    with pytest.raises(ModelError, match=r"max_tokens >= 7\b"):  # a token of each text
        ours(tokenizers["bert"], 5, template="{0} birds {1} now {0}")
    for template in ("birds sing in {0} the garden now", "birds sing in the garden now {0}"):
        assert ours(tokenizers["bert"], needed, template=template)
        with pytest.raises(ModelError) as error:
            ours(tokenizers["bert"], needed - 1, template=template)
        assert says(error.value, repr(template), f">= {needed}")


def test_only_what_cuts_other_tokens_is_described(tokenizers: dict[str, Any]) -> None:
    """Feature stores of earlier versions stay valid where the features are the same."""
    for options, side in (
        ({}, None),
        ({"template": "film: {0}"}, None),
        ({"template": "{0} now"}, "end"),
        ({"template": "{0} and {1}"}, "end"),
        ({"truncate": "start"}, "start"),
        ({"template": "{0} now", "truncate": "start"}, "start"),
    ):
        made = ours(tokenizers["bert"], 30, **options)
        assert made.describe().get("truncate") == side
        again = Tokenization.from_description(made.describe(), made.tokenizer_json)
        assert again == made == pickle.loads(pickle.dumps(made))


def test_a_description_of_an_earlier_version_cuts_as_it_did(tokenizers: dict[str, Any]) -> None:
    made = ours(tokenizers["bert"], 30, template="{0} now")
    old = {k: v for k, v in made.describe().items() if k != "truncate"}
    again = Tokenization.from_description(old, made.tokenizer_json)
    text = "birds " * 90
    expected = tokenizers["bert"](f"{text} now", truncation=True, max_length=30)["input_ids"]
    assert again.evaluate()(text).tolist() == expected != made.evaluate()(text).tolist()
    assert again.describe() == old
    assert pickle.loads(pickle.dumps(again)) == again


BASE: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
}


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        b"\xff\xfe".decode("latin-1"),
        json.dumps({**BASE, "model": {"type": "WordLevel", "vocab": {"a": -1}}}),
        json.dumps({**BASE, "model": {"type": "Unigram", "vocab": [], "unk_id": 7}}),
        json.dumps({**BASE, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}),
    ],
    ids=["deep", "bytes", "negative id", "no tokens", "panics"],
)
def test_damaged_tokenizers(content: str) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenization(content, 8)


def test_tokenizers_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    huge = {"type": "WordLevel", "vocab": {"a": 2**32 - 1}, "unk_token": "a"}
    with pytest.raises(ModelError, match="4,294,967,295"):
        _ = Tokenization(json.dumps({**BASE, "model": huge}), 8).vocabulary_size
    monkeypatch.setattr("aft.backbones.tokenization.MOST_WORDS", 3)
    many = {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(4)}, "unk_token": "w0"}
    content = json.dumps({**BASE, "model": many})
    with pytest.raises(ModelError, match=r"\b3\b.*\b4\b"):
        Tokenization(content, 8)
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    monkeypatch.setattr("aft.backbones.tokenization.MOST_BYTES", len(content) - 1)
    with pytest.raises(ModelError) as error:
        read_tokenizer(file)
    assert says(error.value, file)


def test_a_text_that_the_tokenizer_cannot_encode() -> None:
    lacking = {**BASE, "model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": None}}
    with pytest.raises(InputError):
        Tokenization(json.dumps(lacking), 8).encode_batch(["b"])
