"""The server answers as the student predicts, and refuses everything else in words."""

from __future__ import annotations

import asyncio
import io
import socket
import struct
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import aft
from aft.cli import main
from aft.data.readers.find_columns import InputColumn
from aft.errors import AftError, ConfigError, ModelError
from aft.serving.app import Service
from aft.serving.questions import Question
from aft.tasks import Task
from helpers.serving import (
    CLASSES,
    HERE,
    IMAGE,
    TEXT,
    as_base64,
    as_png,
    ask,
    in_a_thread,
    make_service,
    post,
    predict,
    save_student,
)

TEXTS = ["the rocket is in orbit", "bread and butter", "a goal"]


def picture(seed: int = 0, size: int = 24) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.fixture
def texts(tmp_path: Path) -> Service:
    save_student(tmp_path / "texts", TEXT)
    return make_service(tmp_path / "texts")


@pytest.fixture
def pictures(tmp_path: Path) -> Service:
    save_student(tmp_path / "pictures", IMAGE)
    return make_service(tmp_path / "pictures")


def close(found: Any, wanted: Any) -> bool:
    """Whether JSON values are the same, and numbers nearly so."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(close(found[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    return found == (pytest.approx(wanted, abs=1e-5) if isinstance(wanted, float) else wanted)


# -------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    "task",
    [CLASSES, Task("multilabel", ("a", "b", "c")), Task("regression", ("height", "width"))],
    ids=lambda task: task.kind,
)
def test_texts_are_answered_as_predict_does(task: Task, tmp_path: Path) -> None:
    student = save_student(tmp_path, TEXT, task=task)
    service = make_service(tmp_path)
    wanted = student.predict(TEXTS)
    found = predict(service, {"inputs": TEXTS})
    assert close(found["predictions"], wanted) and found["version"] == service.about["version"]
    assert close(predict(service, {"inputs": [{"text": TEXTS[1]}]})["predictions"], wanted[1:2])
    if task.kind == "regression":
        refused = asyncio.run(post(service, {"inputs": TEXTS, "probabilities": True}))
        assert refused.status_code == 422
        return
    found = predict(service, {"inputs": TEXTS, "probabilities": True})
    chances = student.predict_proba(TEXTS)
    for one, row in zip(found["predictions"], chances, strict=True):
        assert close(one["probabilities"], dict(zip(task.names, row.tolist(), strict=True)))


def test_pictures_are_answered_as_predict_does(pictures: Service) -> None:
    student = pictures.answerer.student
    files = [as_png(picture(seed)) for seed in range(12)]
    wanted = student.predict(files)
    assert len({one["probability"] for one in wanted}) > 6
    coded = [as_base64(one) for one in files]
    lines = ["\n".join((one[:30], one[30:])) for one in coded]
    addresses = [f"data:image/png;base64,{one}" for one in coded]
    for inputs in (coded, lines, addresses, [{"image": one} for one in coded]):
        assert close(predict(pictures, {"inputs": inputs})["predictions"], wanted)
    raw = predict(pictures, files[3], content_type="image/png")
    assert close(raw["predictions"], wanted[3:4])


def test_several_columns(tmp_path: Path) -> None:
    student = save_student(tmp_path, InputColumn("photo", "image"), InputColumn("title", "text"))
    service = make_service(tmp_path)
    files = [as_png(picture(seed)) for seed in range(3)]
    secret = tmp_path / "secret.png"
    secret.write_bytes(files[2])
    rows: list[dict[str, Any]] = [
        {"photo": files[0], "title": TEXTS[0]},
        {"photo": None, "title": TEXTS[1]},
        {"photo": files[1]},
        {"photo": files[2], "title": str(secret)},  # a text
    ]
    for some in (rows, rows[1:2], rows[2:3], rows[3:], rows[:1] * 3):
        inputs = [
            {**row, **({"photo": as_base64(row["photo"])} if row.get("photo") else {})}
            for row in some
        ]
        found = predict(service, {"inputs": inputs})["predictions"]
        whole = [{"photo": None, "title": None, **row} for row in some]
        assert close(found, student.predict(whole))
    for bad in (str(secret), as_base64(str(secret).encode()), secret.as_uri()):
        refused = asyncio.run(post(service, {"inputs": [{"photo": bad, "title": "a"}]}))
        assert refused.status_code == 422 and refused.json()["error"]
    for bad in ("a text", {}, {"photo": None}, {"title": 3}, {"other": "a"}, ["a", "b"]):
        assert asyncio.run(post(service, {"inputs": [bad]})).status_code == 422


def test_what_is_served(texts: Service) -> None:
    about = asyncio.run(ask(texts, "GET", "/version")).json()
    assert about["aft"] == aft.__version__ and about["classes"] == list(CLASSES.names)
    assert about["columns"] == [{"name": "text", "modality": "text"}]
    assert len(about["checksum"]) == 64 and about["checksum"].startswith(about["version"])
    assert asyncio.run(ask(texts, "GET", "/health")).json() == {"status": "ok", "waiting": 0}
    page = asyncio.run(ask(texts, "GET", "/"))
    assert page.headers["content-type"].startswith("text/html") and "<textarea" in page.text


def test_names_on_the_page_are_no_html(tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script>"
    save_student(tmp_path, InputColumn(bad, "text"), task=Task("classification", (bad, '"x')))
    page = asyncio.run(ask(make_service(tmp_path), "GET", "/")).text
    assert "alert(1)" in page and "<script>alert" not in page


# -------------------------------------------------------------------------------------- refusals


def bomb(side: int) -> bytes:
    """A PNG file of a few kilobytes that says to have so many pixels on each side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000))
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


