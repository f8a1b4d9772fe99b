"""Metrics of a run: JSON lines, and TensorBoard where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class RunLog:
    """Appends metrics to ``metrics.jsonl`` and to TensorBoard events.

    Args:
        folder: The run folder.
        step: The step that a run goes on from; later lines of an earlier try are dropped.
        enabled: False in all processes but the first.
    """

    def __init__(self, folder: Path, step: int = 0, enabled: bool = True) -> None:
        self.enabled = enabled
        self.path = folder / "metrics.jsonl"
        self.board: Any = None
        if not enabled:
            return
        lines = [line for line in read_metrics(folder) if line["step"] <= step] if step else []
        self.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        purge = step + 1 if step else None
        self.board = SummaryWriter(folder / "tensorboard", purge_step=purge)

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Add one line: the step, the split and the values."""
        if not self.enabled:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self.board is not None:
            self.board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's metrics; a line that was being written is left out."""
    path = folder / "metrics.jsonl"
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
