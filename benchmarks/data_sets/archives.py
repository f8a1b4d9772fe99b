"""Read files inside Debian and npm packages, without installing or running them."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from aft.errors import DataError

Ending = str | tuple[str, ...]


def debian_files(package: Path, root: str, end: Ending) -> Iterator[tuple[str, bytes]]:
    """Read files of a Debian package, an `ar` archive with a tar inside, without Debian tools.

    Args:
        package: The `.deb` file.
        root: A folder inside it, ending in a slash.
        end: The extension of the files to read, in lower case, or a tuple of extensions.

    Yields:
        Path below `root` and content of every regular file (no links) with that extension.

    Raises:
        DataError: If the file is not a Debian package or is damaged.
    """
    with package.open("rb") as file:
        _seek_data(file, package)
        yield from _tar_files(file, package, root, end)


def npm_files(package: Path, root: str, end: Ending) -> Iterator[tuple[str, bytes]]:
    """Read files of an npm package; see :func:`debian_files`. Its paths start with `package/`.

    Raises:
        DataError: If the file is not a tar archive or is damaged.
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
    """Seek to the content of the member `data.tar.*` of an `ar` archive."""
    if file.read(8) == b"!<arch>\n":
        while len(header := file.read(60)) == 60:
            if header.startswith(b"data.tar"):
                return
            length = int(header[48:58])
            file.seek(length + length % 2, io.SEEK_CUR)
    raise DataError(f"{package} is not a Debian package: expected an ar archive with a data.tar")
