"""Solar cells by electroluminescence, grey: what works glows, and cracks are dark. Two classes.

Experts gave each of 2,624 cells a probability of a defect: 0, 1/3, 2/3 or 1. From 2/3 on a cell is
`defective` here, below `functional`. Cells were cut out of 44 modules; the package does not say of
which, so that cells of one module may be on both sides of the split, which is ours.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from aft.demo_data.archives import wheel_files
from aft.demo_data.downloads import Download
from aft.demo_data.prepared import Source
from aft.demo_data.splits import pick, shares
from aft.errors import DataError
from data_sets.pictures import SIZE, Row, without_copies, write

PACKAGE = Download(
    package="elpv-dataset",
    version="1.0.0.post1",
    file="elpv_dataset-1.0.0.post1-py3-none-any.whl",
    sha256="85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
    megabytes=91,
)
SOURCE = Source(
    "solar",
    "pictures",
    "CC BY-NC-SA 4.0 (not for commercial use), C. Buerhop-Lutz, S. Deitsch and others, 2018",
    "ELPV, Python package elpv-dataset 1.0.0.post1",
)

_ROOT = "elpv_dataset/data/"
_TABLE = "labels.csv"
_DEFECTIVE = 0.5  # there are 0, 1/3, 2/3 and 1


def prepare(wheel: Path, folder: Path, *, train_rows: int = 1600, seed: int = 0) -> None:
    """Write `folder/{train,test}/{functional,defective}/NAME.png` (128 x 128 RGB).

    Args:
        wheel: Of the package elpv-dataset.
        folder: A new folder.
        train_rows: Size of the train split, to which each class gives its share; test is the rest.
        seed: Of the split.

    Raises:
        DataError: If the wheel is damaged or has other content.
    """
    files = dict(wheel_files(wheel, _ROOT))
    lines = files.get(_TABLE, b"").decode("utf-8").splitlines()
    found = []
    for path, probability, kind in (line.split() for line in lines if line.strip()):
        if path not in files:
            raise DataError(f"expected {_ROOT}{path} in {wheel}")
        with Image.open(io.BytesIO(files[path]), formats=["PNG"]) as image:
            picture = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        label = "defective" if float(probability) > _DEFECTIVE else "functional"
        found.append(Row(label, f"{Path(path).stem}_{kind}", picture))
    if not found:
        raise DataError(f"{wheel} has no solar cells; expected {_ROOT}{_TABLE}")
    rows = without_copies(found)
    labels = [row.label for row in rows]
    in_train = pick(labels, list(range(len(rows))), shares(labels, train_rows), seed)
    write(rows, in_train, folder)
