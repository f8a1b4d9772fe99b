"""Check whether the Hugging Face Hub can be reached.

The Hub's client retries an unknown host for most of a minute; this check fails fast.
"""

from __future__ import annotations

import os
import socket
import urllib.request
from urllib.parse import urlsplit


def why_unreachable() -> str | None:
    """The reason why the Hub is unreachable, or None if it answers or a proxy is configured."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if urllib.request.getproxies():
        return None  # the proxy resolves the host name
    address = urlsplit(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=5).close()
    except OSError as error:
        return str(error)
    return None
