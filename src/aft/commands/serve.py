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
from aft.features.run_teacher import Compute
from aft.paths import find_student
from aft.serving.answers import Answerer, TeachersHead
from aft.serving.questions import Limits
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

    from aft.report.rendering import render, student_name
    from aft.serving.app import Service

    student = SavedStudent.load(config.run, config.trust_remote_code)
    device = choose_device(config.device)
    student.module.to(device)
    teachers = None
    if config.with_teachers:
        how = Compute(config.batch_size, num_workers=0, device=device)
        teachers = TeachersHead.fit(config.run, student, how, config.trust_remote_code)
        rows = len(teachers.teachers[0][1].samples)
        print(f"linear model on the teachers' features of {rows} training rows", file=sys.stderr)
    limits = Limits(config.max_inputs, int(config.max_megabytes * 1e6), config.max_waiting)
    about = describe(config, student, teachers, limits)
    title = f"Try {student_name(about['student'])}"
    page = render("serve.html.j2", title=title, about=about)
    with _listen(config.host, config.port) as listener:
        host, port = listener.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        hosts = set(config.allow_hosts)
        if is_here := ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            hosts |= {"localhost", "127.0.0.1", "::1", host, config.host}
        answerer = Answerer(student, config.batch_size, teachers)
        service = Service(answerer, about, page, limits, {one.lower() for one in hosts} or None)
        print(f"serving {config.run} at {address} (stop with Ctrl-C)", file=sys.stderr, flush=True)
        if not is_here:
            print(
                f"warning: everyone who reaches {config.host} can use it, as there is no "
                "authentication",
                file=sys.stderr,
                flush=True,
            )
        options = uvicorn.Config(
            service.app,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
        with suppress(KeyboardInterrupt):  # raised again after all requests are answered
            uvicorn.Server(options).run(sockets=[listener])
    return {"address": address, "answered": service.answered, "refused": service.refused}


def describe(
    config: ServeConfig, student: SavedStudent, teachers: TeachersHead | None, limits: Limits
) -> dict[str, Any]:
    """What ``/version`` answers; ``version`` are the first digits of the student's checksum."""
    content = (find_student(config.run) / DESCRIPTION).read_bytes()  # has those of its files
    checksum, task = hashlib.sha256(content).hexdigest(), student.task
    return {
        "aft": __version__,
        "student": str(student.backbone.info["spec"]),
        "version": checksum[:12],
        "checksum": checksum,
        "task": task.kind,
        "targets" if task.kind == "regression" else "classes": list(task.names),
        "columns": [asdict(column) for column in student.columns],
        "teachers": [stored.spec for _, stored in teachers.teachers] if teachers else [],
        "limits": asdict(limits),
    }


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {getattr(error, 'strerror', None) or error}; "
            "use another --port or --host"
        ) from None
