"""Texts in batches: each computed once, in a batch whose length says nothing of the others."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from aft.backbones.tokenization import Tokenization
from aft.data.loading import load_inputs
from aft.errors import TeacherError
from aft.features.run_teacher import Compute, compute_features
from aft.teachers.teacher import Teacher
from helpers.numbered import NumberedSamples, features_of, numbered_teacher, preprocess

WORDS = [f"w{i}" for i in range(50)]


def tokenization(max_tokens=64):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*WORDS, "?"])}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokenization(tokenizer.to_str(), max_tokens)


class Attending(nn.Module):
    """A little attention and a mean, both blind to padding; notes the shapes that it sees."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(51, 48)
        self.attention = nn.MultiheadAttention(48, 4, batch_first=True)
        self.shapes = []

    def forward(self, tokens):
        self.shapes.append(tuple(tokens.shape))
        x = self.embedding(tokens.clamp(min=0))
        x = x + self.attention(x, x, x, key_padding_mask=tokens < 0, need_weights=False)[0]
        there = (tokens >= 0).unsqueeze(-1)
        return (x * there).sum(1) / there.sum(1)


def write_texts(path, texts):
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    samples, _ = load_inputs(str(path), progress=False)
    return samples


def random_texts(count, longest=90):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) for _ in range(count)]


def teacher_over(module, **options):
    prepare = tokenization(**options)
    return Teacher("python:t.py:t", 48, module.eval(), prepare, {"spec": "t"}, "text")


def computed(teacher, samples, rows, **options):
    features = np.full((len(samples), 48), np.nan, np.float32)
    how = Compute(**options)
    for positions, values in compute_features(teacher, samples, np.asarray(rows), how):
        assert np.isnan(features[positions]).all(), "a text was computed twice"
        features[positions] = values.numpy()
    return features


def test_a_text_has_the_same_features_alone_and_among_others(tmp_path):
    module = Attending()
    teacher = teacher_over(module)
    samples = write_texts(tmp_path / "texts.txt", random_texts(300))
    together = computed(teacher, samples, range(300), batch_tokens=256)
    assert np.isfinite(together).all()
    for row in range(0, 300, 17):
        alone = computed(teacher, samples, [row], batch_tokens=256)[row]
        np.testing.assert_array_equal(alone, together[row])
    fewer = computed(teacher, samples, range(299, 100, -3), batch_tokens=256)
    np.testing.assert_array_equal(fewer[299:100:-3], together[299:100:-3])


def test_little_is_padded_and_batches_hold_the_tokens_asked_for(tmp_path):
    module = Attending()
    texts = random_texts(600)
    samples = write_texts(tmp_path / "texts.txt", texts)
    computed(teacher_over(module), samples, range(600), batch_tokens=512)
    tokens = sum(min(64, len(text.split())) for text in texts)
    assert tokens <= sum(rows * length for rows, length in module.shapes) < 1.02 * tokens
    assert all(rows * length <= 512 for rows, length in module.shapes)


def test_other_batches_differ_by_rounding_only(tmp_path):
    samples = write_texts(tmp_path / "texts.txt", random_texts(120))
    teacher = teacher_over(Attending())
    small, large = (computed(teacher, samples, range(120), batch_tokens=n) for n in (1, 4096))
    np.testing.assert_allclose(small, large, rtol=1e-4, atol=1e-5)


def test_the_next_inputs_are_prepared_while_the_network_runs():
    numbers = NumberedSamples(range(12))
    teacher, prepared, started = numbered_teacher(), [], threading.Event()

    def prepare(image):
        if len(prepared) == 4:  # of the second batch
            started.set()
        prepared.append(threading.get_ident())
        return preprocess(image)

    class Waiting(nn.Module):
        def forward(self, pixels):
            assert started.wait(60)  # for ever if both took turns
            return teacher.module(pixels)

    one = replace(teacher, module=Waiting(), preprocess=prepare)
    how = Compute(4, num_workers=0)
    for rows, values in compute_features(one, numbers, np.arange(12), how):
        assert torch.equal(values, features_of(rows, 8))
        assert len(prepared) <= 4 * (rows[-1] // 4 + 3)  # at most one batch ahead
    assert len(set(prepared)) == 1 and threading.get_ident() not in prepared


def test_an_input_that_fails_leaves_the_rows_before_it():
    def prepare(image):
        if image.getpixel((0, 0))[2] == 9:
            raise ValueError("number nine")
        return preprocess(image)

    teacher = replace(numbered_teacher(), preprocess=prepare)
    numbers, how = NumberedSamples(range(12)), Compute(4, num_workers=0)
    batches = compute_features(teacher, numbers, np.arange(12), how)
    assert [next(batches)[0].tolist() for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(TeacherError, match="number nine"):
        next(batches)
