"""`small:ngrams`: words, pairs and spelling, their weights, and building it again."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from aft.backbones import ngrams
from aft.backbones.batches import collate
from aft.backbones.network import Network
from aft.backbones.ngrams import NgramNetwork, character_ngrams
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.errors import ModelError
from helpers.errors import says

TEXTS = ["the red bird sings", "a blue bird sleeps", "the red fish", "the red bird"]


def build(spec: str = "small:ngrams?dim=8", texts: list[str] | None = TEXTS) -> Network:
    return ngrams.build(Spec.parse(spec), texts=texts)


def module(network: Network) -> NgramNetwork:
    assert isinstance(network.module, NgramNetwork)
    return network.module


def encode(network: Network, *texts: str) -> torch.Tensor:
    assert isinstance(network.preprocessing, Tokenization)
    batch = collate([network.preprocessing.evaluate()(text) for text in texts])
    assert isinstance(batch, torch.Tensor)
    return batch


def features(network: Network, *texts: str) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = network.module.eval()(encode(network, *texts))
    return result


def word(network: Network, text: str) -> int:
    assert isinstance(network.preprocessing, Tokenization)
    return network.preprocessing.words.index(text)


def test_weights_are_inverse_document_frequencies_of_norm_one() -> None:
    network = build()
    rows, weights = module(network).weigh(encode(network, "red bird"))
    words = len(module(network).lengths)
    counted, spelled = weights[0, :3], weights[0, 4:]
    idf = [math.log(5 / (1 + n)) + 1 for n in (3, 3, 2)]  # red, bird, red bird: of 4 texts
    np.testing.assert_allclose(counted, np.array(idf) / np.linalg.norm(idf), rtol=1e-6)
    assert rows[0, :2].tolist() == [word(network, "red"), word(network, "bird")]
    assert words <= rows[0, 2] < len(module(network).weights)
    assert rows[0, 4:].tolist() == [len(module(network).weights) + i for i in rows[0, :2].tolist()]
    assert float(spelled.norm()) == pytest.approx(0.5)


def test_unknown_words_and_pairs_weigh_nothing() -> None:
    network = build()
    _, weights = module(network).weigh(encode(network, "red zebra bird", "zebra", ""))
    assert (
        weights[0] > 0
    ).sum() == 4  # two words and their spelling; no pair spans the unknown one
    assert not weights[1:].any()
    assert not features(network, "zebra", "").any()
    assert torch.equal(features(network, "red zebra"), features(network, "red"))


def test_a_batch_gives_what_single_texts_give() -> None:
    network = build()
    together = features(network, *TEXTS)
    for text, expected in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(features(network, text)[0], expected)


def test_buckets_of_pairs_hardly_collide() -> None:
    numbers = torch.randint(1, 20_000, (50_000, 2), generator=torch.Generator().manual_seed(0))
    buckets = ngrams.pair_bucket(*numbers.T)
    assert int(buckets.min()) >= 0 and int(buckets.max()) < 2**20
    distinct = len(numbers.unique(dim=0))
    expected = 2**20 * (1 - math.exp(-distinct / 2**20))  # of a random function
    assert len(buckets.unique()) == pytest.approx(expected, rel=0.01)
    first, second = torch.tensor([3]), torch.tensor([5])
    assert ngrams.pair_bucket(first, second) != ngrams.pair_bucket(second, first)


def test_the_most_frequent_words_and_pairs_are_kept() -> None:
    network = build("small:ngrams?features=5", ["a b", "a b", "a b c", "c a"])
    assert isinstance(network.preprocessing, Tokenization)
    assert network.preprocessing.words == ["[UNK]", "a"]
    network = build("small:ngrams?features=10", ["a b", "a b", "a b c", "c a"])
    assert len(module(network).weights) == 7  # [UNK] a b c, and three pairs


def test_character_ngrams_have_three_to_five_characters() -> None:
    assert character_ngrams("ab") == [" ab", "ab ", " ab "]
    assert character_ngrams("a") == [" a "]
    assert len(character_ngrams("abcd")) == 4 + 3 + 2


def test_the_same_texts_and_seed_give_the_same_network() -> None:
    first, second = build(), build(texts=TEXTS[::-1])
    assert first.files == second.files
    assert torch.equal(features(first, TEXTS[0]), features(second, TEXTS[0]))
    other = ngrams.build(Spec.parse("small:ngrams?dim=8"), seed=1, texts=TEXTS)
    assert not torch.equal(features(first, TEXTS[0]), features(other, TEXTS[0]))


def test_a_saved_network_is_built_again(tmp_path: Path) -> None:
    network = build()
    (tmp_path / "tokenizer.json").write_text(network.files["tokenizer.json"], encoding="utf-8")
    again = ngrams.build(Spec.parse(network.architecture.format(folder=tmp_path)))
    again.module.load_state_dict(network.module.state_dict())
    assert module(again).spelling is None
    assert torch.equal(features(again, *TEXTS), features(network, *TEXTS))


def test_the_unknown_word_of_a_tokenizer_may_have_any_number(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"red": 0, "[UNK]": 1, "bird": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    network = build(f"small:ngrams?tokenizer={tmp_path / 'tokenizer.json'}")
    assert features(network, "red").any() and features(network, "red bird").any()
    assert not features(network, "the blue fish").any()


def test_a_template_is_for_rows_and_not_for_the_vocabulary() -> None:
    network = build("small:ngrams?template={0} and {1}")
    assert isinstance(network.preprocessing, Tokenization)
    row = {"first": "red bird", "second": "blue"}
    tokens = network.preprocessing.evaluate()(row)[None]
    with torch.no_grad():
        assert network.module.eval()(tokens).any()


def test_texts_without_words_are_refused() -> None:
    with pytest.raises(ModelError) as error:
        build(texts=["", ""])
    assert says(error.value, "small:ngrams")
    with pytest.raises(ModelError):
        build(texts=None)


def test_the_network_is_an_onnx_graph(tmp_path: Path) -> None:
    """All but tokenization is tensor operations, for any number and length of texts."""
    runtime = pytest.importorskip("onnxruntime")
    network, file = build(), tmp_path / "ngrams.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter needs no further package, but is not new
        torch.onnx.export(
            network.module.eval(),
            (encode(network, *TEXTS),),
            str(file),
            input_names=["tokens"],
            output_names=["features"],
            dynamic_axes={"tokens": {0: "batch", 1: "length"}},
            dynamo=False,
        )
    session = runtime.InferenceSession(str(file))
    for texts in (TEXTS, ["the red fish sings and sings", "bird"], ["red"]):
        (found,) = session.run(None, {"tokens": encode(network, *texts).numpy()})
        np.testing.assert_allclose(found, features(network, *texts).numpy(), atol=1e-6)
