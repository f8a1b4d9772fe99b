"""Transfer losses, one file a paper; each is a plain ``nn.Module``."""

from __future__ import annotations

from aft.losses.aft import AFTLoss

__all__ = ["AFTLoss"]
