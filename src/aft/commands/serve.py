"""The command `serve`: answer requests over HTTP with a trained student."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from aft.backbones.network import require
from aft.commands.checks import check
from aft.config.commands import ServeConfig
from aft.config.typed import command
from aft.devices import choose_device
from aft.errors import ConfigError
from aft.paths import find_student
from aft.serving.answers import Answerer, TeachersHead
from aft.students.saved import DESCRIPTION, SavedStudent
from aft.version import __version__

_LAST_SECONDS = 30
"""Seconds that open requests have to finish when the server is stopped."""


@command(ServeConfig)
def serve(config: ServeConfig) -> dict[str, Any]:
    """Answer requests until the process is interrupted; the first argument may be the run.

    Returns:
        ``address``, ``answered`` (number of inputs) and ``refused`` (number of requests).

    Raises:
        AftError: If the run or its teachers cannot be loaded, a library is missing, or the port
            is in use.
    """
    check(config)
    for library in ("jinja2", "starlette", "uvicorn"):
        require(library, "serve")
    import uvicorn

    from aft.report.rendering import render
    from aft.serving.app import Service

    answerer = _load(config)
    about = describe(config, answerer)
    with _listen(config.host, config.port) as listener:
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        here = ipaddress.ip_address(host).is_loopback
        own = {"localhost", "127.0.0.1", "::1", host, config.host} if here else set()
        hosts = {name.lower() for name in own.union(config.allow_hosts)}
        service = Service(answerer, about, render("serve.html.j2", about=about), hosts)
        print(f"serving {config.run} at {address} (stop with Ctrl-C)", file=sys.stderr, flush=True)
        if not here:
            lack = "as there is no authentication"
            print(f"warning: everyone who reaches {host} can use it, {lack}", file=sys.stderr)
        server = uvicorn.Config(
            service.app, log_level="warning", ws="none", timeout_graceful_shutdown=_LAST_SECONDS
        )
        with suppress(KeyboardInterrupt):  # raised again after all requests are answered
            uvicorn.Server(server).run(sockets=[listener])
    return {"address": address, "answered": service.answered, "refused": service.refused}


def _load(config: ServeConfig) -> Answerer:
    student = SavedStudent.load(config.run, config.trust_remote_code)
    student.module.to(choose_device(config.device))
    if not config.with_teachers:
        return Answerer(student, config.batch_size)
    teachers = TeachersHead.fit(config.run, student, config.trust_remote_code)
    rows = len(teachers.teachers[0][1].samples)
    print(f"linear model on the teachers' features of {rows} training rows", file=sys.stderr)
    return Answerer(student, config.batch_size, teachers)


def describe(config: ServeConfig, answerer: Answerer) -> dict[str, Any]:
    """What ``/version`` answers; ``version`` is the start of the student's checksum."""
    content = (find_student(config.run) / DESCRIPTION).read_bytes()  # has those of its files
    checksum, student = hashlib.sha256(content).hexdigest(), answerer.student
    teachers = answerer.teachers.teachers if answerer.teachers else []
    size = int(config.max_megabytes * 1e6)
    return {
        "aft": __version__,
        "student": str(student.backbone.info["spec"]),
        "version": checksum[:12],
        "checksum": checksum,
        "task": student.task.kind,
        "targets" if student.task.kind == "regression" else "classes": list(student.task.names),
        "columns": [asdict(column) for column in student.columns],
        "teachers": [stored.spec for _, stored in teachers],
        "limits": {"inputs": config.max_inputs, "bytes": size, "waiting": config.max_waiting},
    }


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        message = f"cannot listen on {host}, port {port}: {getattr(error, 'strerror', error)}"
        raise ConfigError(f"{message}; use another --port or --host") from None
