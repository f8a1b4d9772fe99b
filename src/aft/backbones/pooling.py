"""Pool the hidden states of a transformer to one feature vector per input."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

Pooling = Literal["mean", "cls", "last", "pooler"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


class Tokens(NamedTuple):
    """A batch of tokenized texts with all padding on the right.

    Attributes:
        ids: Token ids ``(B, L)``, ``L >= 1``; padding is replaced by a valid id.
        mask: ``(B, L)``: 1 for tokens, 0 for padding. The first column is always 1, because
            attention over an empty sequence is undefined.
        types: Token types ``(B, L)``, for text pairs.
        counts: ``(B, 1)``: the actual number of tokens of each text.
    """

    ids: Tensor
    mask: Tensor
    types: Tensor | None
    counts: Tensor


def read_tokens(batch: Tensor, padding: int = 0, most: int | None = None) -> Tokens:
    """Split a padded batch into ids, mask and token types.

    Args:
        batch: ``(B, L)`` token ids or ``(B, 2, L)`` token ids and types, padded with -1 on any
            side. Tokens move to the left, so their positions do not depend on the padding.
        padding: Token id that replaces -1.
        most: Number of positions of the model; padding beyond it is removed.
    """
    if batch.shape[-1] == 0:
        batch = torch.nn.functional.pad(batch, (0, 1), value=-1)
    ids, types = (batch[:, 0], batch[:, 1]) if batch.ndim == 3 else (batch, None)
    real = ids >= 0
    # Keys without ties: ONNX has no stable sort.
    places = torch.arange(ids.shape[1], device=ids.device) + ids.shape[1] * (~real).long()
    order = torch.argsort(places, dim=1)[:, :most]
    ids, real = ids.gather(1, order), real.gather(1, order)
    if types is not None:
        types = types.gather(1, order).clamp(min=0)
    mask = real.clone()
    mask[:, 0] = True
    ids = torch.where(real, ids, torch.where(mask, 0, padding))
    return Tokens(ids, mask.long(), types, real.sum(1, keepdim=True))


def pool(hidden: Tensor, tokens: Tokens, pooling: str) -> Tensor:
    """Pool token features to one vector per text.

    Args:
        hidden: ``(B, L, dim)``.
        tokens: The tokens that ``hidden`` was computed from.
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
        pooled = hidden.gather(1, last.expand(-1, 1, hidden.shape[-1])).squeeze(1)
    return torch.where(tokens.counts > 0, pooled, 0)


class TextFeatures(nn.Module):
    """A text transformer followed by pooling.

    Maps tokens ``(B, L)`` or ``(B, 2, L)``, int64 and padded with -1, to features ``(B, dim)``.
    The features do not depend on the padding.

    Args:
        model: A `transformers` model that returns hidden states.
        pooling: ``mean``, ``cls`` or ``last``.
        layer: Number of layers before the features; None for the model's output.
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
        """Hidden states ``(B, L, dim)`` before pooling."""
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
    """A vision model of `transformers` followed by pooling.

    Maps images ``(B, 3, H, W)`` to features ``(B, dim)``.

    Args:
        model: Returns hidden states ``(B, N, dim)`` or ``(B, dim, h, w)``.
        pooling: ``cls`` (the first token), ``mean`` over the patch tokens, or ``pooler`` (the
            model's own).
        layer: Number of layers before the features; None for the model's output.
        class_tokens: Number of leading tokens that are not image patches.
        interpolate: Whether to interpolate position embeddings to the size of the image.
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
    """The last hidden states of a model's output, or those after the given layer."""
    hidden: Tensor = output.last_hidden_state if layer is None else output.hidden_states[layer]
    return hidden


def takes(model: nn.Module, argument: str) -> bool:
    """Whether the model's ``forward`` has this argument."""
    return argument in inspect.signature(model.forward).parameters


def num_positions(model: nn.Module) -> int | None:
    """Number of learned positions of a model; None if its length is not limited."""
    return min(_num_positions(model), default=None)


def _num_positions(model: nn.Module) -> Iterator[int]:
    for name, part in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(part, nn.Embedding) and last in (
            *("position_embeddings", "position_embedding", "wpe", "embed_positions"),
        ):
            unused = 0 if part.padding_idx is None else part.padding_idx + 1  # RoBERTa
            yield part.num_embeddings - max(unused, int(getattr(part, "offset", 0)))  # BART


def padding_id(model: nn.Module) -> int:
    """The padding token id; RoBERTa derives positions from it."""
    padding = getattr(getattr(model, "config", None), "pad_token_id", None)
    return padding if isinstance(padding, int) and padding >= 0 else 0
