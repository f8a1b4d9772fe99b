"""Split rows at random with a seed, stratified by class, keeping families together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np


def shares(labels: Sequence[str], total: int, least: int = 2) -> dict[str, int]:
    """Rows per class, proportional to the class sizes (at least `least`), with the sum `total`."""
    sizes = Counter(labels)
    exact = {label: total * n / len(labels) for label, n in sorted(sizes.items())}
    wanted = {label: max(least, int(share)) for label, share in exact.items()}
    most_cut = sorted(exact, key=lambda label: wanted[label] - exact[label])
    for label in most_cut[: max(0, total - sum(wanted.values()))]:
        wanted[label] += 1
    return wanted


def pick(
    labels: Sequence[str],
    families: Sequence[int],
    wanted: Mapping[str, int],
    seed: int,
    largest: int | None = None,
) -> list[bool]:
    """Pick whole families at random until every class has the wanted number of rows.

    Args:
        labels: The class of each row.
        families: The family of each row.
        wanted: Rows per class. Never exceeded; a class gets fewer rows only if no family fits.
        seed: Random seed of the choice.
        largest: Families with more rows are not picked; None for no limit.

    Returns:
        Whether each row is picked.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for row, family in enumerate(families):
        members[family].append(row)
    left = dict(wanted)
    picked = [False] * len(labels)
    keys = sorted(members)
    for k in np.random.default_rng(seed).permutation(len(keys)):
        rows = members[keys[int(k)]]
        needed = Counter(labels[row] for row in rows)
        if largest is not None and len(rows) > largest:
            continue
        if all(left[label] >= n for label, n in needed.items()):
            for row in rows:
                picked[row] = True
            for label, n in needed.items():
                left[label] -= n
    return picked
