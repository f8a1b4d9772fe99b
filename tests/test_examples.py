"""Every script in `examples` runs, and learns something."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aft
from aft.errors import TeacherError
from helpers.embeddings_server import KEY, embed, embeddings_server
from helpers.errors import says

EXAMPLES = Path(__file__).parents[1] / "examples"
API = f"python:{EXAMPLES / 'embeddings_api.py'}:teacher"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server of embeddings that refuses its first calls."""
    pytest.importorskip("requests")
    with embeddings_server(refusals=(429, 503, 429)) as server:
        monkeypatch.setenv("EMBEDDINGS_URL", server.url)
        monkeypatch.setenv("EMBEDDINGS_API_KEY", KEY)
        monkeypatch.setenv("EMBEDDINGS_BACKOFF", "0")
        yield server


def test_a_teacher_calls_an_api(api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"film {i}: où est le chat?" for i in range(21)]
    options = {"teachers": f"{API}?model=m&dim=8", "features": tmp_path, "progress": False}
    (made,) = aft.extract(data=[*texts, texts[3]], extract_batch_size=8, **options)
    assert made["samples"] == 22 and made["rows in store"] == 21
    assert api.statuses == [429, 503, 429, 200, 200, 200]
    assert [len(batch) for batch in api.batches] == [8, 8, 5]  # every text once
    store = aft.FeatureStore.at(made["folder"])
    wanted = [embed(text, 8) for text in texts]
    np.testing.assert_allclose(store.gather(aft.sample_ids(texts)), wanted, atol=2e-3)

    monkeypatch.delenv("EMBEDDINGS_API_KEY")  # stored features need no key and no call
    (again,) = aft.extract(data=texts, **options)
    assert again["folder"] == made["folder"] and len(api.statuses) == 6


def test_refusals_of_an_api_are_reported(
    api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"data": ["a text"], "features": tmp_path, "progress": False}
    with pytest.raises(TeacherError) as error:
        aft.extract(teachers=f"{API}?model=m&dim=9", **options)
    assert says(error.value, "9", "(1, 8)")
    monkeypatch.setenv("EMBEDDINGS_API_KEY", "another")
    with pytest.raises(TeacherError) as error:
        aft.extract(teachers=f"{API}?model=m&dim=8", **options)
    assert says(error.value, api.url, "401", "wrong key")
