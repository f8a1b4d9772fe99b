"""The linear maps within losses."""

from __future__ import annotations

from torch import Tensor, nn

from aft import functional as AF


class Linear(nn.Linear):
    """``nn.Linear`` that computes in float32 even under autocast, and in float64 given float64."""

    def forward(self, input: Tensor) -> Tensor:
        """``(B, in_features)`` to ``(B, out_features)``."""
        features = AF.full_precision(input)
        mapped = AF.matmul(features, self.weight.T.to(features.dtype))
        return mapped if self.bias is None else mapped + self.bias.to(features.dtype)
