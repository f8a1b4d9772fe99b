"""`python:FILE.py:function?option=value`: a teacher from a user's Python file."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from aft.backbones.batches import PADDING
from aft.backbones.checks import explain, find_function, first_line
from aft.backbones.network import output_dim, versions
from aft.backbones.preprocessing import ImageTransform, Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.backbones.user_file import call, describe, import_file, own_files
from aft.backbones.weights import file_hash, state_hash
from aft.errors import ModelError, TeacherError
from aft.teachers.teacher import Teacher


def load(spec: Spec) -> Teacher:
    """Call the user's function and build a teacher from its result.

    Args:
        spec: ``python:FILE.py:function``; options are passed to the function as strings.

    Raises:
        ModelError: If the file or function is missing or fails, or returns a wrong type.
    """
    made = call(spec)
    match made:
        case (function, int(width)) if callable(function) and not isinstance(function, nn.Module):
            network, about = TextFunction(function, width), {"preprocessing": "text"}
            made = Teacher(str(spec), width, network, as_bytes, about, "text")
    module: nn.Module
    preprocess: Any
    dim: int | None
    if isinstance(made, Teacher):
        module, preprocess, dim, stated = made.module, made.preprocess, made.dim, made.identity
    elif isinstance(made, tuple) and len(made) in (2, 3) and isinstance(made[0], nn.Module):
        module, preprocess, dim, stated = made[0], made[1], made[2] if made[2:] else None, {}
    else:
        raise ModelError(
            f"expected {spec} to return an aft.teachers.Teacher, (module, preprocess), "
            "(module, preprocess, dim) or, for texts, (function, dim), got "
            f"{describe(made)}"
        )
    description: Any = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(preprocess))
    modality = made.modality if isinstance(made, Teacher) else "image"
    if isinstance(preprocess, Preprocessing):
        description, preprocess = preprocess.describe(), preprocess.evaluate()
    elif isinstance(preprocess, ImageTransform):
        description = preprocess.describe()
    elif isinstance(preprocess, Tokenization):
        description, modality = preprocess.describe(), "text"
    elif callable(preprocess):
        preprocess = UserTransform(spec, preprocess)
    else:
        raise ModelError(
            f"expected preprocess of {spec} to be a function from an input to a tensor, got "
            f"{describe(preprocess)}"
        )
    module = module.eval().requires_grad_(False)
    if isinstance(module, TextFunction):  # a call may cost money
        width = module.dim
    else:
        width = output_dim(module, _blank_input(spec, preprocess, modality), str(spec))
    if dim is not None and dim != width:
        raise ModelError(f"{spec} returns dim={dim}, but its features have {width} dimensions")
    path = find_function(spec)[0]
    own = {
        "spec": str(replace(spec, name=f"{path.name}:{find_function(spec)[1]}").without("weights")),
        "source_sha256": file_hash(*own_files(path)),
        "weights_sha256": state_hash(module.state_dict()),
        "dim": width,
    }
    identity = {"preprocessing": description, "versions": versions("torch"), **stated, **own}
    return Teacher(str(spec), width, module, preprocess, identity, modality)


class TextFunction(nn.Module):
    """A function from texts to features, such as a call of an embeddings API, as a network.

    Args:
        function: Maps a list of texts to rows of numbers, ``(n, dim)``.
        dim: Feature dimension.
    """

    def __init__(self, function: Callable[[list[str]], Any], dim: int) -> None:
        super().__init__()
        self.function = function
        self.dim = dim

    def forward(self, inputs: Tensor) -> Tensor:
        """Features ``(B, dim)`` of the texts whose bytes are the rows ``(B, L)``."""
        texts = [bytes(row[row != PADDING].tolist()).decode() for row in inputs]
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}  # batches hold copies
        features = np.asarray(self.function(list(rows)), dtype=np.float32)
        if features.shape != (len(rows), self.dim):
            wanted = f"{len(rows)} rows of {self.dim} numbers"
            raise ValueError(f"expected {wanted} for as many texts, got {features.shape}")
        return torch.from_numpy(features[[rows[text] for text in texts]]).to(inputs.device)


def as_bytes(text: str) -> Tensor:
    """The bytes of a text in UTF-8, int64 ``(L,)``."""
    return torch.tensor(list(text.encode()), dtype=torch.int64)


class UserTransform:
    """A preprocess function of a user's file, which data-loading workers can load too.

    Args:
        spec: The specification of the teacher.
        function: Maps an input to a tensor.
    """

    def __init__(self, spec: Spec, function: Callable[[Any], Tensor]) -> None:
        self.spec = spec
        self.function = function

    def __call__(self, value: Any) -> Tensor:
        """The tensor of an input."""
        try:
            return self.function(value)
        except SystemExit as stop:
            raise TeacherError(f"preprocess of {self.spec} ended with {explain(stop)}") from stop

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            content = pickle.dumps(self.function)
        except Exception as error:  # the function's own objects may raise anything
            raise TeacherError(
                f"preprocess of {self.spec} cannot be sent to worker processes "
                f"({first_line(error)}): define it as a function at the top level of the file, or "
                "use --num-workers 0"
            ) from error
        return _restore, (self.spec, content)


def _restore(spec: Spec, content: bytes) -> UserTransform:
    import_file(find_function(spec)[0], again=False)  # its name need not be importable
    return UserTransform(spec, pickle.loads(content))


def _blank_input(spec: Spec, preprocess: Any, modality: str) -> Any:
    if isinstance(preprocess, Tokenization):
        return preprocess.evaluate()("a text").unsqueeze(0)
    is_text = modality == "text"
    try:
        value = "a text" if is_text else Image.new("RGB", (320, 256), "gray")
        return preprocess(value).unsqueeze(0)
    except Exception as error:  # user code may raise anything
        what = "the text 'a text'" if is_text else "a 320 x 256 image"
        raise ModelError(f"preprocess of {spec} failed on {what}: {explain(error)}") from error
