"""Read the names of classes, which make soft labels without labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from aft.errors import ConfigError
from aft.files import reading


@dataclass(frozen=True)
class ClassNames:
    """The classes of a task, with texts for a teacher.

    Attributes:
        names: The classes, in the order of the student's outputs.
        texts: For each class its description, or else its name.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of names and texts, 16 hex digits."""
        return hashlib.blake2b(repr((self.names, self.texts)).encode(), digest_size=8).hexdigest()


def read_class_names(path: Path) -> ClassNames:
    """Read one class per line: ``NAME``, or ``NAME<TAB>DESCRIPTION``. Empty lines are skipped.

    Without a description, ``_`` in the name counts as a space.

    Raises:
        ConfigError: If the file cannot be read, has fewer than two classes, or names one twice.
    """
    with reading(path, ConfigError, "Expected UTF-8 text with one class per line"):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    parts = [line.partition("\t") for line in lines if line.strip()]
    names = tuple(name.strip() for name, _, _ in parts)
    texts = tuple(text.strip() or name.strip().replace("_", " ") for name, _, text in parts)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or "" in names or len(names) < 2:
        found = f"{twice!r} twice" if twice else f"{len(names)} lines, or a line without a name"
        raise ConfigError(f"expected at least 2 different classes in {path}, one per line: {found}")
    return ClassNames(names, texts)
