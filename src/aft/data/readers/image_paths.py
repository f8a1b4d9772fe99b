"""Find the image files that a table names, inside the data folder."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aft.data.images import image_suffixes
from aft.errors import DataError


class ImagePaths:
    """The image files that a table names.

    A name may lack its extension or have another Unicode form (NFC or NFD) than the file.

    Args:
        table: The file of the table, or its folder. Relative paths start at the folder, or at a
            folder in it that is named like the table or ``images``.
        folder: The data folder.
        allow_outside: Whether files outside the data folder may be named.
        where: The name of the table in error messages.

    Attributes:
        faults: Why a row has no usable path, by position.
        notes: Readable messages about files found under other names.
    """

    def __init__(self, table: Path, folder: Path, allow_outside: bool, where: str) -> None:
        self.root = os.path.abspath(table if table.is_dir() else table.parent)
        self.beside = [table.stem, f"{table.stem}_images", "images"]
        self.folder = os.path.abspath(folder)
        self.allow_outside = allow_outside
        self.where = where
        self.faults: dict[int, str] = {}
        self.notes: list[str] = []
        self.entries: dict[str, dict[str, str]] = {}

    def find(self, values: Sequence[Any]) -> list[str | None]:
        """The path of each row's image; None where the value is missing or no path.

        Raises:
            DataError: If a path lies outside the data folder.
        """
        paths: list[str | None] = []
        renamed: list[str] = []
        self._choose_root(next((str(value) for value in values if value), "."))
        for row, value in enumerate(values):
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            if value is None or not text.strip():
                paths.append(None)
            elif "\0" in text:
                self.faults[row] = "the path has a NUL character"
                paths.append(None)
            else:
                path = os.path.normpath(os.path.join(self.root, text))
                self._check_inside(path, text, row)
                paths.append(self._existing(path))
                if paths[-1] != path:
                    renamed.append(text)
        if renamed:
            self.notes.append(
                f"{len(renamed)} images of {self.where} are named without an extension or in "
                f"another Unicode form (NFC or NFD) than their files, e.g. {renamed[0]!a}"
            )
        return paths

    def _choose_root(self, first: str) -> None:
        """Use a folder beside the table if the first image is there and not at the root."""
        ends = ("", *sorted(image_suffixes()))
        for name in ("", *self.beside):
            start = os.path.join(self.root, name, first)
            if any(os.path.lexists(start + end) for end in ends):
                self.root = os.path.join(self.root, name) if name else self.root
                return

    def _check_inside(self, path: str, text: str, row: int) -> None:
        if self.allow_outside or _is_in(path, self.folder):
            return
        if not _is_in(os.path.realpath(path), os.path.realpath(self.folder)):
            raise DataError(
                f"row {row} of {self.where} names the image {text!r}, which is outside the data "
                f"folder {self.folder}. Move the images into this folder, or pass --allow-outside "
                "if you trust the table"
            )

    def _existing(self, path: str) -> str:
        usual = path.isascii() and os.path.splitext(path)[1].lower() in image_suffixes()
        if usual or not _is_in(path, self.root) or os.path.lexists(path):
            return path
        found = self.root
        for name in os.path.relpath(path, self.root).split(os.sep):
            if found not in self.entries:
                self.entries[found] = _list_entries(found)
            found = self.entries[found].get(_nfc(name), "")
        return found or path


def _list_entries(folder: str) -> dict[str, str]:
    """The paths in a folder by their name in NFC; images also by their name without extension."""
    names, stems = {}, {}
    for entry in os.listdir(folder) if os.path.isdir(folder) else ():
        stem, end = os.path.splitext(_nfc(entry))
        names[_nfc(entry)] = path = os.path.join(folder, entry)
        if end.lower() in image_suffixes():  # "" if several images have this name
            stems[stem] = "" if stem in stems else path
    return stems | names


def _is_in(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, ""))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
