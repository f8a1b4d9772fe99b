"""A real server, with a thousand requests at once, and in a real browser."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import aft
from aft.data.readers.find_columns import InputColumn
from aft.tasks import Task
from helpers.browser import look, open_browser
from helpers.serving import (
    IMAGE,
    TEXT,
    WORDS,
    as_base64,
    in_a_process,
    in_a_thread,
    make_service,
    save_student,
)
from helpers.training import TEACHER

REQUESTS = 1000
BAD: list[tuple[bytes, int]] = [
    (b'{"inputs": [', 400),
    (b'{"inputs": [""]}', 422),
    (b'{"inputs": ["a"], "run": "/etc"}', 422),
    (b'{"inputs": [NaN]}', 400),
    (b'{"inputs": []}', 422),
]


@pytest.fixture
def many_connections() -> Iterator[None]:
    """Allow this process and those that it starts as many connections as the system lets it."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * REQUESTS
    least = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, least), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def send(port: int, body: bytes, ready: asyncio.Barrier | None) -> tuple[int, Any]:
    """Status and JSON values of the answer to one request, on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    await writer.drain()
    if ready is not None:
        await ready.wait()
    writer.write(body)
    answer = await reader.read()
    writer.close()
    start, _, content = answer.partition(b"\r\n\r\n")
    return int(start.split()[1]), json.loads(content)


def test_a_thousand_requests_at_once(tmp_path: Path, many_connections: None) -> None:
    student = save_student(tmp_path, TEXT)
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, 12)) for _ in range(REQUESTS)]
    wanted = student.predict(texts)
    assert len({one["probability"] for one in wanted}) > REQUESTS - 10
    bodies = [json.dumps({"inputs": [text]}).encode() for text in texts]
    bad = {place: BAD[place // 9 % len(BAD)] for place in range(0, REQUESTS, 9)}
    bodies = [bad[place][0] if place in bad else body for place, body in enumerate(bodies)]

    async def all_at_once(port: int) -> list[tuple[int, Any]]:
        waiting = [0]
        everyone = asyncio.Event()

        class Ready:
            async def wait(self) -> None:
                waiting[0] += 1
                if waiting[0] == REQUESTS:
                    everyone.set()
                await everyone.wait()

        return await asyncio.gather(*(send(port, body, Ready()) for body in bodies))

    with in_a_process(tmp_path) as (address, process):
        port = int(address.rpartition(":")[2])
        answers = asyncio.run(all_at_once(port))
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
