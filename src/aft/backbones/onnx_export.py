"""Networks converted to ONNX; those of images run by ONNX Runtime."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout

import torch
from torch import Tensor, nn

from aft.backbones.network import require
from aft.backbones.onnx_networks import OnnxSession
from aft.errors import ModelError

SAME = 0.9999
"""Smallest cosine of the features of an image by the two engines."""


class ExportedNetwork(nn.Module):
    """Runs a network by ONNX Runtime: images ``(B, 3, H, W)`` to features ``(B, dim)``.

    The network is exported with the first batch, whose features are compared with its own.

    Args:
        network: The network, in eval mode.
        name: Its name, for error messages.

    Raises:
        ModelError: If a library is missing; in the forward pass, if the exported network computes
            other features.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        require("onnx", "onnx")
        require("onnxruntime", "onnx")
        self.network = network
        self.name = name
        self._session: OnnxSession | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(B, dim)``, float32."""
        if self._session is None:
            session = OnnxSession(self.name, _export(self.network, images))
            ours, theirs = self.network(images).double(), _run(session, images).double()
            cosine = nn.functional.cosine_similarity(ours, theirs, eps=1e-300)
            cosine[(ours == theirs).all(1)] = 1.0  # two zero vectors too
            if not bool((cosine > SAME).all()):
                raise ModelError(
                    f"{self.name} has other features in ONNX Runtime: expected cosines above "
                    f"{SAME}, got {float(cosine.min()):.4f}; use --engine torch"
                )
            self._session = session
        return _run(self._session, images)


def _run(session: OnnxSession, images: Tensor) -> Tensor:
    feeds = {session.inputs[0].name: images.float().cpu().numpy()}
    return torch.from_numpy(session.run(feeds, "features", images.device)).to(images.device)


def _export(network: nn.Module, images: Tensor) -> bytes:
    example = images.new_zeros(2, *images.shape[1:])
    axes = {"images": {0: "batch"}, "features": {0: "batch"}}
    return to_onnx(network, (example,), ["images"], "features", axes)


@torch.inference_mode(False)
def to_onnx(
    network: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    output: str,
    axes: Mapping[str, Mapping[int, str]],
) -> bytes:
    """The content of an ``.onnx`` file.

    Args:
        network: The network, in eval mode; takes and returns tensors.
        example: Inputs to trace it with.
        inputs: Names of the inputs.
        output: Name of the output.
        axes: Names of the dynamic axes of inputs and output, by their position.
    """
    file = io.BytesIO()
    fast = torch.backends.mha.get_fastpath_enabled()  # has no counterpart in ONNX
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.no_grad(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # on the exporter's age, and constants in the graph
            torch.onnx.export(
                network,
                example,
                file,  # type: ignore[arg-type]
                input_names=list(inputs),
                output_names=[output],
                dynamic_axes=axes,
                dynamo=False,  # the other exporter needs more packages
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return file.getvalue()
