"""Decoded and resized images in memory-mapped files, so that no step has to decode them again.

A folder holds the images of one recipe (size, kind of resizing, version of the decoder); each is
found by the id of its content. Files are written whole, and checked when they are used. A damaged
file is deleted, since its images can be decoded again.

A file is the pixels of its images, then their ids (16 bytes each) and heights and widths (4 bytes
each), then a trailer: a magic number, the number of images, and the checksums of pixels and index.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import PIL
import xxhash
from numpy.typing import NDArray

from aft.errors import DataError
from aft.files import Damaged, reading, remove_leftovers, write_whole
from aft.ids import ID_BYTES

Pixels = NDArray[np.uint8]
"""An image, ``(H, W, 3)``."""
_TRAILER = struct.Struct("<8sQ16s16s")
_MAGIC = b"AFTIMAGE"
_VERSION = 2
_FILE_BYTES = 2**28
_RECENT = 3600.0
_CHECKED: set[tuple[Any, ...]] = set()
"""Files with inode and time of modification whose pixels were checked by this process."""


class _File(NamedTuple):
    """One file of images.

    Attributes:
        path: The file.
        ids: Ids of the images, ``(n,)``.
        sizes: Heights and widths, ``(n, 2)``.
        starts: Where the pixels of each image start, ``(n + 1,)``.
        checksum: Checksum of the pixels.
    """

    path: Path
    ids: NDArray[np.bytes_]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    checksum: bytes


class KeptImages:
    """The kept images of one recipe.

    Args:
        root: Folder of the images of all recipes.
        recipe: JSON values that, beside the content, determine the pixels.
    """

    def __init__(self, root: Path, recipe: dict[str, Any]) -> None:
        whole = {**recipe, "version": _VERSION, "decoder": f"Pillow {PIL.__version__}"}
        digest = hashlib.blake2b(json.dumps(whole, sort_keys=True).encode(), digest_size=8)
        self.folder = root / digest.hexdigest()
        self._images: list[tuple[_File, int]] = []  # file and number of the images found
        self._maps: dict[Path, NDArray[np.uint8]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # each process maps the files itself

    def __getitem__(self, place: int) -> Pixels:
        """The image at a place that :meth:`find` returned, without a copy.

        Raises:
            OSError: In another process, if the file was deleted.
        """
        file, number = self._images[place]
        if file.path not in self._maps:  # in another process
            self._maps[file.path] = np.memmap(file.path, np.uint8, "r")
        pixels = self._maps[file.path][file.starts[number] : file.starts[number + 1]]
        return pixels.reshape(*file.sizes[number], 3)

    def find(self, ids: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """The place of each id; -1 if its image is not kept."""
        wanted, found = set(ids.tolist()), dict[bytes, int]()
        for path in sorted(self.folder.glob("*.images")):
            try:
                with reading(path, DataError):
                    file = _read_index(path)
                    new = [i for i, one in enumerate(file.ids.tolist()) if one in wanted]
                    if new:
                        self._map(file)
            except DataError as error:
                print(f"{error}; it is deleted, its images are decoded again", file=sys.stderr)
                with suppress(OSError):
                    path.unlink()
                continue
            for number in new:
                found[file.ids[number]] = len(self._images)
                self._images.append((file, number))
        return np.asarray([found.get(one, -1) for one in ids.tolist()], np.int64)

    def _map(self, file: _File) -> None:
        """Map a file now, so that it may be deleted; its pixels are checked once per process."""
        whole: Any = np.memmap(file.path, np.uint8, "r")
        status = file.path.stat()
        version = file.path, status.st_ino, status.st_mtime_ns
        if version not in _CHECKED:
            if xxhash.xxh3_128_digest(whole[: file.starts[-1]]) != file.checksum:
                raise Damaged("the checksum of the pixels does not match")
            _CHECKED.add(version)
        self._maps[file.path] = whole
        if time.time() - status.st_mtime > _RECENT:
            file.path.touch()  # those that were not used for long are deleted first

    def write(self, images: Iterator[tuple[bytes, Pixels]]) -> None:
        """Add images with their ids; what was written stays if this is interrupted.

        Raises:
            OSError: If a file cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        for first in images:
            path = self.folder / f"{uuid4().hex}.images"
            write_whole(path, _content(chain([first], images)))


def remove_oldest(root: Path, most_bytes: float) -> None:
    """Delete the kept images that were not used for the longest time, beyond a number of bytes."""
    files = [(path, path.stat()) for path in root.glob("*/*.images")]
    total = sum(found.st_size for _, found in files)
    for path, found in sorted(files, key=lambda one: one[1].st_mtime):
        if total <= most_bytes:
            break
        with suppress(OSError):  # on Windows it may be in use
            path.unlink()
            total -= found.st_size


def _content(images: Iterator[tuple[bytes, Pixels]]) -> Iterator[bytes]:
    """The content of a file of the next images, as many as fit."""
    ids, sizes, written, checksum = [], [], 0, xxhash.xxh3_128()
    for one, pixels in images:
        data = np.ascontiguousarray(pixels).tobytes()
        checksum.update(data)
        yield data
        ids.append(one)
        sizes.append(pixels.shape[:2])
        written += len(data)
        if written >= _FILE_BYTES:
            break
    index = b"".join(ids) + np.asarray(sizes, "<u4").tobytes()
    yield index
    yield _TRAILER.pack(_MAGIC, len(ids), checksum.digest(), xxhash.xxh3_128_digest(index))


def _read_index(path: Path) -> _File:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _TRAILER.size))
        trailer = file.read()
        if len(trailer) != _TRAILER.size or not trailer.startswith(_MAGIC):
            raise Damaged("it is incomplete")
        _, count, pixels, checksum = _TRAILER.unpack(trailer)
        start = size - _TRAILER.size - count * (ID_BYTES + 8)
        if start < 0:
            raise Damaged("it is incomplete")
        file.seek(start)
        index = file.read(count * (ID_BYTES + 8))
    if xxhash.xxh3_128_digest(index) != checksum:
        raise Damaged("the checksum of the index does not match")
    ids = np.frombuffer(index, f"S{ID_BYTES}", count)
    sizes = np.frombuffer(index, "<u4", offset=count * ID_BYTES).reshape(-1, 2).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(3 * sizes.prod(axis=1))])
    if starts[-1] != start:
        raise Damaged("it is incomplete")
    return _File(path, ids, sizes, starts, pixels)
