"""`aft push` and `hf://`: a student goes to a hub and comes back, with its card."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import aft
from aft.cli import main
from aft.errors import AftError, ExportError, StudentError
from helpers.errors import says
from helpers.hub import READS, Hub, running_hub

TEXTS = [f"{word} film number {i}" for i in range(20) for word in ("good", "bad")]
LABELS = ["good", "bad"] * 20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    options = {"student": "small:ngrams?dim=8", "steps": 3, "baselines": False}
    aft.train(data=(TEXTS, LABELS), out=out, progress=False, **options)
    return out


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub(monkeypatch) as hub:
        yield hub


def test_a_student_comes_back(run: Path, hub: Hub, tmp_path: Path) -> None:
    found = aft.push(run, "me/films")
    files = hub.files("me/films")
    own = {one.name: one.read_bytes() for one in (run / "student").iterdir()}
    assert found["files"] == len(files) == len(own) and not hub.private["me/films"]
    assert {k: v for k, v in files.items() if k != "README.md"} == {
        k: v for k, v in own.items() if k != "README.md"
    }
    card = files["README.md"].decode()
    assert f'aft.load_student("{found["load"]}")' in card and found["load"] == "hf://me/films"
    assert card.replace(found["load"], ".") == own["README.md"].decode()
    here, there = aft.load_student(run), aft.load_student("hf://me/films")
    assert np.array_equal(here.predict_proba(TEXTS), there.predict_proba(TEXTS))
    assert there.about == here.about

    table = tmp_path / "t.csv"
    table.write_text("text\ngood\nbad\n")
    out = tmp_path / "p.csv"
    assert main(["predict", "--run", "hf://me/films", "--data", str(table), "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 3


def test_revisions_privacy_and_exports(
    run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(run), "me/films2", "--private", "--revision", "v2", "--message", "Second"]
    assert main(["push", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["load"] == "hf://me/films2@v2"
    assert hub.private["me/films2"] and hub.messages == ["Second"]
    assert not hub.files("me/films2") and "student.json" in hub.files("me/films2", "v2")
    assert aft.load_student("hf://me/films2@v2").task.names == ("bad", "good")
    with pytest.raises(StudentError, match=r"student\.json"):
        aft.load_student("hf://me/films2")

    export = tmp_path / "export"
    export.mkdir()
    (export / "export.json").write_text("{}")
    (export / "README.md").write_text("---\n---\n")
    assert "load" not in aft.push(export, "me/films2")
    assert set(hub.files("me/films2")) == {"export.json", "README.md"}


def test_cards_that_are_edited_or_missing(run: Path, hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(run / "student", tmp_path / "s")
    card = tmp_path / "s/README.md"
    card.write_text("---\nlicense: mit\n---\nOurs\n")
    aft.push(tmp_path / "s", "me/edited")
    assert hub.files("me/edited")["README.md"].decode() == card.read_text()
    card.write_text("no metadata")
    with pytest.raises(ExportError):
        aft.push(tmp_path / "s", "me/edited")
    card.unlink()
    aft.push(tmp_path / "s", "me/edited")
    assert b"pipeline_tag: text-classification" in hub.files("me/edited")["README.md"]


def test_damage_is_seen_at_both_ends(run: Path, hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(run / "student", tmp_path / "s")
    aft.push(tmp_path / "s", "me/damaged")
    weights = tmp_path / "s/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(StudentError, match="model.safetensors"):
        aft.push(tmp_path / "s", "me/damaged")
    hub.commit("me/damaged", "main", {"model.safetensors": weights.read_bytes()})
    with pytest.raises(StudentError, match="model.safetensors"):
        aft.load_student("hf://me/damaged")


def test_a_damaged_export_is_not_pushed(run: Path, hub: Hub, tmp_path: Path) -> None:
    export = tmp_path / "export"
    aft.export(run, format="torch", out=export, data=TEXTS, progress=False)
    aft.push(export, "me/export")
    model = export / "model.pt2"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with pytest.raises(StudentError, match="model.pt2"):
        aft.push(export, "me/export")


def test_hidden_folders_stay_and_a_student_may_move(run: Path, hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(run / "student", tmp_path / "s")
    (tmp_path / "s/.git").mkdir()
    (tmp_path / "s/.git/config").write_text("url = https://me:secret@example.org")
    aft.push(tmp_path / "s", "me/first", revision="v1")
    assert not [name for name in hub.files("me/first", "v1") if "config" in name]
    aft.push("hf://me/first@v1", "me/second")
    card = hub.files("me/second")["README.md"].decode()
    assert 'aft.load_student("hf://me/second")' in card and "me/first" not in card


def test_what_is_cached_needs_no_hub(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_hub(monkeypatch) as hub:
        aft.push(run, "me/cached")
        aft.load_student("hf://me/cached")
        downloads = hub.downloads
        aft.load_student("hf://me/cached")
        assert downloads == hub.downloads > 0
    assert aft.load_student("hf://me/cached").task.names == ("bad", "good")
    with pytest.raises(StudentError) as error:
        aft.load_student("hf://me/other")
    assert says(error.value, "me/other", "refused")


@pytest.mark.parametrize(
    ("token", "words"),
    [("", ["HF_TOKEN"]), ("hf_wrong", ["HF_TOKEN"]), (READS, ["write"])],
)
def test_tokens(
    token: str, words: list[str], run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ExportError) as error:
        aft.push(run, "me/films")
    assert says(error.value, "me/films", *words) and (not token or token not in str(error.value))
    assert not hub.branches


@pytest.mark.parametrize("name", ["films", "me/films/2", "me/fi lms", "me/-films-", ""])
def test_malformed_names(name: str, run: Path, hub: Hub) -> None:
    with pytest.raises(ExportError):
        aft.push(run, name)
    with pytest.raises(AftError):
        aft.load_student(f"hf://{name}")
    assert not hub.branches


def test_missing_repositories_and_hubs(
    run: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("me/none", "me/none@v1"):
        with pytest.raises(StudentError, match="me/none"):
            aft.load_student(f"hf://{name}")
    with pytest.raises(StudentError, match="nothing"):
        aft.push(tmp_path / "nothing", "me/films")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(ExportError, match="reached"):
            aft.push(run, "me/films")


def test_code_of_others_is_not_run(run: Path, hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(run / "student", tmp_path / "s")
    file = tmp_path / "s/student.json"
    known = json.loads(file.read_text())
    known["info"]["architecture_spec"] = "python:{folder}/own.py:make"
    del known["sha256"]
    file.write_text(json.dumps(known))
    (tmp_path / "s/own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    aft.push(tmp_path / "s", "me/code")
    with pytest.raises(StudentError, match="trust"):
        aft.load_student("hf://me/code")
    assert not (tmp_path / "ran").exists()


def test_the_command_line_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push"]) == 2 and main(["push", "a"]) == 2 and main(["push", "a", "b", "c"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert all(word in line for word, line in zip(("--run", "--repo", "'c'"), errors, strict=True))
