"""A real server, with a thousand requests at once, and in a real browser."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from aft.data.readers.find_columns import InputColumn
from aft.serving.app import Service
from aft.tasks import Task
from helpers.browser import look, open_browser
from helpers.serving import (
    IMAGE,
    TEXT,
    WORDS,
    as_base64,
    as_png,
    in_a_process,
    in_a_thread,
    make_service,
    save_student,
)

REQUESTS = 1000
BAD: list[tuple[bytes, int]] = [
    (b'{"inputs": [', 400),
    (b'{"inputs": [""]}', 422),
    (b'{"inputs": ["a"], "run": "/etc"}', 422),
    (b'{"inputs": [NaN]}', 422),
    (b'{"inputs": []}', 422),
]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def many_connections() -> Iterator[None]:
    """Allow this process, and those that it starts, more than a thousand connections."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * REQUESTS if hard == resource.RLIM_INFINITY else min(3 * REQUESTS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def begin(port: int, body: bytes) -> Connection:
    """A connection of its own, with the head of a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    await writer.drain()
    return reader, writer


async def finish(connection: Connection, body: bytes) -> tuple[int, Any]:
    """Send the body; status and JSON values of the answer."""
    reader, writer = connection
    writer.write(body)
    answer = await reader.read()
    writer.close()
    start, _, content = answer.partition(b"\r\n\r\n")
    return int(start.split()[1]), json.loads(content)


async def all_at_once(port: int, bodies: list[bytes]) -> list[tuple[int, Any]]:
    connections = await asyncio.gather(*(begin(port, body) for body in bodies))
    return await asyncio.gather(*map(finish, connections, bodies))


def test_a_thousand_requests_at_once(tmp_path: Path, many_connections: None) -> None:
    student = save_student(tmp_path, TEXT)
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, 12)) for _ in range(REQUESTS)]
    wanted = student.predict(texts)
    assert len({one["probability"] for one in wanted}) > REQUESTS - 10
    bad = {place: BAD[place // 9 % len(BAD)] for place in range(0, REQUESTS, 9)}
    bodies = [
        bad[place][0] if place in bad else json.dumps({"inputs": [text]}).encode()
        for place, text in enumerate(texts)
    ]
    with in_a_process(tmp_path) as (address, process):
        answers = asyncio.run(all_at_once(int(address.rpartition(":")[2]), bodies))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err
    for place, (status, found) in enumerate(answers):
        if place in bad:
            assert status == bad[place][1] and found["error"]
        else:
            (one,) = found["predictions"]
            assert status == 200 and one["label"] == wanted[place]["label"]
            assert abs(one["probability"] - wanted[place]["probability"]) < 1e-5
    counts = dict(line.split() for line in out.splitlines())
    assert (int(counts["answered"]), int(counts["refused"])) == (REQUESTS - len(bad), len(bad))


# -------------------------------------------------------------------------------------- browser

DROP = """([box, content]) => {
  const bytes = Uint8Array.from(atob(content), one => one.charCodeAt(0)), data = new DataTransfer();
  data.items.add(new File([bytes], "photo.png", {type: "image/png"}));
  box.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@contextmanager
def page_of(browser: Any, service: Service, width: int = 900, **options: Any) -> Iterator[Any]:
    """The page of a real server; errors on it fail the test."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    with in_a_thread(service) as (address, _):
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda request: asked.append(request.url))
        asked: list[str] = []
        page.goto(address)
        yield page
        context.close()
    outside = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert complaints == outside == []


def shown(page: Any) -> list[dict[str, float]]:
    """The label, and the percentages by name, of each part of the answer."""
    page.wait_for_selector("#answers section")
    found = []
    for part in page.query_selector_all("#answers section"):
        names = [one.inner_text() for one in part.query_selector_all("dt")]
        numbers = [one.inner_text() for one in part.query_selector_all("dd")]
        label = part.query_selector(".label")
        found.append(
            {"label": label.inner_text() if label else None}
            | {n: float(v.rstrip(" %")) for n, v in zip(names, numbers, strict=True)}
        )
    return found


def test_a_typed_text_is_answered(browser: Any, tmp_path: Path) -> None:
    names = ("<b>apple</b>", "ひまわり", *(f"class_{i}" for i in range(12)))
    student = save_student(tmp_path, TEXT, task=Task("classification", names))
    service = make_service(tmp_path)
    with page_of(browser, service, width=390, color_scheme="dark") as page:
        for text in ("the rocket is in orbit", "bread <b>and</b> butter\nand a goal"):
            page.fill("textarea", text)
            with page.expect_response("**/predict"):
                page.click("button")
            (found,) = shown(page)
            (wanted,), (chances,) = student.predict(text), student.predict_proba([text])
            assert found.pop("label") == wanted["label"] and len(found) == 10
            for name, value in found.items():
                assert value == pytest.approx(100 * chances[names.index(name)], abs=0.06)
            assert look(page) == {}
        page.fill("textarea", " ")
        page.click("button")
        page.wait_for_selector("#error:not([hidden])")
        assert page.query_selector("#answers section") is None and look(page) == {}


def test_a_dropped_picture_is_answered(browser: Any, tmp_path: Path) -> None:
    student = save_student(tmp_path, IMAGE)
    content = as_png(Image.effect_mandelbrot((60, 40), (-3, -2.5, 2, 2.5), 60).convert("P"))
    (wanted,) = student.predict([content])
    with page_of(browser, make_service(tmp_path)) as page:
        page.evaluate(DROP, [page.query_selector(".drop"), as_base64(content)])
        (found,) = shown(page)
        assert found["label"] == wanted["label"]
        assert found[wanted["label"]] == pytest.approx(100 * wanted["probability"], abs=0.06)
        assert page.evaluate("document.querySelector('.drop img').naturalWidth") == 60
        assert look(page) == {}
        page.evaluate(DROP, [page.query_selector(".drop"), as_base64(b"no picture")])
        page.wait_for_selector("#error:not([hidden])")
        assert "PNG" in page.inner_text("#error")


def test_a_picture_and_a_text_are_answered_with_numbers(browser: Any, tmp_path: Path) -> None:
    columns = (InputColumn("photo", "image"), InputColumn("title & more", "text"))
    task = Task("regression", ("height", "width"))
    student = save_student(tmp_path, *columns, task=task)
    content = as_png(Image.effect_noise((40, 40), 60))
    with page_of(browser, make_service(tmp_path), width=1200) as page:
        page.fill("textarea", "a rocket")
        page.set_input_files(
            "input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": content}
        )
        page.click("button")
        (found,) = shown(page)
        (wanted,) = student.predict({"photo": content, "title & more": "a rocket"})
        assert found.pop("label") is None and found == pytest.approx(wanted, rel=1e-4)
        assert look(page) == {}
