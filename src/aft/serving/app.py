"""The addresses of the server: a page, predictions, and what is served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from aft.errors import AftError, DataError
from aft.serving.answers import Answerer
from aft.serving.batches import Batches
from aft.serving.questions import Limits, Refused, read_question

READ_SECONDS = 60.0
"""Most seconds that a request may take to arrive."""
_MOST_HELD = 16
"""Bodies of the largest size that are in memory at once; above, requests are refused."""
_PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Service:
    """Answers HTTP requests.

    Args:
        answerer: Answers questions.
        about: What ``/version`` answers, with the ``checksum`` of the student.
        page: The page as HTML.
        limits: The limits of requests.
        hosts: The names that a request may give as its host, in lower case; None for any.

    Attributes:
        app: The ASGI application.
        answered: Number of inputs that were answered.
        refused: Number of requests that were not.
    """

    def __init__(
        self,
        answerer: Answerer,
        about: Mapping[str, Any],
        page: str,
        limits: Limits,
        hosts: Collection[str] | None = None,
    ) -> None:
        self.answerer, self.about, self.page = answerer, about, page
        self.limits, self.hosts = limits, hosts
        self.batches = Batches(answerer.answer, answerer.batch_size, limits.waiting)
        self.answered = self.refused = self._held = 0
        self.app = Starlette(
            routes=[
                Route("/", self._page),
                Route("/health", self._health),
                Route("/version", self._version),
                Route("/predict", self._predict, methods=["POST"]),
            ],
            exception_handlers={AftError: self._explain, Exception: self._explain},  # type: ignore[dict-item]
        )
        self.app.add_exception_handler(HTTPException, self._explain)

    async def _page(self, request: Request) -> Response:
        self._check_host(request)
        return HTMLResponse(self.page, headers=_PAGE_HEADERS)

    async def _health(self, request: Request) -> Response:
        return _as_json({"status": "ok", "waiting": self.batches.inputs})

    async def _version(self, request: Request) -> Response:
        self._check_host(request)
        return _as_json(self.about)

    async def _predict(self, request: Request) -> Response:
        self._check_host(request)
        body = bytearray()
        try:
            await asyncio.wait_for(self._read(request, body), READ_SECONDS)
            kind = request.headers.get("content-type", "")
            columns = self.answerer.student.columns
            question = read_question(bytes(body), kind, columns, self.limits)
            if question.teachers and self.answerer.teachers is None:
                raise Refused(422, "this server has no teachers: start it with --with-teachers")
            if question.probabilities and self.answerer.student.task.kind == "regression":
                raise Refused(422, "a regression student has no probabilities")
            reply = await self.batches.answer(question)
        except asyncio.TimeoutError:
            raise Refused(408, f"the request took longer than {READ_SECONDS:g} s") from None
        except ClientDisconnect:  # nobody reads the answer
            raise Refused(400, "the request was not sent to its end") from None
        finally:
            self._held -= len(body)
        self.answered += len(question.rows)
        return _as_json({**reply, "version": self.about["version"]})

    async def _read(self, request: Request, body: bytearray) -> None:
        """Read the body; what is too large is read to its end, too, so that the answer is seen."""
        most, size = self.limits.body_bytes, 0
        async for chunk in request.stream():
            size += len(chunk)
            if self._held + len(chunk) > _MOST_HELD * most:
                raise Refused(503, "too many large requests are waiting; try again in a moment")
            if size <= most:
                body += chunk
                self._held += len(chunk)
        if size > most:
            raise Refused(413, f"expected a body of at most {most:,} bytes, got {size:,}")

    def _check_host(self, request: Request) -> None:
        """Refuse pages of other sites whose name leads to this machine (DNS rebinding)."""
        given = request.headers.get("host", "")
        try:
            name = urlsplit(f"//{given}").hostname
        except ValueError:
            name = None
        if self.hosts is not None and name not in self.hosts:
            raise Refused(
                400, f"expected one of the hosts {', '.join(sorted(self.hosts))}, got {given!r:.80}"
            )

    async def _explain(self, request: Request, error: Exception) -> Response:
        """The answer to a request that fails."""
        self.refused += 1
        status, headers = 500, {}
        message = f"internal error ({type(error).__name__}); the server's log has more"
        if isinstance(error, HTTPException):
            status, headers = error.status_code, dict(error.headers or {})
            paths = ", ".join(route.path for route in self.app.routes if isinstance(route, Route))
            message = f"{request.method} {request.url.path:.80}: {error.detail}; expected {paths}"
        elif isinstance(error, AftError):
            status = getattr(error, "status", 422 if isinstance(error, DataError) else 500)
            message = str(error)
        if status == 503:
            headers["Retry-After"] = "1"
        return _as_json({"error": message}, status, headers)


def _as_json(
    content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    text = json.dumps(content, allow_nan=False)  # ASCII: a message may quote half a character
    return Response(text, status, headers, media_type="application/json")
