"""Teachers and students for small runs, and what to compare them by."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from aft.files import read_sealed

# A teacher that knows colours: one file, no weights, no network.
TEACHER = """
import torch
from torch import nn

def colours():
    from aft import Preprocessing
    class Means(nn.Module):
        def forward(self, images):
            pooled = nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
            return torch.cat([pooled, images.amin((2, 3))], 1)
    return Means(), Preprocessing(32).evaluate(), 51
"""


# No batch normalisation, whose statistics are those of each process's part of a batch.
STUDENT = """
from torch import nn

def plain():
    from aft import Preprocessing
    module = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(4),
                           nn.Flatten(1), nn.Linear(128, 16), nn.GELU())
    return module, Preprocessing(32)
"""


def flags(options: dict[str, Any]) -> list[str]:
    """The same options on the command line."""
    line: list[str] = []
    for name, value in options.items():
        flag = name.rstrip("_").replace("_", "-")
        if isinstance(value, bool):
            line.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            line += [f"--{flag}", *map(str, value)]
        else:
            line += [f"--{flag}", str(value)]
    return line


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "student" / "model.safetensors")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The content of a checkpoint to resume from."""
    state: dict[str, Any] = torch.load(io.BytesIO(read_sealed(checkpoint)), weights_only=True)
    return state


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


# Teachers that know words and colours: one file, no weights.
TEACHERS = """
import torch
from torch import nn


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(500, 24)

    def forward(self, tokens):
        there = (tokens >= 0).unsqueeze(-1)
        return (self.table(tokens.clamp(min=0)) * there).sum(1) / there.sum(1).clamp(min=1)


def words():
    from aft import Tokenization
    from tokenizers import Tokenizer, models, pre_tokenizers
    from helpers.text_data import FILLERS, TOPICS
    known = [*FILLERS, *sum(TOPICS.values(), []), "?"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Words(), Tokenization(tokenizer.to_str(), 32)


def colours():
    from aft import Preprocessing
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(1)), Preprocessing(32)
"""