BODIES: list[tuple[Any, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"\xff\xfe\x00", 400),
    (b'{"inputs": ["a"]} x', 400),
    (b'{"inputs": [NaN]}', 422),
    (b'{"inputs": [-Infinity]}', 422),
    (b'{"inputs": ["a"], "probabilities": NaN}', 422),
    (b"[" * 100_000, 400),
    (b'{"inputs": [' + b"9" * 5000 + b"]}", 400),
    (b'{"inputs": ["\\ud800"]}', 400),  # half a character
    (b'{"inputs": [{"\\ud800": "a"}]}', 400),
    (["a"], 422),
    ("a", 422),
    (3, 422),
    (b"null", 422),
    ({}, 422),
    ({"inputs": []}, 422),
    ({"inputs": "a"}, 422),
    ({"inputs": {"text": ["a"]}}, 422),
    ({"inputs": [3]}, 422),
    ({"inputs": [None]}, 422),
    ({"inputs": [True]}, 422),
    ({"inputs": [["a"]]}, 422),
    ({"inputs": [""]}, 422),
    ({"inputs": ["a", " "]}, 422),
    ({"inputs": [{"bytes": "a", "path": "/etc/passwd"}]}, 422),
    ({"inputs": [{"text": "a", "path": "/etc/passwd"}]}, 422),
    ({"inputs": ["a"], "probabilities": 1}, 422),
    ({"inputs": ["a"], "run": "/etc"}, 422),
    ({"inputs": ["a"], "teachers": True}, 422),
    ({"inputs": ["a"] * 101}, 413),
    ({"inputs": ["a"] * 30_000}, 413),
    ({"inputs": ["a"] * 100_000}, 413),
    ({"inputs": ["a" * 300_000]}, 413),
]


@pytest.mark.parametrize(("body", "status"), BODIES, ids=range(len(BODIES)))
def test_a_bad_body_is_refused_in_words(body: Any, status: int, texts: Service) -> None:
    found = asyncio.run(post(texts, body))
    assert found.status_code == status
    message = found.json()["error"]
    assert len(message) < 500 and "Traceback" not in message
    assert texts.refused == 1 and texts.answered == 0 and texts._held == 0
    assert predict(texts, {"inputs": ["a"]})


def test_bad_pictures_are_refused_in_words(pictures: Service, tmp_path: Path) -> None:
    good, file = as_png(picture()), tmp_path / "a.png"
    file.write_bytes(good)
    (tmp_path / "abcd").write_bytes(good)
    strip = io.BytesIO()
    Image.new("L", (5000, 1)).save(strip, "PNG")
    bad = [
        *(str(file), file.as_uri(), str(tmp_path / "abcd"), "abcd", "a.png", "../a.png"),
        *("https://example.com/a.png", "", "a text", "data:image/png;base64,", "data:,a"),
        *(3, None, [], {}, {"path": str(file)}, {"bytes": as_base64(good)}),
        *map(as_base64, (b"x", good[:60], str(file).encode(), bomb(20_000), strip.getvalue())),
    ]
    for one in bad:
        found = asyncio.run(post(pictures, {"inputs": [as_base64(good), one]}))
        assert found.status_code == 422, one
        assert "1" in found.json()["error"]
    for body in (b"", b"x", bomb(20_000), str(file).encode()):
        found = asyncio.run(post(pictures, body, content_type="image/png"))
        assert found.status_code == 422 and found.json()["error"]


