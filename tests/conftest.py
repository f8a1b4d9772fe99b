"""What every test shares: no network, its own caches, one thread, the same seed."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

# Before anything imports torch or a Hugging Face library, which read these once.
_caches = tempfile.TemporaryDirectory(prefix="aft-tests-")
os.environ |= {
    "AFT_CACHE": f"{_caches.name}/aft",
    "HF_HOME": f"{_caches.name}/huggingface",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": "1",
}

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from helpers.pictures import make_picture_folder  # noqa: E402

torch.set_num_threads(1)
# A shared machine may take its time: no deadline, and the same examples every run.
settings.register_profile("aft", deadline=None, derandomize=True)
settings.load_profile("aft")


def pytest_unconfigure() -> None:
    _caches.cleanup()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def picture_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of pictures: ``picture_folder(classes=2, train=10)`` gives its path."""

    def make(name: str = "pictures", **options: int) -> Path:
        return make_picture_folder(tmp_path / name, **options)

    return make
