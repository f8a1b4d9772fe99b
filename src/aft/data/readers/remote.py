"""Data in object storage, such as ``s3://bucket/photos``: copied to the cache folder, then read."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from aft.errors import DataError
from aft.ids import content_id, default_cache_dir


def fetch(source: str) -> Path:
    """A local copy of a folder or file; a new one if anything changed since the last time.

    Raises:
        DataError: If it does not exist or cannot be read.
    """
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(source)
        files = system.find(path, detail=True)
        if not files:
            raise FileNotFoundError("no such file or folder")
        # The listing has sizes, and times or checksums.
        place = default_cache_dir() / "remote" / content_id(repr([source, files]).encode()).hex()
        target = place / Path(path).name
        if not place.exists():
            print(f"copying {source} to {target}", file=sys.stderr)
            place.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=place.parent) as folder:
                copy = Path(folder, "whole", target.name)
                copy.parent.mkdir()
                system.get(path, str(copy), recursive=not system.isfile(path))
                copy.parent.replace(place)
    except Exception as error:  # every storage has errors of its own
        raise DataError(f"cannot read {source}: {type(error).__name__}: {error}") from None
    return target
