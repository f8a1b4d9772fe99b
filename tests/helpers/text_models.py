"""Tiny models with real tokenizers, in folders as transformers saves them; seeded, no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = (
    "the movie was great and the actors were better than the story",
    "a dull film, with no story at all",
    "she looked at the small green birds in the garden",
    "birds sing; the garden is quiet now",
    "what is the capital of the country where the river ends?",
    "he wrote 25 letters in 1987 and never sent them",
)


def make_bert(folder: Path, **options: Any) -> Path:
    """A BERT of two layers: WordPiece, ``[CLS]`` and ``[SEP]``, token types."""
    tokenizer = _train(
        Tokenizer(models.WordPiece(unk_token="[UNK]")),
        trainers.WordPieceTrainer,
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        normalizer=normalizers.BertNormalizer(),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    config = transformers.BertConfig(
        **{**_SMALL, "vocab_size": _size(tokenizer), "max_position_embeddings": 64, **options}
    )
    _save(
        folder,
        config,
        tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    return folder


def make_roberta(folder: Path) -> Path:
    """A RoBERTa of two layers: byte-level BPE, positions counted from the padding id on."""
    tokenizer = _bytes(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    config = transformers.RobertaConfig(
        **{**_SMALL, "vocab_size": _size(tokenizer), "max_position_embeddings": 66},
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        type_vocab_size=1,
    )
    _save(folder, config, tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    return folder


def make_gpt2(folder: Path, **options: Any) -> Path:
    """A GPT-2 of two layers: byte-level BPE, no special tokens around a text, none for padding."""
    tokenizer = _bytes(["<|endoftext|>"])
    config = transformers.GPT2Config(
        **{
            **{"vocab_size": _size(tokenizer), "n_positions": 64, "n_embd": 32, "n_layer": 2},
            **{"n_head": 2, "bos_token_id": 0, "eos_token_id": 0, **options},
        }
    )
    _save(folder, config, tokenizer, eos_token="<|endoftext|>", model_max_length=64)
    return folder


def make_t5(folder: Path) -> Path:
    """A T5 of two and two layers: Unigram, ``</s>`` at the end of a text."""
    tokenizer = _train(
        Tokenizer(models.Unigram()),
        trainers.UnigramTrainer,
        ["<pad>", "</s>", "<unk>"],
        pre_tokenizer=pre_tokenizers.Metaspace(),
        unk_token="<unk>",
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    config = transformers.T5Config(
        vocab_size=_size(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    _save(folder, config, tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    return folder


def make_vit(folder: Path, **options: Any) -> Path:
    """A ViT of two layers over 32 pixels, with its image processor."""
    config = transformers.ViTConfig(**{**_SMALL, **options}, image_size=32, patch_size=8)
    _save(folder, config)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size, resample=2).save_pretrained(folder)
    return folder


def make_convnext(folder: Path) -> Path:
    """A ConvNeXt of two stages over 32 pixels, with its image processor."""
    config = transformers.ConvNextConfig(
        num_stages=2, hidden_sizes=[16, 24], depths=[1, 1], image_size=32
    )
    _save(folder, config)
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875)
    processor.save_pretrained(folder)
    return folder


def make_clip(folder: Path) -> Path:
    """A CLIP of two layers over 32 pixels and two over byte-level BPE, with both processors."""
    tokenizer = _bytes(["<|startoftext|>", "<|endoftext|>"])
    tokenizer.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", 1), ("<|startoftext|>", 0)
    )
    text = {
        **_SMALL,
        "vocab_size": _size(tokenizer),
        "max_position_embeddings": 64,
        **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
    }
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**_SMALL, "image_size": 32, "patch_size": 8}
    )
    _save(folder, config, tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    processor.save_pretrained(folder)
    return folder


_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


def _bytes(special: list[str]) -> Tokenizer:
    tokenizer = _train(
        Tokenizer(models.BPE()),
        trainers.BpeTrainer,
        special,
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        vocab_size=400,
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _train(
    tokenizer: Tokenizer,
    trainer: Any,
    special: list[str],
    normalizer: Any = None,
    pre_tokenizer: Any = None,
    **options: Any,
) -> Tokenizer:
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    options = {"vocab_size": 160, "special_tokens": special, "show_progress": False} | options
    tokenizer.train_from_iterator(SENTENCES, trainer(**options))
    return tokenizer


def _size(tokenizer: Tokenizer) -> int:
    return tokenizer.get_vocab_size()


def _save(folder: Path, config: Any, tokenizer: Tokenizer | None = None, **options: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(config)  # type: ignore[no-untyped-call]
        for parameter in model.parameters():  # the libraries' initial values are nearly all alike
            torch.nn.init.normal_(parameter, std=0.2 if parameter.ndim > 1 else 0.5)
    model.save_pretrained(folder)
    if tokenizer is not None:
        fast = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=tokenizer, **options
        )
        fast.save_pretrained(folder)
