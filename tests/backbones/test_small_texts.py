"""`small:static`: the vocabulary, the network, and building it again from a student's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from aft.backbones import small_texts
from aft.backbones.batches import collate
from aft.backbones.network import Network
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.errors import ModelError
from helpers.errors import says

TEXTS = [
    "The red bird sings.",
    "A blue bird sleeps",
    "the RED fish swims, the fish!",
    "Ein schöner blauer Fisch",
    "我们",
]


def build(
    spec: str = "small:static?dim=16", texts: list[str] | None = TEXTS, seed: int = 0
) -> Network:
    return small_texts.build(Spec.parse(spec), seed=seed, texts=texts)


def tokenization(network: Network) -> Tokenization:
    assert isinstance(network.preprocessing, Tokenization)
    return network.preprocessing


def encode(network: Network, *texts: str | dict[str, str | None] | None) -> torch.Tensor:
    batch = collate([tokenization(network).evaluate()(text) for text in texts])
    assert isinstance(batch, torch.Tensor)
    return batch


def words(network: Network, text: str) -> list[str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenization(network).tokenizer_json)
    return [str(tokenizer.id_to_token(i)) for i in tokenization(network).evaluate()(text).tolist()]


def features(network: Network, *texts: str | dict[str, str | None] | None) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = network.module.eval()(encode(network, *texts))
    return result


def test_words_are_normalised_and_unknown_ones_share_a_token() -> None:
    network = build()
    assert words(network, "RED ﬁsh, zebra 我们") == ["red", "fish", ",", "[UNK]", "我", "们"]
    assert words(network, "SCHÖNER schoner") == ["schöner", "[UNK]"]
    network = build(texts=["what?! it's snake_case no. 42", "あい กข"])
    assert words(network, "What?! It's snake_case no. 42") == [
        *("what", "?", "!", "it", "'", "s", "snake_case", "no", ".", "42")
    ]
    assert words(network, "いあ ขก") == ["い", "あ", "ข", "ก"]


def test_the_most_frequent_words_are_known() -> None:
    network = build("small:static?vocabulary=4", ["a a a b b c c d", "a b c"])
    assert words(network, "a b c d") == ["a", "b", "c", "[UNK]"]


def test_the_same_texts_and_seed_give_the_same_network() -> None:
    first, second, other = build(), build(texts=TEXTS[::-1]), build(seed=1)
    assert first.files == second.files
    assert torch.equal(features(first, TEXTS[0]), features(second, TEXTS[0]))
    assert not torch.equal(features(first, TEXTS[0]), features(other, TEXTS[0]))


def test_features_do_not_depend_on_padding() -> None:
    network = build()
    alone = features(network, "red bird")
    beside = features(network, "red bird", "the red fish swims with the blue bird , ein fisch")
    assert alone.shape == (1, 16)
    torch.testing.assert_close(beside[:1], alone)
    padded = torch.nn.functional.pad(encode(network, "red bird"), (0, 50), value=-1)
    torch.testing.assert_close(network.module(padded), alone)


def test_empty_texts_and_pairs() -> None:
    network = build()
    assert encode(network, "").shape == (1, 0)
    empty = features(network, "", None, "red")
    assert empty.isfinite().all()
    torch.testing.assert_close(features(network, ""), empty[:1])
    torch.testing.assert_close(empty[0], empty[1])
    pair = features(network, {"a": "red bird", "b": "blue fish"})
    torch.testing.assert_close(pair, features(network, "red bird blue fish"))


def test_template_and_max_tokens() -> None:
    network = build("small:static?dim=16&template={1} the {0}&max_tokens=3")
    swapped = encode(network, {"a": "red bird", "b": "fish swims"})
    assert torch.equal(swapped, encode(build(), "fish the red"))
    network = build("small:static?dim=16&template={1} the {0}&max_tokens=3&truncate=start")
    swapped = encode(network, {"a": "red bird", "b": "fish swims"})
    assert torch.equal(swapped, encode(build(), "swims the bird"))


def test_token_types_are_ignored() -> None:
    network = build()
    ids = encode(network, "red bird")
    both = torch.stack([ids, torch.zeros_like(ids)], dim=1)
    torch.testing.assert_close(network.module.eval()(both), features(network, "red bird"))


def test_it_is_built_again_from_the_files_of_a_student(tmp_path: Path) -> None:
    network = build("small:static?dim=12&max_tokens=5&template=query: {0}&vocabulary=9")
    for name, text in network.files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert network.architecture
    spec = Spec.parse(network.architecture.replace("{folder}", str(tmp_path)))
    again = small_texts.build(spec, seed=9)
    again.module.load_state_dict(network.module.state_dict())
    assert tokenization(again).describe() == tokenization(network).describe()
    assert torch.equal(features(again, *TEXTS), features(network, *TEXTS))
    assert again.architecture == network.architecture
    folder = small_texts.build(Spec.parse(f"small:static?tokenizer={tmp_path}"))
    assert folder.files == network.files and folder.dim == 128


def test_weights_are_read_from_a_file(tmp_path: Path) -> None:
    network = build()
    torch.save(network.module.state_dict(), tmp_path / "weights.pt")
    again = build(f"small:static?dim=16&weights={tmp_path}/weights.pt", seed=5)
    assert again.weights == f"{tmp_path}/weights.pt"
    assert torch.equal(features(again, *TEXTS), features(network, *TEXTS))


def test_it_learns_which_words_matter() -> None:
    texts = [f"{'red' if i % 2 else 'blue'} bird number {i // 2 % 7}" for i in range(64)]
    labels = torch.arange(64) % 2
    network = build(texts=texts)
    head = nn.Linear(network.dim, 2)
    optimizer = torch.optim.AdamW([*network.module.parameters(), *head.parameters()], lr=1e-2)
    batch = encode(network, *texts)
    network.module.train()
    for _ in range(30):
        loss = F.cross_entropy(head(network.module(batch)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in network.module.parameters())
    unseen = features(network, "a red fish", "a blue fish")
    assert head(unseen).argmax(1).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ("small:static", "small:static?tokenizer=FILE"),
        ("small:static?tokenizer=nowhere", "nowhere"),
        ("small:static?tokenizer=a&vocabulary=5", "vocabulary=5"),
        ("small:static?width=5", "'width'"),
        ("small:static?init=zero", "init=zero"),
        ("small:static?init=teacher&weights=words.pt", "init=teacher"),
    ],
)
def test_errors(spec: str, value: str) -> None:
    with pytest.raises(ModelError) as error:
        build(spec, texts=None)
    assert says(error.value, value)


def test_errors_of_texts_and_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        build(texts=[" ", ""])
    assert says(error.value, "small:static?dim=16")
    with pytest.raises(ModelError) as error:
        build("small:static?weights=pretrained")
    assert says(error.value, "small:static", "random")
    torch.save(build().module.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ModelError, match=r"embedding\.weight"):
        build(f"small:static?dim=8&weights={tmp_path}/weights.pt")


def test_unknown_words_are_left_out_of_the_average() -> None:
    network = build()
    assert torch.equal(features(network, "red zebra fish"), features(network, "red fish"))


def test_weights_of_earlier_versions_average_unknown_words(tmp_path: Path) -> None:
    network = build()
    state = {k: v for k, v in network.module.state_dict().items() if k != "unknown"}
    (tmp_path / "tokenizer.json").write_text(network.files["tokenizer.json"], encoding="utf-8")
    for prefix in ("", "backbone."):
        file = tmp_path / f"{prefix}weights.safetensors"
        save_file({f"{prefix}{name}": value for name, value in state.items()}, file)
        old = build(f"small:static?dim=16&tokenizer={tmp_path}&weights={file}", texts=None)
        assert not torch.equal(features(old, "red zebra fish"), features(old, "red fish"))
        again = build(f"small:static?dim=16&tokenizer={tmp_path}", texts=None)
        again.module.load_state_dict(state)
        assert torch.equal(features(again, "red zebra"), features(old, "red zebra"))


@pytest.mark.parametrize("sparse", [True, False])
def test_vectors_are_summed_alike_in_training(sparse: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    embedding = torch.nn.Embedding(7, 3, sparse=sparse)
    rows = torch.randint(0, 7, (4, 5), generator=generator)
    weights = torch.rand(4, 5, generator=generator) * torch.tensor([1.0, 1, 0, 1, 0])
    weights[2] = 0  # a text without a known word
    found = []
    for training in (True, False):
        embedding.weight.grad = None
        total = small_texts.sum_vectors(embedding, rows, weights, training)
        total.square().sum().backward()
        gradient = embedding.weight.grad
        assert gradient is not None and gradient.is_sparse == sparse
        found.append((total.detach(), gradient.to_dense()))
    torch.testing.assert_close(found[0], found[1])
    assert not found[0][0][2].any()
