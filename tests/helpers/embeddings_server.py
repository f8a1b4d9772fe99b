"""A local server with the API of providers of embeddings, which refuses some calls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np

KEY = "a key"


def embed(text: str, dim: int) -> list[float]:
    """The embedding that the server gives a text."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return [float(x) for x in np.random.default_rng(seed).normal(size=dim)]


class EmbeddingsServer(ThreadingHTTPServer):
    """Answers calls; those with a status in `refusals`, each once and in this order, are refused.

    Attributes:
        batches: The texts of every call that was answered.
        statuses: The status of every answer.
    """

    daemon_threads = True

    def __init__(self, dim: int, refusals: Sequence[int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.dim = dim
        self.refusals = list(refusals)
        self.batches: list[list[str]] = []
        self.statuses: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: EmbeddingsServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/embeddings":
            return self._answer(404, {"error": "no such page"})
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self._answer(401, {"error": "wrong key"})
        if self.server.refusals:
            return self._answer(self.server.refusals.pop(0), {"error": "too many calls"})
        self.server.batches.append(body["input"])
        rows = [
            {"index": i, "embedding": embed(text, self.server.dim)}
            for i, text in enumerate(body["input"])
        ]
        return self._answer(200, {"data": rows[::-1], "model": body["model"]})  # in any order

    def _answer(self, status: int, content: Any) -> None:
        self.server.statuses.append(status)
        data = json.dumps(content).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def embeddings_server(dim: int = 8, refusals: Sequence[int] = ()) -> Iterator[EmbeddingsServer]:
    """A running server; see :class:`EmbeddingsServer`."""
    with EmbeddingsServer(dim, refusals) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
