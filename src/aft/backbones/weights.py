"""Read weights from local files without running any code in them."""

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
_PARTS = ("backbone.", "model.", "encoder.")  # prefixes of the backbone in a larger model
_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar")


class ModelError(AftError):
    """A model cannot be built or its weights do not match.

    :func:`aft.teachers.load_teacher` re-raises it as ``TeacherError`` and
    :func:`aft.students.load_backbone` as ``StudentError``.
    """


def load_weights(path: str | Path) -> StateDict:
    """Read a state dict from a weight file.

    Args:
        path: A ``.safetensors`` file, or a ``.pth``, ``.pt``, ``.bin`` or ``.tar`` file written by
            ``torch.save``, which is read with ``weights_only=True``. Common nesting
            (``{"state_dict": …}``, ``{"model": …}``) and prefixes (``module.``) are removed.

    Raises:
        ModelError: If the file is missing, damaged, in another format or without tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelError(f"weight file {path} not found")
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
    """Load a state dict into a module, ignoring the classifier's tensors.

    Args:
        module: The network without its classifier.
        state: Tensors by name. It may contain the classifier, and all names may have the prefix
            ``backbone.``, ``model.`` or ``encoder.``.
        head: Names (or name prefixes) of the classifier, whose tensors are ignored.

    Raises:
        ModelError: If a tensor is missing, unexpected or of another shape; the message lists
            them.
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
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelError(f"weight file {path} not found")
    try:
        with path.open("rb") as file:
            return _NumpyUnpickler(file).load()
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle may raise anything
        raise ModelError(f"{path} is not a readable pickle of numpy arrays: {error}") from error


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
            f"expected only tensors in {path}, but it has other objects or is damaged; loading it "
            "could run code. If you trust it, save its state_dict() with "
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
        raise ModelError(f"expected a dict of tensors in {path}, got {type(content).__name__}")
    return state
