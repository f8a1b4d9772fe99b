"""Networks that run an ONNX file with ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from aft.backbones.checks import first_line
from aft.backbones.network import require
from aft.backbones.pooling import Tokens, pool, read_tokens
from aft.errors import ModelError

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
"""Floating-point types of ONNX that are supported, and those of numpy."""

_DTYPES: dict[str, Any] = {
    **FLOATS,
    "tensor(bool)": np.bool_,
    **{f"tensor({name})": np.dtype(name) for name in ("int8", "uint8", "int16", "uint16")},
    **{f"tensor({name})": np.dtype(name) for name in ("int32", "uint32", "int64", "uint64")},
}
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_OTHER_NAMES = {"input_mask": "attention_mask", "segment_ids": "token_type_ids"}
_TOKEN_INDEX = {"cls": 0, "last": -1}


class Slot(NamedTuple):
    """An input or output of a model.

    Attributes:
        name: Name of the input or output.
        dtype: Data type in ONNX Runtime's notation, e.g. ``tensor(float)``.
        shape: Size of each dimension; None for dynamic dimensions.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype.removeprefix('tensor')} of shape ({sizes})"


class OnnxSession:
    """A model file with lazily created ONNX Runtime sessions, one per process and device.

    A copy in another process creates its own session.

    Args:
        path: The ``.onnx`` file, or the name of a model in memory.
        model: The content of the file, for a model in memory.

    Attributes:
        inputs: The inputs of the model.
        outputs: The outputs of the model.
        roles: ``input_ids``, ``attention_mask`` or ``token_type_ids`` by input name.

    Raises:
        ModelError: If ONNX Runtime is missing or cannot read the file, or an input has an
            unsupported type.
    """

    def __init__(self, path: Path | str, model: bytes | None = None) -> None:
        self.path = path
        self.model = model
        self._sessions: dict[tuple[int, str, int], Any] = {}
        session = self._on(torch.device("cpu"))
        self.inputs = [_slot(node) for node in session.get_inputs()]
        self.outputs = [_slot(node) for node in session.get_outputs()]
        self.roles = {slot.name: role for slot in self.inputs if (role := _role(slot.name))}
        for slot in self.inputs:
            if slot.dtype not in _DTYPES:
                raise ModelError(
                    f"expected inputs of {path} of type {', '.join(_DTYPES)}, got {slot}"
                )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sessions": {}}

    def run(
        self, feeds: dict[str, NDArray[Any]], output: str, device: torch.device
    ) -> NDArray[np.float32]:
        """Compute one output for a batch; split the batch if the model's batch size is fixed.

        Args:
            feeds: Arrays ``(B, …)`` by input name.
            output: Name of the output.
            device: Device to run on; the CPU if ONNX Runtime has no provider for it.

        Returns:
            The output, ``(B, …)``, float32.
        """
        session = self._on(device)
        dtypes = {slot.name: _DTYPES[slot.dtype] for slot in self.inputs if slot.name in feeds}
        feeds = {name: array.astype(dtypes[name], copy=False) for name, array in feeds.items()}
        rows = len(next(iter(feeds.values())))
        fixed = next((slot.shape[0] for slot in self.inputs if slot.shape), None)
        size = fixed or rows
        parts = []
        for start in range(0, rows, size):
            part = {name: array[start : start + size] for name, array in feeds.items()}
            lacking = size - min(size, rows - start)
            if lacking:
                part = {k: np.concatenate([v, v[-1:].repeat(lacking, 0)]) for k, v in part.items()}
            parts.append(session.run([output], part)[0][: size - lacking])
        return np.concatenate(parts).astype(np.float32, copy=False)

    def _on(self, device: torch.device) -> Any:
        key = (os.getpid(), str(device), torch.get_num_threads())
        if key not in self._sessions:
            # Keep the sessions of the parent process after a fork: closing them would wait for
            # threads that exist only in the parent.
            self._sessions = {k: s for k, s in self._sessions.items() if k[0] != os.getpid()}
            self._sessions[key] = _open_session(self.path, self.model, device)
        return self._sessions[key]


