"""Package archives in the forms that data sets are fetched in."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from aft.demo_data.downloads import Download


def silent(text: str) -> None:
    pass


def drawing(seed: int, size: int = 40) -> Image.Image:
    """A few coloured boxes in the middle of a transparent page."""
    rng = np.random.default_rng(seed)
    page = Image.new("RGBA", (2 * size, 2 * size))
    draw = ImageDraw.Draw(page)
    for _ in range(5):
        left, top = (int(v) for v in rng.integers(size // 2, size, 2))
        width, height = (int(v) for v in rng.integers(4, size // 2, 2))
        colour = tuple(int(v) for v in rng.integers(0, 200, 3))
        draw.rectangle((left, top, left + width, top + height), fill=(*colour, 255))
    return page


def png(image: Image.Image) -> bytes:
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


def debian(
    path: Path,
    files: dict[str, bytes],
    links: dict[str, str] | None = None,
    root: str = "./usr/share/openclipart/png/",
) -> Path:
    """A Debian package with these files, by their path below the folder of classes."""
    with io.BytesIO() as data:
        with tarfile.open(fileobj=data, mode="w:xz") as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(root + name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            for name, target in (links or {}).items():
                entry = tarfile.TarInfo(root + name)
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                tar.addfile(entry)
        members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": b""}
        members["data.tar.xz"] = data.getvalue()
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in members.items():
            head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
            file.write(head.encode() + content + b"\n" * (len(content) % 2))
    return path


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    """A wheel that pip accepts, with these files."""
    name, version = path.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def digested(wanted: Download, path: Path) -> Download:
    return replace(wanted, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