@pytest.mark.parametrize(
    ("student", "kind"),
    [
        ("texts", "text/plain"),
        ("texts", ""),
        ("texts", "application/x-www-form-urlencoded"),
        ("texts", "multipart/form-data; boundary=x"),
        ("texts", "image/png"),
        ("pictures", "text/plain"),
        ("pictures", "application/octet-stream"),
    ],
)
def test_other_content_types_are_refused(
    student: str, kind: str, request: pytest.FixtureRequest
) -> None:
    """Those that pages of other sites may send without asking are among them."""
    service = request.getfixturevalue(student)
    found = asyncio.run(post(service, b'{"inputs": ["a"]}', content_type=kind))
    assert found.status_code == 415 and "application/json" in found.json()["error"]


def test_the_content_type_may_have_parameters(texts: Service) -> None:
    assert predict(texts, {"inputs": ["a"]}, content_type="Application/JSON; charset=utf-8")


def test_other_addresses_and_methods(texts: Service) -> None:
    for method, path, status in [
        ("GET", "/predict", 405),
        ("POST", "/", 405),
        ("OPTIONS", "/predict", 405),  # a page of another site asks whether it may
        ("GET", "/student.json", 404),
        ("GET", "/../student.json", 404),
        ("GET", "/static/a", 404),
        ("DELETE", "/version", 405),
    ]:
        found = asyncio.run(ask(texts, method, path, headers={"Origin": "http://evil.example"}))
        assert found.status_code == status and "/predict" in found.json()["error"]
        assert not [name for name in found.headers if name.startswith("access-control")]


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "[x", "10.0.0.1"])
def test_other_hosts_are_refused(host: str, texts: Service) -> None:
    for method, path in (("GET", "/"), ("GET", "/version"), ("POST", "/predict")):
        found = asyncio.run(ask(texts, method, path, headers={"Host": host}))
        assert found.status_code == 400 and "localhost" in found.json()["error"]
    for known in ("localhost", "LOCALHOST:8000", "127.0.0.1:1"):
        assert asyncio.run(ask(texts, "GET", "/", headers={"Host": known})).status_code == 200
    assert asyncio.run(ask(texts, "GET", "/health", headers={"Host": host})).status_code == 200


def test_a_fault_of_the_server_shows_nothing(
    texts: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(questions: Any) -> Any:
        raise RuntimeError("a secret path")

    monkeypatch.setattr(texts.batches, "_answer", fail)
    found = asyncio.run(post(texts, {"inputs": ["a"]}))
    assert found.status_code == 500 and found.json()["error"] and "secret" not in found.text


def test_a_request_that_breaks_off(texts: Service) -> None:
    parts = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers}
    scope |= {"query_string": b"", "root_path": "", "http_version": "1.1", "scheme": "http"}
    asyncio.run(texts.app(scope, receive, send))
    assert sent[0]["status"] == 400 and texts._held == 0


# -------------------------------------------------------------------------------------- batches


