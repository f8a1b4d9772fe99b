"""`small:NAME`: built-in small networks for images and text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from torch import nn

from aft.backbones.checks import check, integer_option
from aft.backbones.network import Network, seeded, versions
from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.weights import load_into, load_weights

_WIDTHS = {"cnn": (32, 64, 128, 256), "cnn-tiny": (16, 24, 32, 64)}  # 390,000 and 30,000 parameters


class SmallCNN(nn.Sequential):
    """Four blocks of convolution, batch norm and ReLU, three max pools, global average pool.

    Args:
        widths: Channels of the four blocks; the last one is the feature dimension.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip((3, *widths), widths, strict=False)):
            layers += [
                *([nn.MaxPool2d(2)] if index else []),
                nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(1))


def build(
    spec: Spec, *, seed: int = 0, texts: Callable[[], Iterable[str]] | None = None
) -> Network:
    """Build a built-in network.

    Args:
        spec: ``small:cnn`` or ``small:cnn-tiny``; options ``weights`` (``random``, the default,
            or a file), ``size`` (pixels, default 64), ``seed``. For the text models
            ``small:ngrams`` and ``small:static``, see :mod:`aft.backbones.ngrams` and
            :mod:`aft.backbones.small_texts`.
        seed: Seed of random weights if the specification has no ``seed``.
        texts: Returns the texts that the vocabulary of a text model is built from.

    Raises:
        ModelError: If the name or an option is invalid, or the weights do not match.
    """
    check(spec)
    if spec.name == "static":
        from aft.backbones import small_texts

        needed = texts is not None and "tokenizer" not in spec.options
        return small_texts.build(spec, seed=seed, texts=texts() if texts and needed else None)
    if spec.name == "ngrams":
        from aft.backbones import ngrams

        return ngrams.build(spec, seed=seed, texts=texts() if texts else None)
    source = spec.options.get("weights", "random")
    module = seeded(integer_option(spec, "seed", seed), lambda: SmallCNN(_WIDTHS[spec.name]))
    if source != "random":
        load_into(module, load_weights(source))
        source = str(Path(source).expanduser())
    return Network(
        spec=spec,
        module=module,
        dim=_WIDTHS[spec.name][-1],
        preprocessing=Preprocessing(integer_option(spec, "size", 64)),
        weights=source,
        layer="global average pool",
        versions=versions("torch"),
    )
