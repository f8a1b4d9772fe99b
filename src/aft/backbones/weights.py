"""Weights from local files, read without running any code that a file may carry."""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from aft.errors import AftError

StateDict = dict[str, Tensor]

_NESTS = ("state_dict", "model_state_dict", "model", "net")
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
_PARTS = ("backbone.", "model.", "encoder.")  # where a larger model keeps its backbone
_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar")


class ModelError(AftError):
    """A model cannot be built or its weights do not fit.

    :func:`aft.teachers.load_teacher` raises it on as ``TeacherError`` and
    :func:`aft.students.load_backbone` as ``StudentError``.
    """


def load_weights(path: str | Path) -> StateDict:
    """Read the tensors of a weight file by name.

    Args:
        path: A ``.safetensors`` file, or a ``.pth``, ``.pt``, ``.bin`` or ``.tar`` file written by
            ``torch.save``, which is read with ``weights_only=True``. The usual nests
            (``{"state_dict": …}``, ``{"model": …}``) and prefixes (``module.``) are taken off.

    Raises:
        ModelError: If the file is missing, damaged, of another kind or holds no tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelError(f"there is no weight file {path}")
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in _TORCH_SUFFIXES:
        state = _read_torch(path)
    else:
        raise ModelError(
            f"expected weights in a .safetensors, .pth, .pt or .bin file, got {path}; convert "
            "other formats with safetensors.torch.save_file(state_dict, path)"
        )
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in state):
            state = {name[len(wrapper) :]: tensor for name, tensor in state.items()}
    return state


def load_into(module: nn.Module, state: Mapping[str, Tensor], head: Iterable[str] = ()) -> None:
    """Fill a module with weights; what does not fit is an error that says what.

    Args:
        module: The network without its classifier.
        state: Tensors by name, possibly with those of the classifier and possibly all under
            ``backbone.``, ``model.`` or ``encoder.``.
        head: Names (or first parts of names) of the classifier, whose tensors are left out.

    Raises:
        ModelError: If a tensor of the module is missing or has another shape, or one of the file
            belongs nowhere.
    """
    expected: Any = module.state_dict()
    wanted = {name for name in expected if not name.endswith("num_batches_tracked")}
    for part in _PARTS:
        if wanted and all(part + name in state for name in wanted):
            state = {k[len(part) :]: v for k, v in state.items() if k.startswith(part)}
            break
    missing = [name for name in expected if name in wanted and name not in state]
    others = [name for name in state if name not in expected]
    heads = tuple(head)
    in_head = [k for k in others if any(k == part or k.startswith(part + ".") for part in heads)]
    unexpected = [name for name in others if name not in in_head]
    reshaped = [
        f"{name} {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        for names, what in (
            (missing, f"of {len(expected)} tensors missing"),
            (unexpected, "tensors that the model does not have"),
            (reshaped, "of another shape"),
        )
        if names
    ]
    if faults:
        note = f" ({len(in_head)} tensors of the classifier were ignored)" if in_head else ""
        raise ModelError(f"the weights do not fit the model: {'; '.join(faults)}{note}")
    # Modules that read their own version from the metadata (MNASNet) find that of this torch.
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
    """SHA-256 of the content of files, one after the other, as hex digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def load_numpy_pickle(path: str | Path) -> Any:
    """Read a pickle made of numpy arrays, strings, numbers and containers of them, nothing else.

    Raises:
        ModelError: If the file is missing or damaged, or asks for anything but numpy's arrays;
            nothing it names has been imported or called by then.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelError(f"there is no weight file {path}")
    try:
        with path.open("rb") as file:
            return _NumpyUnpickler(file).load()
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise ModelError(f"{path} is not a readable pickle of numpy arrays: {error}") from error


class _NumpyUnpickler(pickle.Unpickler):
    """Knows the three names that arrays of numbers need and refuses all others."""

    _known: ClassVar[dict[tuple[str, str], Any]] = {
        ("multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            module = "multiarray"
        if (module, name) not in self._known:
            raise ModelError(f"refused to load {module}.{name}: only numpy arrays are read")
        return self._known[module, name]


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable safetensors file: {error}") from error


def _read_torch(path: Path) -> StateDict:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors, or is damaged, and is not read because that could "
            "run code; where you trust it, save its state_dict() alone with "
            "safetensors.torch.save_file"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelError(f"{path} is not a readable torch file: {error}") from error
    for nest in _NESTS:
        if isinstance(content, dict) and isinstance(content.get(nest), dict):
            content = content[nest]
    tensors = content if isinstance(content, dict) else {}
    state = {str(k): v for k, v in tensors.items() if isinstance(v, Tensor)}
    if not state:
        raise ModelError(f"{path} holds no tensors by name, got {type(content).__name__}")
    return state
