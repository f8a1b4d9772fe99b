"""Check whether the Hugging Face Hub can be reached.

The Hub's client retries an unknown host for most of a minute; this check fails fast.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from aft.errors import DataError

NO_DATA_SET = "there is no folder or file {!r}, and no such data set on the Hugging Face hub: "
"""Beginning of the message that a data source does not exist."""


def check_data_set(name: str, option: str = "") -> None:
    """Check that a data set of the Hub is cached or within reach.

    Args:
        name: Its name, ``owner/name:configuration``.
        option: Beginning of the error message.

    Raises:
        DataError: If it is neither.
    """
    from huggingface_hub import constants

    cache = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets")
    cached = Path(cache, name.partition(":")[0].replace("/", "___")).exists()
    if not cached and (reason := why_unreachable()):
        raise DataError(f"{option}{NO_DATA_SET.format(name)}the hub cannot be reached ({reason})")


def why_unreachable() -> str | None:
    """The reason why the Hub is unreachable, or None if it answers or a proxy is configured."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    import socket
    import urllib.request

    if urllib.request.getproxies():
        return None  # the proxy resolves the host name
    address = urlsplit(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=5).close()
    except OSError as error:
        return str(error)
    return None
