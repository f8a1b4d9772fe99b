"""From what a transformer says of every token, or place in an image, to one row of features."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

Pooling = Literal["mean", "cls", "last", "pooler"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


class Tokens(NamedTuple):
    """A batch of texts as models take them, with all padding on the right.

    Attributes:
        ids: Token ids ``(B, L)``, ``L >= 1``; some token where there is none.
        mask: ``(B, L)``: 1 for tokens, 0 for padding. The first column is 1 throughout: attention
            over nothing is undefined, so a text without tokens is given one.
        types: Token types ``(B, L)``, for pairs of texts.
        counts: ``(B, 1)``: how many tokens each text really has.
    """

    ids: Tensor
    mask: Tensor
    types: Tensor | None
    counts: Tensor


def read_tokens(batch: Tensor, padding: int = 0, most: int | None = None) -> Tokens:
    """Make mask and ids of a batch.

    Args:
        batch: ``(B, L)`` token ids or ``(B, 2, L)`` token ids and types, -1 where there is no
            token, on either side. Tokens move to the left, so that they keep their positions
            whatever the padding.
        padding: What models want to see in place of -1.
        most: How many tokens a model has positions for; only padding may lie beyond.
    """
    if batch.shape[-1] == 0:
        batch = torch.nn.functional.pad(batch, (0, 1), value=-1)
    ids, types = (batch[:, 0], batch[:, 1]) if batch.ndim == 3 else (batch, None)
    real = ids >= 0
    order = torch.argsort((~real).to(torch.uint8), dim=1, stable=True)[:, :most]
    ids, real = ids.gather(1, order), real.gather(1, order)
    if types is not None:
        types = types.gather(1, order).clamp(min=0)
    mask = real.clone()
    mask[:, 0] = True
    ids = torch.where(real, ids, torch.where(mask, 0, padding))
    return Tokens(ids, mask.long(), types, real.sum(1, keepdim=True))


def pool(hidden: Tensor, tokens: Tokens, pooling: str) -> Tensor:
    """One row of features a text.

    Args:
        hidden: ``(B, L, dim)``.
        tokens: What they were computed from.
        pooling: ``mean`` over tokens, ``cls`` (the first token) or ``last``.

    Returns:
        ``(B, dim)``, float32 or wider; zeros for a text without tokens.
    """
    hidden = hidden.float() if hidden.dtype in (torch.float16, torch.bfloat16) else hidden
    if pooling == "mean":
        mask = tokens.mask.unsqueeze(-1)
        pooled = (hidden * mask).sum(1) / mask.sum(1)
    elif pooling == "cls":
        pooled = hidden[:, 0]
    else:
        last = (tokens.mask.sum(1) - 1).view(-1, 1, 1)
        pooled = hidden.take_along_dim(last, dim=1).squeeze(1)
    return torch.where(tokens.counts > 0, pooled, 0)


class TextFeatures(nn.Module):
    """A transformer over tokens, and a pooling.

    Takes ``(B, L)`` or ``(B, 2, L)`` int64, -1 for padding; returns features ``(B, dim)``, which
    do not depend on the padding.

    Args:
        model: A model of `transformers` that gives hidden states.
        pooling: ``mean``, ``cls`` or ``last``.
        layer: The features are those after so many layers; None for the model's output.
    """

    def __init__(self, model: nn.Module, pooling: str, layer: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.layer = layer
        self.padding_id = padding_id(model)
        self.num_positions = num_positions(model)
        self.takes_types = takes(model, "token_type_ids")

    def hidden(self, tokens: Tokens) -> Tensor:
        """``(B, L, dim)``: what the pooling takes."""
        options: dict[str, Any] = {"output_hidden_states": True} if self.layer is not None else {}
        if tokens.types is not None and self.takes_types:
            options["token_type_ids"] = tokens.types
        output = self.model(input_ids=tokens.ids, attention_mask=tokens.mask, **options)
        return select(output, self.layer)

    def forward(self, batch: Tensor) -> Tensor:
        """Features of a batch of texts."""
        tokens = read_tokens(batch, self.padding_id, self.num_positions)
        return pool(self.hidden(tokens), tokens, self.pooling)


class ImageFeatures(nn.Module):
    """A vision model of `transformers`, and a pooling.

    Takes ``(B, 3, H, W)``, returns ``(B, dim)``.

    Args:
        model: Gives hidden states ``(B, N, dim)`` or ``(B, dim, h, w)``.
        pooling: ``cls`` (the first of N), ``mean`` over all places but a first that is a class
            token, or ``pooler`` (the model's own).
        layer: As for texts.
        class_tokens: How many of the N are no places in the image, but come before them.
        interpolate: Whether position embeddings are fitted to the size of the image.
    """

    def __init__(
        self,
        model: nn.Module,
        pooling: str,
        layer: int | None = None,
        class_tokens: int = 0,
        interpolate: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.layer = layer
        self.class_tokens = class_tokens
        self.options: Mapping[str, bool] = {
            **({"output_hidden_states": True} if layer is not None else {}),
            **({"interpolate_pos_encoding": True} if interpolate else {}),
        }

    def forward(self, images: Tensor) -> Tensor:
        """Features of a batch of images."""
        output = self.model(pixel_values=images, **self.options)
        if self.pooling == "pooler":
            return output.pooler_output.flatten(1).float()  # type: ignore[no-any-return]
        hidden = select(output, self.layer).float()
        if hidden.ndim == 4:
            return hidden.mean((2, 3))
        if self.pooling == "cls":
            return hidden[:, 0]
        return hidden[:, self.class_tokens :].mean(1)


def select(output: Any, layer: int | None) -> Tensor:
    """A model's last hidden states, or those after a layer."""
    found: Tensor = output.last_hidden_state if layer is None else output.hidden_states[layer]
    return found


def takes(model: nn.Module, argument: str) -> bool:
    """Whether a model's forward names an argument."""
    return argument in inspect.signature(model.forward).parameters


def num_positions(model: nn.Module) -> int | None:
    """How many tokens a model has learned positions for; None if any number will do."""
    return min(_num_positions(model), default=None)


def _num_positions(model: nn.Module) -> Iterator[int]:
    for name, part in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(part, nn.Embedding) and last in (
            *("position_embeddings", "position_embedding", "wpe", "embed_positions"),
        ):
            taken = 0 if part.padding_idx is None else part.padding_idx + 1  # RoBERTa
            yield part.num_embeddings - max(taken, int(getattr(part, "offset", 0)))  # BART


def padding_id(model: nn.Module) -> int:
    """What stands for padding: RoBERTa counts positions by it."""
    padding = getattr(getattr(model, "config", None), "pad_token_id", None)
    return padding if isinstance(padding, int) and padding >= 0 else 0
