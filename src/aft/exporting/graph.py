"""The network of a student as ONNX, with floats or 8-bit weights, for OpenVINO and for torch."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aft.backbones.network import require
from aft.backbones.onnx_export import to_onnx
from aft.students.saved import SavedStudent
from aft.students.towers import Towers

Feeds = Mapping[str, NDArray[Any]]
"""The inputs of a network for a batch, by name."""
_OUTPUT = "outputs"
_WORTH = ("Conv", "Gather", "Gemm", "MatMul")
"""The operators that hold the weights."""


class Outputs(nn.Module):
    """A student that takes one tensor per network and returns its outputs ``(B, num_outputs)``."""

    def __init__(self, student: SavedStudent) -> None:
        super().__init__()
        self.student = student.module
        backbone = student.module.backbone
        self.columns = backbone.columns if isinstance(backbone, Towers) else None

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits, or for regression values in the targets' units."""
        one = inputs[0] if self.columns is None else dict(zip(self.columns, inputs, strict=True))
        return self.student(one).logits.float()  # type: ignore[no-any-return]


def write_onnx(
    file: Path, student: SavedStudent, feeds: Feeds, metadata: Mapping[str, Any]
) -> None:
    """Write the network with any number of rows and, for texts, any number of tokens.

    Args:
        file: The ``.onnx`` file.
        student: The student, on the CPU in eval mode.
        feeds: Inputs to trace it with; at least two rows of at least two tokens.
        metadata: JSON values for the metadata of the file, by key.
    """
    onnx: Any = require("onnx", "onnx")
    axes = {name: _axes(array) for name, array in feeds.items()} | {_OUTPUT: {0: "rows"}}
    example = tuple(torch.from_numpy(array) for array in feeds.values())
    content = to_onnx(Outputs(student).eval(), example, list(feeds), _OUTPUT, axes)
    model = onnx.load_model_from_string(content)
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in metadata.items()
    }
    onnx.helper.set_model_props(model, texts)
    onnx.save_model(model, str(file))


def write_int8(file: Path, source: Path, batches: Sequence[Feeds]) -> None:
    """Write an ONNX model with weights of 8 bits.

    Args:
        file: The ``.onnx`` file.
        source: The model with floats.
        batches: Inputs that show how large activations get, for a model with images; none for a
            model of texts, whose activations are measured when it runs.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    onnx: Any = require("onnx", "onnx")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = Path(folder) / "model.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        model = onnx.load_model(str(prepared))
        options = {
            "op_types_to_quantize": list(_WORTH),
            "nodes_to_exclude": _exact(model),
            "per_channel": True,
        }
        if batches:
            feeds = iter([dict(one) for one in batches])
            reader: Any = SimpleNamespace(get_next=lambda: next(feeds, None))
            options["reduce_range"] = True  # sums of 8-bit products overflow on older processors
            quantization.quantize_static(str(prepared), str(file), reader, **options)
        else:
            kind = quantization.QuantType.QUInt8
            quantization.quantize_dynamic(str(prepared), str(file), weight_type=kind, **options)


def write_program(file: Path, student: SavedStudent, feeds: Feeds) -> None:
    """Write a program of ``torch.export``, which torch alone loads and runs."""
    example = tuple(torch.from_numpy(array) for array in feeds.values())
    sizes = tuple(dict.fromkeys(_axes(array), torch.export.Dim.AUTO) for array in feeds.values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            Outputs(student).eval(), example, dynamic_shapes={"inputs": sizes}, strict=False
        )
        torch.export.save(program, file)


def write_openvino(file: Path, source: Path) -> None:
    """Write an ONNX model as OpenVINO's ``.xml`` and ``.bin``."""
    openvino: Any = require("openvino", "openvino")
    openvino.save_model(openvino.convert_model(str(source)), str(file), compress_to_fp16=False)


def _axes(array: NDArray[Any]) -> dict[int, str]:
    """The axes that may have any length: rows, and tokens."""
    return {0: "rows"} if array.dtype.kind == "f" else {0: "rows", array.ndim - 1: "tokens"}


def _exact(model: Any) -> list[str]:
    """The nodes that keep floats.

    These are the last layer, which is small, and on which predictions depend most, and look-ups in
    tables of single numbers, such as the weights of words.
    """
    flat = {one.name for one in model.graph.initializer if len(one.dims) < 2}
    nodes = model.graph.node
    tables = [one.name for one in nodes if one.op_type == "Gather" and one.input[0] in flat]
    return [*tables, *[one.name for one in nodes if one.op_type in ("Gemm", "MatMul")][-1:]]


def long_enough(feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Inputs to trace a network with: two rows of at least two tokens, as 1 stands for itself."""
    made = {}
    for name, array in feeds.items():
        rows = np.concatenate([array, array])[:2]
        if array.dtype.kind != "f" and array.shape[-1] < 2:
            empty = np.full((*rows.shape[:-1], 2 - rows.shape[-1]), -1, rows.dtype)
            rows = np.concatenate([rows, empty], axis=-1)
        made[name] = rows
    return made
