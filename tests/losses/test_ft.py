from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from aft.errors import InputError
from aft.losses import Autoencoder, FTLoss, fit_autoencoder

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.mark.parametrize("file", ["one_teacher", "two_teachers"])
def test_matches_the_published_code(file: str) -> None:
    prefix = "factor_transfer/"
    reference = {
        name.removeprefix(prefix): value
        for name, value in load_file(REFERENCE / f"{file}.safetensors").items()
        if name.startswith(prefix)
    }
    student, code = reference["student"].requires_grad_(), reference["teacher"]
    loss_fn = FTLoss(student.shape[1], code.shape[1])
    parameters = dict(loss_fn.translator.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(reference[f"param_{name.replace('.', '_')}"])
    loss = loss_fn(student, code)
    loss.backward()
    torch.testing.assert_close(loss, reference["loss"].squeeze(), rtol=1e-5, atol=0)
    gradients = {"student": student.grad} | {
        f"param_{name.replace('.', '_')}": parameter.grad for name, parameter in parameters.items()
    }
    assert {f"grad_{name}" for name in gradients} == {n for n in reference if "grad" in n}
    for name, got in gradients.items():
        expected = reference[f"grad_{name}"]
        assert got is not None
        assert float((got - expected).norm() / expected.norm()) < 1e-5, name


def features(rows: int = 300, dim: int = 12, rank: int = 3) -> Tensor:
    """Features of low rank."""
    return 20 * torch.randn(rows, rank) @ torch.randn(rank, dim) + 5


def test_autoencoder_keeps_what_matters() -> None:
    x = features()
    state = torch.get_rng_state()
    autoencoder = fit_autoencoder(x, factor_dim=3, steps=300, learning_rate=1e-2)
    assert torch.equal(torch.get_rng_state(), state)
    assert autoencoder(x).shape == (300, 3)
    assert float(autoencoder.reconstruction_error(x)) < 0.05
    narrow = fit_autoencoder(x, factor_dim=1, steps=300, learning_rate=1e-2)
    assert float(narrow.reconstruction_error(x)) > 0.1
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())
    assert not autoencoder.training


def test_autoencoder_is_seeded() -> None:
    x = features()
    codes = [fit_autoencoder(x, 3, steps=5, seed=seed)(x) for seed in (0, 0, 1)]
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])


def test_autoencoder_of_batches() -> None:
    x = features()
    batches = [x[:100], x[100:100], x[100:170], x[170:]]
    autoencoder = fit_autoencoder(batches, 3, steps=300, learning_rate=1e-2)
    assert float(autoencoder.reconstruction_error(x)) < 0.05
    mean, std = autoencoder.standardize.feature_mean, autoencoder.standardize.feature_std
    assert mean is not None and std is not None
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(std, x.std(0, correction=0))
    given = fit_autoencoder(batches, 3, steps=5, statistics=[(mean, std)])
    torch.testing.assert_close(given(x), fit_autoencoder(batches, 3, steps=5)(x))


def test_a_generator_is_used_up_after_one_pass() -> None:
    x = features()

    def generate() -> Iterator[Tensor]:
        yield from x.split(50)

    with pytest.raises(InputError, match="`features`.*generator"):
        fit_autoencoder(generate(), 3)
    statistics = [(x.mean(0), x.std(0))]
    fit_autoencoder(generate(), 3, steps=6, statistics=statistics)
    with pytest.raises(InputError, match="`features`.*generator"):
        fit_autoencoder(generate(), 3, steps=7, statistics=statistics)


def test_wrong_features_for_an_autoencoder() -> None:
    x = features()
    with pytest.raises(InputError, match="`features`"):
        fit_autoencoder([], 3)
    with pytest.raises(InputError, match=r"`features`.*float32.*\(12,\)"):
        fit_autoencoder(x[0], 3)
    with pytest.raises(InputError, match=r"\b12\b.*float32.*\(150, 5\)"):
        fit_autoencoder([x[:150], x[150:, :5]], 3, normalize="none")
    x[7, 2] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        fit_autoencoder(x, 3)
    with pytest.raises(InputError, match=r"\b1 of 300\b"):
        fit_autoencoder([x], 3, normalize="none")
    with pytest.raises(InputError, match=r"`steps`.*\b0\b"):
        fit_autoencoder(x, 3, steps=0)
    with pytest.raises(InputError, match=r"`factor_dim`.*\b2\.5\b"):
        fit_autoencoder(x, 2.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"`statistics`.*\b12\b.*\[5\]"):
        Autoencoder(12, 3, statistics=[(torch.zeros(5), torch.ones(5))])


def test_loss_with_an_encoder_takes_features() -> None:
    a, b = features(64, 7), features(64, 5)
    student = torch.randn(64, 6)
    encoder = fit_autoencoder(torch.cat([a, b], dim=1), 4, steps=20)
    loss_fn = FTLoss(6, 4, encoder=encoder)
    plain = FTLoss(6, 4)
    plain.translator.load_state_dict(loss_fn.translator.state_dict())
    loss = loss_fn(student, [a, b])
    torch.testing.assert_close(loss, plain(student, encoder(torch.cat([a, b], dim=1))))
    loss.backward()
    assert all(p.grad is not None for p in loss_fn.translator.parameters())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert "encoder.encoder.0.weight" in loss_fn.state_dict()
    with pytest.raises(InputError, match=r"`teacher_features`.*`encoder`.*\b12\b.*\[7\]"):
        loss_fn(student, [a])


def test_a_code_is_learned() -> None:
    student = torch.randn(64, 6)
    code = (student @ torch.randn(6, 4)).tanh()
    loss_fn = FTLoss(6, 4)
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = loss_fn(student, code)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]


def test_wrong_widths() -> None:
    loss_fn = FTLoss(6, 4)
    with pytest.raises(InputError, match=r"`teacher_features`.*\b4\b.*\[5\]"):
        loss_fn(torch.randn(8, 6), torch.randn(8, 5))
    with pytest.raises(InputError, match=r"\b0\b"):
        loss_fn(torch.randn(0, 6), torch.randn(0, 4))
    with pytest.raises(InputError, match=r"`encoder`.*`factor_dim`.*\b4\b.*\b3\b"):
        FTLoss(6, 4, encoder=Autoencoder(5, 3))
