"""Decode the images of a run once, where that saves time and fits on the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from aft.backbones.specs import shorten_paths
from aft.features.shards import as_keys
from aft.files import format_bytes, free_bytes
from aft.ids import default_cache_dir
from aft.students.inputs import Images, StudentInputs
from aft.students.kept_images import KeptImages, Pixels, remove_oldest

FEWEST_SECONDS = 2.0
"""Images are kept if that saves more than this."""
_TRIED = 16
_GROUPS_AT_ONCE = 64
_Group = list[tuple[Images, int]]


def keep_images(
    uses: Sequence[tuple[StudentInputs, int]], gigabytes: float, progress: bool
) -> list[str]:
    """Decode and resize the images of several splits, and let their inputs read the result.

    The results of training are the same with and without it.

    Args:
        uses: The inputs of each split, and how many of them the run reads.
        gigabytes: Most space for kept images, those of other runs included.
        progress: Whether to show a progress bar.

    Returns:
        Sentences for the user.
    """
    root = default_cache_dir() / "images"
    towers = [
        (tower, reads)
        for inputs, reads in uses
        for tower in inputs.towers.values()
        if isinstance(tower, Images) and len(tower.samples)
    ]
    by_recipe: dict[Path, list[tuple[Images, int]]] = {}
    for tower, reads in towers:
        tower.kept = KeptImages(root, tower.transform.describe_kept())
        by_recipe.setdefault(tower.kept.folder, []).append((tower, reads))
    notes = [_keep(root, alike, gigabytes * 1e9, progress) for alike in by_recipe.values()]
    return [note for note in notes if note]


def _keep(root: Path, uses: list[tuple[Images, int]], most_bytes: float, progress: bool) -> str:
    """Keep the images of one recipe; returns a sentence for the user, if there is any."""
    towers = [tower for tower, _ in uses]
    for tower in towers:
        _find(tower)
    missing = _missing(towers)
    if not missing:
        return ""
    tried = [missing[int(i)] for i in np.linspace(0, len(missing) - 1, _TRIED)]
    started = time.perf_counter()
    sizes = [pixels.nbytes for group in tried for _, pixels in _decode(group)]
    seconds = (time.perf_counter() - started) / len(sizes)
    rows = sum(len(group) for group in missing)
    if (sum(reads for _, reads in uses) - rows) * seconds < FEWEST_SECONDS:
        return ""
    needed = rows * float(np.mean(sizes))
    what = f"{rows:,} images, decoded and resized, take {format_bytes(needed)}"
    again = "so they are decoded in every step"
    if needed > most_bytes:
        return f"{what}: more than --image-cache {most_bytes / 1e9:g}, {again}"
    if needed > free_bytes(root) / 2:
        return f"{what}: too much for the disk of {shorten_paths(str(root))}, {again}"
    remove_oldest(root, most_bytes - needed)
    assert towers[0].kept is not None
    try:
        with tqdm(
            total=rows, desc="decoding images", leave=False, delay=1, disable=not progress
        ) as bar:
            towers[0].kept.write(_decode_all(missing, bar))
    except OSError as error:
        return f"{what}: cannot write {root} ({error.strerror or error}), {again}"
    for tower in towers:
        _find(tower)
    return f"{what} in {shorten_paths(str(root))}, so no step has to decode them again"


def _find(tower: Images) -> None:
    assert tower.kept is not None
    tower.places = tower.kept.find(as_keys(tower.samples.parts[:, 0]))


def _missing(towers: Sequence[Images]) -> list[_Group]:
    """The images that are not kept, grouped by the file that they are views of."""
    found: dict[bytes, tuple[bytes, Images, int]] = {}
    for tower in towers:
        samples = tower.samples
        for row in np.flatnonzero((tower.places < 0) & samples.present[:, 0]):
            content = samples.contents[row, 0].tobytes()
            found.setdefault(samples.parts[row, 0].tobytes(), (content, tower, int(row)))
    ordered = sorted(found.values(), key=lambda one: one[0])
    groups = groupby(ordered, lambda one: one[0])
    return [[(tower, row) for _, tower, row in group] for _, group in groups]


def _decode_all(groups: Sequence[_Group], bar: tqdm[Any]) -> Iterator[tuple[bytes, Pixels]]:
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(groups), _GROUPS_AT_ONCE):
            for images in pool.map(_decode, groups[start : start + _GROUPS_AT_ONCE]):
                yield from images
                bar.update(len(images))


def _decode(group: _Group) -> list[tuple[bytes, Pixels]]:
    """Ids and pixels of the images of one file."""
    made = ((tower.samples.parts[row, 0].tobytes(), tower.small(row)) for tower, row in group)
    return [(one, pixels) for one, pixels in made if pixels is not None]
