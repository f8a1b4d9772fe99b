"""A stand-in for the Hugging Face Hub: repositories in memory, behind its HTTP interface."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

WRITES, READS = "hf_writes", "hf_reads"
"""Tokens that may write, and only read; others are unknown."""


class Hub:
    """The repositories: the files of each commit, and the commit of each branch."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.private: dict[str, bool] = {}
        self.messages: list[str] = []
        self.downloads = 0

    def files(self, repository: str, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[repository][branch]]

    def commit(self, repository: str, branch: str, files: dict[str, bytes]) -> str:
        files = {**self.files(repository, branch), **files}
        name = hashlib.sha1(f"{repository} {branch} {files}".encode()).hexdigest()
        self.commits[name] = files
        self.branches[repository][branch] = name
        return name


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        match [unquote(one) for one in urlsplit(self.path).path.strip("/").split("/")]:
            case ["api", "models", user, name, *what]:
                branches = self.hub.branches.get(f"{user}/{name}")
                if branches is None:
                    return self._answer(404, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})
                sha = branches.get(what[1], what[1])
                if sha not in self.hub.commits:
                    return self._answer(404, {"error": "no"}, {"X-Error-Code": "RevisionNotFound"})
                files = self.hub.commits[sha]
                if what[0] == "revision":
                    siblings = [{"rfilename": file} for file in files]
                    known = {"id": f"{user}/{name}", "sha": sha, "siblings": siblings}
                    return self._answer(200, known)
                tree = [
                    {"type": "file", "path": file, "size": len(data), "oid": _oid(data)}
                    for file, data in files.items()
                ]
                return self._answer(200, tree)
            case [_, _, "resolve", sha, *path]:
                data = self.hub.commits[sha]["/".join(path)]
                self.hub.downloads += self.command == "GET"
                heads = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": sha}
                return self._answer(200, data, heads)
        return self._answer(404, {"error": self.path})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token != WRITES:
            return self._answer(403 if token == READS else 401, {"error": "refused"})
        match [unquote(one) for one in urlsplit(self.path).path.strip("/").split("/")]:
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                if name in self.hub.branches:
                    return self._answer(409, {"error": "exists", "url": self._url(name)})
                empty = hashlib.sha1(name.encode()).hexdigest()
                self.hub.commits[empty] = {}
                self.hub.branches[name] = {"main": empty}
                private = asked.get("private") or asked.get("visibility") == "private"
                self.hub.private[name] = bool(private)
                return self._answer(200, {"url": self._url(name)})
            case ["api", "validate-yaml"]:
                valid = json.loads(body)["content"].startswith("---\n")
                errors = [] if valid else [{"message": "no metadata"}]
                return self._answer(200 if valid else 400, {"errors": errors, "warnings": []})
            case ["api", "models", user, name, "branch", branch]:
                known = self.hub.branches[f"{user}/{name}"]
                known.setdefault(branch, known["main"])
                return self._answer(200, {})
            case ["api", "models", _, _, "preupload", _]:
                paths = [one["path"] for one in json.loads(body)["files"]]
                how = {"uploadMode": "regular", "shouldIgnore": False}
                return self._answer(200, {"files": [{"path": one, **how} for one in paths]})
            case ["api", "models", user, name, "commit", branch]:
                lines = [json.loads(line) for line in body.splitlines()]
                self.hub.messages.append(lines[0]["value"]["summary"])
                files = {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines[1:]
                }
                sha = self.hub.commit(f"{user}/{name}", branch, files)
                url = f"{self._url(f'{user}/{name}')}/commit/{sha}"
                return self._answer(200, {"commitUrl": url, "commitOid": sha})
        return self._answer(404, {"error": self.path})

    def _url(self, repository: str) -> str:
        return f"http://{self.headers['Host']}/{repository}"

    def _answer(self, status: int, content: Any, heads: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(heads or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def running_hub(patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process reaches, with a token that may write."""
    from huggingface_hub import constants

    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    patch.setenv("NO_PROXY", "127.0.0.1")
    patch.setenv("HF_TOKEN", WRITES)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
