"""`python:FILE.py:function?option=value`: a backbone from the user's own Python file."""

from __future__ import annotations

import torch
from torch import nn

from aft.preprocessing import Preprocessing
from aft.specs import Spec
from aft.teachers.network import Network, output_dim, seeded, versions
from aft.teachers.python import call, describe
from aft.tokenization import Tokenization
from aft.weights import ModelError


def build(spec: Spec, *, seed: int = 0) -> Network:
    """Call the user's function and make a network of what it returns.

    Args:
        spec: ``python:FILE.py:function``; the options are given to the function as text.
        seed: Seed of torch's random numbers while the function runs.

    Raises:
        ModelError: If the file, the function or what it returns fails.
    """
    made = seeded(seed, lambda: call(spec))
    module, preprocessing = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    preprocessing = preprocessing or Preprocessing(224)
    known = isinstance(preprocessing, Preprocessing | Tokenization)
    if not (known and isinstance(module, nn.Module)):
        raise ModelError(
            f"expected {spec} to return a module, or a module and an "
            "aft.preprocessing.Preprocessing or aft.tokenization.Tokenization, "
            f"got {describe(made)}"
        )
    if isinstance(preprocessing, Tokenization):
        blank = preprocessing.evaluate()("a text").unsqueeze(0)
    else:
        blank = torch.zeros(1, 3, preprocessing.size, preprocessing.size)
    return Network(
        spec=spec,
        module=module,
        dim=output_dim(module, blank, str(spec)),
        preprocessing=preprocessing,
        weights=spec.options.get("weights", "as made by the function"),
        layer="output of the module",
        versions=versions("torch"),
    )