class Held:
    """A student that waits to be released, and notes the batches that it gets."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.batches: list[list[Any]] = []

    def __call__(self, questions: Sequence[Question]) -> list[Any]:
        assert self.release.wait(30)
        texts = [row[0] for question in questions for row in question.rows]
        self.batches.append(texts)
        if "bad" in texts:
            raise aft.AftError("bad text")
        return [{"predictions": [row[0] for row in one.rows]} for one in questions]


def test_requests_share_batches_and_each_gets_its_own_answer(
    texts: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    held.release.set()
    monkeypatch.setattr(texts.batches, "_answer", held)
    words = [f"text {i}" for i in range(20)]
    words[5] = words[17] = "bad"

    async def together() -> list[httpx.Response]:
        return await asyncio.gather(*(post(texts, {"inputs": [word]}) for word in words))

    for word, found in zip(words, asyncio.run(together()), strict=True):
        if word == "bad":
            assert found.json() == {"error": "bad text"}
        else:
            assert found.json()["predictions"] == [word]
    sizes = [len(batch) for batch in held.batches]
    assert max(sizes) == 8 and len(sizes) < 16
    assert texts.batches.inputs == 0 and (texts.answered, texts.refused) == (18, 2)


def test_too_many_waiting_inputs_are_refused(tmp_path: Path) -> None:
    save_student(tmp_path, TEXT)
    service = make_service(tmp_path, max_inputs=10, max_waiting=12)
    held = Held()
    service.batches._answer = held

    async def crowd() -> tuple[list[httpx.Response], httpx.Response]:
        first = [asyncio.create_task(post(service, {"inputs": [f"{i}"] * 4})) for i in range(3)]
        while service.batches.inputs < 12:
            await asyncio.sleep(0.001)
        health = await ask(service, "GET", "/health")
        assert health.json() == {"status": "ok", "waiting": 12}
        refused = await post(service, {"inputs": ["late"]})
        held.release.set()
        return await asyncio.gather(*first), refused

    first, refused = asyncio.run(crowd())
    assert [one.json()["predictions"] for one in first] == [[f"{i}"] * 4 for i in range(3)]
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
    assert "12" in refused.json()["error"]
    assert predict(service, {"inputs": ["a"] * 10})["predictions"] == ["a"] * 10


def test_memory_for_bodies_is_limited(texts: Service) -> None:
    texts._held = 16 * texts.limits["bytes"] - 10
    found = asyncio.run(post(texts, {"inputs": ["a text"]}))
    assert found.status_code == 503 and found.headers["retry-after"]
    texts._held = 0
    assert predict(texts, {"inputs": ["a text"]})


def test_open_requests_are_answered_before_the_server_stops(texts: Service) -> None:
    held = Held()
    texts.batches._answer = held
    answers: list[httpx.Response] = []
    with in_a_thread(texts) as (address, server):
        caller = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{address}/predict", json={"inputs": ["a"]}, timeout=60)
            )
        )
        caller.start()
        while texts.batches.inputs < 1:
            caller.join(0.01)
        server.should_exit = True
        caller.join(0.3)
        held.release.set()
        caller.join(30)
    assert answers[0].json()["predictions"] == ["a"]


# -------------------------------------------------------------------------------------- command


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The applications of the servers that would run."""
    apps: list[Any] = []
    run = "uvicorn.Server.run"
    monkeypatch.setattr(run, lambda self, sockets: apps.append(self.config.app))
    return apps


def get(application: Any, host: str) -> int:
    transport = httpx.ASGITransport(application)

    async def ask_it() -> int:
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
            return (await client.get("/", headers={"Host": host})).status_code

    return asyncio.run(ask_it())


def test_the_command_says_its_address(
    started: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_student(tmp_path / "student", TEXT)
    assert main(["serve", "--run", str(tmp_path), "--port", "0"]) == 0
    out, err = capsys.readouterr()
    assert "http://127.0.0.1:" in err and "warning" not in err and "http://127.0.0.1:" in out
    assert (get(started[0], "localhost:80"), get(started[0], "a.example")) == (200, 400)
    options = ["--port", "0", "--allow-hosts", "A.example"]
    assert main(["serve", "--run", str(tmp_path / "student"), *options]) == 0
    assert (get(started[1], "localhost"), get(started[1], "a.example")) == (200, 200)


def test_other_addresses_are_warned_of(
    started: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_student(tmp_path, TEXT)
    found = aft.serve(tmp_path, host="0.0.0.0", port=0)
    assert found["address"].startswith("http://0.0.0.0:") and found["answered"] == 0
    assert "0.0.0.0" in capsys.readouterr().err.partition("warning")[2]
    assert get(started[0], "any.example") == 200
    aft.serve(tmp_path, host="0.0.0.0", port=0, allow_hosts=["a.example"])
    assert (get(started[1], "any.example"), get(started[1], "a.example")) == (400, 200)


def test_what_cannot_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AftError, match=str(tmp_path)):
        aft.serve(tmp_path)
    save_student(tmp_path, TEXT)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            aft.serve(tmp_path, port=port)
    with pytest.raises(ConfigError, match="no.such.host"):
        aft.serve(tmp_path, host="no.such.host.invalid", port=0)
    with pytest.raises(ConfigError, match=str(tmp_path)):
        aft.serve(tmp_path, with_teachers=True)
    monkeypatch.setitem(__import__("sys").modules, "starlette", None)
    with pytest.raises(ModelError, match=r"\[serve\]"):
        aft.serve(tmp_path)
    assert main(["serve", "--run", str(tmp_path)]) == 1
    assert "pip install" in capsys.readouterr().err