class OnnxImageNetwork(nn.Module):
    """Runs an image model: images ``(B, 3, H, W)`` to features ``(B, dim)``.

    Args:
        session: The model.
        output: Name of an output ``(B, dim)``, ``(B, L, dim)`` or ``(B, dim, h, w)``.
        pooling: For an output ``(B, L, dim)``: ``mean``, ``cls`` (first token) or ``last``.
        sha256: Hash of the model's files; kept as a buffer, so it is part of the state dict's hash.
    """

    file_sha256: Tensor

    def __init__(self, session: OnnxSession, output: str, pooling: str, sha256: str) -> None:
        super().__init__()
        self.session = session
        self.output = output
        self.pooling = pooling
        self.register_buffer("file_sha256", _as_tensor(sha256))

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(B, dim)``, float32."""
        feeds = {self.session.inputs[0].name: images.detach().float().cpu().numpy()}
        out = torch.from_numpy(self.session.run(feeds, self.output, images.device))
        if out.ndim == 4:
            out = out.mean((2, 3))
        elif out.ndim == 3:
            out = out.mean(1) if self.pooling == "mean" else out[:, _TOKEN_INDEX[self.pooling]]
        if out.ndim != 2:
            raise ValueError(
                "expected an output of shape (batch, dim), (batch, tokens, dim) or (batch, dim, "
                f"height, width), got {tuple(out.shape)}; choose another output with output=NAME"
            )
        return out.to(images.device)


class OnnxTextNetwork(nn.Module):
    """Runs a text model: tokens ``(B, L)`` or ``(B, 2, L)``, padded with -1, to ``(B, dim)``.

    The features of a text without tokens are zeros.

    Args:
        session: The model.
        output: Name of an output ``(B, dim)`` or ``(B, L, dim)``.
        pooling: For an output ``(B, L, dim)``: ``mean``, ``cls`` (first token) or ``last``.
        sha256: Hash of the model's files; kept as a buffer, so it is part of the state dict's hash.
    """

    file_sha256: Tensor

    def __init__(self, session: OnnxSession, output: str, pooling: str, sha256: str) -> None:
        super().__init__()
        self.session = session
        self.output = output
        self.pooling = pooling
        self.register_buffer("file_sha256", _as_tensor(sha256))

    def forward(self, batch: Tensor) -> Tensor:
        """Features ``(B, dim)``, float32."""
        tokens = read_tokens(batch.detach().cpu())
        parts = [
            (rows, self._run(tokens, rows, batch.device)) for rows in self._runs(tokens.mask.sum(1))
        ]
        features = torch.zeros(len(batch), parts[0][1].shape[1])
        for rows, part in parts:
            features[rows] = part
        return torch.where(tokens.counts > 0, features, 0).to(batch.device)

    def _runs(self, lengths: Tensor) -> Iterator[Tensor]:
        """Row indices to run together: all rows, or rows of equal length without a mask."""
        if "attention_mask" in self.session.roles.values() or fixed_length(self.session):
            yield torch.arange(len(lengths))
            return
        for length in lengths.unique():  # without a mask, the model would treat padding as text
            yield (lengths == length).nonzero().flatten()

    def _run(self, tokens: Tokens, rows: Tensor, device: torch.device) -> Tensor:
        ids, mask, counts = tokens.ids[rows], tokens.mask[rows], tokens.counts[rows]
        types = torch.zeros_like(ids) if tokens.types is None else tokens.types[rows]
        length = fixed_length(self.session) or int(mask.sum(1).max())
        ids, mask, types = (pad(part, (0, length - part.shape[1])) for part in (ids, mask, types))
        values = dict(zip(_TEXT_INPUTS, (ids, mask, types), strict=True))
        feeds = {name: values[role].numpy() for name, role in self.session.roles.items()}
        out = torch.from_numpy(self.session.run(feeds, self.output, device))
        if out.ndim == 2:
            return out
        if out.ndim != 3 or out.shape[:2] != mask.shape:
            raise ValueError(
                f"expected an output of shape (batch, dim) or ({len(mask)}, {length}, dim), got "
                f"{tuple(out.shape)}; choose another output with output=NAME"
            )
        return pool(out, Tokens(ids, mask, None, counts), self.pooling)


def _open_session(path: Path | str, model: bytes | None, device: torch.device) -> Any:
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    try:
        return runtime.InferenceSession(model or str(path), options, providers=providers)
    except Exception as error:  # the library raises many exception types
        raise ModelError(f"ONNX Runtime cannot read {path}: {first_line(error)}") from error


def _slot(node: Any) -> Slot:
    sizes = (size if isinstance(size, int) and size > 0 else None for size in node.shape)
    return Slot(node.name, node.type, tuple(sizes))


def _as_tensor(sha256: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(sha256)), dtype=torch.uint8)


def fixed_length(session: OnnxSession) -> int | None:
    """The fixed number of tokens of a model, or None if its length is dynamic."""
    shape = next(one.shape for one in session.inputs if _role(one.name) == "input_ids")
    return shape[1] if len(shape) == 2 else None


def _role(name: str) -> str | None:
    """What a text model's input is, by its name in any exporter; None for any other input."""
    plain = name.partition(":")[0]  # "input_ids:0" of TensorFlow
    plain = _OTHER_NAMES.get(plain, plain)
    return plain if plain in _TEXT_INPUTS else None
