from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from aft.backbones.weights import file_hash, load_into, load_numpy_pickle, load_weights, state_hash
from aft.errors import ModelError
from helpers.damage import DAMAGES, HEADERS
from helpers.errors import says


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=0, atol=0)


def test_reads_safetensors(network: nn.Module, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    assert_equal(load_weights(tmp_path / "w.safetensors"), network.state_dict())


@pytest.mark.parametrize("nest", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.module."])
def test_takes_off_nests_and_prefixes(
    network: nn.Module, tmp_path: Path, nest: str | None, prefix: str
) -> None:
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    torch.save({nest: state, "epoch": 3} if nest else state, tmp_path / "w.pth")
    assert_equal(load_weights(tmp_path / "w.pth"), dict(network.state_dict()))


@pytest.mark.parametrize(
    "prefix",
    [
        *("module._orig_mod.", "_orig_mod.module.", "model._orig_mod.", "_orig_mod.model.module."),
        *("model.backbone.", "student.model.net.", "module.model.module._orig_mod.backbone."),
        *("_fsdp_wrapped_module.model.", "encoder.", "network.encoder."),
    ],
)
@pytest.mark.parametrize("end", ["pth", "safetensors"])
def test_wrappers_in_any_order(network: nn.Module, tmp_path: Path, prefix: str, end: str) -> None:
    expected = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    state = {prefix + name: tensor for name, tensor in expected.items()}
    state["criterion.weight"] = torch.zeros(3)
    file = tmp_path / f"w.{end}"
    (torch.save if end == "pth" else save_file)(state, file)
    load_into(network, load_weights(file))
    assert_equal(dict(network.state_dict()), expected)


def test_wrappers_within_a_name(network: nn.Module, tmp_path: Path) -> None:
    state = {name.replace("1.", "1._orig_mod."): t for name, t in network.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    assert_equal(load_weights(tmp_path / "w.pth"), dict(network.state_dict()))


def test_a_network_that_is_there_twice(network: nn.Module) -> None:
    """As in a checkpoint of a distillation."""
    state = {f"{k}.{name}": t for k in ("model", "net") for name, t in network.state_dict().items()}
    with pytest.raises(ModelError) as error:
        load_into(network, state)
    assert says(error.value, "'model.'", "'net.'")


def test_the_fitting_part_is_compared(network: nn.Module) -> None:
    """The message is about the network's own names, though one tensor is missing."""
    state = {f"module.model.{name}": tensor for name, tensor in network.state_dict().items()}
    del state["module.model.0.bias"]
    with pytest.raises(ModelError) as error:
        load_into(network, state)
    assert says(error.value, "1 of 7", "0.bias") and not says(error.value, "unexpected")


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/aft-must-not-exist",)


def test_refuses_code_in_a_torch_file(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "evil": _Evil()}, tmp_path / "w.pt")
    with pytest.raises(ModelError) as error:
        load_weights(tmp_path / "w.pt")
    assert says(error.value, tmp_path / "w.pt", "safetensors.torch.save_file")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.bin"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_told(network: nn.Module, tmp_path: Path, name: str, damage: str) -> None:
    file = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(network.state_dict(), file)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(ModelError, match=name):
        load_weights(file)


@pytest.mark.parametrize("name", HEADERS)
def test_crafted_headers(tmp_path: Path, name: str) -> None:
    (tmp_path / "w.safetensors").write_bytes(HEADERS[name])
    with pytest.raises(ModelError, match=r"w\.safetensors"):
        load_weights(tmp_path / "w.safetensors")


def test_missing_and_unknown_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        load_weights(tmp_path / "w.pth")
    assert says(error.value, tmp_path / "w.pth")
    (tmp_path / "w.npz").write_bytes(b"")
    with pytest.raises(ModelError) as error:
        load_weights(tmp_path / "w.npz")
    assert says(error.value, tmp_path / "w.npz", ".safetensors, .pth, .pt or .bin")
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(ModelError) as error:
        load_weights(tmp_path / "w.pth")
    assert says(error.value, tmp_path / "w.pth", "dict")


def test_load_into_ignores_the_head_and_finds_a_backbone(network: nn.Module) -> None:
    state = {f"backbone.{k}": v + 1 for k, v in network.state_dict().items()}
    state["head.weight"] = torch.zeros(2, 4)
    load_into(network, state, head=("head",))
    assert_equal(
        dict(network.state_dict()),
        {k.removeprefix("backbone."): v for k, v in state.items() if k != "head.weight"},
    )


def test_load_into_says_what_does_not_fit(network: nn.Module) -> None:
    state = dict(network.state_dict())
    del state["0.bias"]
    state["0.weight"] = torch.zeros(5, 3)
    state |= {f"extra.{i}": torch.zeros(1) for i in range(5)} | {"fc.weight": torch.zeros(1)}
    with pytest.raises(ModelError) as caught:
        load_into(network, state, head=("fc",))
    assert says(caught.value, "1 of 7", "0.bias", "0.weight (5, 3)", (4, 3))
    assert says(caught.value, "5 ", "extra.0, extra.1, extra.2 …")
    assert not says(caught.value, "fc.weight")


def test_load_into_takes_weights_without_batch_counters(network: nn.Module) -> None:
    load_into(network, {k: v for k, v in network.state_dict().items() if "batches" not in k})


def test_state_hash_sees_names_types_shapes_and_values() -> None:
    one = {"a": torch.arange(4.0), "b": torch.tensor(1)}
    assert state_hash(one) == state_hash(dict(reversed(one.items())))
    others = [
        {"c": one["a"], "b": one["b"]},
        {"a": one["a"].reshape(2, 2), "b": one["b"]},
        {"a": one["a"].to(torch.bfloat16), "b": one["b"]},
        {"a": one["a"] + 1e-6, "b": one["b"]},
    ]
    assert len({state_hash(state) for state in [one, *others]}) == 5
    strided = torch.arange(8.0).reshape(4, 2).T.contiguous().T
    assert state_hash({"a": strided}) == state_hash({"a": strided.contiguous()})


def test_file_hash_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"x")
    assert file_hash(tmp_path / "a") == file_hash(tmp_path / "b")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_pickles_are_read(tmp_path: Path, protocol: int) -> None:
    arrays = {"conv1": [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(1)]}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(arrays, protocol))
    if protocol in (2, 5):  # text encoding of bytes, buffers: more than reconstructing arrays
        name = {2: "_codecs.encode", 5: "_frombuffer"}[protocol]
        with pytest.raises(ModelError, match=name):
            load_numpy_pickle(tmp_path / "w.pkl")
    else:
        read = load_numpy_pickle(tmp_path / "w.pkl")
        np.testing.assert_array_equal(read["conv1"][0], arrays["conv1"][0])


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *((_Evil(), "system"), (Path("x"), "PosixPath"), (print, "builtins.print")),
        ({"a": [np.zeros(1), _Evil()]}, "system"),
    ],
)
def test_other_pickles_are_refused_by_name(tmp_path: Path, value: object, name: str) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(value, 3))
    with pytest.raises(ModelError) as error:
        load_numpy_pickle(tmp_path / "w.pkl")
    assert says(error.value, tmp_path / "w.pkl", name)


def test_a_damaged_pickle_is_told(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(b"\x80\x03garbage")
    with pytest.raises(ModelError, match=r"w\.pkl"):
        load_numpy_pickle(tmp_path / "w.pkl")
