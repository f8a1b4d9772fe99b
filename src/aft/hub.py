"""The Hugging Face Hub: whether it can be reached, and the students that are on it.

The Hub's client retries an unknown host for most of a minute; the check here fails fast.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from aft.errors import AftError, DataError, ExportError, StudentError

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


def endpoint() -> str:
    """The address of the Hub."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT") or str(constants.ENDPOINT)


def why_unreachable() -> str | None:
    """The reason why the Hub is unreachable, or None if it answers or a proxy is configured."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    import socket
    import urllib.request

    if urllib.request.getproxies().keys() - {"no"}:  # NO_PROXY is none
        return None  # the proxy resolves the host name
    address = urlsplit(endpoint())
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=5).close()
    except OSError as error:
        return str(error)
    return None


def download_student(address: str | Path) -> Path | None:
    """The local folder of a student on the Hub, downloaded where it is not cached.

    Args:
        address: ``hf://user/name`` or ``hf://user/name@revision``; a path of it has one slash.

    Returns:
        The folder; None for any other address.

    Raises:
        StudentError: If the address is malformed, or the student cannot be downloaded.
    """
    match = re.fullmatch(r"hf:[/\\]+([^@]*)(?:@(.+))?", str(address))
    if match is None:
        return None
    import huggingface_hub

    repository, revision = match[1].replace("\\", "/"), match[2]
    reason = why_unreachable()
    reason = reason and f"it is not cached, and the hub cannot be reached ({reason})"
    with explained(f"cannot read hf://{repository}", StudentError, reason):
        folder: str = huggingface_hub.snapshot_download(
            repository, revision=revision, endpoint=endpoint(), local_files_only=bool(reason)
        )
    return Path(folder)


def upload(
    repository: str,
    files: Mapping[str, Path | bytes],
    message: str,
    private: bool = False,
    revision: str | None = None,
) -> str:
    """Upload files to a repository, which is made if necessary, in one commit.

    Args:
        repository: Its name, ``user/name``.
        files: The files or their contents, by name.
        message: Message of the commit.
        private: Whether a new repository is private.
        revision: The branch, which is made if necessary; None for the main one.

    Returns:
        The commit's address.

    Raises:
        ExportError: If the name is malformed, there is no token, or the Hub cannot be reached or
            refuses.
    """
    import huggingface_hub as hub

    what = f"cannot push to {repository}"
    if repository.count("/") != 1:
        raise ExportError(f"{what}: expected the name of a repository as USER/NAME")
    if reason := why_unreachable():
        raise ExportError(f"{what}: the hub cannot be reached ({reason})")
    if hub.get_token() is None:
        raise ExportError(f"{what}: no token; run `hf auth login`, or set HF_TOKEN")
    operations = [hub.CommitOperationAdd(name, one) for name, one in files.items()]
    with explained(what, ExportError):
        api = hub.HfApi(endpoint())
        api.create_repo(repository, private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        made = api.create_commit(repository, operations, commit_message=message, revision=revision)
    return str(made.commit_url)


@contextmanager
def explained(what: str, error: type[AftError], reason: str | None = None) -> Iterator[None]:
    """Convert what the Hub's client raises to an error in one line.

    Args:
        what: Beginning of the message.
        error: Class of the error.
        reason: Why the Hub cannot be reached, if it cannot.
    """
    try:
        yield
    except (AftError, KeyboardInterrupt):
        raise
    except Exception as caught:  # the hub client raises many exception types
        status = getattr(getattr(caught, "response", None), "status_code", None)
        words = {
            401: "the token is missing, wrong or expired; run `hf auth login`, or set HF_TOKEN",
            403: "the token does not allow it; use one that may write to this repository",
            404: "there is no such repository or revision, or the token may not see it",
        }
        first = (str(caught).strip() or type(caught).__name__).splitlines()[0]
        raise error(f"{what}: {reason or words.get(status or 0, first)}") from caught
