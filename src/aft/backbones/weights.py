"""Read weights from local files without running any code in them."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from aft.backbones.checks import find_weights
from aft.errors import AftError, ModelError
from aft.files import Damaged, reading

StateDict = dict[str, Tensor]

_NESTS = ("state_dict", "model_state_dict", "model", "net")
# Of torch.compile, FSDP and activation checkpointing, anywhere in a name.
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Of DataParallel and of larger models, in any order.
_PREFIX = re.compile(r"((module|model|net|network|student|backbone|encoder)\.)*")
_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar")


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; ModelError if the file is damaged or has another content."""
    with reading(path, ModelError):
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise Damaged(f"expected a JSON object, got {type(values).__name__}")
        return values


def load_weights(path: str | Path) -> StateDict:
    """Read a state dict from a weight file.

    Args:
        path: A ``.safetensors`` file, or a ``.pth``, ``.pt``, ``.bin`` or ``.tar`` file written by
            ``torch.save``, which is read with ``weights_only=True``. Common nesting
            (``{"state_dict": …}``, ``{"model": …}``) and wrappers (``module.``, ``_orig_mod.``)
            are removed.

    Raises:
        ModelError: If the file is missing, damaged, in another format or without tensors.
    """
    path = find_weights(path)
    if path.suffix == ".safetensors":
        state = read_safetensors(path)
    elif path.suffix in _TORCH_SUFFIXES:
        state = _read_torch(path)
    else:
        raise ModelError(
            f"expected weights in a .safetensors, .pth, .pt or .bin file, got {path}; convert "
            "other formats with safetensors.torch.save_file(state_dict, path)"
        )
    plain = {_WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    state = plain if len(plain) == len(state) else state  # both, wrapped and plain: as it is
    while all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def unwrap(state: Mapping[str, Tensor], wanted: Iterable[str], base: str = "") -> StateDict:
    """The part of a state dict that belongs to a network inside larger ones.

    Args:
        state: Tensors by name. Those of the network may begin with any order of ``module.``,
            ``model.``, ``backbone.`` and the like.
        wanted: Names of the network's tensors.
        base: A further prefix of the network in its usual larger model, such as ``bert.``.

    Returns:
        The tensors under the prefix that most of the wanted names have, without it.

    Raises:
        ModelError: If there are several such networks.
    """
    counts: Counter[str] = Counter({"": 0})
    names = set(wanted)
    for key in state:
        prefix = _PREFIX.match(key)[0]  # type: ignore[index]
        ends = [match.end() for match in re.finditer(r"\.", prefix)]
        ends += [end + len(base) for end in (0, *ends) if base and key.startswith(base, end)]
        counts.update(key[:end] for end in (0, *ends) if key[end:] in names)
    most = max(counts.values())
    best, *others = [prefix for prefix, count in counts.items() if count == most]
    if most and others:
        raise ModelError(
            f"the weights hold this network {1 + len(others)} times, under "
            f"{' and '.join(repr(prefix) for prefix in (best, *others))}; save the one to use in a "
            "file of its own"
        )
    return {key[len(best) :]: one for key, one in state.items() if key.startswith(best)}


def load_into(module: nn.Module, state: Mapping[str, Tensor], head: Iterable[str] = ()) -> None:
    """Load a state dict into a module, ignoring the classifier's tensors.

    Args:
        module: The network without its classifier.
        state: Tensors by name, as for :func:`unwrap`. It may contain the classifier.
        head: Names (or name prefixes) of the classifier, whose tensors are ignored.

    Raises:
        ModelError: If a tensor is missing, unexpected or of another shape; the message lists
            them.
    """
    expected: Any = module.state_dict()
    wanted = {name for name in expected if not name.endswith("num_batches_tracked")}
    state = unwrap(state, wanted)
    missing = [name for name in expected if name in wanted and name not in state]
    others = [name for name in state if name not in expected]
    heads = tuple(head)
    in_head = [k for k in others if any(k == part or k.startswith(part + ".") for part in heads)]
    unexpected = [name for name in others if name not in in_head]
    reshaped = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        for names, what in (
            (missing, f"of {len(expected)} tensors missing"),
            (unexpected, "unexpected tensors"),
            (reshaped, "of the wrong shape"),
        )
        if names
    ]
    if faults:
        note = f" ({len(in_head)} tensors of the classifier ignored)" if in_head else ""
        raise ModelError(f"the weights do not match the model: {'; '.join(faults)}{note}")
    # MNASNet reads its version from the metadata: pass the metadata of the current module.
    loaded: OrderedDict[str, Tensor] = OrderedDict(
        (k, v) for k, v in state.items() if k in expected
    )
    loaded._metadata = getattr(module.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    module.load_state_dict(loaded, strict=False)


def state_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names (sorted), dtypes, shapes and bytes of a state dict, as hex digits."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_hash(*paths: Path) -> str:
    """SHA-256 of the concatenated content of files, as hex digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def load_numpy_pickle(path: str | Path) -> Any:
    """Read a pickle that contains only numpy arrays, strings, numbers and containers of these.

    Raises:
        ModelError: If the file is missing or damaged, or refers to anything but numpy arrays;
            such objects are neither imported nor called.
    """
    path = find_weights(path)
    with reading(path, ModelError), path.open("rb") as file:
        try:
            return _NumpyUnpickler(file).load()
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None


class _NumpyUnpickler(pickle.Unpickler):
    """Allows only the three names that arrays of numbers need."""

    _known: ClassVar[dict[tuple[str, str], Any]] = {
        ("multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            module = "multiarray"
        if (module, name) not in self._known:
            raise ModelError(f"refused to load {module}.{name}: only numpy arrays are allowed")
        return self._known[module, name]


def read_safetensors(path: Path, error: type[AftError] = ModelError) -> StateDict:
    """The tensors of a ``.safetensors`` file; the given error if it is damaged."""
    from safetensors.torch import load_file

    with reading(path, error):
        return load_file(path)


def _read_torch(path: Path) -> StateDict:
    with reading(path, ModelError):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ModelError(
                f"expected only tensors in {path}, but it has other objects or is damaged; loading "
                "it could run code. If you trust it, save its state_dict() with "
                "safetensors.torch.save_file"
            ) from error
    for nest in _NESTS:
        if isinstance(content, dict) and isinstance(content.get(nest), dict):
            content = content[nest]
    tensors = content if isinstance(content, dict) else {}
    state = {str(k): v for k, v in tensors.items() if isinstance(v, Tensor)}
    if not state:
        raise ModelError(f"expected a dict of tensors in {path}, got {type(content).__name__}")
    return state
