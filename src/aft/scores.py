"""Transferability: how well a teacher's features suit a task, from the stored features alone."""

from __future__ import annotations

from aft.losses.logme import LogME, log_me

__all__ = ["LogME", "log_me"]
