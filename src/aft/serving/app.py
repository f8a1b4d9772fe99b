"""The addresses of the server: a page, predictions, and what is served."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from aft.errors import AftError, DataError
from aft.serving.answers import Answerer
from aft.serving.batches import Batches
from aft.serving.questions import Refused, read_question

_MOST_HELD = 16
"""Bodies of the largest size that are in memory at once; above, requests are refused."""
_PAGE_HEADERS = {"Content-Security-Policy": "frame-ancestors 'none'", "Cache-Control": "no-store"}


class Service:
    """Answers HTTP requests.

    Args:
        answerer: Answers questions.
        about: What ``/version`` answers, with the ``version`` of the student and the ``limits`` of
            requests: most ``inputs`` of a request, most ``bytes`` of its body, and most inputs
            that are ``waiting``.
        page: The page as HTML.
        hosts: The names that a request may give as its host, in lower case; empty for any.

    Attributes:
        app: The ASGI application.
        answered: Number of inputs that were answered.
        refused: Number of requests that were not.
    """

    def __init__(
        self, answerer: Answerer, about: Mapping[str, Any], page: str, hosts: Collection[str] = ()
    ) -> None:
        self.answerer, self.about, self.page, self.hosts = answerer, about, page, hosts
        self.limits: Mapping[str, int] = about["limits"]
        self.batches = Batches(answerer.answer, answerer.batch_size, self.limits["waiting"])
        self.answered = self.refused = self._held = 0
        routes = [
            Route("/", self._page),
            Route("/health", self._health),
            Route("/version", self._version),
            Route("/predict", self._predict, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)
        for kind in (AftError, HTTPException, Exception):
            self.app.add_exception_handler(kind, self._explain)

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
            await self._read(request, body)
            kind, columns = request.headers.get("content-type", ""), self.answerer.student.columns
            question = read_question(bytes(body), kind, columns, self.limits["inputs"])
            if question.probabilities and self.answerer.student.task.kind == "regression":
                raise Refused(422, "a regression student has no probabilities")
            reply = await self.batches.answer(question)
        finally:
            self._held -= len(body)
        self.answered += len(question.rows)
        return _as_json({**reply, "version": self.about["version"]})

    async def _read(self, request: Request, body: bytearray) -> None:
        """Read the body; what is too large is read to its end, too, so that the answer is seen."""
        most, size = self.limits["bytes"], 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if self._held + len(chunk) > _MOST_HELD * most:
                    raise Refused(503, "too many large requests at once; try again in a moment")
                if size <= most:
                    body += chunk
                    self._held += len(chunk)
        except ClientDisconnect:  # nobody reads the answer
            raise Refused(400, "the request was not sent to its end") from None
        if size > most:
            raise Refused(413, f"expected a body of at most {most:,} bytes, got {size:,}")

    def _check_host(self, request: Request) -> None:
        """Refuse pages of other sites whose name leads to this machine (DNS rebinding)."""
        given = request.headers.get("host", "")
        if self.hosts and re.sub(r":\d*$", "", given).strip("[]").lower() not in self.hosts:
            known = ", ".join(sorted(self.hosts))
            raise Refused(400, f"expected one of the hosts {known}, got {given!r}")

    async def _explain(self, request: Request, error: Exception) -> Response:
        """The answer to a request that fails."""
        self.refused += 1
        status, headers = 500, {}
        message = f"internal error ({type(error).__name__}); the server's log has more"
        if isinstance(error, HTTPException):
            status, headers = error.status_code, dict(error.headers or {})
            message = f"{error.detail}; expected GET /, /health or /version, or POST /predict"
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
