"""Is the model hub within reach? Its client would retry an unknown host for most of a minute."""

from __future__ import annotations

import os
import socket
import urllib.request
from urllib.parse import urlsplit


def why_unreachable() -> str | None:
    """The reason in a few words, or None if the hub answers (or a proxy is to be asked)."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if urllib.request.getproxies():
        return None  # the proxy, not this machine, looks the host up
    address = urlsplit(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=5).close()
    except OSError as error:
        return str(error)
    return None
