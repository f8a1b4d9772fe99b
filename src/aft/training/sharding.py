"""Students too large for one GPU: weights, gradients and moments divided among processes (FSDP).

torch's modules for it are imported when they are used, which takes a second.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from aft.backbones.ngrams import NgramNetwork
from aft.backbones.small_texts import StaticNetwork
from aft.errors import ConfigError
from aft.training.transfer_model import TransferModel

FEWEST = 1_000_000
"""Fewest parameters of a block whose weights are gathered apart from those of its network."""


def divide(model: TransferModel, device: torch.device, processes: int) -> TransferModel:
    """A copy whose parameters are divided among the processes; the given model is left whole.

    A network's forward pass gathers the weights of one block at a time. Gradients are means over
    the processes, as with DistributedDataParallel.

    Raises:
        ConfigError: If the student is made of word vectors, whose optimizer works by row.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if any(isinstance(one, StaticNetwork | NgramNetwork) for one in model.modules()):
        raise ConfigError("--shard-student is for large students, got one of word vectors")
    model = copy.deepcopy(model).to(device, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    mesh = init_device_mesh(device.type, (processes,))
    loss = model.transfer_loss
    networks = (model.student, model.alone, getattr(loss, "start", loss))
    for network in (one for one in networks if one is not None and _size(one)):
        for part in reversed(list(network.modules())[1:]):
            if not isinstance(part, nn.ModuleList | nn.Sequential) and _size(part) >= FEWEST:
                fully_shard(part, mesh=mesh)
        fully_shard(network, mesh=mesh)
    return model


def gather(state: Any) -> Any:
    """A state dict with whole tensors; every process must call this."""
    return tree_map(lambda one: one.full_tensor() if _divided(one) else one, state)


def load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a whole state dict into a module, whose parameters may be divided."""
    own = module.state_dict()
    module.load_state_dict({key: _like(one, own.get(key)) for key, one in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a whole state dict into an optimizer, whose parameters may be divided."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    moments = {
        i: {key: _like(one, parameters[i]) for key, one in of_one.items()}
        for i, of_one in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})


def _like(value: Any, own: Any) -> Any:
    """A tensor of the same shape, divided in the same way."""
    if not _divided(own) or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


def _divided(one: Any) -> bool:
    return hasattr(one, "full_tensor")


def _size(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters() if not _divided(one))
