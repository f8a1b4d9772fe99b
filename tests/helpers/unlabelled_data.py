"""Small data sets with unlabelled rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aft.data.loading import DataSet, load_data
from aft.data.readers.find_columns import Columns
from aft.data.samples import Samples

Rows = list[dict[str, Any]]


Folder = Callable[..., Path]


def table(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(count: int = 40, **more: Any) -> Rows:
    return [{"text": f"text {i}", "label": "ab"[i % 2], **more} for i in range(count)]


def load(source: Path, columns: Columns | None = None, **options: Any) -> DataSet:
    return load_data(str(source), columns, progress=False, **options)


def inputs(samples: Samples | None) -> list[Any]:
    assert samples is not None and samples.labels is None
    return [samples.input(i) for i in range(len(samples))]


def same_splits(first: DataSet, second: DataSet) -> bool:
    return first.splits.keys() == second.splits.keys() and all(
        (split.ids == second.splits[name].ids).all()
        and np.array_equal(np.asarray(split.labels), np.asarray(second.splits[name].labels))
        and list(split.files) == list(second.splits[name].files)
        for name, split in first.splits.items()
    )
