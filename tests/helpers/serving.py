"""Students that are saved without training, and servers of them in this process and in another."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from PIL import Image

import aft
from aft.commands.serve import describe
from aft.config.commands import ServeConfig
from aft.data.readers.find_columns import InputColumn
from aft.report.rendering import render
from aft.serving.answers import Answerer, TeachersHead
from aft.serving.app import Service
from aft.students.backbone import load_backbone
from aft.students.saved import SavedStudent
from aft.students.student import new_student
from aft.students.towers import join
from aft.tasks import Task
from helpers.text_data import FILLERS, TOPICS

HERE = "http://localhost"
CLASSES = Task("classification", ("no", "yes", "perhaps"))
TEXT, IMAGE = InputColumn("text", "text"), InputColumn("image", "image")
WORDS = [word for words in TOPICS.values() for word in words] + FILLERS
SPECS = {"text": "small:static?dim=8", "image": "small:cnn-tiny?size=32"}


def save_student(folder: Path, *columns: InputColumn, task: Task = CLASSES) -> SavedStudent:
    """A student with random weights, saved and loaded again."""
    texts = {"texts": lambda: [" ".join(WORDS)]}
    parts = {
        column.name: load_backbone(
            SPECS[column.modality], **(texts if column.modality == "text" else {})
        )
        for column in columns
    }
    backbone = join(parts) if len(parts) > 1 else next(iter(parts.values()))
    SavedStudent(new_student(backbone, task).eval(), task, columns, backbone).save(folder)
    return aft.load_student(folder)


def make_service(folder: Path, teachers: TeachersHead | None = None, **options: Any) -> Service:
    """The service of a saved student; options are those of the command."""
    answerer = Answerer(aft.load_student(folder), 8, teachers)
    limits = {"max_inputs": 100, "max_megabytes": 0.2, "max_waiting": 1000}
    about = describe(ServeConfig(run=folder, **{**limits, **options}), answerer)
    page = render("serve.html.j2", about=about)
    return Service(answerer, about, page, ("localhost", "127.0.0.1"))


async def post(
    service: Service, content: Any, content_type: str = "application/json"
) -> httpx.Response:
    """The answer of a service to JSON values, or to bytes, in this process."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return await ask(
        service, "POST", "/predict", content=body, headers={"Content-Type": content_type}
    )


async def ask(service: Service, method: str, path: str, **options: Any) -> httpx.Response:
    """The answer of a service to any request, in this process."""
    transport = httpx.ASGITransport(service.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
        return await client.request(method, path, **options)


def predict(service: Service, content: Any, **headers: str) -> Mapping[str, Any]:
    """The JSON values of a successful answer."""
    found = asyncio.run(post(service, content, **headers))
    assert found.status_code == 200, found.text
    assert found.headers["content-type"] == "application/json"
    values: dict[str, Any] = found.json()
    return values


def as_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def as_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@contextmanager
def in_a_thread(service: Service) -> Iterator[tuple[str, uvicorn.Server]]:
    """The address of a real server, in a thread of this process, and the server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(service.app, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield address, server
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@contextmanager
def in_a_process(run: Path, *flags: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of ``aft serve`` in a process of its own, and the process."""
    command = [sys.executable, "-m", "aft", "serve", "--run", str(run), "--port", "0", *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        found = next(found for line in lines if (found := re.search(r"http://\S+", line)))
        yield found[0], process
    finally:
        process.kill()
        process.communicate()
