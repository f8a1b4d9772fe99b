from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from aft.backbones.batches import collate
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.tokenization import Tokenization
from aft.errors import StudentError
from aft.students.backbone import Backbone, load_backbone
from aft.students.towers import ColumnPreprocessing, Towers, column_folder, join
from helpers.errors import says

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("torchvision")


class Bag(nn.Module):
    """Mean of token embeddings, whatever the padding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, dim)

    def forward(self, ids: Tensor) -> Tensor:
        there = (ids >= 0)[..., None]
        found = self.embedding(ids.clamp_min(0)) * there
        return found.sum(1) / there.sum(1).clamp_min(1)  # type: ignore[no-any-return]


def tokenization() -> Tokenization:
    words = {word: i for i, word in enumerate(("[UNK]", "[CLS]", "a", "red", "blue", "ball"))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $A $B", special_tokens=[("[CLS]", 1)]
    )
    return Tokenization(tokenizer.to_str(), max_tokens=8)


def info(weights: str = "random", **more: Any) -> dict[str, Any]:
    return {
        "spec": "made:up",
        "architecture_spec": "made:up",
        "weights": weights,
        "licence": None,
        "layer": "mean",
        "versions": {},
        **more,
    }


def text_backbone(dim: int = 6, **more: Any) -> Backbone:
    tokens = tokenization()
    files = {"tokenizer.json": tokens.tokenizer_json}
    return Backbone(Bag(dim), dim, tokens, info(**more), files)


def image_backbone(size: int = 16) -> Backbone:
    return load_backbone(f"small:cnn-tiny?size={size}")


def batch(backbone: Backbone, values: list[dict[str, Any]]) -> Any:
    return collate([backbone.preprocessing.evaluate()(value) for value in values])  # type: ignore[arg-type]


def values(rows: int) -> list[dict[str, Any]]:
    colours = [(200, 30, 30), (20, 40, 220), (90, 200, 90)]
    words = ["a red ball", "blue", "a blue ball ball"]
    return [
        {"image": Image.new("RGB", (20, 24), colours[i % 3]), "text": words[i % 3]}
        for i in range(rows)
    ]


@pytest.mark.parametrize(("fusion", "dim"), [("concat", 64 + 6), ("product", 65 * 7)])
def test_two_towers_train(fusion: Any, dim: int) -> None:
    backbone = join({"image": image_backbone(), "text": text_backbone()}, fusion)
    assert backbone.dim == dim
    inputs = batch(backbone, values(4))
    assert set(inputs) == {"image", "text"}
    features = backbone.module(inputs)
    assert features.shape == (4, dim)
    (features * torch.randn(dim)).sum().backward()
    assert all(p.grad is not None for p in backbone.module.parameters())
    assert all(p.grad.isfinite().all() for p in backbone.module.parameters())  # type: ignore[union-attr]


def towers(widths: list[int], fusion: Any, **scales: float) -> Towers:
    names = "abcdef"[: len(widths)]

    class Scale(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    return Towers(
        {name: Scale(scales.get(name, 1.0)) for name in names},
        dict(zip(names, widths, strict=True)),
        fusion,
    )


def test_product_holds_each_tower_alone_and_all_products() -> None:
    fuse = towers([3, 4], "product")
    a, b = torch.randn(5, 3), torch.randn(5, 4)
    found = fuse({"a": a, "b": b}).reshape(5, 4, 5)
    a, b = (nn.functional.layer_norm(x, x.shape[1:]) for x in (a, b))
    torch.testing.assert_close(found[:, 0, 0], torch.ones(5))
    torch.testing.assert_close(found[:, 1:, 0], a)
    torch.testing.assert_close(found[:, 0, 1:], b)
    torch.testing.assert_close(found[:, 1:, 1:], torch.einsum("bi,bj->bij", a, b))


@pytest.mark.parametrize("fusion", ["concat", "product"])
def test_the_scale_of_a_tower_does_not_matter(fusion: Any) -> None:
    inputs = {"a": torch.randn(5, 8), "b": torch.randn(5, 6)}
    expected = towers([8, 6], fusion)(inputs)
    torch.testing.assert_close(
        towers([8, 6], fusion, b=1000.0)(inputs), expected, rtol=1e-3, atol=1e-3
    )


def test_a_wide_tower_is_mapped_first() -> None:
    fuse = towers([64, 1280], "product")
    assert fuse.dim == 65 * 65 == 4225
    weight = fuse.get_parameter("maps.1.weight")
    torch.testing.assert_close(weight @ weight.T, torch.eye(64), rtol=0, atol=1e-5)
    features = fuse({"a": torch.randn(9, 64), "b": torch.randn(9, 1280)})
    assert features.shape == (9, 4225)
    assert float(features[:, 66:].detach().std()) == pytest.approx(1, abs=0.25)
    features.square().sum().backward()
    assert weight.grad is not None and weight.grad.any()


def test_the_maps_follow_the_seed_and_leave_other_random_numbers_alone() -> None:
    def parts() -> dict[str, Backbone]:
        return {"image": image_backbone(), "text": text_backbone(dim=100)}

    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (
        join({**parts()}, "product", seed=seed).module.get_parameter("maps.1.weight")
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(3)
    towers = parts()
    state = torch.get_rng_state()
    join(towers, "product", seed=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("fusion", ["concat", "product"])
def test_autocast_is_close_and_backward_stays_finite(fusion: Any) -> None:
    backbone = join({"image": image_backbone(), "text": text_backbone(dim=80)}, fusion)
    module = backbone.module.eval()
    inputs = batch(backbone, values(3))
    expected = module(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(inputs)
    assert found.dtype == torch.float32
    assert float(((found - expected).norm() / expected.norm()).detach()) < 0.05
    found.sum().backward()


@pytest.mark.parametrize("fusion", ["concat", "product"])
def test_a_sample_is_the_same_in_any_batch(fusion: Any) -> None:
    backbone = join({"image": image_backbone(), "text": text_backbone()}, fusion)
    module = backbone.module.eval()
    together = module(batch(backbone, values(3)))
    alone = torch.cat([module(batch(backbone, [value])) for value in values(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_missing_parts() -> None:
    backbone = join({"image": image_backbone(size=16), "text": text_backbone()})
    assert isinstance(backbone.preprocessing, ColumnPreprocessing)
    for transform in (
        backbone.preprocessing.evaluate(),
        backbone.preprocessing.augment("standard"),
    ):
        found = transform({"image": None, "text": None})
        assert torch.equal(found["image"], torch.zeros(3, 16, 16))
        assert found["text"].tolist() == [1]
    features = backbone.module.eval()(
        batch(backbone, [{"image": None, "text": "red"}, {"image": None, "text": None}])
    )
    assert features.isfinite().all()


def test_three_towers_lie_side_by_side_and_are_not_multiplied() -> None:
    inputs = {name: torch.randn(4, width) for name, width in zip("abc", (3, 4, 5), strict=True)}
    assert towers([3, 4, 5], "concat")(inputs).shape == (4, 12)
    for dims, fusion, named in (
        ([3, 4, 5], "product", ("3 (a, b, c)", "concat")),
        ([3], "product", ("got 1",)),
        ([], "concat", ()),
        ([3, 1], "concat", ("b ", "1 feature")),
        ([3, 4], "sum", ("concat", "product", "'sum'")),
    ):
        with pytest.raises(StudentError) as error:
            towers(dims, fusion)
        assert says(error.value, *named)


def test_a_pair_of_texts_may_go_to_one_tower() -> None:
    parts = {"text": text_backbone(), "image": image_backbone()}
    backbone = join(parts, takes={"text": ("premise", "hypothesis")})
    value = {"premise": "a ball", "image": None, "hypothesis": "red"}
    assert backbone.preprocessing.evaluate()(value)["text"].tolist() == [1, 2, 5, 3]  # type: ignore[call-overload, arg-type]
    assert backbone.preprocessing.describe()["takes"] == {"text": ["premise", "hypothesis"]}


def test_what_is_told_of_the_towers() -> None:
    architecture = "hf:{folder}?weights=random"
    text = text_backbone(weights="pretrained (hub)", architecture_spec=architecture, licence="MIT")
    backbone = join({"image": image_backbone(), "a/b": text}, "product", seed=1)
    told = backbone.info
    assert told == json.loads(json.dumps(told))
    assert told["spec"] == "image=small:cnn-tiny?size=16 + a/b=made:up"
    assert told["fusion"] == "product"
    assert told["weights"] == "pretrained (image: random; a/b: hub)"
    assert told["licence"] == "MIT"  # random weights carry none
    assert list(told["towers"]) == ["image", "a/b"]
    assert told["towers"]["a/b"]["architecture_spec"] == "hf:{folder}/a%2Fb?weights=random"
    assert list(backbone.files) == ["a%2Fb/tokenizer.json"]
    assert join({"x": image_backbone(), "y": image_backbone()}).info["weights"] == "random"
    description = backbone.preprocessing.describe()
    assert description == json.loads(json.dumps(description))
    assert description["kind"] == "columns"
    assert description["columns"]["image"] == Preprocessing(16).describe()
    assert description["columns"]["a/b"]["kind"] == "text"


def test_column_names_that_mean_something_to_python_or_to_the_file_system() -> None:
    names = ("forward", "towers.0", "..", "keys", "テキスト")
    module = Towers(dict.fromkeys(names, nn.Identity()), dict.fromkeys(names, 2))
    assert module(dict.fromkeys(names, torch.randn(3, 2))).shape == (3, 10)
    folders = [column_folder(name) for name in names]
    assert folders == ["forward", "towers%2E0", "%2E%2E", "keys", "テキスト"]


def test_transforms_travel_to_other_processes() -> None:
    backbone = join({"image": image_backbone(), "text": text_backbone()})
    transform = backbone.preprocessing.augment("standard")
    copy = pickle.loads(pickle.dumps(transform))
    assert set(copy(values(1)[0])) == {"image", "text"}  # type: ignore[arg-type]
