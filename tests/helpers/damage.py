"""Damages to files, of which no reader may show a stack trace."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "other bytes": lambda content: b"\xff\xfe\x00\x81" * 50,
    "deep": lambda content: b'{"a":' * 20_000 + b"[" * 20_000,
    "a list": lambda content: b"[1, 2]",
    "a huge number": lambda content: b'{"dim": 1' + b"0" * 6_000 + b"}",
    "a page": lambda content: b"<!DOCTYPE html><html>404 Not Found</html>",
}


def header(text: bytes, length: int | None = None) -> bytes:
    """A .safetensors file with such a header, which may state another length."""
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(64)


HEADERS: dict[str, bytes] = {
    "a huge header": header(b"{}", 2**63),
    "a deep header": header(b'{"a":' * 20_000),
    "offsets of others": header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}'),
    "negative offsets": header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}'),
    "an unknown type": header(b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}'),
    "a huge shape": header(b'{"a":{"dtype":"F32","shape":[9999999999999],"data_offsets":[0,4]}}'),
}


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON document of aft, as somebody would who removes its checksums too."""
    content = json.loads(file.read_text())
    for name in ("sha256", "files"):
        content.pop(name, None)
    file.write_text(json.dumps(change(content)))
