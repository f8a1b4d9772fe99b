"""Names of models for people."""

from __future__ import annotations

import pytest

from aft.backbones.specs import short_name, shorten_paths


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("timm:vit_small_patch16_224.augreg_in1k", "vit_small_patch16_224"),
        ("image=torchvision:squeezenet1_1?weights=/a/b.pkl&size=64", "squeezenet1_1"),
        ("st:/models/all-MiniLM-L6-v2/?max_tokens=64", "all-MiniLM-L6-v2"),
        ("python:mine/teachers.py:words", "words"),
        ("st:/packages/minilm_l6_v2/model", "minilm_l6_v2"),
        ("hf:model", "model"),
    ],
)
def test_short_names(spec: str, name: str) -> None:
    assert short_name(spec) == name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("st:/home/me/models/minilm?max_tokens=64", "st:…/models/minilm?max_tokens=64"),
        ("text=hf:/a/b/c image=timm:x?weights=/d/e/f.pt&size=9", None),
        ("hf:google/bert_uncased_L-2", "hf:google/bert_uncased_L-2"),
        ("../a/b/c/d and runs/a/b/c", "../a/b/c/d and runs/a/b/c"),
        ("/data/pets", "/data/pets"),
    ],
)
def test_long_paths_are_cut(text: str, shown: str | None) -> None:
    if shown is None:
        shown = "text=hf:…/b/c image=timm:x?weights=…/e/f.pt&size=9"
    assert shorten_paths(text) == shown
