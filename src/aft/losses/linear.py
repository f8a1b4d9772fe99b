"""The linear layer used in losses."""

from __future__ import annotations

from torch import Tensor, nn

from aft import functional as AF


class Linear(nn.Linear):
    """``nn.Linear`` in float32 even under autocast, or in float64 for float64 input."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(B, in_features)`` to ``(B, out_features)``."""
        features = AF.full_precision(input)
        mapped = AF.matmul(features, self.weight.T.to(features.dtype))
        return mapped if self.bias is None else mapped + self.bias.to(features.dtype)
