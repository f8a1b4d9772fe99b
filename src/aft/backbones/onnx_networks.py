"""Networks whose computation is an ONNX file, run by ONNX Runtime."""

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

from aft.backbones.network import first_line, require
from aft.backbones.pooling import Tokens, pool, read_tokens
from aft.backbones.weights import ModelError

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")

_NUMBERS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
_PLACES = {"cls": 0, "last": -1}


class Slot(NamedTuple):
    """An input or output of a model.

    Attributes:
        name: Its name.
        number: The type of its numbers, as ONNX Runtime writes it, e.g. ``tensor(float)``.
        shape: Its sizes; None for those that may be any.
    """

    name: str
    number: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.number.removeprefix('tensor')} of shape ({sizes})"


class OnnxSession:
    """A model file; the session of ONNX Runtime is made where and when it is first needed.

    A copy in another process makes its own.

    Args:
        path: The ``.onnx`` file.

    Raises:
        ModelError: If ONNX Runtime is missing or cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sessions: dict[tuple[int, str, int], Any] = {}
        session = self._on(torch.device("cpu"))
        self.inputs = [_slot(node) for node in session.get_inputs()]
        self.outputs = [_slot(node) for node in session.get_outputs()]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sessions": {}}

    def run(
        self, feeds: dict[str, NDArray[Any]], output: str, device: torch.device
    ) -> NDArray[np.float32]:
        """One output for a batch; a model with a fixed batch size gets the batch in parts.

        Args:
            feeds: Arrays ``(B, …)`` by the inputs' names.
            output: The output's name.
            device: Where to run, if ONNX Runtime has a provider for it; else on the CPU.
        """
        session = self._on(device)
        number = {slot.name: _NUMBERS[slot.number] for slot in self.inputs if slot.name in feeds}
        feeds = {name: array.astype(number[name], copy=False) for name, array in feeds.items()}
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
            # Sessions of the process that this one was forked from are kept: closing them here
            # would wait for threads that only exist there.
            self._sessions = {k: s for k, s in self._sessions.items() if k[0] != os.getpid()}
            self._sessions[key] = _open_session(self.path, device)
        return self._sessions[key]


class OnnxImageNetwork(nn.Module):
    """Runs a model over images ``(B, 3, H, W)``; returns features ``(B, dim)``.

    Args:
        session: The model.
        output: The output to take: ``(B, dim)``, ``(B, L, dim)`` or ``(B, dim, h, w)``.
        pooling: Of an output ``(B, L, dim)``: ``mean``, ``cls`` (the first) or ``last``.
        sha256: Of the model's files; a buffer, so that a hash of the state dict knows the model.
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
            out = out.mean(1) if self.pooling == "mean" else out[:, _PLACES[self.pooling]]
        if out.ndim != 2:
            raise ValueError(
                "expected an output of shape (batch, dim), (batch, places, dim) or (batch, dim, "
                f"height, width), got {tuple(out.shape)}; choose another with output=NAME"
            )
        return out.to(images.device)


class OnnxTextNetwork(nn.Module):
    """Runs a model over tokens ``(B, L)`` or ``(B, 2, L)``, padded with -1; returns ``(B, dim)``.

    Texts without a token have features of zeros.

    Args:
        session: The model.
        output: The output to take: ``(B, dim)`` or ``(B, L, dim)``.
        pooling: Of an output ``(B, L, dim)``: ``mean``, ``cls`` (the first) or ``last``.
        sha256: Of the model's files; a buffer, so that a hash of the state dict knows the model.
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
        """Rows that go through the model together."""
        masked = any(slot.name == "attention_mask" for slot in self.session.inputs)
        if masked or fixed_length(self.session):
            yield torch.arange(len(lengths))
            return
        for length in lengths.unique():  # the model would see padding as text
            yield (lengths == length).nonzero().flatten()

    def _run(self, tokens: Tokens, rows: Tensor, device: torch.device) -> Tensor:
        ids, mask, counts = tokens.ids[rows], tokens.mask[rows], tokens.counts[rows]
        types = torch.zeros_like(ids) if tokens.types is None else tokens.types[rows]
        length = fixed_length(self.session) or int(mask.sum(1).max())
        ids, mask, types = (pad(part, (0, length - part.shape[1])) for part in (ids, mask, types))
        values = dict(zip(TEXT_INPUTS, (ids, mask, types), strict=True))
        feeds = {slot.name: values[slot.name].numpy() for slot in self.session.inputs}
        out = torch.from_numpy(self.session.run(feeds, self.output, device))
        if out.ndim == 2:
            return out
        if out.ndim != 3 or out.shape[:2] != mask.shape:
            raise ValueError(
                f"expected an output of shape (batch, dim) or ({len(mask)}, {length}, dim), got "
                f"{tuple(out.shape)}; choose another with output=NAME"
            )
        return pool(out, Tokens(ids, mask, None, counts), self.pooling)


def _open_session(path: Path, device: torch.device) -> Any:
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    try:
        return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the library raises many kinds
        raise ModelError(f"ONNX Runtime cannot read {path}: {first_line(error)}") from error


def _slot(node: Any) -> Slot:
    sizes = (size if isinstance(size, int) and size > 0 else None for size in node.shape)
    return Slot(node.name, node.type, tuple(sizes))


def _as_tensor(sha256: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(sha256)), dtype=torch.uint8)


def fixed_length(session: OnnxSession) -> int | None:
    """The number of tokens that a model takes, if it takes no other."""
    shape = next(slot.shape for slot in session.inputs if slot.name == "input_ids")
    return shape[1] if len(shape) == 2 else None
